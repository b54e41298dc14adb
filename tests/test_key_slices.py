"""Whatever is prompted, corrected, carried, redone and taken back in whatever order: key slices stay."""

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from napari_medsam.geometry import Geometry, Volume
from napari_medsam.predictor import Prediction
from napari_medsam.prompts import SliceIndex, SlicePrompts
from napari_medsam.propagation import PROMPT, PROPAGATED, SliceMask
from napari_medsam.session import ACCEPTED, CORRECTED, Session
from napari_medsam.windowing import Window

SHAPE = (7, 12, 14)
LABELS = st.sampled_from([1, 2])
share = st.floats(0, 1)


class Blurter:
    """Answers with the inside of the box, and is at times sure, at times not, at times wrong."""

    supported_prompts = frozenset({"box"})

    def __init__(self):
        self.key, self.random = None, np.random.default_rng(0)

    def set_slice(self, image, key=None):
        self.key, self.shape = key, image.shape[:2]

    def predict(self, prompts, mask_input=None, multimask_output=False):
        return self.predict_many([prompts])[0]

    def predict_many(self, prompts, mask_inputs=None):
        return [self._answer(each.clipped(self.shape).box) for each in prompts]

    def _answer(self, box):
        mask = np.zeros(self.shape, bool)
        if box is not None and self.random.random() < 0.9:
            y0, x0, y1, x1 = (round(side) for side in box)
            mask[y0 : y1 + 1, x0 : x1 + 1] = True
        score = np.float32([self.random.uniform(0.2, 1)])
        return Prediction(mask[None], score, np.where(mask, 9.0, -9.0)[None])


class Hands(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        voxels = np.random.default_rng(1).uniform(0, 1, SHAPE).astype(np.float32)
        volume = Volume(voxels, Geometry(SHAPE, (2.0, 1.0, 1.0)), "MR", "", ())
        self.session = Session(volume, Blurter(), window=Window(0.0, 1.0, "all"))
        self.before: list[SliceMask] = []

    def where(self, axis, part):
        return SliceIndex(axis, round(part * (SHAPE[axis] - 1)))

    def keys(self):
        """Masks of all key slices, by label and slice."""
        ledger, found = self.session.ledger, {}
        for label in (1, 2):
            marks = ledger.key_slices.get(label, {})
            prompted = [where for where in ledger.reports.get(label, {}) if ledger.answer(label, where)]
            for where in {*marks, *prompted}:
                found[label, where] = (where.take(self.session.labels) == label).copy()
        return found

    def carry(self, parts):
        keys = self.keys()
        for part in parts:
            mask = part.where.take(self.session.labels) == part.label
            if part.reason == PROMPT and not self.session.ledger.answer(part.label, part.where):
                # Prompts that the model had found nothing for are asked again: an answer, nothing carried.
                self.session.write(part)
                keys = self.keys()
                continue
            if not part.stopped:
                self.before.append(SliceMask(part.where, part.label, mask.copy(), 0.5, PROPAGATED))
            self.session.write(part)
        self.check(keys)

    def check(self, keys):
        for (label, where), mask in keys.items():
            assert np.array_equal(where.take(self.session.labels) == label, mask), (label, where)

    @rule(label=LABELS, axis=st.integers(0, 2), part=share, a=share, b=share, c=share, d=share)
    def prompt(self, label, axis, part, a, b, c, d):
        where = self.where(axis, part)
        if where in self.session.key_slices.get(label, {}):
            return
        height, width = where.take(self.session.labels).shape
        box = (a * (height - 1), b * (width - 1), c * (height - 1), d * (width - 1))
        self.session.add_prompts(label, where, SlicePrompts(box))
        self.session.write(self.session.segment(where, label))

    @rule(label=LABELS, axis=st.integers(0, 2), part=share, seed=st.integers(0, 99), kind=st.booleans())
    def by_hand(self, label, axis, part, seed, kind):
        where = self.where(axis, part)
        plane = where.take(self.session.labels)
        painted = np.random.default_rng(seed).random(plane.shape) < 0.5
        plane[plane == label] = 0
        plane[painted & (plane == 0)] = label
        self.session.mark(label, where, ACCEPTED if kind else CORRECTED)

    @rule(is_on=st.booleans())
    def protect(self, is_on):
        self.session.protect_others = is_on

    @rule(axis=st.integers(0, 2), together=st.booleans())
    def propagate(self, axis, together):
        labels = [
            label
            for label in self.session.objects.keys() | self.session.key_slices.keys()
            if any(where.axis == axis for where in self.given(label))
        ]
        for group in [labels] if together and labels else [[label] for label in labels]:
            self.carry(self.session.propagate(axis, group))

    def given(self, label):
        known = self.session.objects.get(label)
        return {*self.session.key_slices.get(label, {}), *(known.slices if known else ())}

    @precondition(lambda self: any(self.given(label) for label in (1, 2)))
    @rule(label=LABELS, which=share)
    def redo(self, label, which):
        places = sorted(self.given(label))
        if places:
            self.carry(self.session.recompute(places[round(which * (len(places) - 1))], label))

    @precondition(lambda self: self.before)
    @rule(steps=st.integers(1, 8))
    def undo(self, steps):
        """Put back what carried slices showed before, the last first."""
        keys = self.keys()
        for _ in range(min(steps, len(self.before))):
            self.session.write(self.before.pop())
        self.check(keys)


TestHands = Hands.TestCase
TestHands.settings = settings(
    max_examples=15,
    stateful_step_count=20,
    deadline=None,
    # A failure is to be told soon: making it small takes minutes.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
