"""A download may stop at any time and goes on; what is not the published file never gets its name."""

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from itertools import islice
from pathlib import Path
from socketserver import ThreadingTCPServer

import pytest

from napari_medsam.models import download as module
from napari_medsam.models.download import DownloadError, download
from napari_medsam.models.specs import MODELS

CONTENT = bytes(range(256)) * 20_000


class Server(ThreadingTCPServer):
    """Serves `CONTENT` on the loopback device, and can be told to misbehave."""

    ranges = True
    breaks_after: int | None = None
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)
        first = int(asked[6:-1]) if asked and server.ranges else 0
        if server.status != 200:
            self.send_error(server.status)
            return
        if first >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(CONTENT) - first))
        self.end_headers()
        # Some tests hang up in the middle.
        with suppress(ConnectionError):
            self.wfile.write(CONTENT[first : server.breaks_after])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def spec(server):
    digest = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
    url = f"http://127.0.0.1:{server.server_address[1]}/weights"
    return replace(MODELS["sam_vit_b"], file="weights.pth", url=url, size_bytes=len(CONTENT), digest=digest)


def test_progress_grows_to_the_whole_and_the_file_gets_its_name(spec, tmp_path):
    steps = list(download(spec, tmp_path / "models"))
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["weights.pth"]
    assert (tmp_path / "models" / "weights.pth").read_bytes() == CONTENT


def test_a_file_that_is_there_is_not_fetched_again(spec, server, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"mine")
    assert list(download(spec, tmp_path)) == []
    assert server.asked == []


def test_cancelled_and_asked_again_it_fetches_the_rest_only(spec, server, tmp_path):
    work = download(spec, tmp_path)
    (done, _), *_ = islice(work, 1)
    work.close()
    assert (tmp_path / "weights.pth.part").stat().st_size == done
    assert not (tmp_path / "weights.pth").exists()
    steps = list(download(spec, tmp_path))
    assert server.asked == [None, f"bytes={done}-"]
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


def test_a_broken_connection_is_told_and_the_next_try_goes_on(spec, server, tmp_path):
    server.breaks_after = 3_000_000
    with pytest.raises(DownloadError, match="it goes on where it stopped"):
        list(download(spec, tmp_path))
    server.breaks_after = None
    list(download(spec, tmp_path))
    assert server.asked[1] is not None
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


def test_a_server_that_cannot_resume_starts_anew(spec, server, tmp_path):
    (tmp_path / "weights.pth.part").write_bytes(b"first part")
    server.ranges = False
    list(download(spec, tmp_path))
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


def test_a_part_that_was_complete_needs_its_check_only(spec, server, tmp_path):
    (tmp_path / "weights.pth.part").write_bytes(CONTENT)
    assert list(download(spec, tmp_path)) == []
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


def test_who_finishes_first_keeps_the_right_file(spec, tmp_path):
    """A window and a terminal may fetch the same weights; the slower one must not write behind their end."""
    slow = download(spec, tmp_path)
    next(slow)
    list(download(spec, tmp_path))
    with pytest.raises(DownloadError):
        list(slow)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


def test_two_at_once_do_not_spoil_each_other_s_file(spec, tmp_path):
    first, second = download(spec, tmp_path), download(spec, tmp_path)
    next(first)
    next(second)
    with pytest.raises(DownloadError, match="is written by another program, too"):
        next(first)
    list(second)
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "xxh128"])
def test_another_file_than_the_published_one_is_thrown_away(spec, algorithm, tmp_path):
    with pytest.raises(DownloadError, match=r"is not the file that was published as weights\.pth"):
        list(download(replace(spec, digest=f"{algorithm}:00"), tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_server_s_refusal_says_what_to_do_instead(spec, server, tmp_path):
    server.status = 404
    with pytest.raises(DownloadError, match=r"the server answered 404.*fetch it from https://github.com"):
        list(download(spec, tmp_path))


def test_without_a_server_the_sentence_is_the_same(spec, tmp_path):
    with pytest.raises(DownloadError, match=r"ConnectionError.*try again"):
        list(download(replace(spec, url="http://127.0.0.1:1/weights"), tmp_path))


def test_a_full_disk_is_seen_before_it_is_full(spec, monkeypatch, tmp_path):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: _NoRoom)
    with pytest.raises(DownloadError, match=r"needs 5 MB more .* has 0 MB free"):
        list(download(spec, tmp_path))


@pytest.mark.parametrize("in_the_way", ["models", "models/weights.pth.part"])
def test_a_folder_that_cannot_be_written_is_told_in_one_sentence(spec, in_the_way, tmp_path):
    (tmp_path / in_the_way).parent.mkdir(exist_ok=True)
    if in_the_way == "models":
        (tmp_path / in_the_way).write_bytes(b"")
    else:
        (tmp_path / in_the_way).mkdir()
    with pytest.raises(DownloadError, match=r"cannot be put into .*models \(.*\): make room there, or set"):
        list(download(spec, tmp_path / "models"))


class _NoRoom:
    free = 1000


class HalfWritten:
    """A file that takes half of what it is given, and then no more."""

    def __init__(self, file, fault):
        self.file, self.fault = file, fault

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def seek(self, *where):
        return self.file.seek(*where)

    def write(self, chunk):
        self.file.write(chunk[: len(chunk) // 2])
        raise OSError(self.fault, os.strerror(self.fault))


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("step", ["made", "half written", "renamed"])
def test_a_disk_that_refuses_is_told_and_the_next_try_goes_on(spec, fault, step, monkeypatch, tmp_path):
    folder = tmp_path / "models"
    open_file = Path.open

    def refuse(*asked, **more):
        raise OSError(fault, os.strerror(fault))

    def half(path, mode="r", *more):
        file = open_file(path, mode, *more)
        return HalfWritten(file, fault) if mode != "rb" else file

    with monkeypatch.context() as patched:
        match step:
            case "made":
                patched.setattr(Path, "mkdir", refuse)
            case "half written":
                patched.setattr(Path, "open", half)
            case "renamed":
                patched.setattr(os, "replace", refuse)
        with pytest.raises(DownloadError, match=os.strerror(fault)) as told:
            list(download(spec, folder))
    assert str(told.value).startswith(f"{spec.file} cannot be put into {folder} (")
    assert not (folder / spec.file).exists()
    list(download(spec, folder))
    assert [path.name for path in folder.iterdir()] == [spec.file]
    assert (folder / spec.file).read_bytes() == CONTENT


def test_weights_that_only_people_may_fetch_are_described(tmp_path):
    with pytest.raises(DownloadError, match=r"fetch lite_medsam\.pth from https://drive\.google\.com"):
        list(download(MODELS["lite_medsam"], tmp_path))
