"""A wrong answer here costs users a factor of 20: bfloat16 without hardware for it, or float32 with it."""

import pytest
import torch

from napari_medsam.models.precision import has_bfloat16

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
