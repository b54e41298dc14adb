"""A real window, and a scan to open in it."""

import napari
import numpy as np
import pytest
from hand import Hand
from scan_steps import SHAPE

from napari_medsam.phantom import ct_torso


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A phantom as a file, and the box around its liver on one slice."""
    import SimpleITK as sitk

    phantom = ct_torso(0, SHAPE)
    image = sitk.GetImageFromArray(phantom.volume.array)
    image.SetSpacing(phantom.volume.geometry.spacing[::-1])
    path = tmp_path_factory.mktemp("case") / "scan.nii.gz"
    sitk.WriteImage(image, str(path))
    liver = next(label for label, name in phantom.names.items() if name == "liver")
    index = int((phantom.labels == liver).sum((1, 2)).argmax())
    rows, columns = np.nonzero(phantom.labels[index] == liver)
    return path, index, (rows.min() - 2, columns.min() - 2, rows.max() + 2, columns.max() + 2)


@pytest.fixture
def hand(qtbot):
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1280, 800)
    made = Hand(viewer)
    made.docks = []
    made.wait()
    yield made
    for dock in made.docks:
        made.until(lambda dock=dock: not dock.worker.is_busy)
        for each in dock.segmenter.unsaved:
            each.unsaved = False
        dock.worker.stop()
    viewer.close()
