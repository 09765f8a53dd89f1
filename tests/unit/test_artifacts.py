import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from mine_core.artifacts import ArtifactStore, Recipe, code_version, hash_array, hash_text, open_artifact, verify
from mine_core.errors import ArtifactError, Cancelled


def recipe(**config) -> Recipe:
    return Recipe("numbers", config, (), "v1")


def write_numbers(directory: Path) -> dict:
    np.save(directory / "values.npy", np.arange(5.0))
    return {"mean": 2.0}


def test_a_round_trip_gives_the_same_values_read_only(tmp_path):
    artifact = ArtifactStore(tmp_path).build(recipe(seed=0), write_numbers)
    values = artifact.array("values")
    np.testing.assert_array_equal(values, np.arange(5.0))
    assert not values.flags.writeable
    assert artifact.manifest["notes"] == {"mean": 2.0}
    verify(artifact)


def test_the_key_changes_with_setting_input_code_and_kind():
    base = Recipe("a", {"x": 1, "y": 2}, ("i",), "v1")
    others = [
        Recipe("b", {"x": 1, "y": 2}, ("i",), "v1"),
        Recipe("a", {"x": 1, "y": 3}, ("i",), "v1"),
        Recipe("a", {"x": 1, "y": 2}, ("j",), "v1"),
        Recipe("a", {"x": 1, "y": 2}, ("i",), "v2"),
    ]
    assert len({base.key, *(other.key for other in others)}) == 5
    assert base.key == Recipe("a", {"y": 2, "x": 1}, ("i",), "v1").key


def test_lists_of_texts_do_not_collide_by_concatenation():
    assert hash_text("ab", "c") != hash_text("a", "bc")


def test_a_second_build_does_not_make_again(tmp_path):
    store, calls = ArtifactStore(tmp_path), []

    def make(directory: Path) -> None:
        calls.append(directory)
        write_numbers(directory)

    store.build(recipe(seed=0), make)
    store.build(recipe(seed=0), make)
    assert len(calls) == 1


def test_a_failed_build_leaves_nothing(tmp_path):
    store = ArtifactStore(tmp_path)

    def fail(directory: Path) -> None:
        write_numbers(directory)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        store.build(recipe(seed=0), fail)
    assert store.find(recipe(seed=0)) is None
    assert list((tmp_path / "numbers").iterdir()) == []


def make_slowly(directory: Path) -> None:
    write_numbers(directory)
    (directory.parent / "writing").touch()
    time.sleep(60)


def build_slowly(root: Path) -> None:
    ArtifactStore(root).build(recipe(seed=0), make_slowly)


def test_a_killed_build_is_swept_and_made_again(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=build_slowly, args=(tmp_path,))
    process.start()
    flag = tmp_path / "numbers" / "writing"
    deadline = time.monotonic() + 60
    while not flag.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    flag.unlink()
    assert len(list((tmp_path / "numbers").iterdir())) == 1, "the kill should have left a temporary directory"
    artifact = ArtifactStore(tmp_path).build(recipe(seed=0), write_numbers)
    verify(artifact)
    assert [path.name for path in (tmp_path / "numbers").iterdir()] == [artifact.key]


def count_and_write(directory: Path) -> None:
    with (directory.parent / "count").open("a") as stream:
        stream.write("x")
    time.sleep(0.3)
    write_numbers(directory)


def build_counted(root: Path) -> None:
    ArtifactStore(root).build(recipe(seed=0), count_and_write)


def test_two_processes_make_a_key_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=build_counted, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "numbers" / "count").read_text() == "x"


def test_a_cut_off_file_is_refused_with_numbers(tmp_path):
    artifact = ArtifactStore(tmp_path).build(recipe(seed=0), write_numbers)
    file = artifact.path / "values.npy"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match="160 bytes found, 168 expected"):
        open_artifact(artifact.path)


def test_a_flipped_bit_is_found_by_verify(tmp_path):
    artifact = ArtifactStore(tmp_path).build(recipe(seed=0), write_numbers)
    file = artifact.path / "values.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match="SHA-256"):
        verify(open_artifact(artifact.path))


def test_an_object_array_is_never_unpickled(tmp_path):
    def make(directory: Path) -> None:
        np.save(directory / "values.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)

    artifact = ArtifactStore(tmp_path).build(recipe(seed=0), make)
    with pytest.raises(ValueError, match="Python objects"):
        artifact.array("values")


def test_a_setting_that_is_not_json_is_refused():
    with pytest.raises(ArtifactError, match="plain JSON"):
        _ = recipe(path=Path("x")).key


def test_code_version_follows_the_source_and_refuses_a_wrong_name(tmp_path):
    assert code_version("artifacts.py") == code_version("artifacts.py")
    assert code_version("artifacts.py") != code_version("errors.py")
    with pytest.raises(ArtifactError, match="mine_core/nonsense.py"):
        code_version("nonsense.py")


def test_hash_array_tells_shape_and_dtype_apart():
    values = np.arange(6, dtype=np.int32)
    assert len({hash_array(values), hash_array(values.reshape(2, 3)), hash_array(values.view(np.uint32))}) == 3


def test_the_manifest_is_plain_json_with_provenance(tmp_path):
    artifact = ArtifactStore(tmp_path).build(recipe(seed=3), write_numbers)
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    assert manifest["config"] == {"seed": 3}
    assert set(manifest["libraries"]) >= {"python", "numpy", "torch"}


def _hold(root: Path, ready, go) -> None:
    def make(directory: Path) -> dict:
        ready.set()
        go.wait(60)
        return write_numbers(directory)

    ArtifactStore(root).build(recipe(seed=5), make)


def test_waiting_for_another_process_can_be_stopped_and_that_one_goes_on(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, go))
    other.start()
    try:
        assert ready.wait(60)
        asked = []

        def cancelled() -> bool:
            asked.append(True)
            return len(asked) > 3

        with pytest.raises(Cancelled, match="Stopped while another process makes what is wanted here"):
            ArtifactStore(tmp_path).build(recipe(seed=5), lambda _: pytest.fail("it is made by another"), cancelled)
        go.set()
        found = ArtifactStore(tmp_path).build(recipe(seed=5), lambda _: pytest.fail("it was made by another"), lambda: False)
        np.testing.assert_array_equal(found.array("values"), np.arange(5.0))
    finally:
        go.set()
        other.join(60)
    assert other.exitcode == 0
