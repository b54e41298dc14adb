"""From prompts in a viewer without a window to labels: if these fail, drawing does not do what is seen."""

from types import SimpleNamespace

import numpy as np
import pytest
from bright_model import BrightModel
from direct_runner import DirectRunner
from napari.components import ViewerModel
from napari.layers import Image
from napari.utils.interactions import mouse_press_callbacks, mouse_release_callbacks

from napari_medsam.predictor import SlicePredictor
from napari_medsam.prompts import SliceIndex, SlicePrompts
from napari_medsam.session import ACCEPTED, CORRECTED
from napari_medsam.volume import Geometry, Volume, read_labels
from napari_medsam.widgets.contrib import image_layer
from napari_medsam.widgets.label_layer import NOT_THROUGH
from napari_medsam.widgets.layers import POINT_BESIDE
from napari_medsam.widgets.messages import NO_IMAGE, NOT_IN_3D
from napari_medsam.widgets.planes import UNKNOWN_SIZE, box_corners
from napari_medsam.widgets.prompting import COVERED
from napari_medsam.widgets.segmenter import Segmenter
from napari_medsam.widgets.shared_model import SharedModel
from napari_medsam.windowing import Window

SHAPE = (12, 40, 50)
SLAB = np.s_[3:9, 10:20, 15:35]


@pytest.fixture
def said(monkeypatch):
    """What napari would show the user as a warning."""
    shown = []
    for module in ("segmenter", "messages"):
        monkeypatch.setattr(f"napari_medsam.widgets.{module}.show_warning", shown.append)
    return shown


def make_volume(source=""):
    voxels = np.zeros(SHAPE, np.float32)
    voxels[SLAB] = 1.0
    return Volume(voxels, Geometry(SHAPE, (3.0, 0.5, 0.5)), "MR", source, ())


def make_segmenter(viewer):
    model = SharedModel("bright")
    model.replace("bright", SlicePredictor(BrightModel()))
    return Segmenter(viewer, DirectRunner(), model)


@pytest.fixture
def viewer():
    model = ViewerModel()
    model.add_layer(Image(*image_layer(make_volume(), "scan")[:1], **image_layer(make_volume(), "scan")[1]))
    model.dims.set_point(0, 5 * 3.0)
    return model


@pytest.fixture
def segmenter(viewer, said):
    made = make_segmenter(viewer)
    made.layers.session.window = Window(0.0, 1.0, "all")
    return made


def draw(segmenter, where, box):
    segmenter.draw_box()
    layer = segmenter.layers.box_layer()
    layer.add_rectangles([box_corners(where, box, layer.ndim)])


def click(segmenter, place, kind=1, axis=0):
    segmenter.place_points()
    layer = segmenter.layers.point_layer()
    layer.feature_defaults = {"kind": kind, "axis": axis}
    layer.add(place)


def expected(*slices):
    labels = np.zeros(SHAPE, np.uint16)
    for index in slices:
        labels[index, 10:20, 15:35] = 1
    return labels


def test_a_box_becomes_a_mask_on_its_slice(segmenter):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    layers = segmenter.layers
    np.testing.assert_array_equal(layers.labels.data, expected(5))
    assert layers.labels.data is layers.session.labels
    assert layers.session.objects[1].slices == {SliceIndex(0, 5): SlicePrompts((8, 12, 22, 38))}
    assert layers.census.voxels(1) == 200
    np.testing.assert_array_equal(layers.labels.scale, layers.image.scale)
    assert layers.labels.units == layers.image.units
    assert layers.unsaved


def test_moving_a_box_predicts_again_and_deleting_it_takes_the_mask_away(segmenter):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    layer = segmenter.layers.boxes
    layer.data = [box_corners(SliceIndex(0, 5), (8, 12, 14, 38), 3)]
    assert segmenter.layers.census.voxels(1) == 5 * 20
    layer.selected_data = {0}
    layer.remove_selected()
    assert segmenter.layers.session.objects[1].slices == {}
    assert not segmenter.layers.labels.data.any()


def test_a_second_box_on_a_slice_replaces_the_first(segmenter):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    draw(segmenter, SliceIndex(0, 5), (8, 12, 14, 38))
    assert len(segmenter.layers.boxes.data) == 1
    assert segmenter.layers.census.voxels(1) == 5 * 20


def draw_line(segmenter, where, ends):
    segmenter.draw_line()
    layer = segmenter.layers.box_layer()
    layer.add_lines([np.insert(np.array(ends, float), where.axis, where.index, axis=1)])


@pytest.mark.parametrize(
    ("axis", "ends", "box"),
    [
        # On pixels of one size: half a length of 12, and 0.7 of that across.
        (0, ((15, 18), (15, 30)), (15 - 0.7 * 6, 18, 15 + 0.7 * 6, 30)),
        # 3 mm down, 0.5 mm across: a line down 4 slices is as long as 24 columns.
        (1, ((4, 24), (8, 24)), (4, 24 - 0.7 * 12, 8, 24 + 0.7 * 12)),
    ],
)
def test_a_recist_line_becomes_the_box_around_the_object(segmenter, viewer, axis, ends, box):
    """The one line that a radiologist draws anyway; its box is then kept, edited and saved like any other."""
    viewer.dims.order = (axis, *(a for a in range(3) if a != axis))
    where = SliceIndex(axis, 15 if axis else 5)
    viewer.dims.set_point(axis, where.index * (0.5 if axis else 3.0))
    draw_line(segmenter, where, ends)
    layers = segmenter.layers
    (prompts,) = layers.session.objects[1].slices.values()
    np.testing.assert_allclose(prompts.box, box)
    assert layers.boxes.shape_type == ["rectangle"]
    np.testing.assert_allclose(layers.boxes.data[0], box_corners(where, prompts.box, 3))
    y0, x0, y1, x1 = (round(side) for side in box)
    inside = np.zeros(layers.session.labels.shape, bool)
    where.take(inside)[max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1] = True
    wanted = np.zeros_like(inside)
    wanted[SLAB] = True
    np.testing.assert_array_equal(layers.session.labels > 0, inside & wanted)
    assert layers.unsaved


def test_a_line_replaces_the_box_of_its_slice(segmenter):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 14, 38))
    draw_line(segmenter, SliceIndex(0, 5), ((15, 18), (15, 30)))
    (prompts,) = segmenter.layers.session.objects[1].slices.values()
    np.testing.assert_allclose(prompts.box, (10.8, 18, 19.2, 30))
    assert len(segmenter.layers.boxes.data) == 1


def test_a_click_in_place_of_a_line_draws_nothing(segmenter):
    draw_line(segmenter, SliceIndex(0, 5), ((15, 18), (15.3, 18.3)))
    assert len(segmenter.layers.boxes.data) == 0
    assert segmenter.layers.session.objects[1].slices == {}


def test_a_click_in_place_of_a_drag_draws_nothing(segmenter):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 8.2, 12.2))
    assert len(segmenter.layers.boxes.data) == 0
    assert segmenter.layers.session.objects[1].slices == {}
    assert not segmenter.layers.unsaved


@pytest.mark.parametrize(("axis", "index", "box"), [(1, 12, (1, 10, 10, 40)), (2, 20, (1, 5, 10, 30))])
def test_other_planes_write_into_the_same_labels(segmenter, viewer, axis, index, box):
    viewer.dims.order = (axis, *(a for a in range(3) if a != axis))
    viewer.dims.set_point(axis, index * 0.5)
    assert segmenter.layers.where == SliceIndex(axis, index)
    draw(segmenter, SliceIndex(axis, index), box)
    wanted = np.zeros(SHAPE, np.uint16)
    wanted[SLAB] = 1
    here = np.zeros(SHAPE, bool)
    here[(slice(None),) * axis + (index,)] = True
    np.testing.assert_array_equal(segmenter.layers.session.labels, np.where(here, wanted, 0))
    assert segmenter.layers.census.slices(1) == list(range(3, 9))


def test_points_add_and_take_away(segmenter):
    click(segmenter, (5, 15, 20))
    assert segmenter.layers.census.voxels(1) == 9 * 9
    click(segmenter, (5, 15, 24), kind=0)
    prompts = segmenter.layers.session.objects[1].slices[SliceIndex(0, 5)]
    assert prompts == SlicePrompts(None, ((15, 20), (15, 24)), (1, 0))
    assert segmenter.layers.census.voxels(1) == 9 * 4
    colours = segmenter.layers.points.face_color
    assert not np.array_equal(colours[0], colours[1])
    assert list(map(str, segmenter.layers.points.symbol)) == ["disc", "cross"]


def test_each_object_shows_its_own_prompts_and_keeps_the_others_voxels(segmenter):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 14, 38))
    segmenter.new_object("vessel")
    assert len(segmenter.layers.boxes.data) == 0
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    assert segmenter.layers.census.voxels(1) == 5 * 20
    assert segmenter.layers.census.voxels(2) == 5 * 20
    segmenter.walk(1)
    assert segmenter.layers.label == 1
    np.testing.assert_array_equal(segmenter.layers.boxes.data[0][0], (5, 8, 12))
    assert segmenter.layers.labels.selected_label == 1


def test_a_mask_that_other_objects_cover_is_not_lost_without_a_word(segmenter, said):
    """Otherwise a box seems to do nothing."""
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    segmenter.new_object()
    draw(segmenter, SliceIndex(0, 5), (8, 12, 14, 38))
    assert said == [COVERED]
    segmenter.layers.labels.preserve_labels = False
    draw(segmenter, SliceIndex(0, 5), (8, 12, 14, 39))
    assert said == [COVERED]
    assert segmenter.layers.census.voxels(2) == 100


def test_propagation_stops_when_asked_and_keeps_what_it_found(segmenter):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    segmenter.propagate(0, 11)
    np.testing.assert_array_equal(segmenter.layers.session.labels, expected(3, 4, 5, 6, 7, 8))
    segmenter.layers.remove(1)
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    segmenter.runner.limit = 2
    segmenter.propagate(0, 11)
    np.testing.assert_array_equal(segmenter.layers.session.labels, expected(5, 6))


def test_painting_makes_a_key_slice_that_propagation_leaves_alone(segmenter, viewer):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    viewer.dims.set_point(0, 6 * 3.0)
    segmenter.edit_labels("paint")
    segmenter.layers.labels.brush_size = 1
    segmenter.layers.labels.paint((6, 2, 2), 1)
    assert segmenter.layers.session.key_slices[1] == {SliceIndex(0, 6): CORRECTED}
    assert segmenter.layers.census.slices(1) == [5, 6]
    segmenter.propagate(0, 11)
    assert np.argwhere(segmenter.layers.session.labels[6]).tolist() == [[2, 2]]


def test_undo_takes_back_a_mask_and_the_counts_follow(segmenter):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    segmenter.past.undo()
    assert not segmenter.layers.session.labels.any()
    assert segmenter.layers.census.voxels(1) == 0
    assert segmenter.layers.session.key_slices.get(1, {}) == {}


def test_an_accepted_slice_refuses_prompts_until_it_is_unlocked(segmenter, said):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    segmenter.accept()
    assert segmenter.layers.session.key_slices[1] == {SliceIndex(0, 5): ACCEPTED}
    draw(segmenter, SliceIndex(0, 5), (8, 12, 14, 38))
    np.testing.assert_array_equal(segmenter.layers.session.labels, expected(5))
    assert "press A to unlock" in said[-1]
    segmenter.accept()
    draw(segmenter, SliceIndex(0, 5), (8, 12, 14, 38))
    assert segmenter.layers.census.voxels(1) == 100


def test_layers_may_be_renamed_reordered_duplicated_and_deleted(segmenter, viewer):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    for layer in list(viewer.layers):
        layer.name = f"my {layer.name}"
    viewer.layers.reverse()
    viewer.add_layer(type(segmenter.layers.labels)(segmenter.layers.labels.data.copy(), name="duplicate"))
    viewer.layers.remove(segmenter.layers.boxes)
    viewer.layers.remove(segmenter.layers.labels)
    draw(segmenter, SliceIndex(0, 6), (8, 12, 22, 38))
    np.testing.assert_array_equal(segmenter.layers.labels.data, expected(5, 6))
    assert len(segmenter.layers.boxes.data) == 2


def test_a_label_layer_of_ones_own_is_kept_and_its_labels_become_objects(segmenter, viewer, said):
    own = np.zeros(SHAPE, np.int32)
    own[2, :5, :5] = 7
    layer = viewer.add_labels(own, scale=(3.0, 0.5, 0.5))
    segmenter.use_labels(layer)
    assert list(segmenter.layers.session.objects) == [7]
    segmenter.new_object()
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    assert (layer.data == 7).sum() == 25
    assert (layer.data == 8).sum() == 200
    segmenter.use_labels(viewer.add_labels(np.zeros((2, 2, 2), int)))
    assert "shape (2, 2, 2)" in said[-1]
    assert segmenter.layers.labels == layer


def test_a_second_volume_gets_its_own_session(segmenter, viewer):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    first = segmenter.layers
    data, attributes, _ = image_layer(make_volume(), "other")
    viewer.add_layer(Image(data, **attributes))
    assert segmenter.layers.image.name == "other"
    segmenter.layers.session.window = Window(0.0, 1.0, "all")
    draw(segmenter, SliceIndex(0, 4), (8, 12, 22, 38))
    np.testing.assert_array_equal(first.session.labels, expected(5))
    np.testing.assert_array_equal(segmenter.layers.session.labels, expected(4))
    viewer.layers.selection.active = first.labels
    assert segmenter.layers is first


@pytest.mark.parametrize("rgb", [False, True])
def test_pictures_of_one_slice_can_be_segmented(said, rgb):
    picture = np.zeros((40, 50, 3) if rgb else (40, 50), np.uint8)
    picture[10:20, 15:35] = 255
    viewer = ViewerModel()
    viewer.add_image(picture, rgb=rgb)
    segmenter = make_segmenter(viewer)
    assert said == [UNKNOWN_SIZE]
    draw(segmenter, SliceIndex(0, 0), (8, 12, 22, 38))
    np.testing.assert_array_equal(segmenter.layers.labels.data, expected(0)[0])


def test_without_an_image_or_in_3d_the_next_step_is_said(said):
    viewer = ViewerModel()
    segmenter = make_segmenter(viewer)
    segmenter.draw_box()
    viewer.add_image(np.zeros((3, 4, 5)))
    viewer.dims.ndisplay = 3
    segmenter.draw_box()
    assert said == [NO_IMAGE, UNKNOWN_SIZE, NOT_IN_3D]


def test_a_click_in_the_3d_view_places_no_point(segmenter, said):
    """Whoever turns the volume in point mode must not change a mask on a slice that is not to be seen."""
    segmenter.place_points()
    points = segmenter.layers.points
    segmenter.viewer.dims.ndisplay = 3
    event = SimpleNamespace(
        type="mouse_press", button=1, modifiers=(), pos=np.zeros(2), position=(9.0, 7.0, 10.0), handled=False
    )
    mouse_press_callbacks(points, event)
    event.type = "mouse_release"
    mouse_release_callbacks(points, event)
    assert len(points.data) == 0
    assert segmenter.layers.session.objects[1].slices == {}
    assert said == [NOT_IN_3D]


def test_a_point_beside_the_image_is_refused_and_the_others_stay(segmenter, said):
    """A click beside the image, meant for the window, must not change the mask."""
    click(segmenter, (5, 15, 20))
    before = segmenter.layers.session.labels.copy()
    click(segmenter, (5, 15, 50))
    click(segmenter, (5, -1, 20))
    assert said == [POINT_BESIDE.format("scan")] * 2
    assert segmenter.layers.session.objects[1].slices == {
        SliceIndex(0, 5): SlicePrompts(None, ((15.0, 20.0),), (1,))
    }
    assert len(segmenter.layers.points.data) == 1
    np.testing.assert_array_equal(segmenter.layers.session.labels, before)


def test_undo_in_the_3d_view_is_counted(segmenter):
    """Else the list goes on showing the volume of a mask that is gone."""
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    layers = segmenter.layers
    assert layers.census.voxels(1) > 0
    segmenter.viewer.dims.ndisplay = 3
    segmenter.past.undo()
    assert not layers.session.labels.any()
    assert layers.census.voxels(1) == 0


def test_merging_moves_voxels_and_deleting_takes_them_away(segmenter):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    segmenter.new_object()
    draw(segmenter, SliceIndex(0, 6), (8, 12, 22, 38))
    segmenter.layers.remove(2, into=1)
    np.testing.assert_array_equal(segmenter.layers.session.labels, expected(5, 6))
    assert segmenter.layers.census.voxels(1) == 400
    segmenter.layers.remove(1)
    assert not segmenter.layers.session.labels.any()
    assert list(segmenter.layers.session.objects) == [1]


@pytest.mark.parametrize(
    ("operation", "voxels"), [("grow", 200 + 60), ("shrink", 8 * 18), ("fill_holes", 200)]
)
def test_a_correction_changes_the_slice_and_makes_it_a_key_slice(segmenter, operation, voxels):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    segmenter.correct(operation, whole=False)
    assert segmenter.layers.census.voxels(1) == voxels
    changed = voxels != 200
    assert (segmenter.layers.session.key_slices.get(1, {}) == {SliceIndex(0, 5): CORRECTED}) == changed


def test_interpolation_fills_the_gap(segmenter):
    for index in (3, 7):
        draw(segmenter, SliceIndex(0, index), (8, 12, 22, 38))
    segmenter.correct("interpolate", whole=True)
    np.testing.assert_array_equal(segmenter.layers.session.labels, expected(3, 4, 5, 6, 7))


def test_saved_work_is_what_was_drawn(segmenter, tmp_path):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    segmenter.layers.session.rename(1, "liver")
    assert segmenter.save(tmp_path / "scan_seg.nii.gz")
    saved = read_labels(tmp_path / "scan_seg.nii.gz")
    np.testing.assert_array_equal(saved.array, expected(5))
    assert saved.geometry.difference(segmenter.layers.session.volume.geometry) == ""
    assert '"liver"' in (tmp_path / "scan_seg.prompts.json").read_text(encoding="utf-8")
    assert segmenter.unsaved == []


def test_work_that_could_not_be_saved_stays_unsaved(segmenter, tmp_path, said):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    segmenter.save(tmp_path / "nowhere" / "scan_seg.nii.gz")
    assert segmenter.unsaved == [segmenter.layers]
    assert "cannot be written" in said[-1]


def test_undo_turns_to_the_slice_that_it_changes(segmenter, viewer):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    viewer.dims.set_point(0, 6 * 3.0)
    segmenter.past.undo()
    assert not segmenter.layers.session.labels.any()
    assert segmenter.layers.census.voxels(1) == 0
    assert segmenter.layers.where == SliceIndex(0, 5)
    assert not segmenter.layers.session.objects[1].slices


def test_undo_and_redo_go_through_delete_accept_and_prompts(segmenter):
    session, where = segmenter.layers.session, SliceIndex(0, 5)
    draw(segmenter, where, (8, 12, 22, 38))
    prompts = session.objects[1].slices
    segmenter.accept()
    segmenter.remove(1)
    assert not session.labels.any()
    segmenter.past.undo()
    np.testing.assert_array_equal(session.labels, expected(5))
    assert (session.objects[1].slices, session.key_slices[1]) == (prompts, {where: ACCEPTED})
    assert segmenter.layers.census.voxels(1) == 200
    segmenter.past.undo()
    assert session.key_slices[1] == {}
    segmenter.past.undo()
    assert not session.labels.any()
    assert not session.objects[1].slices
    assert len(segmenter.layers.boxes.data) == 0
    for _ in range(3):
        segmenter.past.redo()
    assert not session.labels.any()
    assert session.objects[1].slices == session.key_slices[1] == {}
    segmenter.past.undo()
    np.testing.assert_array_equal(session.labels, expected(5))
    assert len(segmenter.layers.boxes.data) == 1


def test_undo_of_a_brush_through_slices_is_counted(segmenter, viewer):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    layer = segmenter.layers.labels
    layer.n_edit_dimensions, layer.brush_size = 3, 20
    with layer.block_history():
        layer.paint((5, 30, 30), 1)
    census = segmenter.layers.census
    assert census.slices(1) != [5]
    viewer.dims.set_point(0, 1 * 3.0)
    segmenter.past.undo()
    np.testing.assert_array_equal(segmenter.layers.session.labels, expected(5))
    assert (census.voxels(1), census.slices(1)) == (200, [5])


def test_the_brush_leaves_an_accepted_slice_as_it_is(segmenter, said):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    segmenter.accept()
    segmenter.edit_labels("paint")
    layer = segmenter.layers.labels
    with layer.block_history():
        layer.paint((5, 2, 2), 1)
    np.testing.assert_array_equal(segmenter.layers.session.labels, expected(5))
    assert segmenter.layers.census.voxels(1) == 200
    assert "press A to unlock" in said[-1]
    segmenter.new_object()
    with layer.block_history():
        layer.paint((5, 2, 2), 2)
    assert segmenter.layers.session.labels[5, 2, 2] == 2


def test_the_brush_in_another_plane_leaves_an_accepted_slice_as_it_is(segmenter, viewer, said):
    """A coronal stroke crosses the axial slice that somebody has accepted."""
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    segmenter.accept()
    viewer.dims.order = (1, 0, 2)
    viewer.dims.set_point(1, 15 * 0.5)
    segmenter.edit_labels("erase")
    layer = segmenter.layers.labels
    layer.brush_size = 13
    with layer.block_history():
        layer.paint((5, 15, 20), 0)
    np.testing.assert_array_equal(segmenter.layers.session.labels, expected(5))
    assert said[-1] == "What lies on accepted slices stays as it is: unlock them (A) first."
    with layer.block_history():
        layer.paint((5, 15, 20), 2)
    assert segmenter.layers.census.voxels(1) == 200
    assert segmenter.layers.census.slices(2) == [4, 5, 6]


def test_a_brush_through_slices_is_refused_while_one_is_accepted(segmenter, said):
    """Nobody sees what it does on the slices that are not on screen."""
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    layer = segmenter.layers.labels
    layer.n_edit_dimensions = 3
    segmenter.accept()
    assert (layer.n_edit_dimensions, said) == (2, [NOT_THROUGH])
    layer.n_edit_dimensions = 3
    assert (layer.n_edit_dimensions, said) == (2, [NOT_THROUGH] * 2)
    segmenter.accept()
    layer.n_edit_dimensions = 3
    assert layer.n_edit_dimensions == 3


def test_what_is_painted_while_an_object_is_carried_stays(segmenter, viewer):
    """The slice that comes next is corrected by hand before propagation reaches it."""
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    viewer.dims.set_point(0, 7 * 3.0)
    segmenter.edit_labels("paint")
    layers = segmenter.layers
    layers.labels.brush_size = 1

    def paint_once(labels):
        if layers.census.slices(1) == [5, 6]:
            with layers.labels.block_history():
                layers.labels.paint((7, 2, 2), 1)

    layers.edited.connect(paint_once)
    segmenter.propagate(0, 11)
    wanted = expected(3, 4, 5, 6, 8)
    wanted[7, 2, 2] = 1
    np.testing.assert_array_equal(layers.session.labels, wanted)
    assert layers.session.key_slices[1] == {SliceIndex(0, 7): CORRECTED}
    assert layers.census.voxels(1) == 5 * 200 + 1


def test_an_object_drawn_while_another_is_hidden_can_be_seen(segmenter):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    segmenter.layers.masks.show(1, False)
    segmenter.new_object()
    draw(segmenter, SliceIndex(0, 6), (8, 12, 22, 38))
    colormap = segmenter.layers.labels.colormap
    assert colormap.map(1)[3] == 0
    np.testing.assert_allclose(colormap.map(2), segmenter.layers.masks.palette.colour(2), atol=0.01)
    segmenter.remove(1)
    segmenter.layers.masks.show(2, True)
    assert segmenter.layers.labels.colormap.map(2)[3] == 1


def test_a_box_beside_the_image_does_not_cost_the_box_on_it(segmenter, said):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    draw(segmenter, SliceIndex(0, 5), (-30, -30, -10, -10))
    assert said == ["The box lies beside 'scan': drag it over the object."]
    assert segmenter.layers.session.objects[1].slices == {SliceIndex(0, 5): SlicePrompts((8, 12, 22, 38))}
    assert len(segmenter.layers.boxes.data) == 1
    np.testing.assert_array_equal(segmenter.layers.session.labels, expected(5))


def test_a_mask_as_image_can_be_segmented(said):
    viewer = ViewerModel()
    voxels = np.zeros(SHAPE, bool)
    voxels[SLAB] = True
    viewer.add_image(voxels)
    viewer.dims.set_point(0, 5)
    segmenter = make_segmenter(viewer)
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    np.testing.assert_array_equal(segmenter.layers.session.labels, expected(5))


def test_deleting_an_object_stops_what_is_computed_for_it(segmenter):
    draw(segmenter, SliceIndex(0, 5), (8, 12, 22, 38))
    given_up = []
    segmenter.runner.cancel = lambda key: given_up.append(key) or True
    segmenter.remove(1)
    assert set(given_up) == {"propagate", "correct"}


def test_another_image_is_taken_when_the_one_at_hand_is_deleted(segmenter, viewer):
    data, attributes, _ = image_layer(make_volume(), "other")
    viewer.add_layer(Image(data, **attributes))
    viewer.layers.remove(segmenter.layers.image)
    assert segmenter.layers.image.name == "scan"
    viewer.layers.remove(segmenter.layers.image)
    assert segmenter.layers is None


def test_a_box_goes_onto_the_image_that_is_to_be_seen(segmenter, viewer):
    """Nothing is selected and the image at hand is hidden: the other one is what the user means."""
    data, attributes, _ = image_layer(make_volume(), "other")
    other = Image(data, **attributes)
    viewer.add_layer(other)
    other.visible = False
    viewer.layers.selection.clear()
    segmenter.draw_box()
    assert segmenter.layers.image.name == "scan"
    viewer.layers.selection.active = other
    segmenter.draw_box()
    assert segmenter.layers.image.name == "other"


def test_without_a_usable_image_it_is_said_what_is_wrong_with_it(said):
    viewer = ViewerModel()
    viewer.add_image(np.zeros((2, 3, 4, 5)), name="movie")
    segmenter = make_segmenter(viewer)
    segmenter.draw_box()
    assert segmenter.layers is None
    assert len(said) == 2
    assert said[0] == said[1]
    assert "'movie' has 4 dimensions, expected 2 or 3" in said[0]
