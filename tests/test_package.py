"""The package as a whole: cheap to import, complete in what it offers, one version."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

import napari_medsam
from napari_medsam.phantom import ct_torso

HEAVY = {"SimpleITK", "napari", "scipy", "skimage", "torch"}


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after one statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(answer.stdout.split())


@pytest.mark.parametrize(
    "statement",
    ["import napari_medsam", "from napari_medsam import Volume, SlicePrompts, Window"],
)
def test_importing_costs_no_heavy_library(statement):
    """Otherwise napari starts seconds later for everyone who has the plugin, used or not."""
    assert modules_after(statement) & HEAVY == set()


def test_readers_load_without_torch_or_qt():
    """Opening a scan must not wait for torch, nor fail where napari runs without a window."""
    loaded = modules_after("import napari_medsam.widgets.contrib")
    assert loaded & {"torch", "qtpy", "PySide6", "PyQt6"} == set()


@pytest.mark.parametrize("name", napari_medsam.__all__)
def test_every_public_name_can_be_imported(name):
    """A name in the table whose module was renamed would fail only when a user asks for it."""
    assert getattr(napari_medsam, name).__name__ == name


def test_type_checkers_see_the_same_names():
    """An editor would offer names that do not exist, or hide ones that do."""
    tree = ast.parse(Path(napari_medsam.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {alias.name: statement.module for statement in block.body for alias in statement.names}
    assert declared == {name: f"napari_medsam.{module}" for name, module in napari_medsam._MODULES.items()}


def test_public_names_are_listed():
    """Completion in a notebook works before anything was loaded."""
    assert set(napari_medsam.__all__) <= set(dir(napari_medsam))


def test_unknown_name_is_an_attribute_error():
    """`hasattr` and `from napari_medsam import typo` have to behave as for any module."""
    with pytest.raises(AttributeError, match="no_such_name"):
        napari_medsam.no_such_name  # noqa: B018 - the access is what is tested


def test_version_is_the_installed_one():
    """A bug report with the wrong version sends everyone looking in the wrong place."""
    assert importlib.metadata.version("napari-medsam") == napari_medsam.__version__


def test_first_page_of_the_documentation_runs(tmp_path, monkeypatch):
    """What a new user copies first has to work as it stands there."""
    page = (Path(__file__).parent.parent / "docs" / "index.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ct_torso().volume.array), "scan.nii.gz")
    exec(compile(example, "docs/index.md", "exec"), {})
    found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage("liver.nii.gz"))
    assert found.shape == ct_torso().labels.shape
    assert np.array_equal(np.unique(found), [0, 1])
