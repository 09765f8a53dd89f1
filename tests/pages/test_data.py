"""Importing on the Data page: as a job that goes on behind other pages, can be stopped, and leaves a report or one line."""

import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from brain_files import nifti
from nsd_tree import write as write_nsd
from PIL import Image
from streamlit.testing.v1 import AppTest

from mine_core.artifacts import ArtifactStore
from mine_core.config import PROJECT
from mine_core.errors import Cancelled
from mine_core.instrument import looking, subjects
from mine_core.instrument.subjects import custom_artifact, import_into, known_subjects
from mine_core.jobs import Job, Worker
from mine_core.subjects.custom.study import read_study, write_study
from mine_core.subjects.store import save_subject
from mine_core.ui import resources, wizard

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
    looker = Worker()
    monkeypatch.setattr(wizard, "looker", lambda: looker)
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
    monkeypatch.setattr(wizard, "import_into", gate)
    yield gate
    gate.opened.set()


def opened() -> AppTest:
    return AppTest.from_file(str(PROJECT / "app.py"), default_timeout=120).switch_page("pages/data.py").run()


def looked(app: AppTest) -> AppTest:
    """The page after everything that is being looked at was seen."""
    for _ in range(3000):
        if not any(job.active for job in wizard.looker().jobs()):
            return app.run()
        threading.Event().wait(0.01)
    pytest.fail("looking did not end in 30 s")


def step(app: AppTest, number: int) -> AppTest:
    app.session_state["import_step"] = wizard.STEPS[number - 1][0]
    return app.run()


def given(rng: np.random.Generator, name: str = "mine", n: int = N) -> AppTest:
    """Images and responses given, the check in view."""
    app = opened()
    app.text_input("import_name").set_value(name)
    app.get_by_key("import_images_upload").set_value(("images.zip", images(rng), "application/zip")).run()
    app.button("import_next").click().run()
    app.get_by_key("import_responses_upload").set_value([("responses.npy", responses(rng, n), "application/octet-stream")]).run()
    return looked(looked(step(app, 5)))


def sent(rng: np.random.Generator, name: str = "mine") -> AppTest:
    return given(rng, name).button("import_send").click().run()


def job() -> Job:
    found = resources.worker().find(wizard.IMPORT)
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
    assert app.button("import_send").disabled
    other = opened()
    assert [bar.value for bar in other.get("progress")] == [16]
    gate.opened.set()
    assert ended().state == "done"
    other.run()
    assert not other.exception and not other.error
    assert [note.value for note in other.success] == ["Imported mine: 60 images, 5 voxels."]
    assert len(other.get("progress")) == 0
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


def test_what_is_wrong_is_said_where_it_is_wrong_and_nothing_is_imported(store, rng):
    app = given(rng, n=N - 3)
    assert app.button("import_send").disabled
    wrong = [error.value for error in app.error]
    assert len(wrong) == 1 and wrong[0].startswith("Responses: ") and "57 stimuli, images 60" in wrong[0]
    looked(step(app, 1))
    assert not app.error
    looked(step(app, 2))
    (error,) = app.error
    assert "57 stimuli, images 60" in error.value and "--" not in error.value and "\n" not in error.value
    assert known_subjects(store) == ("phantom",)
    assert artifacts(store) == []


def test_axes_that_do_not_fit_are_mended_on_the_page(store, rng):
    app = given(rng)
    step(app, 2)
    looked(app.selectbox("import_response_axes").set_value("stimulus,voxel").run())
    assert any("did you mean the axes voxel,stimulus?" in error.value for error in app.error)
    looked(app.selectbox("import_response_axes").set_value("voxel,stimulus").run())
    assert not app.error and len(app.get("plotly_chart")) == 1


def test_back_and_forth_keeps_what_was_given(store, rng):
    app = given(rng)
    for _ in range(4):
        app.button("import_back").click().run()
    assert app.text_input("import_name").value == "mine"
    assert any("Given: images.zip" in caption.value for caption in app.caption)
    looked(app)
    assert any("60 images of 32 x 32 pixels" in caption.value for caption in app.caption)
    app.button("import_next").click().run()
    assert app.selectbox("import_response_axes").value == "voxel,stimulus"
    step(app, 1).button("import_images_forget").click().run()
    assert not any("Given: images.zip" in caption.value for caption in app.caption)
    assert step(app, 5).button("import_send").disabled
    assert not app.exception


def test_files_on_this_machine_a_mask_and_a_cortex(store, rng, tmp_path):
    grid = (4, 5, 3)
    mask = (rng.random(grid) < 0.5).astype(np.uint8)
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "images.zip").write_bytes(images(rng))
    (folder / "betas.nii").write_bytes(nifti(rng.normal(size=(*grid, N)).astype(np.float32)))
    (folder / "mask.nii").write_bytes(nifti(mask))
    (folder / "other.nii").write_bytes(nifti(mask, np.eye(4)))
    app = opened()
    app.text_input("import_name").set_value("volumes")
    looked(app.text_input("import_images_path").set_value(str(folder / "images.zip")).run())
    app.button("import_next").click().run()
    looked(app.text_area("import_responses_path").set_value(str(folder / "betas.nii")).run())
    assert any("no mask was given" in error.value for error in app.error)
    looked(app.text_area("import_mask_path").set_value(str(folder / "other.nii")).run())
    assert any("mm apart" in error.value for error in app.error)
    looked(app.text_area("import_mask_path").set_value(str(folder / "mask.nii")).run())
    assert not app.error and any("4 x 5 x 3 x 60" in caption.value for caption in app.caption)
    looked(step(app, 4))
    assert any(f"{mask.sum()} voxels, shown as slices of the volume" in caption.value for caption in app.caption)
    looked(app.selectbox("import_cortex").set_value("mapper").run())
    assert any("no mapper was given" in error.value for error in app.error)
    looked(app.selectbox("import_cortex").set_value("").run())
    looked(looked(step(app, 5)))
    assert not app.exception and not app.error
    study = app.session_state["import_draft"].saved()
    path = tmp_path / "study.toml"
    path.write_text(write_study(study))
    assert read_study(path) == study
    app.button("import_send").click().run()
    assert ended().state == "done"
    by_page = custom_artifact("volumes", store).key
    import_into(store, **read_study(path))
    assert custom_artifact("volumes", store).key == by_page


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
    app = step(opened(), 5)
    assert app.button("import_send").disabled and not app.exception
    said = " ".join(warning.value for warning in app.warning)
    assert "no name yet" in said and "Images: not given" in said and "Responses: not given" in said
    assert resources.worker().find(wizard.IMPORT) is None


def test_a_local_copy_of_nsd_is_imported_from_the_page(store: ArtifactStore, tmp_path: Path) -> None:
    write_nsd(tmp_path / "nsd")
    page = opened()
    assert page.button(key="nsd_import").disabled
    page.text_input(key="nsd_root").set_value(str(tmp_path / "nsd")).run()
    page.button(key="nsd_import").click().run()
    assert ended().state == "done"
    page.run()
    assert not page.exception and "Imported nsd-subj01-func1pt8mm" in page.success[0].value
    assert "nsd-subj01-func1pt8mm" in known_subjects(store)


def test_the_command_that_fetches_nsd_is_shown_to_whom_accepted_its_agreement(store: ArtifactStore) -> None:
    page = opened()
    assert not [code for code in page.code if "--from-bucket" in code.value]
    page.text_input(key="nsd_root").set_value("/data/my nsd").run()
    page.checkbox(key="nsd_terms").check().run()
    (command,) = [code.value for code in page.code if "--from-bucket" in code.value]
    assert "--accept-nsd-terms --root '/data/my nsd' --subject 1 --space func1pt8mm --sessions 40" in command


def test_responses_are_read_once_on_the_way_through_all_steps(
    store: ArtifactStore, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    reader = looking.read_recording

    def counted(responses: object, **asked: object) -> object:
        calls.append(responses)
        return reader(responses, **asked)

    monkeypatch.setattr(looking, "read_recording", counted)
    app = given(rng)
    for number in (2, 3, 4, 5):
        app = looked(step(app, number))
    assert not app.exception and len(app.success) == 3  # images, responses, cortex
    assert len(calls) == 1
