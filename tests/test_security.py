"""What SECURITY.md promises: if these fail, opening a stranger's file may run it, or send something away."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import napari_medsam
from napari_medsam.models.specs import MODELS

ROOT = Path(napari_medsam.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
NEVER_CALLED = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "marshal.loads",
    "shelve.open",
    "yaml.load",
    "joblib.load",
}
NEVER_IMPORTED = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "ctypes"}
NO_NETWORK = """
import socket, sys
def refuse(*asked, **more):
    raise AssertionError(f"the network was asked for: {asked}")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
sys.argv = ["napari-medsam", *sys.argv[1:]]
from napari_medsam.cli import app
app()
"""


def called(node):
    """The dotted name of what is called, as far as it has one."""
    parts, each = [], node.func
    while isinstance(each, ast.Attribute):
        parts.append(each.attr)
        each = each.value
    return ".".join(reversed([*parts, each.id])) if isinstance(each, ast.Name) else ""


def test_there_is_source_to_look_at():
    assert len(SOURCES) > 100


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_what_a_file_holds(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = called(node)
            assert name not in NEVER_CALLED, f"line {node.lineno}"
            keywords = {each.arg: ast.unparse(each.value) for each in node.keywords}
            assert keywords.get("shell", "False") == "False", f"line {node.lineno}"
            if name.endswith("torch.load"):
                assert keywords.get("weights_only") == "True", f"line {node.lineno}"
            if name in ("np.load", "numpy.load"):
                assert keywords.get("allow_pickle", "False") == "False", f"line {node.lineno}"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            names = [module] if module else [alias.name for alias in node.names]
            assert not NEVER_IMPORTED & {str(name).partition(".")[0] for name in names}, f"line {node.lineno}"


def test_weights_come_by_https_from_a_fixed_address_with_a_digest_where_there_is_one():
    addresses = [spec for spec in MODELS.values() if spec.url]
    assert addresses
    for spec in addresses:
        assert spec.url.startswith("https://"), spec.name
        assert "{" not in spec.url, spec.name
        if spec.digest or re.search("/(main|master|latest)/", spec.url):
            # What a moving address brings is known by its digest only.
            assert re.fullmatch(r"(sha256|md5|xxh128):[0-9a-f]{32,64}", spec.digest), spec.name


def test_segmenting_and_replaying_ask_for_no_network(tmp_path):
    import SimpleITK

    voxels = np.zeros((6, 32, 32), np.int16)
    voxels[1:5, 8:24, 8:24] = 100
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(tmp_path / "ct.nii.gz"))
    segment = ["segment", "ct.nii.gz", "--box", "3,6,6,26,26", "-o", "out.nii.gz"]
    replay = ["replay", "out.session.json", "-o", "again.nii.gz"]
    for argv in (segment, replay):
        done = subprocess.run(
            [sys.executable, "-c", NO_NETWORK, *argv],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.nii.gz").read_bytes() == (tmp_path / "out.nii.gz").read_bytes()


def test_the_guard_would_notice_a_connection(tmp_path):
    """Otherwise the test above could not fail."""
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK.replace("app()", "socket.create_connection(('localhost', 9))")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "the network was asked for" in done.stderr
