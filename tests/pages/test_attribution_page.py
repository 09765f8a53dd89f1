"""Explore: the method is the user's choice, and a heatmap can be put to the test where it is shown."""

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from test_pages import ended, instrument, opened, texts  # noqa: F401

from mine_core.attribution.base import METHODS
from mine_core.config import InstrumentConfig
from mine_core.errors import BackboneError
from mine_core.experiments.voxel_faithfulness import WHOLE, Faithfulness, images_to_test, verdict
from mine_core.instrument import Instrument
from mine_core.instrument.attributions import Prepared
from mine_core.jobs import Job, Worker
from mine_core.ui import attribution, faithfulness, resources

PAGE = "pages/explore.py"
GOOD = Faithfulness("traced", 1, 8, 0.9, 0.2, 0.6, 0.3, (0.2, 0.4), 0.4, (0.3, 0.5))
POOR = Faithfulness("traced", 1, 8, 0.6, 0.2, 0.6, 0.0, (-0.1, 0.1), 0.4, (0.3, 0.5))


@pytest.fixture
def chosen(instrument: Instrument) -> dict[str, str]:  # noqa: F811
    voxel = int(instrument.score.r.argmax())
    return {"voxel": str(voxel), "image": str(int(images_to_test(instrument, voxel, 1)[0]))}


@pytest.fixture
def without_traced(monkeypatch):
    """An app whose store holds no traced parts, and which never gets any."""
    monkeypatch.setattr(resources, "prepared", lambda config, method: None)


def method_box(app):
    return next(box for box in app.selectbox if box.label == "Heatmap")


def test_every_method_says_what_it_assumes_and_whether_it_sums(chosen, without_traced, monkeypatch, rng):
    asked = []

    def at_once(_seen, _store, method, stimulus, voxel):
        asked.append((method, voxel))
        return SimpleNamespace(values=rng.random((1, 8, 8)))

    monkeypatch.setattr(attribution, "attribute_stimulus", at_once)
    attribution._computed.clear()
    app = opened(PAGE, **chosen)
    assert not app.exception
    for name in ("decomposition", "rollout"):
        app = method_box(app).set_value(name).run()
        assert not app.exception
        assert METHODS[name].assumes in texts(app)
    assert "do not add up" in texts(app)
    assert asked == [("rollout", int(chosen["voxel"]))] * 12
    assert not app.button(key="explore_prepare_traced").disabled
    attribution._computed.clear()


def test_stored_traced_heatmaps_are_the_default_once_they_are_there(chosen, instrument, monkeypatch, rng):  # noqa: F811
    shape = (len(instrument.subject.stimuli), 2, *instrument.features.patches.shape[1:])
    stored = Prepared("traced", np.broadcast_to(rng.normal(size=shape[1:]).astype(np.float16), shape))
    monkeypatch.setattr(resources, "prepared", lambda config, method: stored if method == "traced" else None)
    app = opened(PAGE, **chosen)
    assert not app.exception
    assert method_box(app).value == "traced" and METHODS["traced"].assumes in texts(app)


def test_what_occlusion_takes_from_an_image_serves_every_voxel(chosen, instrument, without_traced, monkeypatch, rng):  # noqa: F811
    asked, begun = [], []
    changes = rng.normal(size=instrument.features.patches.shape[1:])

    def at_once(_seen, _store, stimulus):
        asked.append(stimulus)
        return changes

    monkeypatch.setattr(attribution, "occlude_stimulus", at_once)
    monkeypatch.setattr(resources, "prepare", lambda config, method: begun.append(method))
    attribution._occluded.clear()
    app = opened(PAGE, **chosen)
    app = method_box(app).set_value("occlusion").run()
    assert not app.exception and len(asked) == len(set(asked)) == 12 and not begun
    config, voxel = InstrumentConfig(), int(chosen["voxel"])
    for other in (voxel, voxel + 1):
        values = attribution._one(config, "occlusion", asked[0], other)
        assert values.ravel() == pytest.approx(changes @ instrument.model.coef[:, other], rel=1e-4, abs=1e-6)
    assert len(asked) == 12
    next(button for button in app.button if button.label == "Prepare occlusion of all images").click().run()
    assert begun == ["occlusion"]
    attribution._occluded.clear()


def test_what_is_missing_is_prepared_in_the_background(chosen, monkeypatch):
    def slowly(_seen, _store, _method, *, on_progress, cancelled):
        for step in range(2000):
            on_progress(step, 2000, "tracing stimuli")
            time.sleep(0.01)

    monkeypatch.setattr(resources, "find_prepared", lambda *_: None)
    monkeypatch.setattr(resources, "build_prepared", slowly)
    resources._prepared.clear()
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
        resources._prepared.clear()
    assert not opened(PAGE, **chosen).exception


def test_what_would_take_hours_is_prepared_when_asked_and_not_before(chosen, monkeypatch):
    begun = []
    monkeypatch.setattr(resources, "find_prepared", lambda *_: None)
    monkeypatch.setattr(resources, "prepare", lambda config, method: begun.append(method))
    monkeypatch.setattr(resources, "PREPARED_UNASKED", 0)
    idle = Worker()
    monkeypatch.setattr(resources, "preparer", lambda: idle)
    resources._prepared.clear()
    app = opened(PAGE, **chosen)
    resources._prepared.clear()
    assert not app.exception
    assert not begun and method_box(app).value == "decomposition" and "prepared" not in texts(app)
    next(button for button in app.button if button.label == "Prepare sharper heatmaps").click().run()
    assert begun == ["traced"]


def test_why_there_are_no_sharper_heatmaps_is_said(chosen, monkeypatch):
    failed = Job("traced", "Preparing sharper heatmaps", state="refused", error=BackboneError("Backbone 'x' cannot be traced."))
    monkeypatch.setattr(resources, "prepared", lambda config, method: failed)
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


def test_regions_are_tested_when_asked_and_told_with_intervals(instrument, without_traced, monkeypatch):  # noqa: F811
    monkeypatch.setattr(faithfulness, "region_faithfulness", lambda *_: {WHOLE: replace(GOOD, n_voxels=9), "FFA": POOR})
    for job in resources.worker().jobs():
        resources.worker()._jobs.pop(job.key)
    app = opened("pages/regions.py")
    assert not app.exception and not app.success
    app.button(key="regions_faithful").click().run()
    for job in resources.worker().jobs():
        ended(job)
    app = app.run()
    assert not app.exception
    assert "over 9 voxels and 8 held-out images" in app.success[0].value
    table = app.dataframe[-1].value
    assert list(table["faithful"]) == ["yes", "not beyond doubt"]
    assert table["put back: above random by"].iloc[1] == "+0.00 (-0.10 to +0.10)"
