"""Which precision a device computes fast in."""

import torch


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
