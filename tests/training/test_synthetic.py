"""If these fail, the default model learns from pictures whose labels are wrong."""

import pytest
import torch

from napari_medsam.models.crops import mask_boxes
from napari_medsam.training.appearance import rims
from napari_medsam.training.prompt_sampling import MODES, correction, draw_prompts, visibility
from napari_medsam.training.shapes import Draw, ShapeTable, warped_grid
from napari_medsam.training.synthetic import SliceBatch, synthetic_slices


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def slices():
    return synthetic_slices(12, seeded(1), 96)


@pytest.fixture(scope="module")
def prompts(slices):
    return draw_prompts(slices, 64, seeded(2))


def test_the_same_seed_draws_the_same_slices_and_another_seed_others():
    first, again, other = (synthetic_slices(6, seeded(s), 64) for s in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.objects, again.objects)
    assert first.images.shape != other.images.shape or not torch.equal(first.images, other.images)


def test_images_are_finite_grey_values_and_maps_have_one_size(slices):
    assert bool(slices.images.isfinite().all())
    assert float(slices.images.min()) >= 0
    assert float(slices.images.max()) <= 1
    assert slices.objects.shape == slices.objects_below.shape == slices.tissues.shape
    assert slices.images.shape == (12, 1, *slices.objects.shape[1:])


def test_a_shape_is_painted_where_it_was_put_and_covers_what_is_below_it():
    draw = Draw(2, seeded())
    grid = warped_grid(draw, 64, torch.zeros(2))
    table = ShapeTable(draw)
    big = table.add((0.0, 0.0), (0.8, 0.6), 1, wobble=0.0, depth=9)
    small = table.add((0.25, 0.0), (0.1, 0.1), 2, wobble=0.0, depth=9)
    objects, tissues, _ = table.paint(grid, torch.zeros(2))
    x, y = grid[0]
    in_big = (x / 0.8) ** 2 + (y / 0.6) ** 2 < 1
    in_small = (x - 0.25) ** 2 + y**2 < 0.01
    expected = torch.where(in_small, small, torch.where(in_big, big, 0))
    assert torch.equal(objects[0], expected)
    assert torch.equal(tissues[1], expected)


def test_a_shape_within_another_stays_inside_and_may_belong_to_it():
    draw = Draw(1, seeded())
    table = ShapeTable(draw)
    bone = table.add((0.0, 0.0), (0.3, 0.3), 3, wobble=0.0, depth=9)
    table.add((0.3, 0.0), (0.3, 0.3), 4, wobble=0.0, depth=9, within=bone, same_object=True)
    objects, tissues, _ = table.paint(warped_grid(draw, 64, torch.zeros(1)), torch.zeros(1))
    assert set(objects.unique().tolist()) == {0, bone}
    assert set(tissues[objects == bone].unique().tolist()) == {3, 4}
    assert set(tissues[objects == 0].unique().tolist()) == {0}


def test_shapes_end_above_and_below():
    draw = Draw(1, seeded())
    table = ShapeTable(draw)
    table.add((0.0, 0.0), (0.4, 0.4), 1, wobble=0.0, depth=torch.tensor([0.5]))
    grid = warped_grid(draw, 64, torch.zeros(1))
    height = table.rows[0]["height"]
    areas = [int((table.paint(grid, height + z)[0] > 0).sum()) for z in (-0.51, -0.3, 0.0, 0.3, 0.51)]
    assert areas[0] == areas[4] == 0
    assert 0 < areas[1] < areas[2] > areas[3] > 0


def test_every_mode_of_prompting_is_drawn_and_says_what_it_has(prompts):
    names = list(MODES)
    assert set(prompts.mode.unique().tolist()) == set(range(len(names)))
    bare = prompts.mode == names.index("points")
    pointed = bare | (prompts.mode == names.index("box and points"))
    carried = prompts.mode == names.index("previous")
    assert not bool(prompts.has_box[bare].any())
    assert bool((prompts.point_labels[bare][:, 0] == 1).all())
    assert bool((prompts.point_labels[~pointed] == -1).all())
    assert bool((prompts.previous[~carried] == 0).all())
    assert bool((prompts.previous[carried].abs().amax((1, 2, 3)) > 0.9).all())


def test_a_plain_prompt_has_its_object_in_sight(prompts):
    plain = prompts.mode != list(MODES).index("previous")
    assert bool((prompts.target[plain].amax((1, 2, 3)) > 0).all())


def test_the_box_of_a_box_prompt_lies_on_its_object(prompts):
    # Boxes may be sloppy by a third of their side, never somewhere else.
    size = prompts.target.shape[-1]
    for k in torch.nonzero(prompts.mode == 0).flatten().tolist():
        x0, y0, x1, y1 = mask_boxes(prompts.target[k] > 0.5)[0] + torch.tensor([0.0, 0.0, 1.0, 1.0])
        w, b = prompts.windows[k], prompts.boxes[k]
        scale = (w[2:] - w[:2]) / size
        left, top = w[0] + x0 * scale[0], w[1] + y0 * scale[1]
        right, bottom = w[0] + x1 * scale[0], w[1] + y1 * scale[1]
        assert b[0] < right
        assert b[2] > left
        assert b[1] < bottom
        assert b[3] > top


def test_boxes_of_small_objects_on_large_slices_are_practised():
    # Otherwise a rib in a box of three times its width is news to the net.
    objects = torch.zeros(8, 192, 192, dtype=torch.int64)
    objects[:, 92:100, 92:100] = 1
    image = torch.where(objects > 0, 0.8, 0.2)[:, None]
    boxes = draw_prompts(SliceBatch(image, objects, objects, objects), 200, seeded()).boxes
    grown = torch.stack([92 - boxes[:, 0], boxes[:, 2] - 99])
    assert float(grown.max()) == 10
    assert 0 < float((grown > 4).float().mean()) < 0.25


def test_a_correction_goes_into_the_largest_error_and_says_what_is_there():
    target = torch.zeros(2, 1, 96, 96)
    target[:, :, 20:60, 20:60] = 1
    logits = torch.where(target > 0, 5.0, -5.0)
    logits[0, :, 30:50, 30:50] = -5
    logits[1, :, 70:90, 70:90] = 5
    windows = torch.tensor([[0.0, 0.0, 96.0, 96.0]]).expand(2, 4)
    points, labels = correction(logits, target, windows, seeded())
    assert labels[:, 0].tolist() == [1, 0]
    assert bool(((points[0, 0] > 32) & (points[0, 0] < 48)).all())
    assert bool(((points[1, 0] > 72) & (points[1, 0] < 88)).all())


def test_some_corrections_are_scribbles_and_leave_what_is_right_alone():
    # One that runs into the object would teach that a background scribble there means nothing.
    target = torch.zeros(64, 1, 96, 96)
    target[:, :, 20:60, 20:60] = 1
    logits = torch.where(target > 0, 5.0, -5.0)
    logits[:32, :, 30:38, 24:56] = -5
    logits[32:, :, 60:68, 24:56] = 5
    windows = torch.tensor([[10.0, 20.0, 58.0, 68.0]]).expand(64, 4)
    points, labels = correction(logits, target, windows, seeded())
    wrong = (logits > 0) != (target > 0.5)
    column, row = ((points - windows[:, None, :2]) * 2 - 0.5).round().long().unbind(-1)
    given = labels >= 0
    hit = wrong[torch.arange(64)[:, None], 0, row.clamp(0, 95), column.clamp(0, 95)]
    assert bool(hit[given].all())
    assert set(labels[:32][given[:32]].tolist()) == {1}
    assert set(labels[32:][given[32:]].tolist()) == {0}
    scribbles = given.sum(1) > 1
    assert 0.25 < float(scribbles.float().mean()) < 0.55
    assert int(given.sum(1).max()) == 8
    reach = torch.where(given, points[..., 0], points[:, :1, 0]) - points[:, :1, 0]
    assert float(reach[scribbles].abs().amax(1).median()) > 4


def test_some_objects_are_pointed_at_with_a_scribble_that_stays_within():
    objects = torch.zeros(8, 192, 192, dtype=torch.int64)
    axis = torch.arange(192) - 96
    radius = (axis[:, None] ** 2 + axis[None] ** 2).sqrt()
    objects[:, (radius > 30) & (radius < 50)] = 1
    image = torch.where(objects > 0, 0.8, 0.2)[:, None]
    drawn = draw_prompts(SliceBatch(image, objects, objects, objects), 200, seeded())
    foreground = drawn.point_labels == 1
    column, row = drawn.points.round().long().unbind(-1)
    assert bool((objects[0, row.clamp(0, 191), column.clamp(0, 191)] == 1)[foreground].all())
    pointed = drawn.point_labels[:, 0] == 1
    scribbles = foreground[pointed].sum(1) > 3
    assert 0.2 < float(scribbles.float().mean()) < 0.5


def test_a_ring_is_seen_by_both_of_its_edges_and_a_patch_of_noise_is_not():
    # A dropped ring is a heart whose wall the model never learns; one that looks like a disc teaches to fill;
    # of one that only its content shows, a box around a vessel would come to mean the fat around it.
    axis = torch.arange(96) - 48
    radius = (axis[:, None] ** 2 + axis[None] ** 2).sqrt()
    ring = ((radius < 30) & (radius >= 20)).float()[None, None]
    between_dark_and_bright = torch.where(radius < 20, 0.8, torch.where(radius < 30, 0.4, 0.0))
    like_a_disc = torch.where(radius < 30, 0.4, 0.0)
    like_its_content = torch.where(radius < 20, 0.4, 0.0)
    noise = torch.rand((96, 96), generator=seeded())
    images = torch.stack([between_dark_and_bright, like_a_disc, like_its_content, noise])[:, None]
    seen, filled, around, nothing = visibility(images, ring.expand(4, -1, -1, -1)).tolist()
    assert seen == pytest.approx(3)
    assert filled == pytest.approx(0, abs=1e-3)
    assert around == pytest.approx(0, abs=1e-3)
    assert nothing == pytest.approx(0.25, abs=0.1)


def test_a_small_disc_within_a_ring_is_asked_for_and_hardly_ever_the_ring():
    """A cord in fluid: with small rings among the prompts, a loose box around it comes to mean the fluid."""
    axis = torch.arange(96) - 48
    radius = (axis[:, None] ** 2 + axis[None] ** 2).sqrt()
    objects = torch.where(radius < 5, 2, torch.where(radius < 9, 1, 0)).expand(8, -1, -1)
    images = torch.tensor([0.1, 0.9, 0.5])[objects][:, None]
    drawn = draw_prompts(SliceBatch(images, objects, objects, objects), 64, seeded())
    boxed = drawn.mode == list(MODES).index("box")
    assert drawn.target[boxed, 0, 48, 48].mean() > 0.8


def test_rims_lie_along_the_inside_of_objects_and_on_some_objects_only():
    # Ribs and calcified vessels: a rim outside of its label would teach to take what lies around.
    objects = torch.zeros((40, 64, 64), dtype=torch.int64)
    objects[:, 20:44, 20:44] = 1
    rim = rims(Draw(40, seeded()), objects) != 0
    assert not rim[objects == 0].any()
    assert not rim[:, 24:40, 24:40].any()
    assert 0.05 < rim.flatten(1).any(1).float().mean() < 0.5
