"""napari finds the plugin in every kind of installation, and everything the manifest promises exists."""

import importlib.resources
import tarfile
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from npe2 import PluginManager, PluginManifest

ROOT = Path(__file__).parent.parent
IN_WHEEL = "napari_medsam_manifest/napari.yaml"


@pytest.fixture(scope="module")
def manifest():
    return PluginManifest.from_file(ROOT / "napari.yaml")


def build(builder, target, version="standard"):
    (path,) = builder.build(directory=str(target), versions=[version])
    return Path(path)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The source distribution, unpacked: what a packager gets."""
    target = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(SdistBuilder(str(ROOT)), target)) as archive:
        archive.extractall(target, filter="data")
    (folder,) = (path for path in target.iterdir() if path.is_dir())
    return folder


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """The wheel that is published: built from the unpacked sdist, with no repository around it."""
    return zipfile.ZipFile(build(WheelBuilder(str(sdist)), tmp_path_factory.mktemp("wheel")))


def test_manifest_is_valid_and_its_functions_exist(manifest):
    """A misspelled function shows only when a user clicks on it."""
    manifest.validate_imports()


def test_wheel_carries_the_manifest(wheel):
    """Without it `pip install napari-medsam` gives a plugin that napari does not see."""
    assert wheel.read(IN_WHEEL) == (ROOT / "napari.yaml").read_bytes()
    points = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "napari-medsam = napari_medsam_manifest:napari.yaml" in wheel.read(points).decode()


def test_wheel_carries_every_file_of_the_package(wheel):
    """A model without its weights, or prompts without their schema, fail right after `pip install`."""
    package = ROOT / "napari_medsam"
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= set(wheel.namelist())


def test_sdist_carries_what_a_packager_needs(sdist):
    """Distributions build and test from the source archive alone."""
    for name in ("napari.yaml", "constraints.txt", "LICENSE", "Makefile", "tests/test_manifest.py"):
        assert (sdist / name).is_file(), name


def test_editable_wheel_carries_the_manifest(tmp_path):
    """A contributor's `pip install -e .` must show the plugin in napari, too."""
    with zipfile.ZipFile(build(WheelBuilder(str(ROOT)), tmp_path, "editable")) as wheel:
        assert wheel.read(IN_WHEEL) == (ROOT / "napari.yaml").read_bytes()
        assert any(name.endswith(".pth") for name in wheel.namelist())


def test_installed_manifest_is_current():
    """An editable installation holds a copy, which stays behind when the manifest changes."""
    installed = importlib.resources.files("napari_medsam_manifest") / "napari.yaml"
    current = (ROOT / "napari.yaml").read_text(encoding="utf-8")
    assert installed.read_text(encoding="utf-8") == current, "run pip install -e . again"


def test_npe2_discovers_the_installed_plugin():
    """The entry point, the namespace folder and the name of the plugin have to agree."""
    plugins = PluginManager()
    plugins.discover()
    assert plugins.get_manifest("napari-medsam").display_name == "MedSAM"


@pytest.mark.parametrize(
    "name", ["a.nii", "A.NII.GZ", "case.01.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd", "a.dcm"]
)
def test_files_find_their_reader(manifest, name):
    """A file whose name fits no pattern opens with an error, though its format is known."""
    plugins = PluginManager()
    plugins.register(manifest)
    assert [reader.command for reader in plugins.iter_compatible_readers(f"folder/{name}")] == [
        "napari-medsam.get_file_reader"
    ]


def test_folders_find_the_dicom_reader(manifest, tmp_path):
    """A folder goes to the DICOM reader, and only to that one."""
    plugins = PluginManager()
    plugins.register(manifest)
    assert [reader.command for reader in plugins.iter_compatible_readers(str(tmp_path))] == [
        "napari-medsam.get_folder_reader"
    ]
