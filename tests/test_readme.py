"""What the README shows can be copied and works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from bright_model import BrightModel
from typer.testing import CliRunner

from napari_medsam.cli import app
from napari_medsam.formats.nifti import write_nifti
from napari_medsam.phantom import ct_torso
from napari_medsam.volume import read_labels, read_volume

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture
def beside_a_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with scan.nii.gz, as the README assumes."""
    volume = ct_torso().volume
    write_nifti(volume.array, volume.geometry, tmp_path / "scan.nii.gz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("napari_medsam.models.zoo.load_model", lambda name="default": BrightModel())
    return tmp_path


def blocks(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert found
    return found


def check_label_map(folder: Path) -> None:
    labels = read_labels(folder / "liver.nii.gz")
    assert labels.geometry.difference(read_volume(folder / "scan.nii.gz").geometry) == ""
    assert labels.array.max() == 1


def test_the_python_example_runs(beside_a_scan: Path) -> None:
    """The first thing a researcher pastes into a notebook gives a label map."""
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    check_label_map(beside_a_scan)


def test_the_segment_command_runs(beside_a_scan: Path) -> None:
    """The first thing a researcher pastes into a terminal does, too."""
    commands = [line for block in blocks("sh") for line in block.splitlines() if " segment " in line]
    assert commands
    for command in commands:
        answer = CliRunner().invoke(app, shlex.split(command)[1:])
        assert answer.exit_code == 0, answer.output
    check_label_map(beside_a_scan)


def test_the_picture_is_there_and_light() -> None:
    """The page shows a picture, and cloning the repository does not cost megabytes for it."""
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README.read_text(encoding="utf-8"))
    assert pictures
    for picture in pictures:
        assert (README.parent / picture).stat().st_size < 400_000
