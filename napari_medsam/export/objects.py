"""Labels that were segmented here, with what their objects say of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from napari_medsam.segments import Color, Segmentation

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from napari_medsam.geometry import Geometry
    from napari_medsam.prompts import ObjectPrompts

__all__ = ["segmentation_of_objects"]


def segmentation_of_objects(
    labels: ArrayLike,
    geometry: Geometry,
    objects: Iterable[ObjectPrompts],
    colors: Mapping[int, Color] | None = None,
) -> Segmentation:
    """Give a label map the names and codes of its objects.

    Parameters
    ----------
    labels : (z, y, x) integers
        0 is background.
    geometry
        Their grid.
    objects
        One for each label that has a name or a code.
    colors
        Of labels; the others get `napari_medsam.segments.default_color`.

    Raises
    ------
    SegmentationError
        When labels and geometry do not belong together.
    """
    known = list(objects)
    return Segmentation.from_labels(
        labels,
        geometry,
        names={each.label: each.name for each in known},
        colors=colors,
        terms={each.label: each.term for each in known if each.term is not None},
    )
