"""What comes out of the cache is what went in, or nothing: a wrong embedding is a wrong mask, silently."""

import multiprocessing
import os

import numpy as np
import pytest

from napari_medsam import embedding_cache
from napari_medsam.embedding_cache import EmbeddingCache


def embedding(seed: int = 0, channels: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, channels, 8, 8)).astype(np.float32)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_put_comes_back_in_half_precision_from_memory_and_disk(tmp_path):
    cache = EmbeddingCache(tmp_path)
    kept = cache.put("a1", embedding())
    assert kept.dtype == np.float16
    np.testing.assert_array_equal(kept, embedding().astype(np.float16))
    for reader in (cache, EmbeddingCache(tmp_path)):
        np.testing.assert_array_equal(reader.get("a1"), kept)
        assert not reader.get("a1").flags.writeable
    assert cache.get("b2") is None


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = EmbeddingCache()
    cache.put("a1", embedding())
    assert cache.get("a1") is not None
    assert files(tmp_path) == []


def test_memory_keeps_what_was_used_last(tmp_path):
    cache = EmbeddingCache(memory_bytes=2 * embedding().astype(np.float16).nbytes)
    cache.put("a1", embedding(1))
    cache.put("b2", embedding(2))
    cache.get("a1")
    cache.put("c3", embedding(3))
    assert [name for name in ("a1", "b2", "c3") if cache.get(name) is not None] == ["a1", "c3"]


def test_disk_keeps_what_was_used_last(tmp_path):
    writer = EmbeddingCache(tmp_path)
    for age, name in ((30, "a1"), (20, "b2"), (10, "c3")):
        writer.put(name, embedding())
        path = tmp_path / f"{name}.embedding"
        os.utime(path, (path.stat().st_atime - age, path.stat().st_mtime - age))
    size = (tmp_path / "a1.embedding").stat().st_size
    small = EmbeddingCache(tmp_path, disk_bytes=3 * size)
    assert small.get("a1") is not None
    small.put("d4", embedding())
    assert files(tmp_path) == ["a1.embedding", "c3.embedding", "d4.embedding"]


@pytest.mark.parametrize("length", [0, 1, 31, 32, 40, 200, -1])
def test_a_torn_file_counts_as_absent_and_goes(length, tmp_path):
    EmbeddingCache(tmp_path).put("a1", embedding())
    path = tmp_path / "a1.embedding"
    os.truncate(path, length if length >= 0 else path.stat().st_size - 1)
    assert EmbeddingCache(tmp_path).get("a1") is None
    assert files(tmp_path) == []


def test_any_changed_byte_counts_as_absent(tmp_path):
    path = tmp_path / "a1.embedding"
    EmbeddingCache(tmp_path).put("a1", embedding())
    for position in range(0, path.stat().st_size, 29):
        EmbeddingCache(tmp_path).put("a1", embedding())
        content = bytearray(path.read_bytes())
        content[position] ^= 1
        path.write_bytes(content)
        assert EmbeddingCache(tmp_path).get("a1") is None, position


def test_a_file_under_another_address_counts_as_absent(tmp_path):
    EmbeddingCache(tmp_path).put("a1", embedding())
    os.rename(tmp_path / "a1.embedding", tmp_path / "b2.embedding")
    assert EmbeddingCache(tmp_path).get("b2") is None


def test_a_crash_while_writing_leaves_the_old_state(tmp_path, monkeypatch):
    cache = EmbeddingCache(tmp_path, memory_bytes=0)
    monkeypatch.setattr(embedding_cache.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.put("a1", embedding())
    monkeypatch.undo()
    assert cache.get("a1") is None
    assert [name.split(".")[-1] for name in files(tmp_path)] == ["partial"]
    os.utime(tmp_path / files(tmp_path)[0], (0, 0))
    cache.put("b2", embedding())
    assert files(tmp_path) == ["b2.embedding"]


def interrupted(*arguments):
    raise KeyboardInterrupt


def test_a_disk_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = EmbeddingCache(tmp_path / "file")
    cache.put("a1", embedding())
    np.testing.assert_array_equal(cache.get("a1"), embedding().astype(np.float16))


def test_a_folder_that_may_only_be_read_still_gives_what_is_in_it(tmp_path, monkeypatch):
    """An archive's or a colleague's cache on a read-only share."""
    kept = EmbeddingCache(tmp_path).put("a1", embedding())

    def refused(*arguments):
        raise PermissionError

    monkeypatch.setattr(embedding_cache.os, "utime", refused)
    np.testing.assert_array_equal(EmbeddingCache(tmp_path).get("a1"), kept)


def _write_until_killed(folder, ready):
    cache = EmbeddingCache(folder, memory_bytes=0)
    ready.set()
    while True:
        for name in range(4):
            cache.put(f"{name:02x}", embedding(name, 4096))


def test_a_process_killed_while_writing_leaves_right_embeddings_or_none(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    writer = context.Process(target=_write_until_killed, args=(tmp_path, ready))
    writer.start()
    assert ready.wait(60)
    while not files(tmp_path):
        writer.join(0.01)
    writer.kill()
    writer.join()
    reader = EmbeddingCache(tmp_path)
    for name in range(4):
        found = reader.get(f"{name:02x}")
        if found is not None:
            np.testing.assert_array_equal(found, embedding(name, 4096).astype(np.float16))
    assert not [name for name in files(tmp_path) if not name.endswith((".embedding", ".partial"))]


def test_forgetting_removes_memory_and_files_but_nobody_else_s(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    cache = EmbeddingCache(tmp_path)
    cache.put("a1", embedding())
    cache.clear()
    assert cache.get("a1") is None
    assert files(tmp_path) == ["notes.txt"]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such permissions")
def test_the_folder_is_for_its_owner_alone(tmp_path):
    EmbeddingCache(tmp_path / "new").put("a1", embedding())
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0


def _work(folder, seed):
    cache = EmbeddingCache(folder, memory_bytes=0, disk_bytes=40_000)
    random = np.random.default_rng(seed)
    for _ in range(40):
        name = int(random.integers(12))
        found = cache.get(f"{name:02x}")
        if found is None:
            cache.put(f"{name:02x}", embedding(name, 16))
        elif not np.array_equal(found, embedding(name, 16).astype(np.float16)):
            raise AssertionError(name)


def test_processes_that_share_a_folder_never_see_a_wrong_embedding(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(tmp_path, seed)) for seed in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    held = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert held <= 40_000 + 2 * 2500
