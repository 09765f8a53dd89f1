"""Search: testing a concept, from what is refused to what is shown."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_pages import ended, instrument, opened, texts  # noqa: F401

from mine_core.counterfactual.concept_test import score_concept
from mine_core.errors import Cancelled
from mine_core.instrument import Instrument
from mine_core.instrument.concept_edits import ImageEdits
from mine_core.instrument.concept_stimuli import choose_stimuli
from mine_core.instrument.concepts import ConceptTest, evidence_of
from mine_core.jobs import Worker
from mine_core.ui import concept, resources

PAGE = "pages/search.py"


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    one = Worker()
    monkeypatch.setattr(resources, "worker", lambda: one)
    return one


def made_up(instrument: Instrument, *, removed: bool) -> ConceptTest:  # noqa: F811
    """A test of 'dog' whose edits take the concept's mean embedding out, or could not be made."""
    chosen = choose_stimuli(instrument, "dog")
    pooled, images = instrument.features.pooled, instrument.subject.stimuli.images
    loss = np.asarray(pooled[chosen.positives], np.float32).mean(axis=0) - instrument.mean_pooled.astype(np.float32)
    flags, removals = np.ones(2, bool), []
    for number, stimulus in enumerate(chosen.apart.tolist()):
        before = np.asarray(pooled[stimulus], np.float32)
        edited = np.stack([before - loss * (0.5 + 0.01 * number)] * 2)
        image = np.asarray(images[stimulus])
        one = ImageEdits(
            stimulus,
            "remove",
            before,
            edited,
            np.stack([before, before]),
            flags,
            flags,
            ("removed", "removed"),
            (),
            image,
            image[..., 0] > 99,
            "",
        )
        removals.append(one if removed else replace(one, verified=~flags, reasons=("still there", "still there")))
    scores = score_concept(evidence_of(instrument, chosen, tuple(removals), ()), instrument.reliable, np.random.default_rng(0))
    return ConceptTest(chosen, tuple(removals), (), scores)


def test_nothing_typed_and_what_cannot_be_tested_are_said_in_one_line(worker: Worker, instrument: Instrument) -> None:  # noqa: F811
    app = opened(PAGE, ask="test")
    assert not app.exception and "Type a thing." in texts(app)
    app = opened(PAGE, ask="test", find="justice")
    assert not app.exception and len(app.error) == 1 and "names nothing of the vocabulary" in app.error[0].value
    assert opened(PAGE, ask="guess").error[0].value.startswith("The link asks for 'guess'")
    app = opened(PAGE, ask="test", find="dog")
    assert not app.exception and "Press Test to edit" in texts(app) and not worker.jobs()


def test_a_test_is_done_by_the_worker_and_shown(worker: Worker, instrument: Instrument, monkeypatch) -> None:  # noqa: F811
    done = made_up(instrument, removed=True)
    asked: list[str] = []

    def run(_instrument: Any, _store: Any, name: str, **_: Any) -> ConceptTest:
        asked.append(name)
        return done

    monkeypatch.setattr(concept, "run_concept", run)
    app = opened(PAGE, ask="test", find="dog")
    app.button("concept_go").click().run()
    for job in worker.jobs():
        ended(job)
    app.run()
    n_causal, n_refused = (len(done.scores.voxels(name)) for name in ("causal", "activation only"))
    assert not app.exception and asked == ["dog"] and n_causal > 0 and n_refused > 0
    assert f"In {n_causal:,} of them it passes every test of a cause" in texts(app) and f"of {n_refused:,})" in texts(app)
    assert "No edit of this kind was verified." in texts(app)  # none was put in
    refused = next(element.value for element in app.dataframe if "why" in element.value)
    assert (refused["why"] != "").all()
    app.button_group("concept_map").set_value("Verdict").run()
    assert not app.exception and asked == ["dog"]


def test_without_verified_edits_nothing_is_said_of_causes(worker: Worker, instrument: Instrument, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setattr(concept, "run_concept", lambda *_, **__: made_up(instrument, removed=False))
    app = opened(PAGE, ask="test", find="dog")
    app.button("concept_go").click().run()
    for job in worker.jobs():
        ended(job)
    app.run()
    assert not app.exception and "whether it is the cause was not tested: only 0 images" in texts(app)
    assert "The test refuses no voxel." in texts(app)


def test_a_stopped_test_says_so_and_can_be_started_again(worker: Worker, instrument: Instrument, monkeypatch) -> None:  # noqa: F811
    def stop(*_: Any, **__: Any) -> None:
        raise Cancelled("Stopped.")

    monkeypatch.setattr(concept, "run_concept", stop)
    app = opened(PAGE, ask="test", find="dog")
    app.button("concept_go").click().run()
    for job in worker.jobs():
        ended(job)
    app.run()
    assert not app.exception and "What was finished is kept." in texts(app)
