"""Importing on the Data page: as a job that goes on behind other pages, can be stopped, and leaves a report or one line."""

import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from mine_core.artifacts import ArtifactStore
from mine_core.config import PROJECT
from mine_core.errors import Cancelled
from mine_core.instrument import subjects
from mine_core.instrument.subjects import import_into, known_subjects
from mine_core.jobs import Job, Worker
from mine_core.subjects.store import save_subject
from mine_core.ui import data, resources

N, SIDE, N_VOXELS = 60, 32, 5


def images(rng: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        for i in range(N):
            picture = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(picture, "PNG")
            packed.writestr(f"image{i:02d}.png", picture.getvalue())
    return stream.getvalue()


def responses(rng: np.random.Generator, n: int = N) -> bytes:
    stream = io.BytesIO()
    np.save(stream, rng.normal(size=(N_VOXELS, n)).astype(np.float32))
    return stream.getvalue()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ArtifactStore]:
    """An empty store and a worker of its own behind the page."""
    store, worker = ArtifactStore(tmp_path), Worker()
    monkeypatch.setattr(resources, "store", lambda: store)
    monkeypatch.setattr(resources, "worker", lambda: worker)
    yield store


class Gate:
    """Lets an import begin, and holds it after its tenth image until the test opens it."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, store, *, on_progress, **given):
        def held(done, total, message):
            on_progress(done, total, message)
            if done == 10:
                self.reached.set()
                assert self.opened.wait(30)

        return import_into(store, on_progress=held, **given)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(data, "import_into", gate)
    yield gate
    gate.opened.set()


def opened() -> AppTest:
    return AppTest.from_file(str(PROJECT / "app.py"), default_timeout=120).switch_page("pages/data.py").run()


def sent(rng: np.random.Generator, name: str = "mine", n: int = N) -> AppTest:
    app = opened()
    app.text_input("data_import_name").set_value(name)
    app.get_by_key("data_import_images").set_value(("images.zip", images(rng), "application/zip"))
    app.get_by_key("data_import_responses").set_value(("responses.npy", responses(rng, n), "application/octet-stream"))
    return app.button("data_import_send").click().run()


def job() -> Job:
    found = resources.worker().find(data.IMPORT)
    assert found is not None
    return found


def ended() -> Job:
    for _ in range(3000):
        if not job().active:
            return job()
        threading.Event().wait(0.01)
    pytest.fail("the import did not end in 30 s")


def artifacts(store: ArtifactStore) -> list[str]:
    return [path.name for path in (store.root / "subject").glob("*")] if (store.root / "subject").exists() else []


def test_an_import_goes_on_behind_other_pages_and_reports_at_its_end(store, gate, rng):
    app = sent(rng)
    assert not app.exception
    assert gate.reached.wait(30)
    app.run()
    assert [(bar.value, bar.text) for bar in app.get("progress")] == [(16, "Reading images")]
    assert app.button("data_import_send").disabled
    other = opened()
    assert [bar.value for bar in other.get("progress")] == [16]
    gate.opened.set()
    assert ended().state == "done"
    other.run()
    assert not other.exception and not other.error
    assert [note.value for note in other.success] == ["Imported mine: 60 images, 5 voxels."]
    assert len(other.get("progress")) == 0
    assert not other.button("data_import_send").disabled
    other.button("data_import_choose").click().run()
    assert other.selectbox("data_subject").value == "mine"
    assert not other.exception and not other.success


def test_a_stopped_import_leaves_nothing(store, gate, rng):
    app = sent(rng)
    assert gate.reached.wait(30)
    app.run().button("stop_import").click().run()
    gate.opened.set()
    assert ended().state == "cancelled"
    app.run()
    assert [note.value for note in app.info] == ["Stopped. Nothing of it was kept."]
    assert known_subjects(store) == ("phantom",)
    assert artifacts(store) == []


def test_what_cannot_be_used_is_refused_in_one_line_and_leaves_nothing(store, rng):
    app = sent(rng, n=N - 3)
    assert ended().state == "refused"
    app.run()
    assert not app.exception
    assert len(app.error) == 1
    assert "60" in app.error[0].value and "57" in app.error[0].value and "\n" not in app.error[0].value
    assert known_subjects(store) == ("phantom",)
    assert artifacts(store) == []


def test_another_import_takes_the_place_of_the_last(store, rng):
    sent(rng, n=N - 3)
    assert ended().state == "refused"
    app = sent(rng)
    assert ended().state == "done"
    app.run()
    assert not app.error and len(app.success) == 1


@pytest.mark.parametrize("when", ["read", "saved"])
def test_a_stop_after_the_images_are_read_leaves_nothing_either(store, rng, monkeypatch, when):
    stop, saved = threading.Event(), []

    def save(directory, subject):
        save_subject(directory, subject)
        saved.append(directory)
        stop.set()

    def on_progress(done, total, message):
        if done == total and when == "read":
            stop.set()

    monkeypatch.setattr(subjects, "save_subject", save)
    given = {"name": "mine", "images": images(rng), "responses": responses(rng), "response_axes": ("voxel", "stimulus")}
    with pytest.raises(Cancelled, match="nothing of it was kept"):
        import_into(store, cancelled=stop.is_set, on_progress=on_progress, **given)
    assert len(saved) == (when == "saved")
    assert known_subjects(store) == ("phantom",)
    assert artifacts(store) == []


def test_a_name_and_both_files_are_needed(store):
    app = opened()
    app.button("data_import_send").click().run()
    assert [error.value for error in app.error] == ["A name, images and responses are needed."]
    assert resources.worker().find(data.IMPORT) is None
