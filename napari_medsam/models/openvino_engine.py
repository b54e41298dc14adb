"""SAM's image encoders run by OpenVINO, an engine for CPUs, as a stand-in for the torch net.

OpenVINO (https://github.com/openvinotoolkit/openvino, Apache-2.0) is an optional dependency, the extra
``openvino``. A net is converted once for its weights and the installed releases, checked against torch, and
kept in the user's cache folder.
"""

import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from napari_medsam import __version__

ABANDONED_AFTER_S = 3600.0
UNUSED_AFTER_S = 90 * 86400.0

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}
LARGEST_ERROR = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Norm of the difference to torch's float32 embedding, over the embedding's own, that counts as agreement."""


class EngineError(RuntimeError):
    """OpenVINO cannot stand in for torch; the message is one sentence for the user."""


class OpenVinoEncoder:
    """Encodes images with a compiled net, one after the other.

    Parameters
    ----------
    compiled
        An `openvino.CompiledModel` of a net that maps (1, 3, S, S) to (1, C, h, w).
    """

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled

    def __call__(self, images: Tensor) -> Tensor:
        """Map (B, 3, S, S) float32 on the CPU to (B, C, h, w) float32."""
        # The engine gives out its own memory, which the next image would overwrite.
        return torch.cat([torch.tensor(self._compiled(image[None].numpy())[0]) for image in images])


def has_openvino() -> bool:
    """Whether the extra is installed."""
    return find_spec("openvino") is not None


def engines_folder() -> Path:
    """Return the folder of converted nets in the user's cache."""
    import pooch

    return Path(pooch.os_cache("napari-medsam")) / "engines"


def openvino_encoder(
    encoder: nn.Module,
    digest: str,
    dtype: torch.dtype,
    notice: Callable[[str], None],
    folder: Path | None = None,
) -> OpenVinoEncoder:
    """Convert an image encoder, or take what was converted before.

    Parameters
    ----------
    encoder
        On the CPU, float32, with an `img_size` attribute.
    digest
        Hexadecimal digest of its weights.
    dtype
        float32 or bfloat16: what the engine may compute in.
    notice
        Called with a sentence before something that takes long.
    folder
        Where converted nets are kept; `engines_folder` when None.

    Raises
    ------
    EngineError
        When OpenVINO is not installed, cannot convert or run the net, or gives other embeddings than torch.
    """
    if not has_openvino():
        raise EngineError("OpenVINO is not installed (pip install 'napari-medsam[openvino]' brings it)")
    try:
        return _kept_or_converted(encoder, digest, dtype, notice, folder or engines_folder())
    except EngineError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise EngineError(f"OpenVINO cannot run this model ({reason[0]})") from error


def _kept_or_converted(
    encoder: nn.Module, digest: str, dtype: torch.dtype, notice: Callable[[str], None], folder: Path
) -> OpenVinoEncoder:
    openvino = _import_silently()
    # The net's own code may change with a release of this package.
    place = folder / f"{digest[:32]}-{openvino.__version__.partition('-')[0]}-{__version__}"
    with suppress(RuntimeError):
        kept = _compiled(openvino, place, dtype)
        with suppress(OSError):
            os.utime(place)
        return kept
    notice("Converting the image encoder for OpenVINO, which takes a minute or two, once for these weights.")
    folder.mkdir(parents=True, exist_ok=True)
    _tidy(folder)
    with tempfile.TemporaryDirectory(dir=folder, suffix=".partial", ignore_cleanup_errors=True) as partial:
        fresh = Path(partial) / "net"
        _convert(openvino, encoder, fresh)
        _compare(encoder, _compiled(openvino, fresh, dtype), dtype)
        # Whatever is there could not be read. Another process may be faster, with the same net.
        shutil.rmtree(place, ignore_errors=True)
        with suppress(OSError):
            os.replace(fresh, place)
    return _compiled(openvino, place, dtype)


def _tidy(folder: Path) -> None:
    """Remove what killed processes left half converted, and nets nobody used for long.

    Each is as large as the weights, and one of an earlier release is never used again.
    """
    for net in folder.iterdir():
        kept_s = ABANDONED_AFTER_S if net.suffix == ".partial" else UNUSED_AFTER_S
        # Another process may be tidying up, too.
        with suppress(OSError):
            if time.time() - net.stat().st_mtime > kept_s:
                shutil.rmtree(net, ignore_errors=True)


def _import_silently() -> ModuleType:
    """Import OpenVINO without its telemetry, which sends an event over the network at every import."""
    telemetry = "openvino_telemetry"
    known = sys.modules.get(telemetry)
    # An import of it fails now, whereupon OpenVINO takes a stub of its own, for good.
    sys.modules[telemetry] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        del sys.modules[telemetry]
        if known is not None:
            sys.modules[telemetry] = known
    return openvino


def _compiled(openvino: ModuleType, place: Path, dtype: torch.dtype) -> OpenVinoEncoder:
    settings = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    return OpenVinoEncoder(core.compile_model(core.read_model(place / "net.xml"), "CPU", settings))


def _convert(openvino: ModuleType, encoder: nn.Module, place: Path) -> None:
    side = int(encoder.img_size)  # type: ignore[arg-type]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(encoder, (torch.zeros(1, 3, side, side),))
        net = openvino.convert_model(program)
    net.reshape([1, 3, side, side])
    place.mkdir()
    openvino.save_model(net, place / "net.xml", compress_to_fp16=False)


def _compare(encoder: nn.Module, found: OpenVinoEncoder, dtype: torch.dtype) -> None:
    side = int(encoder.img_size)  # type: ignore[arg-type]
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = encoder(image)
        error = float((found(image) - expected).norm() / expected.norm())
    if not error <= LARGEST_ERROR[dtype]:
        raise EngineError(f"OpenVINO's embeddings are not those of torch (relative difference {error:.1g})")
