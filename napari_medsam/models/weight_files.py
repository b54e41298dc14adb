"""Read the tensors of a file of weights, whoever made it, without running anything that is in it.

A checkpoint made by torch is a pickle, which can run any code when it is opened. Only torch's restricted
reader is used (``weights_only=True``), which knows tensors and plain containers and nothing else. Weights are
mapped from the file and handed on as they are: nothing is copied.
"""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_medsam.models.places import WEIGHT_SUFFIXES
from napari_medsam.models.specs import ModelError

WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "net", "network", "weights", "module")
"""Keys under which training programs put the weights."""

MOST_EXPANSION = 20
ALWAYS_UNPACKED_BYTES = 2**26
"""Weights hardly get smaller in a zip archive: one that unpacks to more is made to fill the memory."""

BESIDE_WEIGHTS = (
    "argparse.Namespace",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "torch.optim.adam.Adam",
    "torch.optim.adamw.AdamW",
    "torch.optim.sgd.SGD",
)
"""What training programs save with the weights: settings, losses, the optimizer (as SAM-Med2D's does)."""

OTHER_STARTS = {
    b"version https://git-lfs": "it is a Git LFS pointer to a file that was not fetched",
    b"<": "it is a web page",
}
"""First bytes of what is often saved in place of weights."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file's tensors by name.

    Parameters
    ----------
    path
        Made by `torch.save`, or a safetensors file, whatever its name; the weights alone or wrapped by a
        training program.

    Returns
    -------
    dict
        The tensors as they are in the file, under the names they have there.

    Raises
    ------
    ModelError
        When the file is not there, is damaged, holds something else or would run code.
    """
    if path.is_dir():
        found = [file for suffix in WEIGHT_SUFFIXES for file in sorted(path.glob("*" + suffix))]
        raise ModelError(
            f"{path} is a folder, not a file: give the file with the weights, {found[0]}."
            if found
            else f"{path} is a folder, and no weights are in it: give the path of a checkpoint."
        )
    if not path.is_file():
        raise ModelError(f"There is no file {path}: give the path of a checkpoint.")
    try:
        content = _opened(path)
    except Exception as error:
        raise ModelError(f"{path} cannot be read as a checkpoint ({_refusal(error, path)}.") from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"{path} holds no weights by name: give a checkpoint of the SAM family.")
    for name, tensor in content.items():
        if not isinstance(name, str) or not _has_numbers(tensor):
            raise ModelError(
                f"{path} holds other things than weights ({shown(name)}): "
                "give a checkpoint of the SAM family."
            )
    return dict(content)


def shown(name: Any) -> str:
    """Part of a name that anybody may have written, fit for a terminal."""
    return repr(name)[:60]


def _has_numbers(thing: Any) -> bool:
    """Whether it is a plain tensor: not sparse, not quantised, not one of torch's empty shells."""
    return (
        isinstance(thing, Tensor)
        and thing.layout == torch.strided
        and not thing.is_quantized
        and not thing.is_meta
    )


def _opened(path: Path) -> Any:
    # A name says little: files are renamed, and programs write one kind under the other's ending.
    if _first_bytes(path)[8:9] == b"{":
        from safetensors.torch import load_file

        return load_file(path)
    mapped = _can_be_mapped(path)
    with torch.serialization.safe_globals([dict, *STAND_INS]), path.open("rb") as file:
        return torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(32)


def _can_be_mapped(path: Path) -> bool:
    """Whether it is the zip form, which torch has written since 2020, and nobody packed or named it anew.

    Torch takes the bytes of a mapped file for numbers, compressed or not.
    """
    # Newer releases of torch take a path with this ending for safetensors, whatever the file holds.
    if path.suffix.lower() == ".safetensors" or not _first_bytes(path).startswith(b"PK"):
        return False
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    unpacked, packed = sum(entry.file_size for entry in entries), path.stat().st_size
    if unpacked > max(MOST_EXPANSION * packed, ALWAYS_UNPACKED_BYTES):
        raise ValueError(f"it unpacks from {packed / 1e6:.3g} to {unpacked / 1e6:.3g} MB, as no weights do")
    return all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)


class _Left:
    """Stands in for an object beside the weights: takes whatever it was made of, and forgets it."""

    def __new__(cls, *args: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class _Plain:
    """Stands in for a dictionary with defaults, which optimizers hold: torch's reader fills none."""

    def __new__(cls, *args: Any) -> Any:
        return {}


def _under_name(stand_in: type, name: str) -> type:
    module, _, kind = name.rpartition(".")
    return type(kind, (stand_in,), {"__module__": module, "__qualname__": kind})


STAND_INS = (
    _under_name(_Plain, "collections.defaultdict"),
    *(_under_name(_Left, name) for name in BESIDE_WEIGHTS),
)
"""Torch's reader finds these where a file names the real classes, so that those are never called."""


def _refusal(error: Exception, path: Path) -> str:
    """Why a file cannot be read, and what to do."""
    text = str(error).strip()
    first = b"" if isinstance(error, OSError) else _first_bytes(path)
    instead = "replace it with the original file"
    for start, what in OTHER_STARTS.items():
        if first.startswith(start):
            return f"{what}): {instead}"
    if "Unsupported operand" in text:
        return f"it is neither of torch nor of safetensors): {instead}"
    if "weights_only" in text or "Unsupported global" in text:
        named = re.search(r"GLOBAL ([\w.]{1,60})", text)
        code = f" such as {named[1]}" if named else ""
        return (
            f"it holds code or objects{code}, which are never opened): "
            "save the net's state_dict() and nothing else, or give the original file"
        )
    reason = text.split("\n")[0].rstrip(".:")[:120] or type(error).__name__
    return f"{reason}): it is damaged, incomplete or of another kind, {instead}"
