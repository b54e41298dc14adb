"""Where anything is in an array: if these fail, voxels at an object's rim are lost from undo and files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from napari_medsam.geometry import occupied_region


@given(arrays(st.sampled_from([np.uint16, bool]), array_shapes(min_dims=1, max_dims=3, max_side=6)))
def test_the_region_is_the_smallest_that_holds_everything(array):
    region = occupied_region(array)
    if region is None:
        assert not array.any()
        return
    assert np.count_nonzero(array[region]) == np.count_nonzero(array)
    for axis in range(array.ndim):
        for side in (0, -1):
            assert np.take(array[region], side, axis).any()


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 2), (2, 3)])
def test_an_array_without_anything_has_no_region(shape):
    assert occupied_region(np.zeros(shape, np.uint16)) is None
