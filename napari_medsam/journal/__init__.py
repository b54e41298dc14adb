"""What was done in a session, step by step: to take it back, to keep it on disk, to do it again.

`changes` says what a step is, `journal` keeps the steps, `state` is what they change, and `json_form` writes
them down.
"""

from napari_medsam.journal.changes import (
    KEY,
    OBJECT,
    REPORT,
    Action,
    Change,
    Do,
    FactChange,
    JournalError,
    PartWritten,
    Step,
    VoxelChange,
)
from napari_medsam.journal.journal import LIMIT_BYTES, Follower, Journal
from napari_medsam.journal.state import RecordedState

__all__ = [
    "KEY",
    "LIMIT_BYTES",
    "OBJECT",
    "REPORT",
    "Action",
    "Change",
    "Do",
    "FactChange",
    "Follower",
    "Journal",
    "JournalError",
    "PartWritten",
    "RecordedState",
    "Step",
    "VoxelChange",
]
