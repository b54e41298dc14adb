"""A wrong answer here costs users a factor of 20: bfloat16 without hardware for it, or float32 with it."""

import pytest
import torch

from napari_medsam.models import precision
from napari_medsam.models.precision import bfloat16_pays, has_bfloat16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({}, False),
    ],
)
def test_a_cpu_is_asked_for_its_instructions(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_bfloat16(CPU) is expected


def test_an_older_torch_that_cannot_tell_computes_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert has_bfloat16(CPU) is False


def test_other_devices_compute_in_float32():
    assert has_bfloat16(torch.device("mps")) is False


@pytest.mark.parametrize(
    ("has_it", "speed_up", "expected"), [(True, 2.0, True), (True, 0.6, False), (False, 2.0, False)]
)
def test_a_cpu_rounds_only_where_that_is_faster(monkeypatch, has_it, speed_up, expected):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: has_it)
    monkeypatch.setattr(precision, "_cpu_speed_up", lambda: speed_up)
    assert bfloat16_pays(CPU) is expected


def test_a_gpu_that_has_bfloat16_is_not_timed(monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(precision, "_cpu_speed_up", lambda: 0.0)
    assert bfloat16_pays(torch.device("cuda")) is True


@pytest.mark.parametrize("speed_up", [2.0, 0.5])
def test_the_least_disturbed_turn_counts(monkeypatch, speed_up):
    clock, turns = [0.0], iter([9.0, 9.0, 9.0, 1.0, 9.0])

    def linear(tokens, weight):
        if tokens.dtype == torch.float32:
            linear.seconds = next(turns)
        clock[0] += linear.seconds / (speed_up if tokens.dtype == torch.bfloat16 else 1.0)

    monkeypatch.setattr(precision.F, "linear", linear)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: clock[0])
    assert precision._cpu_speed_up.__wrapped__() == speed_up
