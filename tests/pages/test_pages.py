"""Every page opens, in every state a user can bring it into by a link."""

import threading
import time
from collections.abc import Iterator

import pytest
from streamlit.testing.v1 import AppTest

from mine_core.artifacts import ArtifactStore
from mine_core.config import PROJECT, InstrumentConfig, cache_directory
from mine_core.errors import SubjectError
from mine_core.instrument import Instrument, build_instrument
from mine_core.instrument.trials import EditRequest, run_trial
from mine_core.jobs import Foreground, Job, Worker
from mine_core.ui import counterfactual, resources, validation

PAGES = (
    "pages/explore.py",
    "pages/counterfactual.py",
    "pages/search.py",
    "pages/regions.py",
    "pages/layers.py",
    "pages/validation.py",
    "pages/notebook.py",
    "pages/data.py",
)


@pytest.fixture(scope="module")
def instrument() -> Instrument:
    return build_instrument(InstrumentConfig(), ArtifactStore(cache_directory()))


def opened(page: str, **query: str) -> AppTest:
    app = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=120)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    return app if page == PAGES[0] else app.switch_page(page).run()


def ended(job: Job) -> None:
    for _ in range(3000):
        if not job.active:
            return
        time.sleep(0.01)
    pytest.fail(f"job still {job.state} after 30 s")


def texts(app: AppTest) -> str:
    shown = [*app.markdown, *app.caption, *app.info, *app.warning, *app.error, *app.subheader, *app.title]
    return "\n".join(element.value for element in shown)


@pytest.mark.parametrize("stops", [False, True])
def test_a_page_that_is_being_made_is_waited_for_and_then_no_more(stops, instrument, monkeypatch):
    foreground, counts, said = Foreground(), [], resources.built

    def built(config):
        counts.append(foreground.waiting)
        if stops:
            raise SubjectError("no such subject")
        return said(config)

    monkeypatch.setattr(resources, "foreground", lambda: foreground)
    monkeypatch.setattr(resources, "built", built)
    app = opened(PAGES[0])
    assert bool(app.error) == stops and set(counts) == {1}
    assert foreground.waiting == 0


@pytest.mark.parametrize("page", PAGES)
def test_a_page_opens_without_an_exception(page, instrument):
    assert not opened(page).exception


@pytest.mark.parametrize(
    "query", [{"voxel": "none"}, {"map": "nonsense"}, {"seed": "ninety"}, {"edit": "drop"}, {"seed": "95"}, {"pin": "x"}]
)
def test_a_link_that_makes_no_sense_is_refused_in_one_line(query, instrument):
    app = opened(PAGES[0], **query)
    assert not app.exception
    assert len(app.error) == 1
    assert "\n" not in app.error[0].value


def test_a_subject_that_is_not_here_is_named(instrument):
    app = opened(PAGES[0], subject="nobody")
    assert not app.exception
    assert "nobody" in app.error[0].value


def test_the_voxel_of_the_link_is_shown(instrument):
    voxel = int(instrument.score.r.argmax())
    app = opened(PAGES[0], voxel=str(voxel))
    assert not app.exception
    assert f"Voxel {voxel}" in [element.value for element in app.subheader]
    assert [metric.value for metric in app.metric][0] == f"{instrument.score.r[voxel]:.2f}"


def test_an_unreliable_voxel_is_withheld_visibly(instrument):
    voxel = int(instrument.score.r.argmin())
    app = opened(PAGES[0], voxel=str(voxel))
    assert any(warning.value.startswith("Withheld") for warning in app.warning)
    assert "Wants" not in texts(app)


def test_a_voxel_that_does_not_exist_is_refused(instrument):
    app = opened(PAGES[0], voxel=str(len(instrument.score.r)))
    assert not app.exception
    assert app.error


def test_the_number_route_reaches_a_voxel_that_the_map_hides(instrument):
    hidden = int(instrument.flatmap.hidden_voxels[0])
    app = opened(PAGES[0], voxel=str(hidden))
    assert f"Voxel {hidden}" in [element.value for element in app.subheader]


def test_counterfactual_asks_for_a_voxel_and_an_image_first(instrument):
    assert "Choose a voxel" in texts(opened(PAGES[1]))


def test_a_measurement_can_be_stopped_and_started_again(instrument, monkeypatch):
    began, gate = threading.Event(), threading.Event()

    def measure(config, store, on_progress):
        on_progress(1, 4, "measuring")
        began.set()
        assert gate.wait(60)
        on_progress(2, 4, "measuring")
        return {}

    monkeypatch.setattr(validation, "experiment", lambda name: measure)
    app = opened("pages/validation.py")
    app.button("validation_attribution").click().run()
    assert began.wait(60)
    app.run()
    stop = next(button for button in app.button if button.label == "Stop")
    stop.click().run()
    gate.set()
    job = next(job for job in resources.worker().jobs() if job.key.startswith("attribution"))
    ended(job)
    app.run()
    assert not app.exception
    assert job.state == "cancelled"
    next(button for button in app.button if button.label == "Start again").click().run()
    assert app.button("validation_attribution").label.startswith("Do the heatmaps point")


def test_a_build_that_was_stopped_waits_to_be_started_again(tmp_path, monkeypatch):
    began, gate, starts = threading.Event(), threading.Event(), []

    def build(config, store, *, on_progress, cancelled):
        starts.append(config)
        on_progress(1, 4, "rendering")
        began.set()
        assert gate.wait(60)
        on_progress(2, 4, "rendering")

    store, worker = ArtifactStore(tmp_path), Worker()
    monkeypatch.setattr(resources, "store", lambda: store)
    monkeypatch.setattr(resources, "worker", lambda: worker)
    monkeypatch.setattr(resources, "build_instrument", build)
    app = opened(PAGES[0])
    assert began.wait(60)
    app.run()
    assert [bar.text for bar in app.get("progress")] == ["Rendering"]
    next(button for button in app.button if button.label == "Stop").click().run()
    gate.set()
    job = worker.jobs()[0]
    ended(job)
    for _ in range(2):
        app.run()
        assert [note.value for note in app.info] == ["Stopped. What was finished is kept."]
    assert len(starts) == 1 and worker.jobs() == [job]
    began.clear()
    gate.clear()
    next(button for button in app.button if button.label == "Start again").click().run()
    assert began.wait(60)
    gate.set()
    assert len(starts) == 2


def inserting(instrument, monkeypatch, place) -> tuple[AppTest, list[EditRequest]]:
    """The Counterfactual page after the user chose a place, and what it asked for."""
    asked = []

    def seen(instrument, request, second):
        asked.append(request)
        return run_trial(instrument, request, second)

    monkeypatch.setattr(counterfactual, "painting_editors", lambda instrument: ())
    monkeypatch.setattr(counterfactual, "placer", lambda *_, **__: place)
    monkeypatch.setattr(counterfactual, "run_trial", seen)
    voxel = int(instrument.score.r.argmax())
    return opened(PAGES[1], voxel=str(voxel), image="7", edit="insert"), asked


def test_an_insertion_goes_where_the_user_clicked(instrument, monkeypatch):
    app, asked = inserting(instrument, monkeypatch, (90, 101))
    assert not app.exception and not app.error
    assert [request.place for request in asked] == [(90, 101)]
    [shown] = app.table
    row, col = (int(part) for part in shown.value["edit"].iloc[0].split(" at ")[1].split(", "))
    assert abs(row - 90) <= 2 and abs(col - 101) <= 2


def test_a_place_outside_the_image_is_refused_in_one_line(instrument, monkeypatch):
    app, _ = inserting(instrument, monkeypatch, (4000, 0))
    assert not app.exception
    assert len(app.error) == 1 and "outside the image" in app.error[0].value and "\n" not in app.error[0].value


@pytest.fixture(autouse=True)
def no_stale_caches() -> Iterator[None]:
    import streamlit as st

    yield
    st.cache_data.clear()
