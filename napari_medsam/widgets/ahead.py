"""Prepares slices for models that need seconds for one, while nothing else is asked of the model.

The slice on screen comes first, then its neighbours. A box drawn meanwhile does not wait for a neighbour to
be ready, and scrolling on gives up what is being prepared.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from psygnal import Signal

from napari_medsam.widgets.runner import Priority, Runner

if TYPE_CHECKING:
    from napari_medsam.widgets.layers import SessionLayers
    from napari_medsam.widgets.shared_model import SharedModel

NEIGHBOURS = 8
REST_S = 0.4
"""How long a slice has to stay on screen before it is prepared."""

AHEAD = "ahead"
THIS = "Preparing this slice for the model: the first mask on it takes until then."
OTHERS = "This slice is ready; slices beside it are being prepared ({} of {})."


class Ahead:
    """Has slices prepared that will be asked about.

    Parameters
    ----------
    runner
        Who computes.
    model
        The model of the window.

    Attributes
    ----------
    text : str
        What to tell the user; empty while nothing is prepared.
    changed : Signal()
        The text has changed.
    """

    changed = Signal()

    def __init__(self, runner: Runner, model: SharedModel) -> None:
        self.runner, self.model = runner, model
        self.text = ""
        self._subject: object = None

    def look(self, layers: SessionLayers | None) -> None:
        """Prepare what is on screen now, unless that is being done already; nothing for None."""
        where = None if layers is None else layers.where
        if layers is None or where is None or not self.model.encodes_ahead:
            self._stop()
            return
        session = layers.session
        subject = id(session), session.window, self.model.name, where
        if subject == self._subject:
            return
        self._stop()
        self._subject = subject
        of = min(NEIGHBOURS, session.volume.geometry.shape[where.axis] - 1)
        done = 0

        def goes_on() -> bool:
            # Whoever draws a box on the slice that is being prepared waits for nothing else.
            return self._subject == subject and (not done or self.runner.is_wanted(Priority.IDLE))

        def work() -> Iterator[int]:
            nonlocal done
            yield done
            for _ in islice(session.encode_ahead(where, goes_on), 1 + of):
                done += 1
                yield done

        def receive(ready: int) -> None:
            self._say(OTHERS.format(ready - 1, of) if ready else THIS)

        def end(error: Exception | None) -> None:
            self._say("")
            # What cannot be prepared is told to whoever asks for it; what made way is taken up again.
            if error is None and done <= of:
                self._subject = None

        self.runner.submit(AHEAD, work, receive, end, priority=Priority.IDLE, delay_s=REST_S)

    def _stop(self) -> None:
        if self._subject is not None:
            self._subject = None
            self.runner.cancel(AHEAD)
            self._say("")

    def _say(self, text: str) -> None:
        if text != self.text:
            self.text = text
            self.changed.emit()
