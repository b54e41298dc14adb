"""Works in a window, writes down what the labels are, and is killed: run by tests/widgets/test_past.py.

Arguments: the scan, its slice, the four sides of a box on it, and where the labels go.
"""

import os
import signal
import sys

import napari
import numpy as np
from hand import Hand
from qtpy.QtCore import Qt
from scan_steps import drag_box, open_scan, propagate

from napari_medsam.journal.log import read_log
from napari_medsam.recovery import recovery_folder


def logged():
    """What is in the log of the work."""
    return [line for path in recovery_folder().glob("*/work.log") for line, _ in read_log(path)]


if __name__ == "__main__":
    path, index, *box, target = sys.argv[1:]
    hand = Hand(napari.Viewer(show=True))
    hand.docks = []
    image, dock = open_scan(hand, (path, int(index), None))
    drag_box(hand, dock, image, [int(side) for side in box])
    propagate(hand, dock)
    dock.segmenter.layers.rename(1, "liver")
    dock.segmenter.edit_labels("paint")
    hand.drag(hand.at(3, 3, image), hand.at(3, 12, image))
    hand.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    np.save(target, dock.segmenter.layers.session.labels)
    # However long the disk takes: by then the last thing that was done has to be in the log.
    hand.until(lambda: any("position" in line for line in logged()))
    os.kill(os.getpid(), signal.SIGKILL)
