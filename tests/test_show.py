"""The window that the demo opens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from napari.components import ViewerModel

from napari_medsam.phantom import ct_torso
from napari_medsam.volume import VolumeError, write_labels
from napari_medsam.widgets.metadata import layer_geometry
from napari_medsam.widgets.show import add_case


def test_image_and_labels_lie_on_each_other(tmp_path: Path) -> None:
    """What the demo shows is in place, to scale, and can be painted on and saved again."""
    phantom = ct_torso(0, (16, 32, 40))
    labels = write_labels(phantom.labels, phantom.volume.geometry, tmp_path / "labels.nii.gz")
    image = write_labels(np.abs(phantom.volume.array), phantom.volume.geometry, tmp_path / "image.nii.gz")
    viewer = ViewerModel()
    add_case(viewer, image, labels)
    shown, painted = viewer.layers
    assert [shown.name, painted.name] == ["image.nii.gz", "labels.nii.gz"]
    np.testing.assert_allclose(painted.scale, phantom.volume.geometry.spacing, rtol=1e-6)
    np.testing.assert_array_equal(shown.scale, painted.scale)
    np.testing.assert_array_equal(painted.data, phantom.labels)
    painted.data_setitem((np.array([0]), np.array([0]), np.array([0])), 3)
    geometry = layer_geometry(painted.metadata)
    assert geometry is not None
    assert geometry.difference(phantom.volume.geometry) == ""
    assert viewer.dims.current_step[0] == 8


def test_a_label_map_that_cannot_be_read_adds_nothing(tmp_path: Path) -> None:
    """No half of a case is left in the viewer."""
    image = tmp_path / "image.nii.gz"
    sitk.WriteImage(sitk.Image(8, 8, 8, sitk.sitkInt16), str(image))
    viewer = ViewerModel()
    with pytest.raises(VolumeError):
        add_case(viewer, image, tmp_path / "nowhere.nii.gz")
    assert len(viewer.layers) == 0
