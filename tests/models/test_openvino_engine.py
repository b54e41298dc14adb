"""A second engine may be faster, never different: else masks depend on what happens to be installed."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from napari_medsam import slice_encoder
from napari_medsam.embedding_cache import EmbeddingCache
from napari_medsam.models import openvino_engine
from napari_medsam.models.openvino_engine import EngineError, openvino_encoder
from napari_medsam.models.sam import build_sam
from napari_medsam.predictor import PredictorError, PredictorWarning, SlicePredictor
from napari_medsam.prompts import SlicePrompts

needs_openvino = pytest.mark.skipif(
    not openvino_engine.has_openvino(), reason="the extra openvino is not installed"
)
BOX = SlicePrompts((2, 3, 20, 30))


def tiny(variant: str = "tiny_vit_b"):
    torch.manual_seed(0)
    return build_sam(variant).requires_grad_(False)


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((40, 60), np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(openvino_engine, "engines_folder", lambda: tmp_path / "engines")
    return tmp_path / "engines"


@needs_openvino
@pytest.mark.parametrize("variant", ["tiny_vit_b", "tiny_sam_med2d", "tiny_vit_t", "tiny_lite_medsam"])
def test_embeddings_are_those_of_torch(variant, tmp_path):
    model, notices = tiny(variant), []
    encoder = openvino_encoder(model.image_encoder, "ab" * 32, torch.float32, notices.append, tmp_path)
    images = torch.randn(2, 3, model.image_size, model.image_size, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(
        encoder(images), model.encode_image(images).image_embeddings, rtol=1e-4, atol=1e-5
    )
    assert len(notices) == 1


@needs_openvino
def test_a_net_is_converted_once_for_its_weights(tmp_path, monkeypatch):
    model, notices = tiny("tiny_lite_medsam"), []
    first = openvino_encoder(model.image_encoder, "ab" * 32, torch.float32, notices.append, tmp_path)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert len(kept) == 1
    convert = openvino_engine._convert
    monkeypatch.setattr(openvino_engine, "_convert", None)
    again = openvino_encoder(model.image_encoder, "ab" * 32, torch.float32, notices.append, tmp_path)
    noise = torch.randn(1, 3, 32, 32)
    assert torch.equal(first(noise), again(noise))
    assert len(notices) == 1
    monkeypatch.setattr(openvino_engine, "_convert", convert)
    (tmp_path / kept[0] / "net.xml").write_text("torn")
    mended = openvino_encoder(model.image_encoder, "ab" * 32, torch.float32, notices.append, tmp_path)
    assert torch.equal(first(noise), mended(noise))
    assert len(notices) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


@needs_openvino
def test_an_engine_that_disagrees_with_torch_is_not_used_and_not_kept(tmp_path, monkeypatch):
    model = tiny("tiny_lite_medsam")
    convert = openvino_engine._convert
    other = build_sam("tiny_lite_medsam").requires_grad_(False)
    monkeypatch.setattr(
        openvino_engine,
        "_convert",
        lambda openvino, encoder, place: convert(openvino, other.image_encoder, place),
    )
    with pytest.raises(EngineError, match="are not those of torch"):
        openvino_encoder(model.image_encoder, "ab" * 32, torch.float32, lambda text: None, tmp_path)
    assert list(tmp_path.iterdir()) == []


@needs_openvino
def test_a_conversion_that_is_cancelled_or_killed_leaves_nothing_for_long(tmp_path, monkeypatch):
    """Each would hold as much of the disk as the weights, for good."""
    killed, running = tmp_path / "killed.partial", tmp_path / "running.partial"
    for folder in (killed, running):
        (folder / "net").mkdir(parents=True)
    os.utime(killed, (0, 0))

    def cancelled(openvino, encoder, place):
        place.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(openvino_engine, "_convert", cancelled)
    with pytest.raises(KeyboardInterrupt):
        openvino_encoder(
            tiny("tiny_lite_medsam").image_encoder, "ab" * 32, torch.float32, lambda text: None, tmp_path
        )
    assert list(tmp_path.iterdir()) == [running]


@needs_openvino
def test_a_converted_net_goes_once_nobody_has_used_it_for_long(tmp_path):
    """Each release converts anew: the nets of all earlier ones would fill the disk."""
    encoder, digests = tiny("tiny_lite_medsam").image_encoder, ("ab" * 32, "cd" * 32)
    for digest in digests:
        openvino_encoder(encoder, digest, torch.float32, lambda text: None, tmp_path)
    used, unused = sorted(tmp_path.iterdir())
    for net in (used, unused):
        os.utime(net, (0, 0))
    openvino_encoder(encoder, digests[0], torch.float32, lambda text: None, tmp_path)
    openvino_encoder(encoder, "ef" * 32, torch.float32, lambda text: None, tmp_path)
    left = list(tmp_path.iterdir())
    assert used in left
    assert unused not in left
    assert len(left) == 2


@needs_openvino
def test_the_predictor_answers_with_either_engine_alike(folder, tmp_path):
    expected = SlicePredictor(tiny(), precision="float32")
    expected.set_slice(image())
    with pytest.warns(PredictorWarning, match="takes a minute or two, once"):
        found = SlicePredictor(tiny(), precision="float32", engine="openvino")
    found.model.image_encoder.forward = None
    found.set_slice(image())
    logits = found.predict(BOX).logits
    np.testing.assert_allclose(logits, expected.predict(BOX).logits, rtol=1e-3, atol=1e-5)
    for count, engine in enumerate(["torch", "openvino"], start=1):
        cache = EmbeddingCache(tmp_path / "kept")
        SlicePredictor(tiny(), "cpu", cache, "float32", engine).set_slice(image())
        assert len(list((tmp_path / "kept").iterdir())) == count


@needs_openvino
def test_nothing_is_sent_over_the_network():
    """OpenVINO tells its makers of every import, unless it is kept from it."""
    code = (
        "import sys; from napari_medsam.models.openvino_engine import _import_silently; _import_silently(); "
        "from openvino.tools.ovc import telemetry_utils, convert_impl; "
        "stubs = {module.tm.__name__ for module in (telemetry_utils, convert_impl)}; "
        "sys.exit(0 if stubs == {'openvino.tools.ovc.telemetry_stub'} else str(stubs))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def test_torch_takes_over_with_one_notice_where_openvino_is_missing(monkeypatch):
    monkeypatch.setattr(openvino_engine, "has_openvino", lambda: False)
    with pytest.warns(PredictorWarning, match=r"napari-medsam\[openvino\].*going on with torch") as notices:
        predictor = SlicePredictor(tiny(), engine="openvino")
    assert len(notices) == 1
    predictor.set_slice(image())
    assert predictor.predict(BOX).masks.shape == (1, 40, 60)


def test_torch_takes_over_where_the_net_cannot_be_converted(monkeypatch, folder):
    def broken(*given):
        raise KeyError("aten::new_operation")

    monkeypatch.setattr(openvino_engine, "has_openvino", lambda: True)
    monkeypatch.setattr(openvino_engine, "_kept_or_converted", broken)
    with pytest.warns(PredictorWarning, match=r"cannot run this model.*new_operation.*going on with torch"):
        predictor = SlicePredictor(tiny(), engine="openvino")
    predictor.set_slice(image())
    assert predictor.predict(BOX).masks.shape == (1, 40, 60)


@pytest.mark.parametrize(("installed", "asked"), [(True, 1), (False, 0)])
def test_auto_means_openvino_where_it_is_installed(monkeypatch, installed, asked):
    seen = []

    def refused(*given):
        seen.append(given)
        raise EngineError("no")

    monkeypatch.setattr(slice_encoder, "has_openvino", lambda: installed)
    monkeypatch.setattr(slice_encoder, "openvino_encoder", refused)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictorWarning)
        SlicePredictor(tiny(), engine="auto")
        SlicePredictor(tiny(), engine="torch")
        SlicePredictor(tiny())
    assert len(seen) == asked


def test_an_engine_that_cannot_be_is_refused_in_one_sentence():
    from napari_medsam.models.zoo import load_model

    with pytest.raises(PredictorError, match=r"no engine 'onnx': use one of auto, torch, openvino\.$"):
        SlicePredictor(tiny(), engine="onnx")
    with pytest.raises(PredictorError, match="of the SAM family on the CPU"):
        SlicePredictor(load_model(), engine="openvino")
