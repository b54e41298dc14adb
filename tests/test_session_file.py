"""How labels were made, and made again: if these fail, nobody can say where a mask came from."""

import base64
import copy
import hashlib
import json
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import work_steps
from bright_model import BrightModel
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from typer.testing import CliRunner
from work_steps import SHAPE, WINDOW, box, facts, stroke

import napari_medsam.models
from napari_medsam import tasks
from napari_medsam.cli import app
from napari_medsam.geometry import Geometry, Volume, VolumeError
from napari_medsam.journal import Do, JournalError
from napari_medsam.predictor import SlicePredictor
from napari_medsam.prompts import PromptError, SliceIndex
from napari_medsam.replay import difference, replay
from napari_medsam.session import Session
from napari_medsam.session_file import (
    Snapshot,
    content_from_json,
    document_from_text,
    read_document,
    session_path,
    session_to_json,
    write_session,
)
from napari_medsam.volume import read_labels
from napari_medsam.windowing import Window


def make_volume():
    return work_steps.make_volume(source="/home/somebody/scans/scan.nii.gz")


def make_session(window=WINDOW):
    return work_steps.make_session(make_volume(), "/home/somebody/own.pth", window)


@pytest.fixture
def session():
    """Boxes, a carried object with a stroke in between, corrections, a merged object, steps taken back."""
    made = make_session()
    box(made, 1, 2)
    action = tasks.carry(made, 0, [1], 0, 5)
    for n, part in enumerate(tasks.parts_of(made, action)):
        with made.doing(action):
            made.write(part)
        if n == 2:
            stroke(made, 5, 2)
    made.window = Window(0.0, 3.0, "wide")
    box(made, 3, 3, (0, 0, 8, 12))
    list(tasks.run(made, tasks.correction(made, 1, SliceIndex(0, 2), "grow", whole=True)))
    made.remove_object(3, into=2)
    made.mark(1, SliceIndex(0, 2), "accepted")
    box(made, 4, 4)
    made.undo()
    return made


def said(session):
    return json.loads(json.dumps(session_to_json(Snapshot.of(session))))


def test_a_session_is_made_again_from_the_image_alone(session):
    content = content_from_json(said(session), make_volume())
    again = make_session(Window(0.0, 9.0, "another"))
    assert list(replay(again, content.steps)) == list(range(1, len(content.steps) + 1))
    np.testing.assert_array_equal(again.labels, session.labels)
    assert facts(again) == facts(session)
    assert difference(again, content).voxels == 0


def test_a_session_that_was_made_again_says_the_same_of_itself(session):
    content = content_from_json(said(session), make_volume())
    again = make_session()
    list(replay(again, content.steps))
    once, twice = said(session), said(again)
    for each in (once, twice):
        for step in each["steps"]:
            del step["run"]
    assert once == twice


def test_a_session_that_is_opened_goes_on_where_it_ended(session):
    content = content_from_json(said(session), make_volume())
    opened = make_session(Window(0.0, 9.0, "another"))
    content.take_over(opened)
    np.testing.assert_array_equal(opened.labels, session.labels)
    assert facts(opened) == facts(session)
    assert opened.window == Window(0.0, 3.0, "wide")
    assert opened.undo() is None
    box(opened, 4, 4)
    content = content_from_json(said(opened), make_volume())
    again = make_session()
    list(replay(again, content.steps))
    np.testing.assert_array_equal(again.labels, opened.labels)


def test_an_opened_session_is_as_sure_of_its_slices_as_the_one_that_was_saved(session):
    known = session.ledger.reports[1][SliceIndex(0, 3)]
    session.ledger.report(1, known.where, replace(known, second_opinion=0.25))
    opened = make_session()
    content_from_json(said(session), make_volume()).take_over(opened)
    assert opened.review(1, 0).slices == session.review(1, 0).slices
    assert opened.ledger.reports[1][known.where].second_opinion == 0.25


def test_another_answer_of_the_model_is_told_by_voxels_and_slices(session):
    content = content_from_json(said(session), make_volume())
    content.labels[0, 0, :3] += 1
    content.labels[4, 1, 1] += 1
    again = make_session()
    list(replay(again, content.steps))
    found = difference(again, content)
    assert (found.voxels, found.slices) == (4, (0, 4))


def test_models_are_asked_by_the_names_that_steps_give(session):
    content, asked = content_from_json(said(session), make_volume()), []

    def load(name):
        asked.append(name)
        return SlicePredictor(BrightModel())

    again = Session(make_volume(), SlicePredictor(BrightModel()), window=WINDOW)
    list(replay(again, content.steps, load))
    assert asked == ["own.pth"]
    np.testing.assert_array_equal(again.labels, session.labels)


def test_the_file_says_what_made_the_mask_and_nothing_of_the_machine(session):
    document = said(session)
    assert document["image"]["name"] == "scan.nii.gz"
    assert "somebody" not in json.dumps(document)
    assert document["written_by"]["napari-medsam"]
    assert document["models"] == {"own.pth": {"weights": ""}}
    assert [each["label"] for each in document["objects"]] == [1]
    assert {"label": 1, "slice": [0, 2], "kind": "accepted"} in document["key_slices"]
    kinds = [step["do"] for step in document["steps"]]
    assert kinds == ["prompts", "carry", "paint", "carry", "prompts", "correct", "remove", "mark"]
    counts = {str(label): int((session.labels == label).sum()) for label in (1, 2)}
    assert document["labels"]["voxels"] == counts


def test_the_schema_allows_what_is_written_and_refuses_what_is_refused(session):
    path = Path(napari_medsam.__file__).with_name("session.schema.json")
    schema = Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))
    document = said(session)
    assert list(schema.iter_errors(document)) == []
    assert {step["do"] for step in document["steps"]} >= {"prompts", "carry", "paint", "correct", "remove"}
    for path, value in (
        (["steps", 0, "do"], "eval"),
        (["steps", 0, "changes"], [{"fact": "key", "label": 1, "after": "corrected"}]),
        (["review", 0, "score"], 1e99),
        (["review", 0, "second_opinion"], 2),
        (["image"], {}),
        (["objects"], None),
        (["unknown"], 1),
    ):
        assert list(schema.iter_errors(broken(document, path, value)))


def test_what_is_written_is_what_it_was_when_it_was_asked_for(session):
    state, before = Snapshot.of(session), said(session)
    stroke(session, 0, 1)
    session.rename(1, "later")
    assert json.loads(json.dumps(session_to_json(state))) == before


def test_a_file_goes_beside_the_labels_whatever_their_format(tmp_path):
    for name in ("a_seg.nii.gz", "a_seg.nii", "a_seg.seg.nrrd", "a_seg.dcm", "a_seg"):
        assert session_path(tmp_path / name) == tmp_path / "a_seg.session.json"


def test_a_session_survives_the_disk(session, tmp_path):
    path = write_session(session_to_json(Snapshot.of(session)), tmp_path / "a.session.json")
    content = content_from_json(read_document(path), make_volume())
    np.testing.assert_array_equal(content.labels, session.labels)


def test_another_image_or_grid_is_refused_with_what_is_expected(session):
    document, volume = said(session), make_volume()
    other = Volume(volume.array + 1, volume.geometry, "MR", "", ())
    with pytest.raises(JournalError, match=r"other voxels: open the one that it belongs to, 'scan\.nii\.gz'"):
        content_from_json(document, other)
    other = Volume(volume.array, Geometry(SHAPE, (2.0, 1.0, 1.0)), "MR", "", ())
    with pytest.raises(JournalError, match="another grid"):
        content_from_json(document, other)


def broken(document, path, value):
    changed = copy.deepcopy(document)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


BOMB = base64.b64encode(zlib.compress(bytes(1 << 28), 9)).decode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["version"], 2),
        (["version"], True),
        (["format"], "another"),
        (["image"], {}),
        (["image"], "/etc/passwd"),
        (["geometry"], None),
        (["steps"], {}),
        (["steps", 0], 3),
        (["steps", 0, "do"], "eval"),
        (["steps", 0, "run"], 0),
        (["steps", 0, "slice"], [0, 99]),
        (["steps", 0, "changes"], None),
        (["steps", 0, "changes"], [{"written": 1 << 60}]),
        (["steps", 0, "changes"], [{"written": 1, "fact": "key"}]),
        (["steps", 0, "changes"], [{"fact": "key", "label": 1, "slice": [0, 99], "after": "accepted"}]),
        (["steps", 1, "window"], "wide"),
        (["steps", 1, "axis"], 7),
        (["steps", 1, "labels"], []),
        (["steps", 1, "labels"], "all"),
        (["steps", 1, "first"], None),
        (["steps", 5, "operation"], "__import__"),
        (["objects"], []),
        (["objects"], None),
        (["review", 0, "score"], float("1e99")),
        (["review", 0, "second_opinion"], 2),
        (["review", 0, "second_opinion"], None),
        (["labels", "zlib"], BOMB),
        (["labels", "zlib"], "?"),
        (["labels", "zlib"], None),
        (["labels", "sha256"], "0"),
        (["window"], [1, 2]),
        (["unknown"], 1),
        (["models"], {"default": "/etc/passwd"}),
        (["models"], [1]),
    ],
)
def test_a_hostile_session_gets_one_sentence(session, path, value):
    document = json.dumps(broken(said(session), path, value))
    again = make_session()
    with pytest.raises((JournalError, ValueError)) as told:
        list(replay(again, content_from_json(document_from_text(document), make_volume()).steps))
    assert type(told.value).__module__.startswith("napari_medsam.")
    assert str(told.value).count("\n") == 0


@pytest.mark.parametrize(
    ("details", "said"),
    [
        ({"grid": 1 << 20}, "1048576 points a side"),
        ({"grid": 0}, "0 points a side"),
        ({"grid": True}, "no usable grid"),
        ({"min_score": "high"}, "no usable min_score: 'high'"),
        ({"min_stability": float("nan")}, "no usable min_stability"),
    ],
)
def test_a_search_that_would_never_end_is_refused(session, details, said):
    usual = {"grid": 4, "min_score": 0.5, "min_stability": 0.5}
    action = session.journal.action(Do.PROPOSE, 0, SliceIndex(0, 2), **usual | details)
    with pytest.raises(JournalError, match=said):
        list(tasks.parts_of(session, action))


def test_masks_that_a_session_only_claims_take_neither_memory_nor_time(session):
    document = said(session)
    changes = document["steps"][0]["changes"]
    changes += [{"written": (1 << 31) - 1}] * 1000
    content = content_from_json(document, make_volume())
    assert len(content.steps[0].changes) == len(changes)
    again = make_session()
    list(replay(again, content.steps))
    np.testing.assert_array_equal(again.labels, session.labels)


@given(st.data())
@settings(max_examples=150)
def test_damaged_text_never_ends_in_anything_but_a_sentence(data):
    """Whatever a disk or a person does to a session file."""
    made = make_session()
    box(made, 1, 2)
    text = bytearray(json.dumps(said(made)).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    # Anything but these two is raised, and fails the test.
    with suppress(JournalError, PromptError):
        content = content_from_json(document_from_text(bytes(text)), make_volume())
        list(replay(make_session(), content.steps))


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "large.session.json"
    with path.open("wb") as file:
        file.truncate(2 << 30)
    with pytest.raises(VolumeError, match="larger than 1024 MB"):
        read_document(path)


@pytest.fixture
def made(tmp_path):
    """What ``segment`` leaves of a phantom of one bright block."""
    import SimpleITK

    rng = np.random.default_rng(0)
    voxels = rng.normal(0, 20, (8, 48, 48)).astype(np.int16)
    voxels[2:6, 14:34, 14:34] += 120
    image = tmp_path / "ct.nii.gz"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(image))
    argv = ["segment", str(image), "-o", str(tmp_path / "out.nii.gz"), "--label", "1=block"]
    run = CliRunner().invoke(app, [*argv, "--box", "4,12,12,36,36"])
    assert run.exit_code == 0, run.output
    return tmp_path


def test_the_command_makes_the_same_file_again(made):
    argv = ["replay", str(made / "out.session.json"), "-o", str(made / "again.nii.gz")]
    run = CliRunner().invoke(app, argv)
    assert run.exit_code == 0, run.output
    assert "Every voxel is as it was in the session." in run.output
    assert (made / "again.nii.gz").read_bytes() == (made / "out.nii.gz").read_bytes()
    assert (read_labels(made / "again.nii.gz").array == 1).sum() > 500


def test_the_command_says_how_much_differs(made):
    document = json.loads((made / "out.session.json").read_text())
    labels = np.frombuffer(zlib.decompress(base64.b64decode(document["labels"]["zlib"])), "<u2").copy()
    labels[:7] = 1
    document["labels"]["zlib"] = base64.b64encode(zlib.compress(labels.tobytes())).decode()
    document["labels"]["sha256"] = hashlib.sha256(labels.tobytes()).hexdigest()
    document["models"]["default"]["weights"] = "sha256:0"
    (made / "out.session.json").write_text(json.dumps(document))
    argv = ["replay", str(made / "out.session.json"), "-o", str(made / "again.nii.gz")]
    run = CliRunner().invoke(app, argv)
    assert "7 voxels differ from the session's, on slices 0 to 0." in run.output
    assert "The weights of default are not those that were asked then." in run.output


def test_the_command_opens_no_other_file_than_the_user_names(made):
    document = json.loads((made / "out.session.json").read_text())
    below = made / "below"
    below.mkdir()
    for name in ("../ct.nii.gz", "..", str(made / "ct.nii.gz"), ""):
        document["image"]["name"] = name
        (below / "out.session.json").write_text(json.dumps(document))
        argv = ["replay", str(below / "out.session.json"), "-o", str(made / "x.nii.gz")]
        run = CliRunner().invoke(app, argv)
        assert run.exit_code == 2
        assert "does not say which image it was made on: give it by --image" in run.output
    weights = Path(napari_medsam.models.__file__).with_name("prompt_unet.safetensors")
    for own in (str(weights), f"sam={weights}"):
        document["models"] = {own: {"weights": ""}}
        document["image"]["name"] = "ct.nii.gz"
        for step in document["steps"]:
            if "model" in step:
                step["model"] = own
        (made / "out.session.json").write_text(json.dumps(document))
        argv = ["replay", str(made / "out.session.json"), "-o", str(made / "x.nii.gz")]
        run = CliRunner().invoke(app, argv)
        assert run.exit_code == 2
        assert "which does not come with a name of this program: give it by --model" in run.output
        assert not (made / "x.nii.gz").exists()


def test_the_command_does_not_replace_the_session_it_reads(made):
    before = (made / "out.session.json").read_bytes()
    argv = ["replay", str(made / "out.session.json"), "-o", str(made / "out.nii.gz")]
    run = CliRunner().invoke(app, argv)
    assert run.exit_code == 2
    assert (made / "out.session.json").read_bytes() == before
