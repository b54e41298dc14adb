"""If these fail, a model is told of other places than those that were scribbled on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_medsam.prompts import PromptError, scribble_points

places = st.lists(st.tuples(*[st.floats(-500, 500, allow_nan=False, width=32)] * 2), min_size=1, max_size=60)


def test_a_long_line_is_eight_points_from_its_middle_to_its_ends():
    """A correction that begins at an end is worse than one click into the middle."""
    line = np.stack([np.full(71, 3.0), np.arange(71.0), np.full(71, 5.0)], 1)
    order = [3, 4, 2, 5, 1, 6, 0, 7]
    np.testing.assert_allclose(scribble_points(line), [[3, 10 * k, 5] for k in order])


def test_they_are_spread_evenly_however_fast_the_mouse_moved_and_along_its_way():
    corner = [(0, 0), (0, 1), (0, 2), (0, 3), (0, 35), (35, 35)]
    at = [(0, 10 * k) for k in range(4)] + [(10 * k - 35, 35) for k in range(4, 8)]
    np.testing.assert_allclose(sorted(scribble_points(corner).tolist()), sorted(at))


@pytest.mark.parametrize(("length", "count"), [(0, 1), (1.9, 1), (2, 2), (5, 3), (13, 7), (14, 8)])
def test_points_of_a_short_line_stay_apart(length, count):
    found = scribble_points([(1, 1), (1, 1 + length)])
    assert len(found) == count
    assert [1, 1] in found.tolist()


@given(places)
def test_every_point_lies_on_the_line_and_there_are_eight_at_most(path):
    drawn = np.array(path)
    found = scribble_points(drawn)
    assert 1 <= len(found) <= 8
    assert np.isclose(found, drawn[0]).all(1).any()
    a, b = (drawn[:-1], drawn[1:]) if len(drawn) > 1 else (drawn, drawn)
    along = b - a
    for point in found:
        share = ((point - a) * along).sum(1) / np.maximum((along**2).sum(1), 1e-12)
        nearest = a + np.clip(share, 0, 1)[:, None] * along
        assert np.linalg.norm(nearest - point, axis=1).min() < 1e-3


@pytest.mark.parametrize("path", [[], [(1, np.nan)], [1.0, 2.0]])
def test_what_is_no_line_is_refused(path):
    with pytest.raises(PromptError, match="at least one place"):
        scribble_points(path)
