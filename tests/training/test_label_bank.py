"""If these fail, training mixes up structures, or reads images and labels from different places."""

import numpy as np
import pytest
import SimpleITK
import torch

from napari_medsam.training.label_bank import LabelBank, build_bank
from napari_medsam.training.shapes import Draw
from napari_medsam.training.synthetic import _from_brains, synthetic_slices


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """Two head maps with a left (2) and right (41) half, and one case whose label is where it is bright."""
    data = tmp_path_factory.mktemp("data")
    (data / "brain_label_maps").mkdir()
    (data / "case").mkdir()
    head = np.zeros((40, 44, 48), np.int32)
    head[5:35, 6:40, 4:24] = 2
    head[5:35, 6:40, 24:44] = 41
    head[1:3] = 506
    for k in range(2):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(head), data / "brain_label_maps" / f"{k}.nii.gz")
    image = np.full((6, 50, 60), 100, np.int16)
    image[1:5, 20:30, 20:40] = 900
    labels = (image > 500).astype(np.uint8)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(image), data / "case" / "image.nii.gz")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(labels), data / "case" / "labels.nii.gz")
    out = data / "bank.npz"
    build_bank(data, out)
    return LabelBank(out, torch.device("cpu"))


def test_left_and_right_twins_share_a_tissue_but_not_an_object(bank):
    objects, below = bank.brain_slices(6, torch.Generator().manual_seed(0), 64)
    assert set(objects.unique().tolist()) <= {0, 1, 2, 3}
    assert objects.shape == below.shape == (6, 64, 64)
    assert bank.tissue_of_object.tolist() == [0, 1, 1, 3]


def test_white_matter_and_what_is_outside_of_the_brain_are_told_apart(bank):
    assert (bank.white_matter, bank.first_outside_brain) == (1, 3)


def test_lesions_are_painted_into_the_white_matter_of_both_sides(bank):
    """Where the sides are two objects, only the left one had any."""
    draw, picks = Draw(40, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(0)
    scene = _from_brains(draw, bank, picks, 64)
    for objects in (scene.objects, scene.objects_below):
        maps = objects[:, None].float()
        near = [torch.nn.functional.max_pool2d((maps == side).float(), 3, 1, 1) > 0 for side in (1, 2)]
        two_sided = (maps == 2).flatten(1).any(1).view(-1, 1, 1, 1)
        left, right = (int(((maps == 4) & there & two_sided).sum()) for there in near)
        assert min(left, right) > 0.4 * max(left, right) > 0


def test_labels_of_real_slices_lie_on_their_images(bank):
    images, objects, _ = bank.case_slices(8, torch.Generator().manual_seed(0), 64)
    for image, labels in zip(images[:, 0], objects, strict=True):
        assert bool(labels.any())
        assert float(image[labels == 1].min()) > float(image[labels == 0].max())


def test_a_bank_joins_painted_scenes(bank):
    slices = synthetic_slices(25, torch.Generator().manual_seed(0), 48, bank)
    assert len(slices.images) == 25
    assert bool(slices.images.isfinite().all())
