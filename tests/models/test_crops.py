"""If these fail, masks land beside the object that was pointed at."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_medsam.models.crops import (
    OUTSIDE_LOGIT,
    box_window,
    crop,
    image_channels,
    mask_boxes,
    paste,
    prompt_channels,
)

corner = st.integers(0, 59)


@st.composite
def boxes(draw):
    x = sorted((draw(corner), draw(corner)))
    y = sorted((draw(corner), draw(corner)))
    return torch.tensor([[x[0], y[0], x[1], y[1]]], dtype=torch.float32)


@given(boxes(), st.floats(1.0, 3.0))
def test_the_window_is_centred_on_the_box_and_holds_it(box, context):
    window = box_window(box, context)
    torch.testing.assert_close(window[:, :2] + window[:, 2:], box[:, :2] + box[:, 2:])
    assert bool((window[:, :2] <= box[:, :2] - 0.5 + 1e-4).all())
    assert bool((window[:, 2:] >= box[:, 2:] + 0.5 - 1e-4).all())


def test_a_thin_box_keeps_its_surroundings():
    window = box_window(torch.tensor([[10.0, 10.0, 49.0, 13.0]]), 1.0)
    torch.testing.assert_close(window, torch.tensor([[9.5, 1.5, 49.5, 21.5]]))


@given(boxes())
def test_a_crop_of_a_ramp_reads_the_coordinates_it_was_taken_at(box):
    ramp = torch.arange(60.0).expand(1, 1, 60, 60)
    window = box_window(box, 1.0).clamp(0.5, 58.5)
    if bool((window[:, 2:] - window[:, :2] < 4).any()):
        return
    seen = crop(ramp, window, 16)[0, 0, 0]
    steps = (torch.arange(16) + 0.5) / 16
    torch.testing.assert_close(seen, window[0, 0] + steps * (window[0, 2] - window[0, 0]), rtol=0, atol=1e-3)


@given(boxes())
def test_pasting_a_crop_of_a_ramp_gives_the_ramp_back(box):
    ramp = torch.arange(60.0).view(1, 1, 60, 1).expand(1, 1, 60, 60)
    window = box_window(box, 1.2)
    back = paste(crop(ramp, window, 64), window, (60, 60))[0, 0]
    y0, y1 = float(window[0, 1]), float(window[0, 3])
    # At the rim the crop repeats its edge: one crop pixel of error is what resampling costs.
    for y in range(max(0, int(y0) + 2), min(59, int(y1) - 1)):
        x = int((window[0, 0] + window[0, 2]) / 2)
        assert back[y, x] == pytest.approx(y, abs=(y1 - y0) / 64 + 1e-3)


def test_nothing_is_pasted_outside_of_the_window():
    whole = paste(torch.ones(1, 1, 8, 8), torch.tensor([[1.5, 2.5, 4.5, 6.5]]), (10, 10))[0, 0]
    inside = torch.zeros(10, 10, dtype=torch.bool)
    inside[3:7, 2:5] = True
    assert torch.equal(whole == 1, inside)
    assert torch.equal(whole == OUTSIDE_LOGIT, ~inside)
    whole = paste(torch.ones(1, 1, 8, 8), torch.tensor([[2.0, 3.0, 4.0, 6.0]]), (10, 10))[0, 0]
    assert torch.equal(whole == 1, inside)
    beyond = torch.tensor([[20.0, 0.0, 24.0, 4.0], [0.0, -9.0, 4.0, -1.0]])
    assert torch.equal(
        paste(torch.ones(2, 1, 8, 8), beyond, (10, 10)), torch.full((2, 1, 10, 10), OUTSIDE_LOGIT)
    )


def test_boxes_of_masks_are_tight_and_an_empty_mask_means_the_slice():
    masks = torch.zeros(2, 20, 30, dtype=torch.bool)
    masks[0, 4:9, 11:13] = True
    assert mask_boxes(masks).tolist() == [[11, 4, 12, 8], [0, 0, 29, 19]]


def test_channels_show_the_box_and_which_points_are_inside_the_object():
    windows = torch.tensor([[-0.5, -0.5, 31.5, 31.5]])
    channels = prompt_channels(
        windows,
        torch.tensor([[4.0, 8.0, 11.0, 23.0]]),
        torch.tensor([True]),
        torch.tensor([[[5.0, 20.0], [25.0, 3.0], [9.0, 9.0]]]),
        torch.tensor([[1, 0, -1]]),
        size=32,
    )
    box = np.zeros((32, 32), np.float32)
    box[8:24, 4:12] = 1
    np.testing.assert_allclose(channels[0, 0].numpy(), box, atol=1e-5)
    assert channels[0, 1, 20, 5] == 1
    assert channels[0, 2, 3, 25] == 1
    assert channels[0, 1, 3, 25] == channels[0, 2, 20, 5] == channels[0, 1, 9, 9] == 0


@given(st.floats(0.1, 5), st.floats(-3, 3))
def test_brightness_and_contrast_do_not_change_what_the_net_sees(gain, offset):
    image = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        image_channels(gain * image + offset), image_channels(image), rtol=0, atol=2e-3
    )
