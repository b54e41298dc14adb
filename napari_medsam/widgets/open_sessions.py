"""Which session a label map belongs to: napari's own Save hands a writer arrays, and no layers."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari_medsam.session import Session

_open: WeakSet[Session] = WeakSet()


def remember(session: Session) -> None:
    """Let a session be found as long as somebody works on it."""
    _open.add(session)


def session_of(labels: NDArray) -> Session | None:
    """Return the session whose label map shares its memory with an array; None where there is none."""
    return next((each for each in _open if np.may_share_memory(each.labels, labels)), None)
