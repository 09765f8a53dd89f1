"""Every page opens, in every state a user can bring it into by a link."""

import threading
import time
from collections.abc import Iterator

import pytest
from streamlit.testing.v1 import AppTest

from mine_core.artifacts import ArtifactStore
from mine_core.config import PROJECT, InstrumentConfig, cache_directory
from mine_core.instrument import Instrument, build_instrument
from mine_core.ui import resources, validation

PAGES = ("pages/explore.py", "pages/counterfactual.py", "pages/validation.py", "pages/data.py")


@pytest.fixture(scope="module")
def instrument() -> Instrument:
    return build_instrument(InstrumentConfig(), ArtifactStore(cache_directory()))


def opened(page: str, **query: str) -> AppTest:
    app = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=120)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    return app if page == PAGES[0] else app.switch_page(page).run()


def texts(app: AppTest) -> str:
    shown = [*app.markdown, *app.caption, *app.info, *app.warning, *app.error, *app.subheader, *app.title]
    return "\n".join(element.value for element in shown)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_opens_without_an_exception(page, instrument):
    assert not opened(page).exception


@pytest.mark.parametrize("query", [{"voxel": "none"}, {"map": "nonsense"}, {"seed": "ninety"}, {"edit": "drop"}, {"seed": "95"}])
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
    app = opened(PAGES[2])
    app.button("validation_attribution").click().run()
    assert began.wait(60)
    app.run()
    stop = next(button for button in app.button if button.label == "Stop")
    stop.click().run()
    gate.set()
    job = next(job for job in resources.worker().jobs() if job.key.startswith("attribution"))
    for _ in range(3000):
        if not job.active:
            break
        time.sleep(0.01)
    app.run()
    assert not app.exception
    assert job.state == "cancelled"
    next(button for button in app.button if button.label == "Start again").click().run()
    assert app.button("validation_attribution").label.startswith("Do the heatmaps point")


@pytest.fixture(autouse=True)
def no_stale_caches() -> Iterator[None]:
    import streamlit as st

    yield
    st.cache_data.clear()
