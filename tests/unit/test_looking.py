"""A recording that is looked at is read once, and again as soon as it is another."""

import io
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mine_core.artifacts import ArtifactStore
from mine_core.errors import SubjectError
from mine_core.instrument import looking
from mine_core.instrument.looking import Recordings, look_at_cortex, look_at_responses, look_beside
from mine_core.subjects.custom import large

N, N_VOXELS = 60, 7


def quiet(done: int, total: int, message: str) -> None:
    """Say nothing."""


def never() -> bool:
    return False


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was read so far."""
    calls: list[Any] = []
    reader = looking.read_recording

    def counted(responses: Any, **given: Any) -> Any:
        calls.append(responses)
        return reader(responses, **given)

    monkeypatch.setattr(looking, "read_recording", counted)
    return calls


@pytest.fixture
def study(tmp_path: Path, rng: np.random.Generator) -> dict[str, Any]:
    images = io.BytesIO()
    np.save(images, rng.integers(0, 256, (N, 16, 16, 3), dtype=np.uint8))
    with h5py.File(tmp_path / "responses.h5", "w") as stream:
        stream["betas"] = rng.normal(size=(N, N_VOXELS))
    return {"images": images.getvalue(), "responses": tmp_path / "responses.h5", "response_axes": ("stimulus", "voxel")}


def look(study: dict[str, Any], recordings: Recordings, store: Path) -> tuple[Any, ...]:
    """Every step of the way."""
    more: dict[str, Any] = {"on_progress": quiet, "cancelled": never, "read": recordings.read}
    return (
        look_at_responses(study, **more).lines,
        look_beside(study, **more),
        look_at_cortex(study, store=ArtifactStore(store), **more).lines,
    )


def test_a_recording_is_read_once_for_all_steps_and_says_what_it_says_read_anew(study, read, tmp_path):
    recordings = Recordings(tmp_path / "unfinished")
    first = look(study, recordings, tmp_path)
    assert look(study, recordings, tmp_path) == first and len(read) == 1
    anew = {"on_progress": quiet, "cancelled": never}
    assert (
        look_at_responses(study, **anew).lines,
        look_beside(study, **anew),
        look_at_cortex(study, store=ArtifactStore(tmp_path), **anew).lines,
    ) == first
    assert len(read) == 4


def test_another_file_time_of_change_or_reading_is_read_again(study, read, tmp_path, rng):
    recordings = Recordings(tmp_path / "unfinished")
    look(study, recordings, tmp_path)
    path = study["responses"]
    with h5py.File(path, "r+") as stream:
        stream["betas"][0, 0] = 777.0
    os.utime(path, ns=(1, 10**18))
    assert "777" in look(study, recordings, tmp_path)[0][1] and len(read) == 2
    os.utime(path, ns=(1, 2 * 10**18))
    look(study, recordings, tmp_path)
    assert len(read) == 3
    look(study | {"stimulus_ids": "\n".join(f"{i}" for i in range(N)).encode()}, recordings, tmp_path)
    assert len(read) == 3, "ids are no part of the recording"
    with pytest.raises(SubjectError):
        look(study | {"response_axes": ("voxel", "stimulus")}, recordings, tmp_path)
    assert len(read) == 4
    upload = path.read_bytes()
    look(study | {"responses": upload}, recordings, tmp_path)
    look(study | {"responses": bytes(bytearray(upload))}, recordings, tmp_path)
    assert len(read) == 5


def test_what_cannot_be_read_is_not_kept(study, read, tmp_path):
    recordings = Recordings(tmp_path / "unfinished")
    broken = study | {"response_dataset": "none"}
    for _ in range(2):
        with pytest.raises(SubjectError, match="no dataset 'none'"):
            look(broken, recordings, tmp_path)
    assert len(read) == 2


def test_large_recordings_are_kept_in_a_folder_that_goes_with_them(study, read, tmp_path, monkeypatch):
    monkeypatch.setattr(large, "LARGE_BYTES", 1)
    recordings = Recordings(tmp_path / "unfinished")
    look(study, recordings, tmp_path)
    (folder,) = (tmp_path / "unfinished").iterdir()
    assert [path.stat().st_size for path in folder.iterdir()] == [8 * N * N_VOXELS]
    look(study | {"response_dataset": "betas"}, recordings, tmp_path)
    assert not folder.exists() and len(list((tmp_path / "unfinished").iterdir())) == 1
    with pytest.raises(ValueError, match="read-only"):
        recordings.read(study | {"response_dataset": "betas"}, quiet, never).repeats[0] = 0
    del recordings
    assert list((tmp_path / "unfinished").iterdir()) == []
