"""Models are found by name or path and fed as their authors feed them; nothing is downloaded unasked."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from napari_medsam.contracts import CONTRACTS
from napari_medsam.models.sam import VARIANTS, build_sam
from napari_medsam.models.zoo import MODELS, ModelError, load_model, models_folder, verify, weights_path


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("NAPARI_MEDSAM_MODELS", str(tmp_path))
    return tmp_path


def save_tiny(path, variant="tiny_vit_b"):
    torch.manual_seed(0)
    torch.save(build_sam(variant).state_dict(), path)
    return path


def test_the_table_refers_to_what_there_is():
    for name, spec in MODELS.items():
        assert spec.name == name
        assert spec.family in CONTRACTS
        assert not spec.architecture or spec.architecture in VARIANTS
        assert spec.supported_prompts <= {"box", "point", "mask"}
        assert not spec.url or spec.digest, "what is fetched by a program must be checked"
        assert not spec.architecture or spec.page.startswith("https://")


def test_the_folder_is_the_one_of_the_environment_variable(folder):
    assert models_folder() == folder
    assert weights_path("sam_vit_b") == folder / "sam_vit_b_01ec64.pth"


def test_the_default_model_needs_no_folder(folder):
    assert load_model().family == "grey"
    assert list(folder.iterdir()) == []


def test_absent_weights_are_not_downloaded_and_the_sentence_says_how_to_get_them(folder):
    with pytest.raises(ModelError, match=r"run 'napari-medsam models download sam_vit_b'\.$"):
        load_model("sam_vit_b")
    with pytest.raises(ModelError, match=r"fetch lite_medsam\.pth from https://drive"):
        load_model("lite_medsam")
    assert list(folder.iterdir()) == []


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(
        ModelError, match=r"no model 'medsan': use one of default, sam_vit_b, .* your own file"
    ):
        load_model("medsan")


def test_a_file_under_the_name_of_another_model_is_refused(folder):
    save_tiny(weights_path("sam_vit_b"))
    with pytest.raises(
        ModelError,
        match=r"weights of tiny_vit_b instead of vit_b: move it elsewhere and run '.* download sam_vit_b'\.$",
    ):
        load_model("sam_vit_b")
    save_tiny(weights_path("lite_medsam"))
    with pytest.raises(ModelError, match=r"elsewhere and fetch lite_medsam\.pth from https://drive"):
        load_model("lite_medsam")


@pytest.mark.parametrize(
    ("variant", "family", "prompts"),
    [
        ("tiny_vit_b", "sam", {"box", "point", "mask"}),
        ("tiny_vit_t", "sam", {"box", "point", "mask"}),
        ("tiny_lite_medsam", "lite_medsam", {"box"}),
        ("tiny_sam_med2d", "sam_med2d", {"box", "point", "mask"}),
        ("tiny_ft_sam", "sam_med2d", {"box", "point", "mask"}),
    ],
)
def test_an_own_file_is_fed_by_its_family_s_recipe(variant, family, prompts, tmp_path):
    model = load_model(str(save_tiny(tmp_path / "mine.pth", variant)))
    assert model.family == family
    assert model.supported_prompts == prompts


def test_medsam_s_recipe_can_be_asked_for(tmp_path):
    model = load_model(f"medsam={save_tiny(tmp_path / 'mine.pth')}")
    assert model.family == "medsam"
    assert model.supported_prompts == {"box"}


@pytest.mark.parametrize(
    ("family", "variants"),
    [
        ("sam", ["tiny_vit_b", "tiny_vit_t", "tiny_ft_sam"]),
        ("medsam", ["tiny_vit_b", "tiny_vit_t"]),
        ("lite_medsam", ["tiny_lite_medsam"]),
        ("sam_med2d", ["tiny_sam_med2d", "tiny_ft_sam"]),
    ],
)
def test_a_recipe_is_refused_for_a_net_it_does_not_fit(family, variants, tmp_path):
    """It would run, and give masks that are quietly worse."""
    for variant in (name for name in VARIANTS if name.startswith("tiny_")):
        path = save_tiny(tmp_path / f"{variant}.pth", variant)
        if variant in variants:
            assert load_model(f"{family}={path}").family == family
        else:
            with pytest.raises(
                ModelError, match=rf"which the recipe of {family} does not fit: give the path"
            ):
                load_model(f"{family}={path}")


def test_the_refusal_of_a_recipe_says_which_fit(tmp_path):
    path = save_tiny(tmp_path / "mine.pth")
    with pytest.raises(ModelError) as caught:
        load_model(f"lite_medsam={path}")
    assert str(caught.value) == (
        f"{path} holds weights of vit_b, which the recipe of lite_medsam does not fit: "
        "give the path alone, or as sam=PATH or medsam=PATH."
    )


@pytest.mark.parametrize(
    ("variant", "file", "family"),
    [
        ("vit_b", "medsam-vit-base/model.safetensors", "medsam"),
        ("vit_b", "medsam-vit-base/pytorch_model.bin", "medsam"),
        ("vit_b", "models--wanglab--medsam-vit-base/snapshots/0c4ed2/model.safetensors", "medsam"),
        ("vit_b", "medsam-liver/checkpoint-500/model.safetensors", "medsam"),
        ("vit_b", "sam-vit-base/model.safetensors", "sam"),
        ("vit_b", "medsam/sam-vit-base/model.safetensors", "sam"),
        ("vit_b", "medsam/sam_vit_b_01ec64.pth", "sam"),
        ("vit_l", "medsam_vit_l.pth", "medsam"),
        ("vit_l", "sam_vit_l_0b3195.pth", "sam"),
    ],
)
def test_a_file_that_is_called_like_all_others_has_its_folder_s_name(
    variant, file, family, monkeypatch, tmp_path
):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with torch.device("meta"):
        model = build_sam("tiny_vit_b")
    monkeypatch.setattr("napari_medsam.models.zoo.read_sam", lambda path: (model, variant))
    assert load_model(str(path)).family == family


@pytest.mark.parametrize(
    ("file", "size_bytes", "family"),
    [
        ("medsam_vit_b.pth", 0, "medsam"),
        ("my-MedSAM-liver.pth", 0, "medsam"),
        ("weights.pth", 375_049_145, "medsam"),
        ("sam_vit_b_01ec64.pth", 375_042_383, "sam"),
        ("weights.pth", 0, "sam"),
    ],
)
def test_sam_and_medsam_are_told_apart_by_size_and_name(file, size_bytes, family, monkeypatch, tmp_path):
    """They are the same net: nothing in the tensors tells which recipe they were trained with."""
    with (tmp_path / file).open("wb") as sparse:
        sparse.truncate(size_bytes)
    with torch.device("meta"):
        model = build_sam("vit_b")
    monkeypatch.setattr("napari_medsam.models.zoo.read_sam", lambda path: (model, "vit_b"))
    assert load_model(str(tmp_path / file)).family == family


def test_verifying_reads_every_weight(tmp_path):
    path = save_tiny(tmp_path / "mine.pth")
    assert verify(f"medsam={path}") == (
        f"medsam={path} is complete and every weight is a number; it is fed as medsam "
        "(sam=, medsam=, lite_medsam=, sam_med2d= before the path says otherwise)."
    )
    state = torch.load(path, weights_only=True)
    state["mask_decoder.iou_token.weight"][0, 0] = torch.nan
    torch.save(state, path)
    with pytest.raises(ModelError, match=r"damaged \(mask_decoder\.iou_token\.weight\)"):
        verify(str(path))


def test_verifying_reads_the_default_model_s_weights_too(tmp_path, monkeypatch):
    path = tmp_path / "default.safetensors"
    damaged = load_file(weights_path("default"))
    next(iter(damaged.values())).view(-1)[0] = torch.nan
    save_file(damaged, path)
    assert "every weight is a number" in verify("default")
    monkeypatch.setattr("napari_medsam.models.zoo.weights_path", lambda name: path)
    with pytest.raises(ModelError, match="weights of default are damaged"):
        verify("default")


def test_verifying_compares_with_the_published_digest(folder, monkeypatch):
    save_tiny(weights_path("medsam_vit_b"))
    model = build_sam("tiny_vit_b")
    monkeypatch.setattr("napari_medsam.models.zoo.read_sam", lambda path: (model, "vit_b"))
    with pytest.raises(ModelError, match=r"is not the file that was published as medsam_vit_b\.pth"):
        verify("medsam_vit_b")
