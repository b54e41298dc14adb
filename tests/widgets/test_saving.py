"""What Save writes: every format of ``napari-medsam export``, with the names and colours on screen."""

from __future__ import annotations

import json
from pathlib import Path

import napari
import numpy as np
import pytest
from bright_model import BrightModel
from bright_segmenter import bright_segmenter
from dicom_series import write_series
from hand import Hand, needs_display
from napari.components import ViewerModel
from qtpy.QtCore import Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QComboBox, QFileDialog, QLineEdit, QMessageBox

from napari_medsam.export import placed_on, read_segmentation
from napari_medsam.formats import dicom_objects
from napari_medsam.journal import Do
from napari_medsam.predictor import SlicePredictor
from napari_medsam.prompts import SliceIndex, prompts_from_json
from napari_medsam.session_file import content_from_json, read_document
from napari_medsam.volume import Geometry, Volume, read_labels, read_volume
from napari_medsam.widgets.actions import PLUGIN, WIDGET
from napari_medsam.widgets.contrib import image_layer
from napari_medsam.widgets.keeper import Keeper
from napari_medsam.widgets.planes import box_corners
from napari_medsam.widgets.saving import DICOM, KINDS, NNUNET, kinds_for, path_of_kind

pytestmark = [
    pytest.mark.canvas,
    needs_display,
    # Third parties' own, on the way to a window.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SHAPE = (6, 20, 30)
GRID = Geometry(SHAPE, (3.0, 0.7, 0.8), (-20.5, 33.25, 801.125))
PLACES = np.s_[2, 5:15, 10:20]


def segmented(viewer, source):
    """A liver on slice 2 of a scan that came from `source`, in a viewer without a window."""
    voxels = np.zeros(SHAPE, np.float32)
    voxels[:, 5:15, 10:20] = 1
    made = bright_segmenter(Volume(voxels, GRID, "MR", str(source), ()), 2, (3, 8, 17, 22), viewer)
    made.layers.rename(1, "liver")
    assert made.layers.census.voxels(1) == 100
    return made


def expected():
    labels = np.zeros(SHAPE, np.uint8)
    labels[PLACES] = 1
    return labels


@pytest.fixture
def said(monkeypatch):
    shown = []
    monkeypatch.setattr("napari_medsam.widgets.messages.show_warning", shown.append)
    return shown


@pytest.mark.parametrize("name", ["out.nii.gz", "out.nii", "out.seg.nrrd"])
def test_names_and_colours_on_screen_go_into_the_file(tmp_path, name):
    """What is green and called liver here is green and called liver in the next program."""
    made = segmented(ViewerModel(), tmp_path / "scan.nii.gz")
    assert made.save(tmp_path / name)
    found = read_segmentation(tmp_path / name)
    np.testing.assert_array_equal(found.labels, expected())
    (segment,) = found.segments
    assert (segment.label, segment.name) == (1, "liver")
    np.testing.assert_allclose(
        np.array(segment.color) / 255, made.layers.masks.palette.colour(1)[:3], atol=0.5 / 255
    )
    (thing,) = prompts_from_json((tmp_path / "out.prompts.json").read_bytes(), GRID)
    assert thing == made.layers.session.objects[1]


@pytest.mark.parametrize("name", ["out.nrrd", "out.mha"])
def test_voxels_alone_where_the_format_holds_no_names(tmp_path, name):
    made = segmented(ViewerModel(), tmp_path / "scan.nii.gz")
    assert made.save(tmp_path / name)
    np.testing.assert_array_equal(read_labels(tmp_path / name).array, expected())


def test_itksnap_gets_its_descriptions_and_a_label_map(tmp_path):
    """Descriptions hold no voxels: saving them alone would lose the work."""
    made = segmented(ViewerModel(), tmp_path / "scan.nii.gz")
    assert made.save(tmp_path / "out.txt")
    assert '"liver"' in (tmp_path / "out.txt").read_text()
    np.testing.assert_array_equal(read_labels(tmp_path / "out.nii.gz").array, expected())


def test_nnunet_gets_image_labels_and_names(tmp_path):
    made = segmented(ViewerModel(), tmp_path / "scan 1.nii.gz")
    folder = tmp_path / "Dataset007_Liver"
    assert made.save(folder)
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {"background": 0, "liver": 1}
    np.testing.assert_array_equal(read_labels(folder / "labelsTr" / "scan_1.nii.gz").array, expected())
    np.testing.assert_array_equal(
        read_volume(folder / "imagesTr" / "scan_1_0000.nii.gz").array,
        made.layers.session.volume.array,
    )


def test_a_series_gets_a_dicom_segmentation(tmp_path):
    """The series is one of two in its folder, as on a hospital's disk: the one that was segmented."""
    pytest.importorskip("highdicom")
    write_series(tmp_path / "ct", Geometry(SHAPE, (3.0, 0.7, 0.8), (0.0, 0.0, 0.0)), uid="1.2.3.1")
    for path in list((tmp_path / "ct").iterdir()):
        path.rename(path.with_name(f"other_{path.name}"))
    write_series(tmp_path / "ct", GRID, uid="1.2.3.2")
    viewer = ViewerModel()
    made = segmented(viewer, tmp_path / "ct")
    made.layers.image.metadata["napari_medsam"]["series"] = "1.2.3.2"
    assert made.save(tmp_path / "seg.dcm")
    found = placed_on(read_segmentation(tmp_path / "seg.dcm"), GRID)
    np.testing.assert_array_equal(found.labels, expected())
    assert [each.name for each in found.segments] == ["liver"]
    assert made.unsaved == []


def test_a_missing_extra_is_one_sentence_and_the_work_stays_unsaved(tmp_path, said, monkeypatch):
    def missing(name):
        raise ImportError(name)

    write_series(tmp_path / "ct", GRID)
    made = segmented(ViewerModel(), tmp_path / "ct")
    monkeypatch.setattr(dicom_objects, "import_module", missing)
    made.save(tmp_path / "seg.dcm")
    (sentence,) = said
    assert sentence.startswith(f"'{tmp_path / 'seg.dcm'}' cannot be written: DICOM segmentations need ")
    assert sentence.endswith('run: pip install "napari-medsam[dicom]".')
    assert made.unsaved == [made.layers]
    assert not (tmp_path / "seg.dcm").exists()


def test_dicom_is_offered_for_dicom_only(tmp_path):
    """A choice that can only fail is none."""
    for source, offered in ((tmp_path, True), (tmp_path / "a.dcm", True), (tmp_path / "a.nii.gz", False)):
        session = segmented(ViewerModel(), source).layers.session
        assert (DICOM in kinds_for(session)) is offered


@pytest.mark.parametrize(
    ("typed", "ending", "is_chosen", "path"),
    [
        ("organs", ".nii.gz", False, "organs.nii.gz"),
        ("organs.v2", ".seg.nrrd", True, "organs.v2.seg.nrrd"),
        ("organs.nrrd", ".nii.gz", False, "organs.nrrd"),
        ("scan_seg.nii.gz", ".seg.nrrd", True, "scan_seg.seg.nrrd"),
        ("scan.seg.nrrd", ".nrrd", True, "scan.nrrd"),
        ("scan.NII.GZ", ".nii.gz", True, "scan.NII.GZ"),
        ("scan_seg.nii.gz", NNUNET, True, "Dataset001_scan_seg"),
        ("Dataset012_Liver", ".nii.gz", False, "Dataset012_Liver"),
    ],
)
def test_the_chosen_kind_names_the_file(typed, ending, is_chosen, path):
    """Whoever chooses 3D Slicer and leaves the suggested .nii.gz gets what they chose."""
    assert path_of_kind(Path("x") / typed, ending, is_chosen=is_chosen) == Path("x") / path


@pytest.fixture
def keeper(tmp_path):
    """One that keeps a segmented scan, and asks by itself nothing."""
    made = Keeper(ViewerModel())
    made.segmenter.model.replace("bright", SlicePredictor(BrightModel()))
    made.segmenter.choose(segmented(made.viewer, tmp_path / "scan.nii.gz").layers.image)
    yield made
    made.worker.stop()


def test_another_file_is_not_replaced_unasked(keeper, tmp_path, monkeypatch):
    """The dialog asked about the .txt; nobody asked about the label map beside it."""
    (tmp_path / "organs.nii.gz").write_bytes(b"somebody's")
    monkeypatch.setattr(
        QFileDialog, "getSaveFileName", lambda *args: (str(tmp_path / "organs"), KINDS[".txt"])
    )
    asked = []
    monkeypatch.setattr(
        QMessageBox, "question", lambda *args: asked.append(args[2]) or QMessageBox.StandardButton.No
    )
    assert not keeper.save(elsewhere=True)
    assert asked == [f"'{tmp_path / 'organs.nii.gz'}' is there already. Replace it?"]
    assert (tmp_path / "organs.nii.gz").read_bytes() == b"somebody's"


def test_prompts_of_other_work_are_not_replaced_unasked(keeper, tmp_path, monkeypatch):
    """organs.nii.gz has its prompts in organs.prompts.json: a new organs.seg.nrrd would take their place."""
    prompts = tmp_path / "organs.prompts.json"
    prompts.write_text("somebody's")
    typed = str(tmp_path / "organs.seg.nrrd")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *args: (typed, KINDS[".seg.nrrd"]))
    asked = []
    monkeypatch.setattr(
        QMessageBox, "question", lambda *args: asked.append(args[2]) or QMessageBox.StandardButton.No
    )
    assert not keeper.save(elsewhere=True)
    assert asked == [f"'{prompts}' is there already. Replace it?"]
    assert prompts.read_text() == "somebody's"


def test_one_work_in_two_formats_is_not_asked_about(keeper, tmp_path, monkeypatch):
    """Both have the same prompts."""
    asked = []
    monkeypatch.setattr(QMessageBox, "question", lambda *args: asked.append(args[2]))
    for ending in (".nii.gz", ".seg.nrrd"):
        typed = str(tmp_path / f"organs{ending}"), KINDS[ending]
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *args, typed=typed: typed)
        assert keeper.save(elsewhere=True)
        while keeper.worker.is_busy:
            QTest.qWait(5)
    assert asked == []
    assert (tmp_path / "organs.seg.nrrd").exists()


def test_labels_are_not_saved_over_their_image(tmp_path, said):
    """The dialog asks whether to replace the file; a tired yes must not cost the scan."""
    for name in ("scan.nii.gz", "scan.txt"):
        made = segmented(ViewerModel(), tmp_path / "scan.nii.gz")
        (tmp_path / "scan.nii.gz").write_bytes(b"the scan")
        made.save(tmp_path / name)
        assert (
            said.pop() == f"'{tmp_path / 'scan.nii.gz'}' is the image itself: give the labels another name."
        )
        assert made.unsaved == [made.layers]
        assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [
            ("scan.nii.gz", b"the scan")
        ]


@pytest.fixture
def hand(qtbot, tmp_path):
    """A window with a bright block in a scan, segmented on slice 2, and Qt's own dialogs."""
    QApplication.setAttribute(Qt.ApplicationAttribute.AA_DontUseNativeDialogs)
    viewer = napari.Viewer(show=True)
    made = Hand(viewer)
    made.dock = viewer.window.add_plugin_dock_widget(PLUGIN, WIDGET)[1]
    made.until(lambda: not made.dock.worker.is_busy)
    made.dock.segmenter.model.replace("bright", SlicePredictor(BrightModel()))
    voxels = np.zeros(SHAPE, np.float32)
    voxels[:, 5:15, 10:20] = 1
    data, attributes, _ = image_layer(Volume(voxels, GRID, "MR", str(tmp_path / "scan.nii.gz"), ()), "scan")
    viewer.add_image(data, **attributes)
    viewer.dims.set_current_step(0, 2)
    made.dock.segmenter.draw_box()
    layers = made.dock.segmenter.layers
    layers.boxes.add_rectangles([box_corners(SliceIndex(0, 2), (3, 8, 17, 22), 3)])
    made.until(lambda: layers.census.voxels(1) == 100)
    layers.rename(1, "liver")
    yield made
    for each in made.dock.segmenter.unsaved:
        each.unsaved = False
    made.dock.worker.stop()
    viewer.close()


def answer(kind, name):
    """In the dialog that is about to come, choose the kind that ends like `kind`, type a name, Return."""

    def reply():
        dialog = QApplication.activeModalWidget()
        boxes = {each: texts(each) for each in dialog.findChildren(QComboBox)}
        ((box, chosen),) = [
            (box, text) for box, known in boxes.items() for text in known if text.endswith(kind)
        ]
        box.setCurrentText(chosen)
        box.textActivated.emit(chosen)
        line = dialog.findChild(QLineEdit)
        line.selectAll()
        QTest.keyClicks(line, name)
        QTest.keyClick(line, Qt.Key.Key_Return)

    QTimer.singleShot(300, reply)


def texts(box):
    return [box.itemText(n) for n in range(box.count())]


def test_as_offers_slicer_and_save_goes_on_there(hand, tmp_path):
    """With mouse and keys: As..., another kind, Return; and after a change Ctrl+Shift+S."""
    dock = hand.dock
    answer(KINDS[".seg.nrrd"], "mine")
    QTest.mouseClick(dock.save_as_button, Qt.MouseButton.LeftButton)
    hand.until(lambda: not dock.worker.is_busy and (tmp_path / "mine.seg.nrrd").exists())
    np.testing.assert_array_equal(read_segmentation(tmp_path / "mine.seg.nrrd").labels, expected())
    dock.segmenter.layers.rename(1, "spleen")
    hand.key(Qt.Key.Key_S, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
    hand.until(lambda: not dock.worker.is_busy and not dock.segmenter.unsaved)
    assert [each.name for each in read_segmentation(tmp_path / "mine.seg.nrrd").segments] == ["spleen"]
    written = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert written == ["mine.prompts.json", "mine.seg.nrrd", "mine.session.json"]


def test_naparis_own_save_writes_a_slicer_file(hand, tmp_path):
    """File > Save Selected Layers, as for every other layer in napari."""
    hand.viewer.layers.selection.active = hand.dock.segmenter.layers.labels
    answer("3D Slicer segmentation (*.seg.nrrd)", str(tmp_path / "napari"))
    menu = next(each for each in hand.window.menuBar().actions() if each.text().replace("&", "") == "File")
    (save,) = [each for each in menu.menu().actions() if each.text().startswith("Save Selected Layer")]
    save.trigger()
    hand.until(lambda: (tmp_path / "napari.seg.nrrd").exists())
    (segment,) = read_segmentation(tmp_path / "napari.seg.nrrd").segments
    assert segment.name == "liver"
    assert segment.color == hand.dock.segmenter.layers.masks.palette.colours()[1]
    # How it was made goes beside it, as with the panel's own Save.
    session = hand.dock.segmenter.layers.session
    content = content_from_json(read_document(tmp_path / "napari.session.json"), session.volume)
    np.testing.assert_array_equal(content.labels, session.labels)
    assert [step.action.kind for step in content.steps] == [Do.ADD, Do.PROMPT, Do.RENAME]


def test_naparis_own_save_of_other_labels_says_nothing_of_a_session(tmp_path):
    """Labels that came from elsewhere were not made here."""
    viewer = ViewerModel()
    made = segmented(viewer, "")
    other = viewer.add_labels(np.zeros(SHAPE, np.uint8), metadata=made.layers.image.metadata)
    viewer.layers.selection = {other}
    viewer.layers.save(str(tmp_path / "other.nii.gz"), selected=True, plugin=PLUGIN)
    assert (tmp_path / "other.nii.gz").exists()
    assert not (tmp_path / "other.session.json").exists()
