"""Which precision a device computes fast in."""

import time
from functools import cache

import torch
from torch.nn import functional as F

WORTH_ROUNDING = 1.3
"""How many times as fast as float32 a CPU must multiply bfloat16 for its rounding to be worth it."""


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware.

    Where it does not, torch widens every number first: on a CPU with AVX2 only, the default model's net takes
    20 times as long as in float32.

    Parameters
    ----------
    device
        Any device of torch.

    Returns
    -------
    bool
        Of a CPU: whether it has AVX512-BF16 or AMX; False where this torch cannot tell.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def bfloat16_pays(device: torch.device) -> bool:
    """Whether a device is clearly faster in bfloat16 than in float32.

    Having the instructions is not enough: a Sapphire Rapids in a virtual machine that hides AMX multiplies
    bfloat16 at half the speed of float32, an EPYC with the same instructions at twice. A CPU is therefore
    timed, once in a process and for about a twentieth of a second.

    Parameters
    ----------
    device
        Any device of torch.

    Returns
    -------
    bool
    """
    return has_bfloat16(device) and (device.type != "cpu" or _cpu_speed_up() >= WORTH_ROUNDING)


@cache
def _cpu_speed_up() -> float:
    """Seconds of a linear layer in float32 over those in bfloat16: least disturbed of a few turns each."""
    seconds = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    with torch.inference_mode():
        layers = {dtype: torch.zeros(2, 768, 768, dtype=dtype) for dtype in seconds}
        # The first turn also prepares the product.
        for _ in range(5):
            for dtype, (tokens, weight) in layers.items():
                start = time.perf_counter()
                F.linear(tokens, weight)
                seconds[dtype] = min(seconds[dtype], time.perf_counter() - start)
    return seconds[torch.float32] / seconds[torch.bfloat16]
