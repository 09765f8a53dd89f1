"""Explore: the method is the user's choice, and a heatmap can be put to the test where it is shown."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
from test_pages import ended, instrument, opened, texts  # noqa: F401

from mine_core.attribution.base import METHODS
from mine_core.errors import BackboneError
from mine_core.experiments.voxel_faithfulness import VoxelFaithfulness, images_to_test, verdict
from mine_core.instrument import Instrument
from mine_core.instrument.attributions import Traced
from mine_core.jobs import Job, Worker
from mine_core.ui import attribution, resources

PAGE = "pages/explore.py"
GOOD = VoxelFaithfulness("traced", 8, 0.9, 0.2, 0.6, 0.3, (0.2, 0.4), 0.4, (0.3, 0.5))
POOR = VoxelFaithfulness("traced", 8, 0.6, 0.2, 0.6, 0.0, (-0.1, 0.1), 0.4, (0.3, 0.5))


@pytest.fixture
def chosen(instrument: Instrument) -> dict[str, str]:  # noqa: F811
    voxel = int(instrument.score.r.argmax())
    return {"voxel": str(voxel), "image": str(int(images_to_test(instrument, voxel, 1)[0]))}


@pytest.fixture
def without_traced(monkeypatch):
    """An app whose store holds no traced parts, and which never gets any."""
    monkeypatch.setattr(resources, "traced", lambda config: None)


def method_box(app):
    return next(box for box in app.selectbox if box.label == "Heatmap")


def test_every_method_says_what_it_assumes_and_whether_it_sums(chosen, without_traced, monkeypatch, rng):
    asked = []

    def at_once(_seen, _store, method, stimulus, voxel):
        asked.append((method, voxel))
        return SimpleNamespace(values=rng.random((1, 8, 8)))

    monkeypatch.setattr(attribution, "attribute_stimulus", at_once)
    attribution._one.clear()
    app = opened(PAGE, **chosen)
    assert not app.exception
    for name in ("decomposition", "rollout"):
        app = method_box(app).set_value(name).run()
        assert not app.exception
        assert METHODS[name].assumes in texts(app)
    assert "do not add up" in texts(app)
    assert asked == [("rollout", int(chosen["voxel"]))] * 12
    attribution._one.clear()


def test_stored_traced_heatmaps_are_the_default_once_they_are_there(chosen, instrument, monkeypatch, rng):  # noqa: F811
    shape = (len(instrument.subject.stimuli), 2, *instrument.features.patches.shape[1:])
    stored = Traced(np.broadcast_to(rng.normal(size=shape[1:]).astype(np.float16), shape))
    monkeypatch.setattr(resources, "traced", lambda config: stored)
    app = opened(PAGE, **chosen)
    assert not app.exception
    assert method_box(app).value == "traced" and METHODS["traced"].assumes in texts(app)


def test_what_is_missing_is_prepared_in_the_background(chosen, monkeypatch):
    def slowly(_seen, _store, *, on_progress, cancelled):
        for step in range(2000):
            on_progress(step, 2000, "tracing stimuli")
            time.sleep(0.01)

    monkeypatch.setattr(resources, "find_traced", lambda _seen, _store: None)
    monkeypatch.setattr(resources, "build_traced", slowly)
    resources._traced.clear()
    app = opened(PAGE, **chosen)
    try:
        assert not app.exception
        assert "Sharper heatmaps are being prepared" in texts(app)
        assert method_box(app).value == "decomposition"
        assert not resources.worker().jobs() or all("sharper" not in job.title for job in resources.worker().jobs())
    finally:
        for job in resources.preparer().jobs():
            job.cancel()
            ended(job)
            resources.preparer().forget(job.key)
        resources._traced.clear()
    assert not opened(PAGE, **chosen).exception


def test_what_would_take_hours_is_prepared_when_asked_and_not_before(chosen, monkeypatch):
    begun = []
    monkeypatch.setattr(resources, "find_traced", lambda _seen, _store: None)
    monkeypatch.setattr(resources, "prepare_traced", begun.append)
    monkeypatch.setattr(resources, "PREPARED_UNASKED", 0)
    idle = Worker()
    monkeypatch.setattr(resources, "preparer", lambda: idle)
    resources._traced.clear()
    app = opened(PAGE, **chosen)
    resources._traced.clear()
    assert not app.exception
    assert not begun and method_box(app).value == "decomposition" and "prepared" not in texts(app)
    next(button for button in app.button if button.label == "Prepare sharper heatmaps").click().run()
    assert len(begun) == 1


def test_why_there_are_no_sharper_heatmaps_is_said(chosen, monkeypatch):
    failed = Job("traced", "Preparing sharper heatmaps", state="refused", error=BackboneError("Backbone 'x' cannot be traced."))
    monkeypatch.setattr(resources, "traced", lambda config: failed)
    app = opened(PAGE, **chosen)
    assert not app.exception
    assert "No sharper heatmaps: Backbone 'x' cannot be traced." in texts(app)


def look(app, name):
    return next(control for control in app.button_group if name in control.options).set_value(name).run()


def test_a_receptive_field_is_shown_for_the_voxel(chosen, without_traced):
    app = look(opened(PAGE, voxel=chosen["voxel"]), "Receptive field")
    assert not app.exception
    assert "Centre **" in texts(app)


def test_taking_patches_away_outlines_a_set(chosen, without_traced):
    app = look(opened(PAGE, **chosen), "Take patches away")
    assert not app.exception
    assert "outlined patches" in texts(app) or "no set to outline" in texts(app)


@pytest.mark.parametrize(("found", "kind"), [(GOOD, "success"), (POOR, "warning")])
def test_the_badge_says_plainly_when_heatmaps_are_poor(chosen, without_traced, monkeypatch, found, kind):
    monkeypatch.setattr(attribution, "voxel_faithfulness", lambda *_: found)
    for job in resources.worker().jobs():
        resources.worker()._jobs.pop(job.key)
    app = look(opened(PAGE, voxel=chosen["voxel"]), "Test this voxel")
    for job in resources.worker().jobs():
        ended(job)
    app = app.run()
    assert not app.exception
    assert verdict(found) in [element.value for element in getattr(app, kind)]
    assert ("Do not lean" in verdict(found)) == (kind == "warning")
