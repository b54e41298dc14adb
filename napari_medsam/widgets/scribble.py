"""A scribble: a drag of the mouse in a points layer becomes points along it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_medsam.prompts import SliceIndex, scribble_points
from napari_medsam.widgets.planes import places_on_slice
from napari_medsam.widgets.prompt_shapes import KIND, RIGHT_BUTTON, TRAIL, paint_points

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from contextlib import AbstractContextManager

    from napari.layers import Points

BUTTONS = (1, RIGHT_BUTTON)
SHORTEST_DRAG_PX = 5
"""Of the screen: napari takes a shorter one for a click."""
TRAIL_PX = 12
"""Of the screen, between points of the trail: napari looks points up in another thread meanwhile."""


@dataclass(frozen=True)
class Scribble:
    """What a drag comes to.

    Attributes
    ----------
    points : numpy.ndarray
        (n, 2) or (n, 3) data coordinates, eight at most.
    closed
        Whether it ends where it began: there napari places a point, too.
    """

    points: NDArray[np.float64]
    closed: bool


def follow(
    layer: Points,
    event: Any,
    where: SliceIndex,
    shape: Sequence[int],
    quietly: AbstractContextManager[object],
) -> Generator[None, None, Scribble | None]:
    """Follow the mouse while its button is down, and leave a trail to be seen.

    Parameters
    ----------
    layer
        To which the trail is added; it is nobody's prompt, and whoever called takes it away again.
    event
        The press; napari hands on moves and the release by changing it.
    where
        The slice that is drawn on.
    shape
        Of the volume, (z, y, x). What is drawn beside it does not count, unless there is nothing else.
    quietly
        Entered while the trail is added to.

    Returns
    -------
    Scribble or None
        None where it was but a click, or where the button was let go of over something else.
    """
    pressed, places = np.array(event.pos), [np.array(layer.world_to_data(event.position))]
    last, drawing = pressed, False
    # Else the image would be dragged along.
    layer.mouse_pan = False
    yield
    while event.type == "mouse_move" and event.is_dragging:
        at = np.array(event.pos)
        drawing = drawing or bool(np.linalg.norm(at - pressed) >= SHORTEST_DRAG_PX)
        # Else the right button would zoom.
        event.handled = True
        place = np.array(layer.world_to_data(event.position))
        if layer.ndim > 2:
            place[where.axis] = places[0][where.axis]
        places.append(place)
        if drawing and np.linalg.norm(at - last) >= TRAIL_PX:
            last = at
            with quietly:
                layer.feature_defaults = {**layer.feature_defaults.iloc[0], KIND: TRAIL}
                layer.add(place)
                paint_points(layer)
        yield
    layer.mouse_pan = str(layer.mode) in ("add", "pan_zoom")
    if not drawing or event.type != "mouse_release":
        return None
    closed = bool(np.linalg.norm(np.array(event.pos) - pressed) < SHORTEST_DRAG_PX)
    path = np.array(places)
    on_image = places_on_slice(path, where, shape)
    return Scribble(scribble_points(on_image if len(on_image) else path[:1]), closed)


def add_scribble(layer: Points, scribble: Scribble, quietly: AbstractContextManager[object]) -> None:
    """Add the points of a scribble, as one edit."""
    if not scribble.closed:
        layer.add(scribble.points)
    elif len(scribble.points) > 1:
        # The last one is napari's, which is about to place it and to tell of all of them.
        with quietly:
            layer.add(scribble.points[:-1])
