"""What SECURITY.md promises: if these fail, opening a stranger's file may run it, or send something away."""

import ast
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import napari_medsam
from napari_medsam.models.download import DownloadError, download
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
BY_NAME = {"os": {"system", "popen"}, "torch": {"load", "hub"}, "numpy": {"load"}}
"""What must be called under its full name, for the eye and for this test to see."""
NETWORK = {"requests", "urllib", "urllib3", "http", "socket", "ssl", "ftplib", "smtplib", "httpx", "aiohttp"}
FETCHES = "models/download.py"
STARTS_NAPARI = "cli/demo.py"
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


IMPORT_ALL = """
import importlib, pkgutil
import napari_medsam
names = [each.name for each in pkgutil.walk_packages(napari_medsam.__path__, "napari_medsam.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names))
"""


def run_without_network(code, argv, folder):
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        cwd=folder,
        env={
            **os.environ,
            "NAPARI_MEDSAM_RECOVERY": str(folder / "recovery"),
            "QT_QPA_PLATFORM": "offscreen",
        },
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )


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
            roots = {str(name).partition(".")[0] for name in names}
            assert not NEVER_IMPORTED & roots, f"line {node.lineno}"
            plain = {alias.name for alias in node.names}
            assert module is None or not BY_NAME.get(module, set()) & plain, f"line {node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_one_file_alone_can_ask_the_network_and_one_start_a_program(path):
    place = path.relative_to(ROOT).as_posix()
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.Call):
            assert called(node) not in ("pooch.retrieve", "pooch.create", "torch.hub.load"), (
                f"line {node.lineno}"
            )
            if called(node).startswith("subprocess."):
                assert isinstance(node.args[0], ast.List | ast.Name), f"line {node.lineno}: a list, no text"
    assert bool(found & NETWORK) == (place == FETCHES)
    assert ("subprocess" in found) == (place == STARTS_NAPARI)


def test_no_file_is_mapped_by_a_reader():
    """A mapped file that shrinks ends the process with a signal."""
    readers = [*ROOT.glob("formats/*.py"), ROOT / "volume.py", *ROOT.glob("export/*.py")]
    assert len(readers) > 15
    for path in readers:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"import mmap|np\.memmap|mmap_mode|mmap\.mmap", text), path.name


def test_xml_of_a_file_cannot_define_entities():
    """Nested, they unfold to gigabytes; external ones name other files."""
    from napari_medsam.formats.caret import parse_label_table

    kinds = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b SYSTEM "file:///etc/hostname">]>'
    label = '<Label Key="1" Red="1" Green="0" Blue="0">{}</Label>'
    table = f"<CaretExtension><LabelTable>{label}</LabelTable></CaretExtension>"
    assert parse_label_table(table.format("liver").encode()) == {1: ("liver", (255, 0, 0))}
    hostile = kinds + table.format("&a;&b;")
    assert parse_label_table(hostile.encode()) is None
    # The bytes of CaretExtension are seven letters of another script in UTF-16.
    disguised = b"\xff\xfe" + f"<!--{b'CaretExtension'.decode('utf-16-le')}-->{hostile}".encode("utf-16-le")
    assert b"CaretExtension" in disguised
    assert parse_label_table(disguised) is None
    assert parse_label_table(disguised.replace(b"&\0b\0;\0", b"")) is None


def test_weights_come_by_https_from_a_fixed_address_with_a_digest():
    addresses = [spec for spec in MODELS.values() if spec.url]
    assert addresses
    for spec in addresses:
        assert spec.url.startswith("https://"), spec.name
        assert "{" not in spec.url, spec.name
        assert re.fullmatch(r"sha256:[0-9a-f]{64}|(md5|xxh128):[0-9a-f]{32}", spec.digest), spec.name
        assert "/" not in spec.file, spec.name
        assert "\\" not in spec.file, spec.name
    # Their makers publish no other digest.
    assert {spec.name for spec in addresses if not spec.digest.startswith("sha256:")} == {
        "medsam_vit_b",
        "medicosam_vit_b",
    }


class Reply:
    """What the library for downloads answers."""

    status_code = 200

    def __init__(self, url, chunks, length=0):
        self.url, self.chunks = url, chunks
        self.headers = {"Content-Length": str(length)} if length else {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def raise_for_status(self):
        pass

    def iter_content(self, size):
        yield from self.chunks


def test_a_download_that_is_led_away_from_https_is_not_followed(tmp_path, monkeypatch):
    spec = MODELS["sam_vit_b"]
    monkeypatch.setattr("requests.get", lambda *_, **__: Reply("http://example.org/a", [b"not weights"]))
    with pytest.raises(DownloadError, match=r"^https://.* leads to an address without encryption, .*\.$"):
        list(download(spec, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_download_without_end_is_given_up(tmp_path, monkeypatch):
    spec = replace(MODELS["sam_vit_b"], size_bytes=5 << 20)
    endless = (bytes(1 << 20) for _ in range(10**6))
    monkeypatch.setattr("requests.get", lambda *_, **__: Reply(spec.url, endless))
    told = download(spec, tmp_path)
    received = [next(told)[0] for _ in range(11)]
    with pytest.raises(DownloadError, match="is not the file that was published"):
        next(told)
    assert received[-1] == 11 << 20
    assert list(tmp_path.iterdir()) == []


def test_importing_everything_asks_for_no_network(tmp_path):
    walk = NO_NETWORK.partition("from napari_medsam.cli")[0] + IMPORT_ALL
    done = run_without_network(walk, [], tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_the_demo_asks_for_no_network(tmp_path):
    done = run_without_network(NO_NETWORK, ["demo", "--no-viewer", "--out", "demo"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo" / "overview.png").is_file()


def test_segmenting_and_replaying_ask_for_no_network(tmp_path):
    import SimpleITK

    voxels = np.zeros((6, 32, 32), np.int16)
    voxels[1:5, 8:24, 8:24] = 100
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(tmp_path / "ct.nii.gz"))
    segment = ["segment", "ct.nii.gz", "--box", "3,6,6,26,26", "-o", "out.nii.gz"]
    replay = ["replay", "out.session.json", "-o", "again.nii.gz"]
    for argv in (segment, replay):
        done = run_without_network(NO_NETWORK, argv, tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.nii.gz").read_bytes() == (tmp_path / "out.nii.gz").read_bytes()


def test_the_guard_would_notice_a_connection(tmp_path):
    """Otherwise the test above could not fail."""
    connects = NO_NETWORK.replace("app()", "socket.create_connection(('localhost', 9))")
    assert "the network was asked for" in run_without_network(connects, [], tmp_path).stderr
