"""``napari-medsam models``: what is here, what is not, and how to get it; no surprises on the network."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from napari_medsam.cli import app
from napari_medsam.models import download, places
from napari_medsam.models.sam import build_sam
from napari_medsam.models.specs import MODELS


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("NAPARI_MEDSAM_MODELS", str(tmp_path))
    return tmp_path


def run(*arguments: str):
    return CliRunner().invoke(app, ["models", *arguments])


def test_the_list_says_of_every_model_whether_it_is_here(folder):
    (folder / "mobile_sam.pt").write_bytes(b"")
    result = run("list", "--json")
    assert result.exit_code == 0
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert rows.keys() == MODELS.keys()
    assert rows["mobile_sam"]["here"]
    assert not rows["sam_vit_h"]["here"]
    assert rows["medsam_vit_b"]["supported_prompts"] == ["box"]
    assert rows["medsam_vit_b"]["licence"] == "CC-BY-4.0"
    table = run("list").stdout
    assert all(name in table for name in MODELS)


def test_the_path_is_where_to_put_a_file(folder):
    assert run("path", "lite_medsam").stdout.strip() == str(folder / "lite_medsam.pth")


@pytest.mark.parametrize("command", ["path", "download", "verify"])
def test_an_unknown_model_ends_with_one_sentence_and_code_2(command):
    result = run(command, "sam_vit_x")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: There is no model 'sam_vit_x': use one of default, ")


def test_verify_reads_a_user_s_own_file(folder):
    torch.save(build_sam("tiny_vit_b").state_dict(), folder / "mine.pth")
    assert "is complete and every weight is a number" in run("verify", str(folder / "mine.pth")).stdout
    (folder / "mine.pth").write_bytes(b"PK broken")
    result = run("verify", str(folder / "mine.pth"))
    assert result.exit_code == 2
    assert "cannot be read as a checkpoint" in result.stderr


def test_download_says_the_licence_and_where_the_file_went(folder, monkeypatch):
    def received(spec, part):
        part.write_bytes(b"weights")
        yield 7, 7

    monkeypatch.setattr(download, "_received", received)
    spec = replace(MODELS["mobile_sam"], digest="")
    monkeypatch.setattr(places, "MODELS", {"mobile_sam": spec})
    result = run("download", "mobile_sam")
    assert result.exit_code == 0
    assert "Apache-2.0" in result.stderr
    assert (folder / "mobile_sam.pt").read_bytes() == b"weights"
    assert "are here already" in run("download", "mobile_sam").stderr


def test_what_only_people_may_fetch_ends_with_the_page(folder):
    result = run("download", "lite_medsam")
    assert result.exit_code == 2
    assert "fetch lite_medsam.pth from https://drive.google.com" in result.stderr.replace("\n", " ")
    assert list(folder.iterdir()) == []
