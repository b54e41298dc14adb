"""A user's own file is recognised, or refused in one sentence; nothing that is in it is ever run."""

import argparse
import os
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from napari_medsam.models.checkpoints import architecture_of, read_sam
from napari_medsam.models.sam import VARIANTS, build_sam
from napari_medsam.models.specs import ModelError

TINY = [name for name in VARIANTS if name.startswith("tiny_")]


class Bomb:
    """Pickled, this leaves a file behind when it is opened by a reader that runs code."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return build_sam("tiny_vit_b").state_dict()


def test_the_bomb_of_these_tests_goes_off_where_pickles_are_opened(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "marker")))  # noqa: S301
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_architecture_is_recognised_by_its_tensors(variant):
    with torch.device("meta"):
        model = build_sam(variant)
    assert architecture_of(model.state_dict()) == variant


@pytest.mark.parametrize("variant", TINY)
@pytest.mark.parametrize("wrapper", ["", "model", "state_dict", "net"])
def test_weights_arrive_unchanged_also_from_inside_a_training_checkpoint(variant, wrapper, tmp_path):
    model = build_sam(variant)
    state = model.state_dict()
    content = {wrapper: state, "optimizer": {"lr": 0.1}, "epoch": 3} if wrapper else state
    torch.save(content, tmp_path / "weights.pth")
    loaded, architecture = read_sam(tmp_path / "weights.pth")
    assert architecture == variant
    assert not loaded.training
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())


def test_old_files_safetensors_half_precision_and_parallel_training_are_read(weights, tmp_path):
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(weights, tmp_path / "safe.safetensors")
    torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, tmp_path / "parallel.pth")
    for file in ("old.pth", "safe.safetensors", "parallel.pth"):
        loaded, _ = read_sam(tmp_path / file)
        assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items()), file
    torch.save({name: tensor.half() for name, tensor in weights.items()}, tmp_path / "half.pth")
    half, _ = read_sam(tmp_path / "half.pth")
    for name, tensor in half.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("prefix", ["model.", "sam.", "module.model.", "module.module."])
def test_what_training_programs_put_before_every_name_is_taken_off(prefix, weights, tmp_path):
    renamed = {prefix + name: tensor for name, tensor in weights.items()}
    torch.save({"state_dict": renamed, "epoch": 3}, tmp_path / "trained.pth")
    loaded, _ = read_sam(tmp_path / "trained.pth")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", "_orig_mod."),
        ("", "module._orig_mod."),
        ("image_encoder.", "image_encoder._orig_mod."),
        ("image_encoder.", "sam.image_encoder.module."),
        ("blocks.1.", "blocks.1._checkpoint_wrapped_module."),
    ],
)
def test_what_torch_puts_into_names_is_taken_out_wherever_it_stands(old, new, weights, tmp_path):
    torch.save({name.replace(old, new, 1): tensor for name, tensor in weights.items()}, tmp_path / "own.pth")
    loaded, _ = read_sam(tmp_path / "own.pth")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())


def test_both_kinds_of_file_are_known_by_their_content_whatever_their_name(weights, tmp_path):
    save_file(weights, tmp_path / "safe.pth")
    torch.save(weights, tmp_path / "torch.safetensors")
    torch.save(weights, tmp_path / "old.safetensors", _use_new_zipfile_serialization=False)
    for file in ("safe.pth", "torch.safetensors", "old.safetensors"):
        loaded, _ = read_sam(tmp_path / file)
        assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items()), file


def test_pixel_levels_beside_the_weights_are_left_out_if_they_are_the_usual_ones(weights, tmp_path):
    levels = {
        "pixel_mean": torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1),
        "pixel_std": torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1),
    }
    torch.save({**weights, **levels}, tmp_path / "usual.pth")
    assert read_sam(tmp_path / "usual.pth")[1] == "tiny_vit_b"
    torch.save({**weights, **levels, "pixel_mean": torch.zeros(3, 1, 1)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"1 of its tensors are unknown \('pixel_mean'\)"):
        read_sam(tmp_path / "other.pth")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["Adam", "AdamW", "SGD"])
def test_what_training_programs_save_beside_the_weights_is_passed_over(kind, zipped, weights, tmp_path):
    """SAM-Med2D's saves its optimizer as an object, others their losses as numpy's numbers."""
    layer = torch.nn.Linear(2, 2)
    optimizer = getattr(torch.optim, kind)(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {
        "model": weights,
        "optimizer": optimizer,
        "loss": np.float64(0.5),
        "losses": np.ones(3),
        "args": argparse.Namespace(epochs=3),
    }
    torch.save(content, tmp_path / "epoch3.pth", _use_new_zipfile_serialization=zipped)
    allowed = set(torch.serialization.get_safe_globals())
    loaded, _ = read_sam(tmp_path / "epoch3.pth")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())
    assert set(torch.serialization.get_safe_globals()) == allowed


class Settings:
    """Pickled, this calls `argparse.Namespace` with what the file's maker chose."""

    def __reduce__(self):
        return argparse.Namespace, ()


def test_what_is_passed_over_is_never_called(weights, tmp_path, monkeypatch):
    torch.save({"model": weights, "args": Settings()}, tmp_path / "epoch3.pth")
    monkeypatch.setattr(argparse.Namespace, "__init__", lambda self: pytest.fail("called"))
    assert read_sam(tmp_path / "epoch3.pth")[1] == "tiny_vit_b"


def test_things_passed_over_are_no_weights(weights, tmp_path):
    torch.save({**weights, "epoch": np.float64(3)}, tmp_path / "epoch3.pth")
    with pytest.raises(ModelError, match=r"holds other things than weights \('epoch'\)"):
        read_sam(tmp_path / "epoch3.pth")


def test_a_part_of_a_net_and_low_rank_additions_are_called_so(weights, tmp_path):
    decoder = {name: tensor for name, tensor in weights.items() if name.startswith("mask_decoder.")}
    torch.save(decoder, tmp_path / "decoder.pth")
    with pytest.raises(
        ModelError, match=r"a part of a net \('mask_decoder\.[\w.]+'\) without its image encoder: put"
    ):
        read_sam(tmp_path / "decoder.pth")
    additions = {
        f"base_model.model.vision_encoder.layers.{i}.attn.qkv.lora_A.weight": torch.ones(1) for i in (0, 1)
    }
    save_file(additions, tmp_path / "adapter_model.safetensors")
    with pytest.raises(
        ModelError, match=r"holds 2 low-rank additions \(LoRA, 'image_encoder\.[\w.]+lora_A\.weight'\): merge"
    ):
        read_sam(tmp_path / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "it is a Git LFS pointer to a file"),
        (b"<!DOCTYPE html><html>Sign in</html>", "it is a web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "it is neither of torch nor of safetensors"),
    ],
)
def test_what_was_saved_in_place_of_weights_is_named_and_not_called_code(content, reason, tmp_path):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(ModelError, match=reason):
        read_sam(tmp_path / "weights.pth")


def test_a_whole_net_saved_as_an_object_is_refused_with_what_to_save_instead(tmp_path):
    torch.save(build_sam("tiny_vit_b"), tmp_path / "net.pth")
    with pytest.raises(
        ModelError,
        match=r"objects such as napari_medsam\.[\w.]+, which are never opened\): save .* state_dict\(\)",
    ):
        read_sam(tmp_path / "net.pth")


def test_a_file_that_holds_some_weights_twice_is_not_guessed_at(weights, tmp_path):
    """One of the two would win in silence."""
    old = {f"module.{name}": tensor + 1 for name, tensor in weights.items()}
    torch.save({**old, **weights}, tmp_path / "both.pth")
    with pytest.raises(ModelError, match=r"174 of its tensors are unknown \('module\.image_encoder"):
        read_sam(tmp_path / "both.pth")


def test_a_file_that_was_unpacked_and_packed_again_gives_the_same_weights(weights, tmp_path):
    """Some browsers unpack what they fetch; mapped as it is, a compressed file gives noise for weights."""
    torch.save(weights, tmp_path / "made.pth")
    with (
        zipfile.ZipFile(tmp_path / "made.pth") as made,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in made.namelist():
            packed.writestr(entry, made.read(entry))
    loaded, _ = read_sam(tmp_path / "packed.pth")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())


def test_counters_keep_their_type_whatever_the_file_was_rounded_to(tmp_path):
    model = build_sam("tiny_vit_t")
    torch.save({name: tensor.half() for name, tensor in model.state_dict().items()}, tmp_path / "half.pth")
    loaded, _ = read_sam(tmp_path / "half.pth")
    types = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    assert {name: tensor.dtype for name, tensor in loaded.state_dict().items()} == types


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (lambda t: (50 * t).to(torch.int8), "are of type torch.int8"),
        (lambda t: t.to(torch.complex64), "are of type torch.complex64"),
        (lambda t: t.to("meta"), "holds other things than weights"),
        (lambda t: t.to_sparse(), "holds other things than weights"),
    ],
)
def test_tensors_whose_numbers_are_not_the_weights_are_refused(changed, sentence, weights, tmp_path):
    torch.save({name: changed(tensor) for name, tensor in weights.items()}, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match=sentence):
        read_sam(tmp_path / "weights.pth")


def test_a_hostile_name_cannot_write_to_the_terminal(weights, tmp_path):
    for content in ({**weights, "\x1b[2J\n" * 99: torch.zeros(1)}, {"\x1b[2J\n" * 99: 3}):
        torch.save(content, tmp_path / "weights.pth")
        with pytest.raises(ModelError) as caught:
            read_sam(tmp_path / "weights.pth")
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 250 + len(str(tmp_path))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's list of mapped files")
def test_weights_are_mapped_from_the_file_and_not_copied(weights, tmp_path):
    """A copy doubles the memory and the time of opening a large model."""
    torch.save(weights, tmp_path / "weights.pth")
    loaded, _ = read_sam(tmp_path / "weights.pth")
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    mapped = [line[0].split("-") for line in maps if line[-1] == str(tmp_path / "weights.pth")]
    spans = [range(int(first, 16), int(end, 16)) for first, end in mapped]
    assert all(any(tensor.data_ptr() in span for span in spans) for tensor in loaded.state_dict().values())


def truncated(path, weights, chance, marker):
    torch.save(weights, path)
    os.truncate(path, chance.randrange(1, path.stat().st_size))


def other_head(path, weights, chance, marker):
    torch.save(weights, path)
    with path.open("r+b") as file:
        file.write(chance.randbytes(chance.randrange(30, 4096)))


def noise(path, weights, chance, marker):
    path.write_bytes(chance.randbytes(chance.randrange(0, 5000)))


def bare_pickle(path, weights, chance, marker):
    path.write_bytes(pickle.dumps(Bomb(marker), protocol=chance.randrange(6)))


def bomb_among_weights(path, weights, chance, marker):
    torch.save(
        {**weights, chance.choice(list(weights)): Bomb(marker)},
        path,
        _use_new_zipfile_serialization=chance.random() < 0.5,
    )


def bomb_beside_weights(path, weights, chance, marker):
    torch.save({"model": weights, "config": Bomb(marker)}, path)


def other_model(path, weights, chance, marker):
    names = [f"layer{i}.{chance.choice(['conv', 'bn', 'fc'])}.weight" for i in range(5)]
    torch.save({name: torch.randn(chance.randrange(1, 9), 3) for name in names}, path)


def missing_tensors(path, weights, chance, marker):
    gone = chance.sample(list(weights), 3)
    torch.save({name: tensor for name, tensor in weights.items() if name not in gone}, path)


def other_sizes(path, weights, chance, marker):
    changed = chance.choice([name for name, tensor in weights.items() if tensor.ndim > 1])
    torch.save({**weights, changed: torch.zeros(7, 7)}, path)


def no_weights(path, weights, chance, marker):
    torch.save(
        chance.choice([{}, [1, 2], torch.zeros(3), {"model": {}}, {"a": 1}, {3: torch.zeros(1)}]), path
    )


BAD = [
    truncated,
    other_head,
    noise,
    bare_pickle,
    bomb_among_weights,
    bomb_beside_weights,
    other_model,
    missing_tensors,
    other_sizes,
    no_weights,
]


@pytest.mark.parametrize("number", range(50))
def test_bad_checkpoints_are_refused_in_one_sentence_and_run_nothing(number, weights, tmp_path):
    path, marker = tmp_path / "weights.pth", tmp_path / "marker"
    BAD[number % len(BAD)](path, weights, random.Random(number), marker)
    with pytest.raises(ModelError) as caught:
        read_sam(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert len(sentence) < 250 + len(str(path))
    assert not marker.exists()


def test_what_is_not_a_file_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"There is no file .*absent\.pth"):
        read_sam(tmp_path / "absent.pth")
    with pytest.raises(ModelError, match=r"is a folder, and no weights are in it: give the path of"):
        read_sam(tmp_path)


def test_a_folder_is_answered_with_the_file_in_it(tmp_path):
    for file in ("config.json", "other.pth", "model.safetensors"):
        (tmp_path / file).touch()
    with pytest.raises(ModelError) as caught:
        read_sam(tmp_path)
    file = tmp_path / "model.safetensors"
    assert str(caught.value) == f"{tmp_path} is a folder, not a file: give the file with the weights, {file}."


def test_a_damaged_safetensors_file_is_refused(weights, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(weights, path)
    os.truncate(path, 1000)
    with pytest.raises(ModelError, match="cannot be read as a checkpoint"):
        read_sam(path)


def test_half_a_file_is_called_no_zip_and_not_by_a_number_of_the_system(weights, tmp_path):
    torch.save(weights, tmp_path / "weights.pth")
    os.truncate(tmp_path / "weights.pth", 50_000)
    with pytest.raises(ModelError, match=r"\(File is not a zip file\): it is damaged, incomplete or"):
        read_sam(tmp_path / "weights.pth")


def test_a_zip_that_is_no_checkpoint_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ModelError, match="cannot be read as a checkpoint"):
        read_sam(tmp_path / "weights.pth")


def test_an_archive_that_unpacks_to_fill_the_memory_is_refused(tmp_path):
    """Torch unpacked 256 MB, twice, from a quarter of a megabyte."""
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 27))
        archive.writestr("archive/version", "3")
    with pytest.raises(
        ModelError, match=r"it unpacks from 0\.131 to 134 MB, as no weights do\): .* original file"
    ):
        read_sam(path)
