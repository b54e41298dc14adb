"""If these fail, the default model overlooks parts that look like what it has found, or was shown."""

import pytest
import torch
from torch import nn

from napari_medsam.models import prompt_net
from napari_medsam.models.prompt_net import INPUT_CHANNELS, PromptNet


class Opinion(nn.Module):
    """A mask head that thinks what it is told to."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return self.logits


@pytest.fixture
def answer():
    """Mask of a net that is sure of one small bright spot and rather against a large one, on a dark slice."""
    picture, own = torch.zeros(1, 1, 48, 48), torch.full((1, 1, 48, 48), -3.0)
    picture[..., 8:12, 8:12] = picture[..., 24:36, 24:36] = 2.0
    own[..., 8:12, 8:12], own[..., 24:36, 24:36] = 3.0, -1.3
    channels = torch.zeros(1, INPUT_CHANNELS, 48, 48)
    channels[:, :1], channels[:, 2] = picture, 1.0
    net = PromptNet((8, 8, 8, 8, 8)).eval()
    net.mask_head = Opinion(own)

    def found(click=None, **options):
        asked = channels.clone()
        if click:
            asked[:, 3, click[0] - 2 : click[0] + 3, click[1] - 2 : click[1] + 3] = 1
        with torch.inference_mode():
            return net(asked, **options)[0][0, 0] > 0

    return found


def test_what_looks_like_the_object_is_found_though_it_was_background_at_first(answer, monkeypatch):
    bright = torch.zeros(48, 48, dtype=torch.bool)
    bright[8:12, 8:12] = bright[24:36, 24:36] = True
    assert torch.equal(answer(), bright)
    monkeypatch.setattr(prompt_net, "EVIDENCE_ROUNDS", 1)
    assert not answer()[24:36, 24:36].any()


def test_a_net_that_does_not_listen_says_what_it_thinks(answer):
    small = torch.zeros(48, 48, dtype=torch.bool)
    small[8:12, 8:12] = True
    assert torch.equal(answer(listens=False), small)


@pytest.mark.parametrize("silent", ["intensity_evidence", "click_evidence", ""])
def test_one_click_brings_the_part_that_looks_like_the_clicked_place(answer, monkeypatch, silent):
    """Each of two things does it alone: what lies near and looks alike, and the histograms."""
    monkeypatch.setattr(prompt_net, "EVIDENCE_ROUNDS", 1)
    large = torch.zeros(48, 48, dtype=torch.bool)
    large[26:34, 26:34] = True
    assert not answer()[large].any()
    if silent:
        monkeypatch.setattr(prompt_net, silent, lambda picture, *others: torch.zeros_like(picture))
    assert answer(click=(30, 30))[large].all()
    assert not answer(click=(30, 30), listens=False)[large].any()
