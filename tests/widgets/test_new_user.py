"""From a DICOM folder to a file for 3D Slicer and a table, by the tutorial alone."""

from __future__ import annotations

import csv

import napari
import numpy as np
import pytest
from dicom_series import write_series
from hand import Hand, needs_display
from new_user import NewUser, walk

from napari_medsam.export import read_segmentation
from napari_medsam.measurements import measure_labels
from napari_medsam.phantom import ct_torso
from napari_medsam.terminology import term_for
from napari_medsam.volume import read_volume
from napari_medsam.widgets.diameters import diameter_layer

pytestmark = [
    pytest.mark.canvas,
    needs_display,
    # Third parties' own, on the way to a window.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def test_from_a_dicom_folder_to_slicer_and_a_table(qtbot, tmp_path):
    """If this fails, the tutorial's reader is stuck somewhere."""
    phantom = ct_torso(0, (24, 96, 96))
    write_series(tmp_path / "ct", phantom.volume.geometry, phantom.volume.array)
    (tmp_path / "results").mkdir()
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1280, 800)
    user = NewUser(Hand(viewer), phantom)
    user.hand.wait(100)
    walk(user, tmp_path / "ct", tmp_path / "results")

    labels = user.dock.segmenter.layers.session.labels
    image = read_volume(tmp_path / "ct")
    found = read_segmentation(tmp_path / "results" / "organs.seg.nrrd")
    assert found.geometry.difference(image.geometry) == ""
    np.testing.assert_array_equal(found.labels, labels)
    assert [(each.name, each.term) for each in found.segments] == [
        ("Right kidney", term_for("right kidney")),
        ("Left kidney", term_for("left kidney")),
    ]
    measured = measure_labels(labels, image.geometry, image=image)
    rows = list(csv.DictReader((tmp_path / "results" / "organs.csv").read_text().splitlines()))
    assert [(row["name"], int(row["voxels"])) for row in rows] == [
        (name, each.voxels) for name, each in zip(("Right kidney", "Left kidney"), measured, strict=True)
    ]
    for row, each in zip(rows, measured, strict=True):
        assert float(row["recist_long_mm"]) == each.recist.long.length_mm
        assert float(row["mean"]) == each.intensities.mean
    # The organs, not something else: most of what was found is what was meant.
    for label, organ in ((1, 3), (2, 4)):
        assert (phantom.labels[labels == label] == organ).mean() > 0.5
    assert len(diameter_layer(user.dock.segmenter.layers).data) == 4
    user.dock.worker.stop()
    viewer.close()
