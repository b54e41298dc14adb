"""Every number of a report, against shapes whose answer is known and against other libraries."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from napari_medsam.cli import app
from napari_medsam.export import Segment, Segmentation, write_segmentation
from napari_medsam.measurements import (
    MeasurementError,
    compare_labels,
    measure_labels,
    measurements_to_csv,
    surface_mm2,
    volume_text,
)
from napari_medsam.volume import Geometry, Volume, read_labels, read_volume, write_labels

OBLIQUE = tuple(Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix().ravel())


def ellipsoid(half_mm: tuple[float, float, float], spacing: tuple[float, float, float]) -> NDArray[np.bool_]:
    """Voxels whose centres lie in an ellipsoid that is not centred on one."""
    counts = [math.ceil(half / step) + 2 for half, step in zip(half_mm, spacing, strict=True)]
    axes = np.ogrid[tuple(slice(-n, n + 1) for n in counts)]
    return sum(((a * s + 0.13) / h) ** 2 for a, s, h in zip(axes, spacing, half_mm, strict=True)) <= 1


def alone(mask: NDArray[np.bool_], spacing: tuple[float, float, float], **more):
    [found] = measure_labels(mask.astype(np.uint8), Geometry(mask.shape, spacing), **more)
    return found


def box(spacing: tuple[float, float, float] = (3.0, 0.8, 0.5)) -> tuple[NDArray[np.uint16], Geometry]:
    """A block of 4 x 10 x 20 voxels, label 7, on an oblique grid."""
    labels = np.zeros((9, 20, 30), np.uint16)
    labels[2:6, 5:15, 6:26] = 7
    return labels, Geometry(labels.shape, spacing, (-50.0, 20.0, 300.0), OBLIQUE)


def test_block_is_measured_to_the_voxel() -> None:
    """Whoever divides mL by voxels must find a voxel's size, and the slices as the viewer counts them."""
    labels, geometry = box()
    [found] = measure_labels(labels, geometry, names={7: "block"})
    assert (found.label, found.name, found.voxels, found.slices) == (7, "block", 800, (2, 5))
    assert found.volume_ml == pytest.approx(800 * 3.0 * 0.8 * 0.5 / 1000)
    assert found.intensities is None


def test_diameters_of_a_block_are_where_the_block_is() -> None:
    """A line in the report that lies elsewhere in the patient is worse than none."""
    labels, geometry = box()
    [found] = measure_labels(labels, geometry)
    long = found.recist.long
    # From the middle of one outer edge to that of another, at most half a pixel from the corners.
    assert long.length_mm == pytest.approx(math.hypot(10 * 0.8, 20 * 0.5), abs=0.8 / 2 + 0.5 / 2)
    assert found.recist.axis == 0
    assert all(end[0] == found.recist.index and 2 <= end[0] <= 5 for end in long.voxels)
    for line in (long, found.recist.short):
        ends = np.array(line.lps_mm)
        assert np.linalg.norm(ends[1] - ends[0]) == pytest.approx(line.length_mm)
        for voxel, place in zip(line.voxels, ends, strict=True):
            np.testing.assert_allclose((geometry.affine @ (*voxel[::-1], 1))[:3], place, atol=1e-9)
    across = [np.subtract(*np.array(line.lps_mm)) for line in (long, found.recist.short)]
    assert abs(np.dot(*across)) < 1e-6 * long.length_mm**2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_diameters_lie_on_the_slices_that_were_asked_for(axis: int) -> None:
    """A sagittal reading must not report an axial line."""
    labels, geometry = box((2.0, 2.0, 2.0))
    [found] = measure_labels(labels, geometry, axis=axis)
    sides = [2.0 * n for k, n in enumerate((4, 10, 20)) if k != axis]
    assert found.recist.long.length_mm == pytest.approx(math.hypot(*sides), abs=2.0)
    assert {end[axis] for end in found.recist.long.voxels} == {found.recist.index}
    first, last = [(2, 5), (5, 14), (6, 25)][axis]
    assert found.slices == (first, last)
    assert first <= found.recist.index <= last


def test_longest_diameter_is_found_on_whatever_slice_it_is() -> None:
    """Slices are skipped that cannot hold it; one wrongly skipped would be a smaller lesion."""
    from napari_medsam.metrics import recist_mm

    random = np.random.default_rng(3)
    labels = (random.random((12, 24, 24)) < 0.6).astype(np.uint8)
    for index, side in enumerate(random.integers(3, 24, 12)):
        labels[index, side:] = labels[index, :, side:] = 0
    [found] = measure_labels(labels, Geometry(labels.shape, (4.0, 0.9, 0.6)))
    every = [recist_mm(page, (0.9, 0.6)).long_mm for page in labels]
    assert found.recist.long.length_mm == max(every)
    assert every[found.recist.index] == max(every)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.8, 0.8), (0.7, 1.4, 0.9)])
@pytest.mark.parametrize("half_mm", [(12.0, 12.0, 12.0), (10.0, 14.0, 18.0)])
def test_ellipsoids_have_the_volume_surface_and_diameters_of_the_formulas(half_mm, spacing) -> None:
    """Surfaces counted in voxel faces would be half as large again, and no ball would be a ball."""
    mask = ellipsoid(half_mm, spacing)
    found = alone(mask, spacing)
    assert found.volume_ml == pytest.approx(np.prod(half_mm) * 4 / 3 * math.pi / 1000, rel=0.02)
    a, b, c = half_mm
    p = 1.6075  # Thomsen's formula, within 1.1 % of the integral and exact for a ball
    area = 4 * math.pi * (((a * b) ** p + (a * c) ** p + (b * c) ** p) / 3) ** (1 / p)
    assert found.surface_mm2 == pytest.approx(area, rel=0.03)
    assert found.sphericity == pytest.approx(
        math.pi ** (1 / 3) * (8 * math.pi * a * b * c) ** (2 / 3) / area, rel=0.03
    )
    assert found.recist.long.length_mm == pytest.approx(2 * max(b, c), abs=max(spacing[1:]))
    assert found.recist.short.length_mm == pytest.approx(2 * min(b, c), abs=max(spacing[1:]))


def test_surface_is_the_one_that_itk_computes() -> None:
    """On cubic voxels ITK weighs the same 13 directions; a mask that touches the border is closed there."""
    blobs = np.random.default_rng(5).random((20, 20, 20))
    mask = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(blobs), 2.0)) > 0.5
    image = sitk.GetImageFromArray(np.pad(mask, 2).astype(np.uint8))
    image.SetSpacing((1.5, 1.5, 1.5))
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(image)
    assert surface_mm2(mask, (1.5, 1.5, 1.5)) == pytest.approx(shape.GetPerimeter(1), rel=1e-6)


def test_intensities_are_those_that_itk_computes() -> None:
    """A mean of HU is what a report is read for."""
    labels, geometry = box()
    values = np.random.default_rng(1).normal(40, 15, labels.shape).astype(np.float32)
    [found] = measure_labels(labels, geometry, image=Volume(values, geometry, "CT"))
    statistics = sitk.LabelStatisticsImageFilter()
    statistics.Execute(sitk.GetImageFromArray(values), sitk.GetImageFromArray(labels))
    n = statistics.GetCount(7)
    assert found.intensities.mean == pytest.approx(statistics.GetMean(7), rel=1e-6)
    assert found.intensities.sd == pytest.approx(statistics.GetSigma(7) * math.sqrt((n - 1) / n), rel=1e-6)
    assert found.intensities.minimum == pytest.approx(statistics.GetMinimum(7))
    assert found.intensities.maximum == pytest.approx(statistics.GetMaximum(7))
    inside = sorted(values[2:6, 5:15, 6:26].ravel().tolist())
    assert found.intensities.percentiles[2] == pytest.approx((inside[399] + inside[400]) / 2)


def test_real_cases_have_the_numbers_that_itk_computes(real_data: Path) -> None:
    """Volume, mean and deviation of every label of every gray case, by other code from the same files."""
    seen = 0
    for folder in sorted(path.parent for path in real_data.glob("*/labels.nii.gz")):
        image, labels = read_volume(folder / "image.nii.gz"), read_labels(folder / "labels.nii.gz")
        if image.array.ndim == 4:
            continue
        pixels = sitk.GetImageFromArray(labels.array)
        pixels.SetSpacing(labels.geometry.spacing[::-1])
        shape, values = sitk.LabelShapeStatisticsImageFilter(), sitk.LabelStatisticsImageFilter()
        shape.ComputePerimeterOff()
        shape.Execute(pixels)
        values.Execute(
            sitk.GetImageFromArray(image.array.astype(np.float64)), sitk.GetImageFromArray(labels.array)
        )
        for found in measure_labels(labels.array, labels.geometry, image=image):
            assert found.volume_ml == pytest.approx(shape.GetPhysicalSize(found.label) / 1000, rel=1e-9)
            assert found.intensities.mean == pytest.approx(values.GetMean(found.label), rel=1e-6, abs=1e-6)
            n = found.voxels
            sd = values.GetSigma(found.label) * math.sqrt((n - 1) / n)
            assert found.intensities.sd == pytest.approx(sd, rel=1e-6, abs=1e-6)
            seen += 1
    assert seen > 50


def test_voxels_without_a_value_do_not_spoil_the_mean() -> None:
    """PET and parameter maps have NaN outside the body."""
    labels = np.ones((1, 1, 3), np.uint8)
    geometry = Geometry(labels.shape)
    values = np.array([[[1.0, 3.0, np.nan]]])
    [found] = measure_labels(labels, geometry, image=Volume(values, geometry))
    assert (found.intensities.mean, found.intensities.maximum) == (2.0, 3.0)
    [found] = measure_labels(labels, geometry, image=Volume(values * np.nan, geometry))
    assert found.intensities is None


def test_single_slice_has_no_surface() -> None:
    """An X-ray has no third dimension; a surface of its one slice would be an invention."""
    labels = np.zeros((1, 20, 20), np.uint8)
    labels[0, 5:10, 5:10] = 1
    [found] = measure_labels(labels, Geometry(labels.shape))
    assert found.surface_mm2 is None
    assert found.sphericity is None
    assert found.recist.index == 0


def test_labels_too_large_to_count_up_to_are_measured_too() -> None:
    """FreeSurfer and instance maps number their objects as they like."""
    labels = np.zeros((4, 5, 6), np.uint32)
    labels[0, 0, :2], labels[3, 4, :3] = 11_000_000, 4_294_967_295
    found = measure_labels(labels, Geometry(labels.shape))
    assert [(each.label, each.voxels) for each in found] == [(11_000_000, 2), (4_294_967_295, 3)]
    labels[...] = 0
    assert measure_labels(labels, Geometry(labels.shape)) == []


def test_what_does_not_belong_together_is_refused_in_one_sentence() -> None:
    labels, geometry = box()
    elsewhere = Geometry(geometry.shape, geometry.spacing, (0.0, 0.0, 0.0), geometry.direction)
    with pytest.raises(MeasurementError, match="expected the grid's"):
        measure_labels(labels[1:], geometry)
    with pytest.raises(MeasurementError, match="mm apart"):
        measure_labels(labels, geometry, image=Volume(np.zeros(labels.shape), elsewhere))
    with pytest.raises(MeasurementError, match="axis 0, 1 or 2, not 3"):
        measure_labels(labels, geometry, axis=3)
    for odd in (labels.astype(np.int16) - 1, labels.astype(float), labels > 0):
        with pytest.raises(MeasurementError, match="whole numbers from 0 up"):
            measure_labels(odd, geometry)


def test_a_small_lesion_has_a_volume_to_read() -> None:
    """One of 3 mm³ is not 0.00 mL, and none is."""
    shown = {0.0: "0.00", 0.003: "0.003", 0.0987: "0.099", 0.1: "0.10", 12.345: "12.35"}
    assert {value: volume_text(value) for value in shown} == shown


def test_table_has_a_row_for_every_label_of_either_map() -> None:
    """A label that was missed altogether must not vanish from the table."""
    labels, geometry = box()
    reference = np.zeros_like(labels)
    reference[2:6, 5:15, 6:16] = 7
    reference[8, 0, :4] = 9
    measured = measure_labels(labels, geometry, names={7: "=SUM(A1)"})
    scores = compare_labels(reference, labels, geometry.spacing, names={9: "missed"})
    rows = list(csv.DictReader(io.StringIO(measurements_to_csv(measured, scores))))
    assert [(row["label"], row["name"]) for row in rows] == [("7", "'=SUM(A1)"), ("9", "missed")]
    assert float(rows[0]["dice"]) == pytest.approx(2 / 3)
    assert float(rows[0]["volume_difference_ml"]) == pytest.approx(400 * 3.0 * 0.8 * 0.5 / 1000)
    assert float(rows[0]["recist_long_mm"]) == measured[0].recist.long.length_mm
    assert (rows[1]["voxels"], rows[1]["dice"]) == ("", "0.0")


def test_command_prints_and_writes_what_was_measured(tmp_path) -> None:
    """The way from a label map to a spreadsheet, without a line of Python."""
    labels, geometry = box()
    path, image, table = tmp_path / "labels.nii.gz", tmp_path / "image.nrrd", tmp_path / "table.csv"
    write_labels(labels, geometry, path)
    write_labels(labels, geometry, image)
    words = ["measure", str(path), "--image", str(image), "--reference", str(path), "--label", "7=block"]
    result = CliRunner().invoke(app, [*words, "--csv", str(table), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["labels"][0]["voxels"] == 800
    assert found["labels"][0]["intensities"]["mean"] == 7
    assert found["reference"][0]["dice"] == 1
    [row] = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8")))
    assert (row["name"], row["voxels"], row["mean"], row["dice"]) == ("block", "800", "7.0", "1.0")
    text = CliRunner().invoke(app, words).stdout
    assert "block" in text
    assert "2 to 5" in text


def test_command_refuses_an_image_on_another_grid(tmp_path) -> None:
    labels, geometry = box()
    path = tmp_path / "labels.nii.gz"
    write_labels(labels, geometry, path)
    moved = Geometry(geometry.shape, geometry.spacing, (-50.0, 20.0, 305.0), geometry.direction)
    image = write_labels(labels, moved, tmp_path / "moved.nrrd")
    result = CliRunner().invoke(app, ["measure", str(path), "--image", str(image)])
    assert result.exit_code == 2
    assert "5 mm apart" in result.stderr
    assert result.stdout == ""


def test_command_names_the_table_that_cannot_be_written(tmp_path) -> None:
    """Somebody who mistypes a folder must see the path that was typed, not one of a temporary file."""
    labels, geometry = box()
    path = write_labels(labels, geometry, tmp_path / "labels.nii.gz")
    table = tmp_path / "missing" / "table.csv"
    result = CliRunner().invoke(app, ["measure", str(path), "--csv", str(table)])
    assert result.exit_code == 2
    assert result.stderr == f"Error: No such file or directory: {table}\n"


def liver_and_cyst(folder: Path) -> tuple[Path, Geometry]:
    """Two segments of 3D Slicer, the second within the first, both label 1 of a layer of their own."""
    labels, geometry = box()
    layers = np.stack([labels > 0, np.zeros_like(labels)]).astype(np.uint8)
    layers[1, 3, 6:8, 8:12] = 1
    segments = (Segment(1, "liver", (1, 2, 3)), Segment(1, "[cyst] :x:", (4, 5, 6), None, 1))
    path = folder / "both.seg.nrrd"
    write_segmentation(Segmentation(layers, geometry, segments), path)
    return path, geometry


def test_command_measures_segments_that_overlap(tmp_path) -> None:
    """A tumour in a liver has a volume, whatever it shares with the liver; brackets belong to its name."""
    path, geometry = liver_and_cyst(tmp_path)
    result = CliRunner().invoke(app, ["measure", str(path), "--csv", str(tmp_path / "both.csv")])
    assert result.exit_code == 0, result.output
    assert "[cyst] :x:" in result.stdout
    rows = list(csv.DictReader(io.StringIO((tmp_path / "both.csv").read_text(encoding="utf-8"))))
    found = [(row["label"], row["name"], row["voxels"], row["slice_axis"]) for row in rows]
    assert found == [("1", "liver", "800", "0"), ("2", "[cyst] :x:", "8", "0")]
    assert float(rows[1]["volume_ml"]) == pytest.approx(8 * geometry.voxel_volume_ml)


def test_command_compares_with_any_file_of_labels(tmp_path) -> None:
    """3D Slicer stores that part of the image which holds its segments."""
    labels, geometry = box()
    part = Geometry((4, 10, 20), geometry.spacing, tuple((geometry.affine @ (6, 5, 2, 1))[:3]), OBLIQUE)
    truth = Segmentation.from_labels(labels[2:6, 5:15, 6:26] - 6, part, names={1: "liver"})
    write_segmentation(truth, tmp_path / "truth.seg.nrrd")
    mine = write_labels((labels > 0) & (np.arange(30) < 16), geometry, tmp_path / "mine.nii.gz")
    image = write_labels(labels, geometry, tmp_path / "image.nrrd")
    words = ["measure", str(mine), "--reference", str(tmp_path / "truth.seg.nrrd"), "--json"]
    [row] = json.loads(CliRunner().invoke(app, [*words, "--image", str(image)]).stdout)["reference"]
    assert row["dice"] == pytest.approx(2 / 3)
    alone = CliRunner().invoke(app, words)
    assert alone.exit_code == 2
    assert "not on the same grid (give --image" in alone.stderr


def test_command_compares_what_has_one_name(tmp_path) -> None:
    """DICOM numbers segments from 1: label 5 there is not label 5 of the label map that it was made of."""
    labels, geometry = box()
    labels[8, 0, :4], labels[0, :3, 0] = 1, 2
    truth = Segmentation.from_labels(labels, geometry, names={1: "cyst", 2: "Leber", 7: "Kidney"})
    mine = Segmentation.from_labels(
        np.select([labels == 7, labels == 2], [1, 2]), geometry, names={1: "kidney", 2: "liver"}
    )
    for name, each in (("truth", truth), ("mine", mine)):
        write_segmentation(each, tmp_path / f"{name}.seg.nrrd")
    words = ["measure", str(tmp_path / "mine.seg.nrrd"), "--reference", str(tmp_path / "truth.seg.nrrd")]
    rows = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["reference"]
    assert [(row["label"], row["name"], row["reference_label"], row["dice"]) for row in rows] == [
        (1, "kidney", 7, 1.0),
        (2, "liver", 2, 1.0),
        (8, "cyst", 1, 0.0),
    ]


def test_short_diameter_of_a_bar_is_in_its_middle() -> None:
    """At the very end of the object it would be taken for a mistake."""
    mask = np.zeros((3, 20, 30), bool)
    mask[1, 5, 4:25] = True
    short = alone(mask, (1.0, 1.0, 1.0)).recist.short
    assert short.length_mm == pytest.approx(1.0)
    np.testing.assert_allclose(np.array(short.voxels)[:, 2], 14.0, atol=0.1)


def test_command_writes_no_table_over_what_it_measures(tmp_path) -> None:
    labels, geometry = box()
    path = write_labels(labels, geometry, tmp_path / "labels.nii.gz")
    result = CliRunner().invoke(app, ["measure", str(path), "--csv", str(path)])
    assert result.exit_code == 2
    assert "itself, which is read here; give another name" in result.stderr
    np.testing.assert_array_equal(read_labels(path).array, labels)


def longest_mm(mask: NDArray[np.bool_], spacing: tuple[float, float]) -> float:
    """Between the middles of any two pixel edges of a mask (y, x), by trying all of them."""
    edges = [
        (y + dy, x + dx)
        for y, x in np.argwhere(mask).tolist()
        for dy, dx in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))
    ]
    places = np.array(edges) * spacing
    return max(float(np.linalg.norm(places - place, axis=1).max()) for place in places)


@pytest.mark.parametrize("seed", range(12))
def test_longest_diameter_is_that_of_all_pairs_of_edges(seed: int) -> None:
    """One voxel, lines one voxel thick, diagonals and blots, on pixels of any form."""
    draw = np.random.default_rng(seed)
    mask = np.zeros((3, 14, 15), bool)
    kinds = ("dot", "row", "diagonal", "blot")
    kind = kinds[seed % 4]
    if kind == "dot":
        mask[1, draw.integers(14), draw.integers(15)] = True
    elif kind == "row":
        mask[1, draw.integers(14), 2 : draw.integers(4, 15)] = True
    elif kind == "diagonal":
        mask[1, np.arange(9) + draw.integers(5), np.arange(9) + draw.integers(5)] = True
    else:
        mask[1, 2:12, 2:12] = draw.random((10, 10)) < 0.9
    spacing = (3.0, *draw.uniform(0.3, 2.5, 2))
    recist = alone(mask, spacing).recist
    assert recist.index == 1
    assert recist.long.length_mm == pytest.approx(longest_mm(mask[1], spacing[1:]))
    assert 0 < recist.short.length_mm <= recist.long.length_mm
