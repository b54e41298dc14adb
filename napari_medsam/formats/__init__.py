"""One module per family of files; `napari_medsam.volume` picks the right one.

Every reader returns a `Volume` and raises `VolumeError` or `GeometryError` without the path, which
`napari_medsam.volume` puts in front.
"""
