"""Carry objects from slice to slice, and say how sure each slice is and why an object ends.

`propagate` works on anything that gives slices and predictions (a `SliceSource`); `napari_medsam.session`
is one. What is known of an object on a slice is a `SliceMask`, and what a reviewer needs of it a
`SliceReport`.
"""

from napari_medsam.propagation.carrier import StopRules
from napari_medsam.propagation.ledger import Ledger
from napari_medsam.propagation.review import Review, SliceReport
from napari_medsam.propagation.sweeps import propagate
from napari_medsam.propagation.values import (
    ACCEPTED,
    BOTH_SIDES,
    CLEARED,
    CORRECTED,
    INTERPOLATED,
    PROMPT,
    PROPAGATED,
    Predictor,
    SliceMask,
    SliceSource,
)

__all__ = [
    "ACCEPTED",
    "BOTH_SIDES",
    "CLEARED",
    "CORRECTED",
    "INTERPOLATED",
    "PROMPT",
    "PROPAGATED",
    "Ledger",
    "Predictor",
    "Review",
    "SliceMask",
    "SliceReport",
    "SliceSource",
    "StopRules",
    "propagate",
]
