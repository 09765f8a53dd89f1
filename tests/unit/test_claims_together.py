"""Claims on several subjects: rows that stay apart by subject, one subject alone as before, and what is refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mine_core import cli
from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig
from mine_core.errors import ConfigError
from mine_core.experiments import claims, claims_together
from mine_core.experiments.claim_summary import CONTRASTS, contrast_entry
from mine_core.experiments.claims import Measured, Piece, Settings, measure_claims
from mine_core.experiments.claims_together import joined, measure_together

N_VOXELS, N_STIMULI, N_IMAGES = 9, 40, 4
GUIDANCE = next(each for each in CONTRASTS if each.claim == "guidance")


def guided(effect: float, seed: int, n_voxels: int = 6) -> dict[Piece, list[dict[str, Any]]]:
    """Tasks of a subject whose profiles guide better by `effect`; voxels and images have the numbers that any subject's have."""
    rng = np.random.default_rng(seed)
    found = {}
    for voxel in range(n_voxels):
        own = rng.normal()
        rows = [
            {"image": image, "condition": name, "shift": own + effect * (name == "profile") + 0.3 * rng.normal(), "shift_second": None}
            for image in range(N_IMAGES)
            for name in (GUIDANCE.treated, GUIDANCE.reference)
        ]
        found[Piece("guidance", voxel, "dog")] = rows
    return found


def of_subject(rows: dict[Piece, list[dict[str, Any]]], name: str = "one") -> Measured:
    subject = SimpleNamespace(
        name=name, responses=SimpleNamespace(values=np.zeros((3, N_VOXELS))), stimuli=SimpleNamespace(ids=tuple(range(N_STIMULI)))
    )
    return Measured(SimpleNamespace(subject=subject, truth_path=None), None, rows)


def test_voxels_and_images_of_subjects_stay_apart() -> None:
    measured = [of_subject(guided(0.5, seed)) for seed in range(3)]
    measured[1].rows[Piece("causes", 2, "")] = [{"kind": "null"}]
    rows = joined(measured)
    assert len(rows) == 3 * 6 + 1 and rows[Piece("causes", 2 + N_VOXELS, "")] == [{"kind": "null"}]
    assert {piece.voxel for piece in rows} == {place + N_VOXELS * subject for subject in range(3) for place in range(6)}
    images = {row["image"] for found in rows.values() for row in found if "image" in row}
    assert images == {place + N_STIMULI * subject for subject in range(3) for place in range(N_IMAGES)}
    again = [guided(0.5, seed) for seed in range(3)]
    assert [measured[i].rows[Piece("guidance", 0, "dog")] for i in range(3)] == [each[Piece("guidance", 0, "dog")] for each in again]


def test_the_joint_effect_is_that_of_voxels_named_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rows written by hand with names of their own give the same estimate; it lies between the subjects', which stand beside it."""
    subjects = {0: guided(0.2, 1), 1: guided(0.8, 2)}
    monkeypatch.setattr(claims_together, "measured_rows", lambda config, *_, **__: of_subject(subjects[config.seed]))
    monkeypatch.setattr(claims_together, "measure_claims", lambda config, *_, **__: _alone(subjects[config.seed], config.seed))
    found = measure_together([InstrumentConfig(seed=seed) for seed in subjects], ArtifactStore(tmp_path))
    by_hand = [
        {**row, "voxel": 1000 * seed + piece.voxel, "image": 5000 * seed + row["image"]}
        for seed, rows in subjects.items()
        for piece, each in rows.items()
        for row in each
    ]
    wanted = contrast_entry(GUIDANCE, by_hand)["guiding"]
    joint = next(each for each in found["contrasts"] if each["name"] == GUIDANCE.name)["guiding"]
    for key in ("estimate", "low", "high", "n_voxels", "n_images"):
        assert joint[key] == pytest.approx(wanted[key], rel=1e-6), key
    assert (joint["n_voxels"], joint["n_images"]) == (12, 8)
    place = [each["name"] for each in found["contrasts"]].index(GUIDANCE.name)
    first, second = (found["each"][name][place]["guiding"]["estimate"] for name in ("phantom-0", "phantom-1"))
    assert first < joint["estimate"] < second
    assert found["subjects"] == ["phantom-0", "phantom-1"] and "planted" not in found
    other = found["contrasts"].index(next(each for each in found["contrasts"] if each["claim"] == "tokens"))
    assert found["each"]["phantom-0"][other]["guiding"] is None


def _alone(rows: dict[Piece, list[dict[str, Any]]], seed: int) -> dict[str, Any]:
    return {"subject": f"phantom-{seed}", **claims_together.summarise(rows, planted=False)}


def test_one_subject_together_is_that_subject(small: Any, apart: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def cheap(_bench: Any, voxel: int, _word: str) -> list[dict[str, Any]]:
        return guided(0.5, voxel)[Piece("guidance", 0, "dog")]

    monkeypatch.setattr(claims, "MEASURES", {"guidance": cheap})
    monkeypatch.setattr(claims, "pieces_of", lambda _, n: [Piece("guidance", voxel, "dog") for voxel in range(n)])
    alone = measure_claims(small.config, apart, Settings(6))
    found = measure_together([small.config], apart, Settings(6))
    assert found["contrasts"] == alone["contrasts"] and found["ratios"] == alone["ratios"]
    assert found["subjects"] == [alone["subject"]] and found["settings"] == alone["settings"]
    with pytest.raises(ConfigError, match="given twice"):
        measure_together([small.config, small.config], apart, Settings(6))


@pytest.mark.parametrize(
    ("text", "told"), [("phantom:x", "phantom:SEED with a number"), ("phantom:90", "seeds 0 to 89"), ("s1:2", "s1")]
)
def test_subjects_that_cannot_be_are_refused_in_one_line(text: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "claims", "--also", text]) == cli.REFUSED
    refusal = capsys.readouterr().err
    assert told in refusal and refusal.count("\n") == 1
