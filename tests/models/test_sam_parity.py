"""The nets give the publishers' numbers; otherwise a checkpoint a user owns quietly segments worse here."""

import importlib.util
import json
import os
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_medsam.models.sam import VARIANTS, Sam, build_sam
from napari_medsam.models.transformers_names import published_name
from napari_medsam.models.zoo import load_model

RELATIVE = 1e-4
PUBLISHED_PARAMETERS = {
    "vit_b": 93_735_472,
    "vit_l": 312_342_832,
    "vit_h": 641_090_608,
    "ft_sam": 90_737_200,
    "sam_med2d": 271_241_776,
    "vit_t": 10_130_092,
    "lite_medsam": 9_791_300,
}


def relative(a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def randomise(model: Sam, seed: int = 0) -> Sam:
    """No zero anywhere: relative positions, biases and norms must all matter."""
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    for name, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=generator)
        fan_in = tensor[0].numel() if tensor.ndim > 1 else 1
        if name.endswith("running_var"):
            tensor.copy_(0.5 + noise.abs())
        elif tensor.is_floating_point():
            tensor.copy_(noise / fan_in**0.5 if tensor.ndim > 1 else 0.2 * noise + name.endswith("weight"))
    return model


@pytest.mark.parametrize("variant", PUBLISHED_PARAMETERS)
def test_every_published_architecture_has_its_published_size(variant):
    with torch.device("meta"):
        model = build_sam(variant)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED_PARAMETERS[variant]


def test_an_unknown_variant_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no SAM variant 'vit_x'; choose one of vit_b, vit_l"):
        build_sam("vit_x")


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name.startswith("tiny_")])
def test_a_model_survives_saving_and_loading_under_its_own_names(variant, tmp_path):
    model = randomise(build_sam(variant))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    with torch.device("meta"):
        loaded = build_sam(variant)
    loaded.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True), strict=True, assign=True)
    image = torch.randn(1, 3, model.image_size, model.image_size)
    assert torch.equal(
        model.encode_image(image).image_embeddings, loaded.encode_image(image).image_embeddings
    )


def test_an_image_of_the_wrong_size_is_refused_with_both_sizes():
    with pytest.raises(ValueError, match=r"shape \(1, 3, 64, 64\) where \(1, 3, 128, 128\) was expected"):
        build_sam("tiny_vit_b").encode_image(torch.zeros(1, 3, 64, 64))


@pytest.fixture(scope="module")
def transformers_pair():
    """Our tiny SAM and transformers' SamModel with the same random weights."""
    transformers = pytest.importorskip("transformers", reason="transformers is a test dependency")
    ours = randomise(build_sam("tiny_vit_b"))
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 32,
            "output_channels": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 128,
            "patch_size": 16,
            "window_size": 3,
            "global_attn_indexes": [1],
            "mlp_dim": 128,
            "num_pos_feats": 16,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 128, "patch_size": 16},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 256, "iou_head_hidden_dim": 32},
    )
    theirs = transformers.SamModel(config).eval()
    state = ours.state_dict()
    theirs.load_state_dict(
        {name: state[published_name(name)].clone() for name in theirs.state_dict()}, strict=True
    )
    return ours, theirs


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("kind", ["boxes", "points", "boxes and points", "boxes and mask", "points and mask"])
def test_masks_equal_those_of_transformers(transformers_pair, kind, multimask):
    ours, theirs = transformers_pair
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(1, 3, 128, 128, generator=generator)
    boxes = torch.tensor([[10.0, 12, 90, 70], [3, 50, 60, 120]]) if "boxes" in kind else None
    points = torch.rand(2, 3, 2, generator=generator) * 128 if "points" in kind else None
    labels = torch.tensor([[1, 0, 1], [0, 1, 1]]) if "points" in kind else None
    mask = 4 * torch.randn(1, 1, 32, 32, generator=generator) if "mask" in kind else None
    embedding = ours.encode_image(image)
    masks, scores = ours.decode(
        embedding, points, labels, boxes, None if mask is None else mask.expand(2, -1, -1, -1), multimask
    )
    with torch.inference_mode():
        expected = theirs(
            pixel_values=image,
            input_points=None if points is None else points[None],
            input_labels=None if labels is None else labels[None],
            input_boxes=None if boxes is None else boxes[None],
            input_masks=mask,
            multimask_output=multimask,
        )
        embeddings = theirs.get_image_embeddings(image)
    assert relative(embedding.image_embeddings, embeddings) < 1e-5
    assert relative(masks, expected.pred_masks[0]) < RELATIVE
    assert relative(scores, expected.iou_scores[0]) < RELATIVE


def test_a_model_that_transformers_saved_gives_the_masks_it_gives_there(transformers_pair, tmp_path):
    ours, theirs = transformers_pair
    theirs.save_pretrained(tmp_path)
    loaded = load_model(f"sam={tmp_path / 'model.safetensors'}")
    state = ours.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    box = torch.tensor([[10.0, 12, 90, 70]])
    masks, scores = loaded.decode(loaded.encode_image(image), None, None, box, None, True)
    with torch.inference_mode():
        expected = theirs(pixel_values=image, input_boxes=box[None])
    assert relative(masks, expected.pred_masks[0]) < RELATIVE
    assert relative(scores, expected.iou_scores[0]) < RELATIVE


@pytest.fixture(scope="module")
def parity() -> Path:
    folder = os.environ.get("NAPARI_MEDSAM_TEST_PARITY")
    if folder is None and "NAPARI_MEDSAM_TEST_DATA" in os.environ:
        folder = str(Path(os.environ["NAPARI_MEDSAM_TEST_DATA"]).parent / "parity")
    if folder is None or not Path(folder).is_dir():
        pytest.skip("set NAPARI_MEDSAM_TEST_PARITY to the folder with the publishers' tensors")
    return Path(folder)


class Reference:
    """Tensors that the publishers' code made from random weights, and our model with the same weights."""

    def __init__(self, folder: Path, variant: str) -> None:
        self.variant = variant
        self.tensors = np.load(folder / f"{variant}_ref.npz")
        self.recipe = self.load_recipe(folder)
        names = json.loads((folder / f"{variant}_manifest.json").read_text())["tensors"]
        state = {
            name: torch.from_numpy(np.asarray(self.recipe.fill(name, entry["shape"])))
            for name, entry in names.items()
        }
        with torch.device("meta"):
            self.model = build_sam(variant)
        self.model.load_state_dict(state, strict=True, assign=True)

    @staticmethod
    def load_recipe(folder: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location("parity_reference", folder / "reference.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def frame(self, tag: str) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
        """Preprocessed image, its size inside the frame, and its original size."""
        original = (1024, 1024) if tag == "im1024" else (512, 384)
        if self.variant == "lite_medsam":
            inner = (256, 256) if tag == "im1024" else (256, 192)
            return torch.from_numpy(self.tensors[f"{tag}/input256"])[None], inner, original
        from PIL import Image

        inner = (1024, 1024) if tag == "im1024" else (1024, 768)
        image = self.recipe.image(*original, 1 if tag == "im1024" else 2)
        image = np.array(Image.fromarray(image).resize(inner[::-1], Image.Resampling.BILINEAR), np.float32)
        image = (image - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
        x = torch.from_numpy(image).float().permute(2, 0, 1)
        return F.pad(x, (0, 1024 - inner[1], 0, 1024 - inner[0]))[None], inner, original

    def prompts(self, tag: str, kind: str, scale: float) -> dict[str, Tensor | None]:
        """Arguments of `Sam.decode` for one of the stored cases."""

        def stored(name: str) -> Tensor:
            return torch.from_numpy(self.tensors[f"{tag}/{name}"] * scale).float()

        given: dict[str, Tensor | None] = dict.fromkeys(
            ("point_coords", "point_labels", "boxes", "mask_input")
        )
        if kind == "boxes3":
            given["boxes"] = stored("boxes")
        elif kind.startswith("box"):
            whole = f"{tag}/box256" in self.tensors
            given["boxes"] = (
                torch.from_numpy(self.tensors[f"{tag}/box256"]).float() if whole else stored("box")
            )[None]
        if "point1" in kind:
            given |= {"point_coords": stored("pt1")[None], "point_labels": torch.tensor([[1]])}
        elif "points" in kind:
            labels = torch.from_numpy(self.tensors[f"{tag}/labels"])[None]
            given |= {"point_coords": stored("pts")[None], "point_labels": labels}
        if kind.endswith("mask"):
            given["mask_input"] = torch.from_numpy(self.tensors["mask_input"])[None]
        return given


@pytest.fixture(scope="module", params=["lite_medsam", "vit_t", "vit_b"])
def reference(request, parity) -> Reference:
    return Reference(parity, request.param)


@pytest.mark.parametrize("tag", ["im1024", "im512x384"])
def test_embeddings_and_masks_equal_the_publishers(reference, tag):
    image, inner, original = reference.frame(tag)
    embedding = reference.model.encode_image(image)
    step = next(s for s in (1, 4, 8) if f"{tag}/embedding{f'_c{s}' if s > 1 else ''}" in reference.tensors)
    expected = reference.tensors[f"{tag}/embedding{f'_c{step}' if step > 1 else ''}"]
    assert relative(embedding.image_embeddings[0, ::step], expected) < RELATIVE
    cases = [name.split("/")[1:3] for name in reference.tensors.files if re.match(f"{tag}/.*/iou$", name)]
    assert len(cases) >= 4
    for kind, multi in cases:
        prompts = reference.prompts(tag, kind, inner[0] / original[0])
        masks, scores = reference.model.decode(embedding, **prompts, multimask_output=multi == "mm1")
        stem = f"{tag}/{kind}/{multi}"
        logits = masks.flatten(0, 1)
        whole = f"{stem}/low_res" in reference.tensors
        expected = reference.tensors[f"{stem}/low_res" if whole else f"{stem}/low_res_s2"]
        assert relative(logits if whole else logits[:, ::2, ::2], expected) < RELATIVE, stem
        assert relative(scores.flatten(), reference.tensors[f"{stem}/iou"].ravel()) < RELATIVE, stem
        if reference.variant != "lite_medsam":
            logits = F.interpolate(logits[None], (1024, 1024), mode="bilinear", align_corners=False)[0]
        logits = logits[:, : inner[0], : inner[1]]
        logits = F.interpolate(logits[None], original, mode="bilinear", align_corners=False)[0]
        assert_same_mask(logits, reference.tensors[f"{stem}/mask_packed"], stem)


def assert_same_mask(logits: Tensor, packed: np.ndarray, stem: str) -> None:
    """Equal masks; a pixel may differ only where its logit is 0 to within float32 rounding."""
    expected = torch.from_numpy(np.unpackbits(packed)[: logits.numel()].astype(bool)).view(logits.shape)
    different = (logits > 0) != expected
    assert different.sum() <= 4, stem
    assert (logits[different].abs() < 1e-5 * logits.std()).all(), stem


def test_the_medsam_convention_gives_the_publishers_numbers(parity):
    """MedSAM feeds [0, 1] images without mean and deviation and takes the sigmoid before upsampling."""
    reference = Reference(parity, "vit_b")
    image = reference.recipe.image(1024, 1024, 1)
    image = (image - image.min()) / (image.max() - image.min())
    embedding = reference.model.encode_image(torch.from_numpy(image).float().permute(2, 0, 1)[None])
    assert relative(embedding.image_embeddings[0, ::4], reference.tensors["medsam/embedding_c4"]) < RELATIVE
    box = torch.from_numpy(reference.recipe.prompts(1024, 1024)["box"]).float()[None]
    masks, scores = reference.model.decode(embedding, None, None, box, None, False)
    assert relative(masks[0], reference.tensors["medsam/low_res"]) < RELATIVE
    assert relative(scores[0], reference.tensors["medsam/iou"]) < RELATIVE
