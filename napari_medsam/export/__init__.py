"""Labels with names, colours and codes, to and from the files of other programs.

`read_segmentation` reads whatever another program made, `placed_on` puts it on the grid of an image,
`write_segmentation` writes what another program reads, and `write_nnunet` a training set.
"""

from napari_medsam.export.files import SUFFIXES, read_if_labels, read_segmentation, write_segmentation
from napari_medsam.export.grids import GridError, Resampling, placed_on
from napari_medsam.export.nnunet import NnunetCase, is_nnunet, write_nnunet
from napari_medsam.export.objects import segmentation_of_objects
from napari_medsam.export.series import OTHER_SERIES, image_of, series_files, series_named_in
from napari_medsam.segments import Segment, Segmentation, SegmentationError

__all__ = [
    "OTHER_SERIES",
    "SUFFIXES",
    "GridError",
    "NnunetCase",
    "Resampling",
    "Segment",
    "Segmentation",
    "SegmentationError",
    "image_of",
    "is_nnunet",
    "placed_on",
    "read_if_labels",
    "read_segmentation",
    "segmentation_of_objects",
    "series_files",
    "series_named_in",
    "write_nnunet",
    "write_segmentation",
]
