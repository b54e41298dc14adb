"""Which colour each object has on a label layer, and which objects are hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.utils.colormaps import DirectLabelColormap, label_colormap

from napari_medsam.widgets.label_files import colours_of, completed

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_medsam.segments import Color
    from napari_medsam.session import Session

N_COLOURS = 49
"""Of a new label layer in napari: an object has its colour before it has a voxel."""


class Palette:
    """Colours the layer of a session's labels.

    Parameters
    ----------
    session
        Whose objects.

    Attributes
    ----------
    hidden : set of int
        Labels that are not shown; they keep their colours.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.hidden: set[int] = set()
        self._chosen: Any = label_colormap(N_COLOURS)
        self._is_ours = False

    def colour(self, label: int) -> tuple[float, ...]:
        """RGBA of an object, hidden or not, from 0 to 1."""
        return tuple(self._chosen.map(label))

    def colours(self) -> dict[int, Color]:
        """Red, green, blue of all objects, from 0 to 255."""
        return colours_of(self._chosen, list(self.session.objects))

    def choose(self, colormap: Any) -> None:
        """Take a colormap of napari's from now on."""
        self._chosen = colormap

    def put_on(self, layer: Labels | None) -> None:
        """Let a layer show every object that is not hidden, in its colour."""
        self._chosen, is_new = completed(self._chosen, self.session.objects)
        if layer is None or not (self.hidden or self._is_ours or is_new):
            return
        wanted = self._chosen
        if self.hidden:
            colours: dict[int | None, tuple[float, ...]] = {None: (0, 0, 0, 0)}
            colours |= {each: self.colour(each) for each in self.session.objects}
            # They keep their colours, for those who save the layer.
            colours |= {each: (*self.colour(each)[:3], 0.0) for each in self.hidden}
            wanted = DirectLabelColormap(color_dict=colours)
        self._is_ours = bool(self.hidden)
        layer.colormap = wanted

    def leave(self, layer: Labels) -> None:
        """Give a layer back as it would be if nothing were hidden."""
        if self._is_ours:
            layer.colormap = self._chosen
