"""Slices are prepared for slow models before anybody asks, and nobody waits for that."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from direct_runner import DirectRunner
from hand import needs_display
from napari.components import ViewerModel
from napari.layers import Image

from napari_medsam.embedding_cache import EmbeddingCache
from napari_medsam.models.sam import build_sam
from napari_medsam.predictor import SlicePredictor
from napari_medsam.prompts import SliceIndex
from napari_medsam.volume import Geometry, Volume
from napari_medsam.widgets import ahead
from napari_medsam.widgets.contrib import image_layer
from napari_medsam.widgets.planes import box_corners
from napari_medsam.widgets.runner import Priority
from napari_medsam.widgets.segmenter import Segmenter
from napari_medsam.widgets.shared_model import SharedModel
from napari_medsam.widgets.worker import Worker
from napari_medsam.windowing import Window

SIDE = 24


@pytest.fixture
def model():
    """A SAM of a few thousand weights."""
    torch.manual_seed(0)
    return build_sam("tiny_vit_b").requires_grad_(False)


def open_volume(model, runner, depth, index):
    """Show slice `index` of a volume of noise, to be segmented with a model."""
    voxels = np.random.default_rng(0).random((depth, SIDE, SIDE), np.float32)
    volume = Volume(voxels, Geometry(voxels.shape), "MR", "", ())
    data, attributes, _ = image_layer(volume, "scan")
    viewer = ViewerModel()
    viewer.add_layer(Image(data, **attributes))
    viewer.dims.set_point(0, index)
    shared = SharedModel("tiny")
    shared.replace("tiny", SlicePredictor(model, cache=EmbeddingCache()))
    return Segmenter(viewer, runner, shared)


def draw(segmenter, index):
    segmenter.viewer.dims.set_point(0, index)
    segmenter.draw_box()
    corners = box_corners(SliceIndex(0, index), (3, 3, 20, 20), 3)
    segmenter.layers.box_layer().add_rectangles([corners])


def test_the_slice_on_screen_and_its_neighbours_wait_for_a_box(model, monkeypatch):
    """A box must not cost seconds of encoding that could have been done while the user was looking."""
    encoded = []
    encode = model.encode_image
    monkeypatch.setattr(model, "encode_image", lambda tensor: encoded.append(1) or encode(tensor))
    segmenter = open_volume(model, DirectRunner(), depth=20, index=10)
    assert len(encoded) == 1 + ahead.NEIGHBOURS
    monkeypatch.setattr(segmenter.ahead, "look", lambda layers: None)
    for index in (10, 6, 14):
        draw(segmenter, index)
    assert len(segmenter.layers.session.objects[1].slices) == 3
    assert len(encoded) == 1 + ahead.NEIGHBOURS
    draw(segmenter, 15)
    assert len(encoded) == 2 + ahead.NEIGHBOURS


def test_another_window_is_prepared_anew(model, monkeypatch):
    """What the model is to see has changed, so nothing that is ready fits."""
    encoded = []
    segmenter = open_volume(model, DirectRunner(), depth=3, index=1)
    encode = model.encode_image
    monkeypatch.setattr(model, "encode_image", lambda tensor: encoded.append(1) or encode(tensor))
    segmenter.changed.emit()
    assert encoded == []
    segmenter.set_window(Window(0.2, 0.8, "mine"))
    assert len(encoded) == 3


class Gate:
    """Holds an encoder at the begin of one of its slices, and counts those it has begun and ended."""

    def __init__(self, model, held):
        self.begun, self.ended = [], []
        self.held, self.entered, self.open = held, threading.Event(), threading.Event()
        model.image_encoder.blocks[0].register_forward_pre_hook(self._begin)
        model.image_encoder.blocks[-1].register_forward_hook(lambda *values: self.ended.append(1))

    def _begin(self, *values):
        self.begun.append(1)
        if len(self.begun) == self.held:
            self.entered.set()
            assert self.open.wait(30)


@pytest.fixture
def worker(qtbot, monkeypatch):
    monkeypatch.setattr(ahead, "REST_S", 0.0)
    made = Worker()
    yield made
    made.stop()


@pytest.mark.canvas
@needs_display
def test_a_box_does_not_wait_for_a_neighbour(model, worker, qtbot):
    """The neighbour is given up in the middle, and taken up again afterwards."""
    gate = Gate(model, held=2)
    segmenter = open_volume(model, worker, depth=3, index=1)
    qtbot.waitUntil(gate.entered.is_set, timeout=30_000)
    qtbot.waitUntil(lambda: segmenter.ahead.text == ahead.OTHERS.format(0, 2), timeout=30_000)
    found = []
    segmenter.prompting.found.connect(lambda score: found.append(len(gate.ended)))
    draw(segmenter, 1)
    # A box is answered a moment after it was drawn; the neighbour must not be done by then.
    qtbot.waitUntil(lambda: not worker.is_wanted(Priority.IDLE), timeout=30_000)
    gate.open.set()
    qtbot.waitUntil(lambda: bool(found), timeout=30_000)
    assert found == [1]
    qtbot.waitUntil(lambda: len(gate.ended) == 3 and not segmenter.ahead.text, timeout=30_000)
    assert len(gate.begun) == 4


@pytest.mark.canvas
@needs_display
def test_scrolling_on_gives_up_what_is_being_prepared(model, worker, qtbot):
    """Whoever looks at slice 2 does not want slice 0 first."""
    gate = Gate(model, held=1)
    segmenter = open_volume(model, worker, depth=3, index=0)
    qtbot.waitUntil(gate.entered.is_set, timeout=30_000)
    qtbot.waitUntil(lambda: segmenter.ahead.text == ahead.THIS, timeout=30_000)
    segmenter.viewer.dims.set_point(0, 2)
    assert segmenter.ahead.text == ""
    gate.open.set()
    qtbot.waitUntil(lambda: len(gate.ended) == 3, timeout=30_000)
    assert len(gate.begun) == 4
