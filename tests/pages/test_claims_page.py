"""Validation: the paper's claims before they are tested, when the test is stopped, done and refused."""

import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest
from test_live_page import ended
from test_pages import instrument, opened, texts  # noqa: F401
from unit.conftest import Small, small  # noqa: F401

from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig, cache_directory
from mine_core.experiments import claims
from mine_core.experiments.claim_sentences import TITLES
from mine_core.experiments.claims import Piece, find_claims, measure_claims
from mine_core.instrument import Instrument
from mine_core.jobs import Worker
from mine_core.ui import resources
from mine_core.ui.claims import START

PAGE, CONFIG = "pages/validation.py", InstrumentConfig()
VOXELS, IMAGES, MOVED = range(5), range(3), -2.0
CONFOUNDED, NULL = range(10, 14), range(20, 25)


@dataclass
class MadeUp:
    """Rows of removals that lower predictions by 2 SD more than controls do, and of calls that the causal test mends."""

    gate: threading.Semaphore | None = None
    done: list[tuple[str, int]] = field(default_factory=list)

    def edits(self, _bench: Any, voxel: int, _word: str) -> list[dict[str, Any]]:
        if self.gate is not None:
            assert self.gate.acquire(timeout=120)
        self.done.append(("edits", voxel))
        rng = np.random.default_rng(voxel)
        rows = []
        for image in IMAGES:
            for name, mean in (("edit", MOVED), ("controls", 0.0)):
                shift = mean + 0.1 * rng.normal()
                row = {"image": 3 * voxel + image, "condition": name, "kind": "remove", "verified": True}
                row |= {"shift": shift, "shift_second": 0.5 * shift}
                rows.append(row | ({"predicted": shift, "true": shift + 1} if name == "edit" else {}))
        return [*rows, {**rows[0], "shift": 70.0, "verified": False}]

    def causes(self, _bench: Any, voxel: int, _word: str) -> list[dict[str, Any]]:
        self.done.append(("causes", voxel))
        if voxel in NULL:
            return [{"kind": "null", "reliable": False} | {name: [] for name in claims_methods()}]
        both = ["ball", "person"]
        row: dict[str, Any] = {"kind": "confounded", "driver": "ball", "company": "person"} | {name: both for name in claims_methods()}
        return [row | {"causal": ["ball"]}]


def claims_methods() -> tuple[str, ...]:
    return ("correlational", "insertion_alone", "measured_alone", "causal")


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    """Few made-up tasks in place of the real ones."""
    rows = MadeUp()
    pieces = [Piece("edits", voxel, "dog") for voxel in VOXELS] + [Piece("causes", voxel, "") for voxel in (*CONFOUNDED, *NULL)]
    monkeypatch.setattr(claims, "MEASURES", {"edits": rows.edits})
    monkeypatch.setattr(claims, "causes", rows.causes)
    monkeypatch.setattr(claims, "pieces_of", lambda *_: pieces)
    return rows


@pytest.fixture
def apart(instrument: Instrument, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:  # noqa: F811, ARG001
    """A cache of its own that holds what the phantom is made of, and no claims."""
    for kind in cache_directory().iterdir():
        if kind.is_dir() and kind.name not in ("claim", "claims", "locks"):
            (tmp_path / kind.name).symlink_to(kind)
    store = ArtifactStore(tmp_path)
    monkeypatch.setattr(resources, "store", lambda: store)
    return store


@pytest.fixture(autouse=True)
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    one = Worker()
    monkeypatch.setattr(resources, "worker", lambda: one)
    return one


def buttons(app: AppTest) -> list[str]:
    return [button.label for button in app.button]


def bullets(app: AppTest) -> list[str]:
    """Sentences on comparisons: a list beside each claim's figure, after those of what is claimed and what is not."""
    lists = [element.value for element in app.markdown if element.value.startswith("- ")]
    return [line[2:] for text in lists for line in text.split("\n")]


def test_before_it_is_run_the_page_offers_it_and_says_nothing_of_a_result(apart: ArtifactStore) -> None:
    app = opened(PAGE)
    assert not app.exception and START in buttons(app) and "goes on from there" in START
    assert "Random reliable voxels whose description names a thing; images that no encoder was fit on." in texts(app)
    assert bullets(app) == [] and not any(f"**{title}.**" in texts(app) for title in TITLES.values())
    assert not (apart.root / "claim").exists(), "looking starts nothing"


def test_what_was_stopped_is_kept_and_goes_on_from_there(apart: ArtifactStore, made_up: MadeUp, worker: Worker) -> None:
    made_up.gate = threading.Semaphore(2)
    app = opened(PAGE)
    app.button("validation_claims").click().run()
    [job] = worker.jobs()
    while len(made_up.done) < 2 and job.active:
        threading.Event().wait(0.05)
    app.run()
    assert job.active and "Stop" in buttons(app) and START not in buttons(app)
    assert [bar.text.split(" · ")[0] for bar in app.get("progress")] == ["Testing claims"]
    job.cancel()
    made_up.gate.release()
    assert ended(job).state == "cancelled"
    app.run()
    assert "Stopped. What was finished is kept." in texts(app) and bullets(app) == [] and find_claims(CONFIG, apart) is None
    finished = list(made_up.done)
    assert 2 <= len(finished) < len(VOXELS) and len(list((apart.root / "claim").glob("*/rows.json"))) == len(finished)
    made_up.gate = None
    app.button(f"again_{job.key}").click().run()
    app.button("validation_claims").click().run()
    ended(worker.jobs()[-1])
    app.run()
    assert not app.exception and len(bullets(app)) > 0
    assert len(made_up.done) == len(set(made_up.done)) == len(VOXELS) + len(CONFOUNDED) + len(NULL), "no task is done twice"
    assert made_up.done[: len(finished)] == finished


def test_what_was_found_is_said_with_n_intervals_and_the_planted_truth(apart: ArtifactStore, made_up: MadeUp) -> None:
    measure_claims(CONFIG, apart)
    app = opened(PAGE)
    assert not app.exception and START not in buttons(app)
    said = bullets(app)
    [removal] = [line for line in said if line.startswith("Removing what drives a voxel lowers its prediction more than")]
    rows = [row for voxel in VOXELS for row in made_up.edits(None, voxel, "") if row["verified"]]
    means = [np.mean([row["shift"] for row in rows if row["condition"] == name]) for name in ("edit", "controls")]
    assert f"edit {means[0]:.2f}, controls {means[1]:.2f}, estimated difference {means[0] - means[1]:+.2f}, 95 % interval" in removal
    assert "; 5 voxels, 15 images)" in removal
    low, high = (float(end) for end in re.search(r"95 % interval (\S+) to (\S+) SD of predictions", removal).groups())
    assert MOVED - 0.3 < low <= round(means[0] - means[1], 2) <= high < MOVED + 0.3 and low < high
    assert re.search(rf"The second encoder agrees \({(means[0] - means[1]) / 2:+.2f}, \S+ to \S+; 5 voxels\)", removal)
    assert "Insertion: too few voxels or images could be tested to say anything." in said
    assert len(said) == 13, "a sentence each, also where nothing could be tested"
    shown = texts(app)
    assert all(f"**{title}.**" in shown for title in TITLES.values())
    assert "Recognised by the backbone: 75 % of 20 removals; the others are left out." in shown
    tables = {str(table.value.columns[0]): table.value for table in app.dataframe}
    planted = tables["edits"].iloc[0]
    assert (planted["edits"], planted["n"], planted["no true shift"]) == ("removals", 15, 0)
    assert planted["predicted less true"] == "-1.00 (-1.00 to -1.00)"
    causes = tables["called"].set_index("called")
    # of 4 of 4 and 0 of 5, Clopper and Pearson's ends are 0.025^(1/n) and 1 - 0.025^(1/n)
    assert causes.loc["company of confounded voxels", "by correlation"] == f"1.00 ({0.025 ** (1 / 4):.2f} to 1.00)"
    assert causes.loc["company of confounded voxels", "by both: the causal test"] == f"0.00 (0.00 to {1 - 0.025 ** (1 / 4):.2f})"
    assert causes.loc["anything of null voxels", "by correlation"] == f"0.00 (0.00 to {1 - 0.025 ** (1 / 5):.2f})"
    assert causes["voxels"].to_dict() == {
        "anything of null voxels": 5,
        "company of confounded voxels": 4,
        "driver of confounded voxels": 4,
    }
    assert f"Of the null voxels the app shows 0.00 (0.00 to {1 - 0.025 ** (1 / 5):.2f}); the others it withholds." in shown


def test_a_subject_with_too_few_described_voxels_is_refused_in_one_line(small: Small, worker: Worker, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setattr(resources, "store", lambda: small.store)
    monkeypatch.setattr(claims, "DRAWN", 3)
    app = opened(PAGE, subject="small")
    app.button("validation_claims").click().run()
    assert ended(worker.jobs()[-1]).state == "refused"
    app.run()
    [refusal] = [error.value for error in app.error]
    assert not app.exception and "\n" not in refusal and bullets(app) == []
    assert re.fullmatch(
        r"[0-3] of 3 reliable voxels drawn at random have a description that names a thing; at least 4 are needed to test claims on\. "
        r"See the accuracies and the words on Validation\.",
        refusal,
    )
    assert "Start again" in buttons(app)
