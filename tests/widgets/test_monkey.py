"""Whatever somebody does in whatever order, labels, prompts and the list of objects agree."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from bright_model import BrightModel
from direct_runner import DirectRunner
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer

from napari_medsam.predictor import SlicePredictor
from napari_medsam.prompts import SliceIndex
from napari_medsam.recovery import Autosave, leftovers
from napari_medsam.replay import difference, replay
from napari_medsam.session import Session
from napari_medsam.session_file import Snapshot, content_from_json, session_to_json
from napari_medsam.volume import Geometry, Volume
from napari_medsam.widgets.contrib import image_layer
from napari_medsam.widgets.planes import box_corners, show_slice
from napari_medsam.widgets.segmenter import Segmenter
from napari_medsam.widgets.shared_model import SharedModel
from napari_medsam.windowing import Window

SHAPE = (6, 16, 20)
STEPS = int(os.environ.get("NAPARI_MEDSAM_MONKEY_STEPS", "40"))
EXAMPLES = int(os.environ.get("NAPARI_MEDSAM_MONKEY_EXAMPLES", "3"))
share = st.floats(0, 1)


def state(session):
    """What is true of a session, with all that a person can see or a file says of it."""
    return (
        session.labels.copy(),
        dict(session.objects),
        {label: dict(marks) for label, marks in session.key_slices.items() if marks},
    )


def assert_same(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1:] == expected[1:]


class Monkey(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        voxels = np.zeros(SHAPE, np.float32)
        voxels[1:5, 3:12, 4:16] = 1
        volume = Volume(voxels, Geometry(SHAPE, (2.0, 1.0, 1.0)), "MR", "", ())
        data, attributes, _ = image_layer(volume, "scan")
        self.viewer = ViewerModel()
        self.viewer.add_layer(Image(data, **attributes))
        model = SharedModel("bright")
        model.replace("bright", SlicePredictor(BrightModel()))
        self.segmenter = Segmenter(self.viewer, DirectRunner(), model)
        self.layers.session.window = Window(0.0, 1.0, "all")
        self.volume, self.folder = volume, TemporaryDirectory()
        self.autosave = Autosave(self.layers.session, Path(self.folder.name), "scan")

    @property
    def layers(self):
        return self.segmenter.layers

    def plane(self):
        where = self.layers.where
        return where, [n for axis, n in enumerate(SHAPE) if axis != where.axis]

    @rule(axis=st.integers(0, 2), part=share)
    def turn(self, axis, part):
        where = SliceIndex(axis, round(part * (SHAPE[axis] - 1)))
        show_slice(self.viewer, self.layers.image, where)
        assert self.layers.where == where

    @rule(a=share, b=share, c=share, d=share)
    def box(self, a, b, c, d):
        where, (height, width) = self.plane()
        self.segmenter.draw_box()
        corners = box_corners(where, (a * height, b * width, c * height, d * width), 3)
        self.layers.box_layer().add_rectangles([corners])

    @rule(a=share, b=share, kind=st.integers(0, 1))
    def point(self, a, b, kind):
        where, (height, width) = self.plane()
        self.segmenter.place_points()
        layer = self.layers.point_layer()
        layer.feature_defaults = {"kind": kind, "axis": where.axis}
        layer.add(np.insert([a * (height - 1), b * (width - 1)], where.axis, where.index))

    @precondition(lambda self: self.layers.boxes is not None and len(self.layers.boxes.data))
    @rule(which=share, by=st.floats(-6, 6), along=st.integers(0, 2))
    def move_box(self, which, by, along):
        boxes = [np.array(corners) for corners in self.layers.boxes.data]
        boxes[int(which * (len(boxes) - 1))][:, along] += by
        self.layers.boxes.data = boxes

    @precondition(lambda self: self.layers.points is not None and len(self.layers.points.data))
    @rule(which=share, by=st.floats(-6, 6), along=st.integers(0, 2))
    def move_point(self, which, by, along):
        places = np.array(self.layers.points.data)
        places[int(which * (len(places) - 1)), along] += by
        self.layers.points.data = places

    @precondition(lambda self: self.layers.points is not None and len(self.layers.points.data))
    @rule(which=share)
    def delete_point(self, which):
        self.layers.points.selected_data = {int(which * (len(self.layers.points.data) - 1))}
        self.layers.points.remove_selected()

    @precondition(lambda self: self.layers.boxes is not None and len(self.layers.boxes.data))
    @rule()
    def delete_box(self):
        self.layers.boxes.selected_data = {0}
        self.layers.boxes.remove_selected()

    @rule(a=share, b=share, mode=st.sampled_from(["paint", "erase", "fill"]))
    def by_hand(self, a, b, mode):
        where, (height, width) = self.plane()
        self.segmenter.edit_labels(mode)
        place = np.insert([int(a * (height - 1)), int(b * (width - 1))], where.axis, where.index)
        layer = self.layers.labels
        with layer.block_history():
            if mode == "fill":
                layer.fill(tuple(place), self.layers.label)
            else:
                layer.paint(tuple(place), self.layers.label if mode == "paint" else 0)

    @rule()
    def undo(self):
        self.segmenter.past.undo()

    @rule()
    def redo(self):
        self.segmenter.past.redo()

    @precondition(lambda self: self.layers.labels is not None)
    @rule()
    def undo_by_napari(self):
        before = self.layers.session.labels.copy()
        self.layers.labels.undo()
        self.layers.labels.redo()
        np.testing.assert_array_equal(self.layers.session.labels, before)

    @rule(number=st.integers(0, 2))
    def choose_candidate(self, number):
        self.segmenter.prompting.choose(number)

    @rule(upper=st.floats(0.5, 2))
    def change_window(self, upper):
        self.segmenter.set_window(Window(0.0, upper, "mine"))

    @rule(is_shown=st.booleans())
    def show_object(self, is_shown):
        self.layers.masks.show(self.layers.label, is_shown)

    @rule(name=st.text(max_size=8))
    def rename_object(self, name):
        self.layers.rename(self.layers.label, name)

    @rule()
    def new(self):
        self.segmenter.new_object()

    @rule(step=st.sampled_from([-1, 1]))
    def walk(self, step):
        self.segmenter.walk(step)

    @rule()
    def accept(self):
        self.segmenter.accept()

    @rule(is_on=st.booleans())
    def protect(self, is_on):
        self.layers.label_layer().preserve_labels = is_on

    @rule()
    def propagate(self):
        axis = self.layers.where.axis
        self.segmenter.propagate(0, SHAPE[axis] - 1)

    @rule(
        name=st.sampled_from(["grow", "shrink", "smooth", "keep_largest", "interpolate"]), whole=st.booleans()
    )
    def correct(self, name, whole):
        self.segmenter.correct(name, whole=whole)

    @rule()
    def delete_object(self):
        self.segmenter.remove(self.layers.label)

    @precondition(lambda self: len(self.layers.session.objects) > 1)
    @rule()
    def merge(self):
        others = [label for label in self.layers.session.objects if label != self.layers.label]
        self.segmenter.remove(self.layers.label, into=others[0])

    @rule(which=st.sampled_from(["boxes", "points", "labels"]))
    def delete_layer(self, which):
        layer = getattr(self.layers, which)
        if layer is not None:
            self.viewer.layers.remove(layer)

    @rule(which=share, name=st.text(max_size=8))
    def rename_layer(self, which, name):
        self.viewer.layers[int(which * (len(self.viewer.layers) - 1))].name = name

    @precondition(lambda self: len(self.viewer.layers) < 8)
    @rule(which=st.sampled_from(["boxes", "points", "labels"]))
    def duplicate_layer(self, which):
        layer = getattr(self.layers, which)
        if layer is not None:
            # As napari's own Duplicate Layer does.
            data, attributes, kind = deepcopy(layer.as_layer_data_tuple())
            self.viewer.add_layer(Layer.create(data, {**attributes, "name": f"{layer.name} copy"}, kind))

    @rule()
    def reverse_layers(self):
        self.viewer.layers.reverse()

    @precondition(lambda self: any(type(layer) is Labels for layer in self.viewer.layers))
    @rule()
    def adopt_labels(self):
        self.segmenter.use_labels(next(each for each in self.viewer.layers if isinstance(each, Labels)))

    def teardown(self):
        """All of it can be found again after a crash, made again, taken back, and done again."""
        session = self.layers.session
        end = state(session)
        self.autosave.flush()
        self.autosave.close(keep=True)
        self.recovered(end)
        self.replayed(end)
        oldest = session.journal.oldest
        n_done = session.journal.position
        for position in reversed(range(oldest, n_done)):
            self.segmenter.past.undo()
            assert session.journal.position == position
            self.the_list_is_what_the_labels_say()
            self.the_layers_show_the_current_object()
        self.segmenter.past.go_to(n_done)
        assert_same(state(session), end)
        self.folder.cleanup()

    def recovered(self, end):
        journal = self.layers.session.journal
        if not end[0].any() and journal.position == journal.oldest == len(journal.steps):
            return
        (found,) = leftovers(Path(self.folder.name), self.volume, "scan")
        session = Session(self.volume, SlicePredictor(BrightModel()))
        found.take_over(session)
        found.discard()
        assert_same(state(session), end)

    def replayed(self, end):
        document = json.loads(json.dumps(session_to_json(Snapshot.of(self.layers.session))))
        content = content_from_json(document, self.volume)
        session = Session(self.volume, SlicePredictor(BrightModel()))
        for _ in replay(session, content.steps):
            pass
        assert difference(session, content).voxels == 0
        assert_same(state(session), end)

    @invariant()
    def the_list_is_what_the_labels_say(self):
        session, census = self.layers.session, self.layers.census
        counted = {
            int(v): int(n) for v, n in zip(*np.unique(session.labels, return_counts=True), strict=True)
        }
        counted.pop(0, None)
        assert {label: census.voxels(label) for label in census.labels} == counted
        assert set(counted) <= set(session.objects)
        assert self.layers.label in session.objects
        assert {label for label, marks in session.key_slices.items() if marks} <= set(session.objects)
        assert self.layers.masks.palette.hidden <= set(session.objects)

    @invariant()
    def the_layers_show_the_current_object(self):
        slices = self.layers.session.objects[self.layers.label].slices
        if self.layers.boxes is not None:
            assert len(self.layers.boxes.data) == sum(each.box is not None for each in slices.values())
        if self.layers.points is not None:
            assert len(self.layers.points.data) == sum(len(each.points) for each in slices.values())
        if self.layers.labels is not None:
            assert self.layers.labels.data is self.layers.session.labels
            assert self.layers.labels.selected_label == self.layers.label


TestMonkey = Monkey.TestCase
TestMonkey.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    derandomize="NAPARI_MEDSAM_MONKEY_STEPS" not in os.environ,
    # A failure is to be told soon: making it small takes minutes.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
