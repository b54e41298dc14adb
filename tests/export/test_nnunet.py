"""A training set that nnU-Net accepts, with one number for one organ in all cases."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from napari_medsam.export import NnunetCase, Segmentation, nnunet, write_nnunet
from napari_medsam.formats.nifti import write_nifti
from napari_medsam.volume import Geometry, Volume, VolumeError

GRID = Geometry((3, 4, 5), (3.0, 0.7, 0.8), (-12.5, 33.25, 80.125), (0, 1, 0, -1, 0, 0, 0, 0, 1))


def case(name: str, names: dict[int, str], modality: str = "CT", grid: Geometry = GRID) -> NnunetCase:
    values = np.random.default_rng(1).integers(-100, 200, grid.shape).astype(np.int16)
    labels = np.resize([0, *names], grid.shape).astype(np.uint8)
    return NnunetCase(
        name, Volume(values, grid, modality), Segmentation.from_labels(labels, grid, names=names)
    )


def test_cases_share_numbers_by_name(tmp_path: Path) -> None:
    """Label 4 here and label 1 there are one organ: a net trained on numbers would learn neither."""
    folder = tmp_path / "Dataset012_Abdomen"
    numbers = write_nnunet(
        [case("a", {2: "liver", 9: "spleen"}), case("b", {4: "spleen", 5: "cyst"})], folder
    )
    assert numbers == {"background": 0, "liver": 1, "spleen": 2, "cyst": 3}
    assert json.loads((folder / "dataset.json").read_text()) == {
        "channel_names": {"0": "CT"},
        "labels": numbers,
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    assert sorted(path.name for path in folder.glob("*/*")) == [
        "a.nii.gz", "a_0000.nii.gz", "b.nii.gz", "b_0000.nii.gz",
    ]  # fmt: skip
    first = case("a", {2: "liver", 9: "spleen"})
    own = first.segmentation.labels
    labels = nibabel.load(folder / "labelsTr" / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(labels.dataobj).T, np.select([own == 2, own == 9], [1, 2]))
    image = nibabel.load(folder / "imagesTr" / "a_0000.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, first.image.array)
    np.testing.assert_array_equal(image.affine, labels.affine)
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ image.affine, GRID.affine, atol=1e-4)
    own = case("b", {4: "spleen", 5: "cyst"}).segmentation.labels
    labels = nibabel.load(folder / "labelsTr" / "b.nii.gz")
    np.testing.assert_array_equal(np.asarray(labels.dataobj).T, np.select([own == 4, own == 5], [2, 3]))


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        ([], "there is no case"),
        ([case("a", {1: "x"}), case("a", {1: "x"})], "two cases 'a'"),
        ([case("a", {1: "x"}), case("b", {1: "x"}, "MR")], "'b' is MRI, the ones before are CT"),
        ([case("a", {1: "x", 2: "x"})], "two labels called 'x'"),
        ([case("a/../../b", {1: "x"})], "a name of other than letters"),
        (
            [
                NnunetCase(
                    "a", case("a", {1: "x"}).image, case("a", {1: "x"}, grid=Geometry((3, 4, 6))).segmentation
                )
            ],
            "not on the same grid",
        ),
    ],
)
def test_a_set_that_nobody_could_train_on_is_not_written(cases, said: str, tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=said):
        write_nnunet(cases, tmp_path / "Dataset001_X")
    assert list(tmp_path.iterdir()) == []


def test_folder_is_new_and_named_as_nnunet_wants_it(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="named like Dataset123_Liver"):
        write_nnunet([case("a", {1: "x"})], tmp_path / "mine")
    write_nnunet([case("a", {1: "x"})], tmp_path / "Dataset001_X")
    with pytest.raises(VolumeError, match="exists already"):
        write_nnunet([case("b", {1: "x"})], tmp_path / "Dataset001_X")
    assert (tmp_path / "Dataset001_X" / "labelsTr" / "a.nii.gz").exists()


def test_a_set_that_the_disk_has_changed_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weeks of training on labels that nobody drew."""

    def damaged(voxels: np.ndarray, geometry: Geometry, path: Path) -> None:
        write_nifti(voxels * ("labels" not in path.parent.name), geometry, path)

    monkeypatch.setattr(nnunet, "write_nifti", damaged)
    with pytest.raises(VolumeError, match=r"what was read back of 'a\.nii\.gz' differs"):
        write_nnunet([case("a", {1: "x"})], tmp_path / "Dataset001_X")
    assert list(tmp_path.iterdir()) == []
