"""What all tests share: real data where there is some, and how Hypothesis runs."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent

settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real cases, one subfolder each with image.nii.gz, labels.nii.gz and meta.json."""
    folder = os.environ.get("NAPARI_MEDSAM_TEST_DATA", "")
    if not folder:
        pytest.skip("real cases are not shipped; set NAPARI_MEDSAM_TEST_DATA to a folder of them")
    if not any(Path(folder).glob("*/image.nii.gz")):
        pytest.fail(
            f"NAPARI_MEDSAM_TEST_DATA is '{folder}', expected a folder of cases with an image.nii.gz each"
        )
    return Path(folder)


@pytest.fixture(autouse=True)
def _own_recovery_folder(monkeypatch, tmp_path):
    """Work in progress of tests is not that of whoever runs them."""
    monkeypatch.setenv("NAPARI_MEDSAM_RECOVERY", str(tmp_path / "recovery"))


@pytest.fixture
def viewer(monkeypatch, npe2pm):
    """A viewer without a window, the current one, that knows this plugin and no other."""
    import napari
    from napari.components import ViewerModel

    model = ViewerModel()
    monkeypatch.setattr(napari, "current_viewer", lambda: model)
    with npe2pm.tmp_plugin(manifest=str(ROOT / "napari.yaml")):
        yield model


@pytest.fixture
def warnings(monkeypatch):
    """What napari would show the user as a warning."""
    shown = []
    monkeypatch.setattr("napari.utils.notifications.show_warning", shown.append)
    return shown
