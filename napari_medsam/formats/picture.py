"""Pictures (.png, .jpg, .tif, .bmp): gray or RGB, without a place in the patient; read with Pillow.

ITK could read them as well, but its JPEG library prints warnings on standard output, where `--json` belongs.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_medsam.formats.common import (
    DEFLATE_RATIO,
    check_size,
    chosen_volume,
    colours_to_rgb,
    no_stderr,
    printable,
)
from napari_medsam.geometry import Geometry, Volume, VolumeError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["read_picture"]

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_PLAIN_MODES = ("L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N", "F", "RGB", "RGBA")
_ALWAYS_READ_BYTES = 2**26
_BYTES_PER_PIXEL = 4


def read_picture(path: Path, time_point: int | None = None) -> Volume:
    """Read a picture as a volume of one slice; the pages of a TIFF stack are its slices.

    Parameters
    ----------
    path
        A .png, .jpg, .jpeg, .tif, .tiff or .bmp file.
    time_point
        Pictures have one, 0.

    Returns
    -------
    Volume
        Gray as (z, y, x) of the file's own type, colour as (z, y, x, 3) uint8, 1 mm spacing.

    Raises
    ------
    VolumeError
        When the file is damaged or of an unsupported kind.
    """
    from PIL.Image import open as open_picture

    notes: list[str] = []
    chosen_volume(1, time_point, notes)
    notes.append(
        "A picture has no spacing: pixels of 1 mm were assumed, so lengths and volumes are not physical."
    )
    with no_stderr(), warnings.catch_warnings():
        # A damaged file makes Pillow and libtiff warn before they fail or cope; the outcome says it all.
        warnings.simplefilter("ignore")
        try:
            with open_picture(path, formats=_FORMATS) as picture:
                pages = getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1
                needed = pages * picture.width * picture.height * _BYTES_PER_PIXEL
                check_size(needed, max(_ALWAYS_READ_BYTES, path.stat().st_size * DEFLATE_RATIO))
                slices = [_page(picture, number) for number in range(pages)]
        except VolumeError:
            raise
        except Exception as error:  # noqa: BLE001 - Pillow's parsers raise SyntaxError, struct.error and many more
            reason = printable(str(error)) or type(error).__name__
            raise VolumeError(
                f"Pillow fails ({reason}), expected an undamaged PNG, JPEG, TIFF or BMP."
            ) from None
    if len({(page.shape, page.dtype) for page in slices}) > 1:
        raise VolumeError(f"the {len(slices)} pages differ in size or type, expected slices of one volume.")
    voxels = np.stack(slices)
    if voxels.ndim == 4:
        voxels = colours_to_rgb(voxels, notes)
    z, y, x = voxels.shape[:3]
    return Volume(voxels, Geometry((z, y, x)), "RGB" if voxels.ndim == 4 else "", str(path), tuple(notes))


def _page(picture: "Image", number: int) -> NDArray:
    """One page as (y, x) or (y, x, channels), in native byte order."""
    picture.seek(number)
    if picture.mode == "1":
        page = picture.convert("L")
    elif picture.mode in _PLAIN_MODES:
        page = picture
    else:
        page = picture.convert("RGB")
    pixels = np.array(page)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
