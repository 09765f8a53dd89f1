"""Do edits move predictions as they should, do controls stay put, and does the planted brain agree?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig
from mine_core.counterfactual.insertion import Exemplar, cut_out, insert_at, least_attributed_place
from mine_core.errors import EditError
from mine_core.experiments import causal_calls
from mine_core.experiments.attribution_curves import difference
from mine_core.experiments.causal_calls import middling_images, planted_things
from mine_core.experiments.planted import truth_of
from mine_core.experiments.planted_edits import true_shift
from mine_core.experiments.voxel_faithfulness import images_to_test
from mine_core.instrument import Instrument, build_instrument
from mine_core.instrument.explain import ranked_images
from mine_core.instrument.second import SecondEncoder, build_second
from mine_core.instrument.trials import INSERT_SIZE, EditRequest, Trial, driving_region, driving_words, run_trial
from mine_core.instrument.wanting import first_words
from mine_core.instrument.where import heat_of
from mine_core.subjects.phantom.truth import PlantedTruth
from mine_core.types import OnProgress

N_VOXELS, N_IMAGES, AMONG = 40, 2, 800
N_PREFERRED = 10  # best training images, one of which guides an edit by its description
STILL = 0.2  # SD: what controls may move on average


@dataclass(frozen=True)
class Tried:
    """One trial, the voxel and stimulus that it is of, and the true shift in SD of the voxel's signal (NaN where none is known)."""

    voxel: int
    stimulus: int
    trial: Trial
    truth: float

    @property
    def shift(self) -> float:
        """Predicted shift of the voxel, in SD of its predictions."""
        return float(self.trial.shift.shift[self.voxel])


def measure(config: InstrumentConfig, store: ArtifactStore, on_progress: OnProgress) -> dict[str, Any]:
    """Remove what drives a voxel, insert what its description names, and compare with controls and with the planted brain.

    Reliable category voxels that earned a description, drawn at random, each with two held-out images: those of highest
    predicted response for a removal, and of middle response for an insertion. Words were chosen on training images.
    Effects are over verified edits, in SD of the voxel's predictions; `direction_rate` is the share that moved as they should.
    All intervals resample voxels. True shifts: the planted response to the scene with and without the objects that the edit
    took out or put in; edits that no scene describes (a part of an object, a word for a group) have none.

    `profile_guided_minus_image_guided`: the same editor inserts the word of the voxel's description, and that of the driving
    patches of one of its ten best training images. `profile_guided_minus_cut_out`: the same beside the pixels that drive the
    voxel in its very best training image, cut out: no description, and the most favourable of 2,000 images.
    `confounded`, `null`: see `causal_calls`.
    """
    instrument = build_instrument(config, store, on_progress=on_progress)
    second, truth = build_second(config, store, on_progress=on_progress), truth_of(instrument)
    rng = np.random.default_rng(21)
    voxels, words = _described(instrument, truth, rng)
    removed: list[Tried] = []
    inserted: list[Tried] = []
    by_word: list[tuple[Tried, float]] = []
    by_pixels: list[tuple[Tried, float]] = []
    refused = 0
    for number, voxel in enumerate(voxels):
        on_progress(number, len(voxels), "editing what each voxel wants")
        for stimulus in images_to_test(instrument, voxel, N_IMAGES).tolist():
            tried = _try(instrument, truth, EditRequest("remove", voxel, stimulus), second)
            removed += [tried] if tried else []
            refused += tried is None
        for stimulus in middling_images(instrument, voxel, N_IMAGES, AMONG):
            tried = _try(instrument, truth, EditRequest("insert", voxel, stimulus, words[voxel]), second)
            inserted += [tried] if tried else []
            refused += tried is None
            for shift_of, pairs in ((_image_guided, by_word), (_cut_out_guided, by_pixels)):
                guided = None if tried is None else shift_of(instrument, voxel, stimulus)
                pairs += [] if tried is None or guided is None else [(tried, guided)]
    return {
        "subject": instrument.subject.name,
        "backbone": config.backbone,
        "n_voxels": len(voxels),
        "n_not_editable": refused,
        "second_encoder": second.independence,
        "remove": _effects(removed, -1, second.reliable, rng),
        "insert": _effects(inserted, 1, second.reliable, rng),
        "controls": _controls([*removed, *inserted], rng),
        "predicted_with_true_shift": _agreement([item for item in (*removed, *inserted) if item.trial.edit.verified], rng),
        "profile_guided_minus_image_guided": _guided(by_word, rng),
        "profile_guided_minus_cut_out": _guided(by_pixels, rng),
        **causal_calls.measure_calls(instrument, truth, rng, on_progress),
    }


def _described(instrument: Instrument, truth: PlantedTruth, rng: np.random.Generator) -> tuple[list[int], dict[int, str]]:
    """Random reliable category voxels whose description names a thing, and the first such word of each."""
    able = truth.of_kind("category")
    drawn = rng.permutation(able[instrument.reliable[able]])[: 4 * N_VOXELS]
    found = first_words(instrument, drawn, planted_things(instrument))
    chosen = list(found)[:N_VOXELS]
    return chosen, found


def _try(instrument: Instrument, truth: PlantedTruth, request: EditRequest, second: SecondEncoder | None) -> Tried | None:
    try:
        trial = run_trial(instrument, request, second)
    except EditError:
        return None
    stimulus = instrument.subject.stimuli.ids[request.stimulus]
    return Tried(request.voxel, request.stimulus, trial, true_shift(truth, stimulus, trial.edit, request.voxel))


def _effects(trials: Sequence[Tried], direction: int, sure: Bool[np.ndarray, " voxel"], rng: np.random.Generator) -> dict[str, Any]:
    """Verified trials: how many moved as they should, by how much, beyond which controls, and what the second encoder says."""
    kept = [item for item in trials if item.trial.edit.verified]
    entry: dict[str, Any] = {"n": len(kept), "verified_rate": len(kept) / max(1, len(trials))}
    if not kept:
        return entry
    voxels = np.array([item.voxel for item in kept])
    shift = np.array([item.shift for item in kept])
    controls = np.array([item.trial.shift.controls[:, item.voxel].mean() for item in kept])
    entry |= {
        "direction_rate": difference((direction * shift > 0).astype(float), voxels, rng),
        "mean_shift_sd": difference(shift, voxels, rng),
        "mean_shift_beyond_controls_sd": difference(shift - controls, voxels, rng),
        "beyond_all_controls": difference(np.array([item.trial.shift.rank[item.voxel] == 1 for item in kept], float), voxels, rng),
    }
    checked = [item for item in kept if item.trial.check is not None and sure[item.voxel]]
    if len(checked) > 1:
        other = np.array([item.trial.check.shift[item.voxel] for item in checked if item.trial.check is not None])
        groups = np.array([item.voxel for item in checked])
        entry["second_encoder"] = {
            "n": len(checked),
            "direction_rate": difference((direction * other > 0).astype(float), groups, rng),
            "mean_shift_sd": difference(other, groups, rng),
        }
    return entry


def _controls(trials: Sequence[Tried], rng: np.random.Generator) -> dict[str, Any]:
    """Mean shift of each kind of control over the trials that have it, and of all; `still` where within 0.2 SD of none."""
    kinds = dict.fromkeys(name for item in trials for name in item.trial.shift.control_names)
    entry = {name: _still([item for item in trials if name in item.trial.shift.control_names], name, rng) for name in kinds}
    for name, direction in (("all of removals", -1), ("all of insertions", 1)):
        if some := [item for item in trials if _direction(item) == direction]:
            entry[name] = _still(some, None, rng)
    return entry


def _still(trials: Sequence[Tried], kind: str | None, rng: np.random.Generator) -> dict[str, Any]:
    """Mean shift of a trial's controls of one kind, or of all."""
    groups, values = np.array([item.voxel for item in trials]), np.empty(len(trials))
    for row, item in enumerate(trials):
        chosen = [i for i, name in enumerate(item.trial.shift.control_names) if kind in (None, name)]
        values[row] = item.trial.shift.controls[chosen, item.voxel].mean()
    return {"n": len(trials), "mean_shift_sd": difference(values, groups, rng), "still": bool(abs(values.mean()) <= STILL)}


def _agreement(trials: Sequence[Tried], rng: np.random.Generator) -> dict[str, Any]:
    """Correlation over trials of predicted and true shifts, with an interval that resamples voxels, and with shuffled truth."""
    known = [item for item in trials if np.isfinite(item.truth)]
    entry: dict[str, Any] = {"n": len(known), "n_without_a_true_shift": len(trials) - len(known), "r": None}
    if len(known) < 3:
        return entry
    predicted, true = np.array([item.shift for item in known]), np.array([item.truth for item in known])
    groups = [np.flatnonzero(np.array([item.voxel for item in known]) == voxel) for voxel in {item.voxel for item in known}]
    drawn = []
    for _ in range(1000):
        rows = np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))])
        drawn.append(np.corrcoef(predicted[rows], true[rows])[0, 1])
    within = {
        name: float(np.corrcoef(predicted[rows], true[rows])[0, 1])
        for name, sign in (("removals", -1), ("insertions", 1))
        if (rows := np.array([_direction(item) == sign for item in known])).sum() > 2
    }
    return entry | {
        "r": float(np.corrcoef(predicted, true)[0, 1]),
        "interval": [float(end) for end in np.quantile(drawn, [0.025, 0.975])],
        "null_r": float(np.corrcoef(predicted, rng.permutation(true))[0, 1]),
        "within": within,
        "same_sign": float(np.mean(np.sign(predicted) == np.sign(true))),
    }


def _direction(item: Tried) -> int:
    return 1 if item.trial.edit.instruction.startswith("insert") else -1


def _image_guided(instrument: Instrument, voxel: int, stimulus: int) -> float | None:
    """Shift by inserting the first thing that the driving patches of a preferred training image are read as; None where none is."""
    rng = np.random.default_rng([22, voxel, stimulus])
    preferred = int(rng.choice(_best_training_images(instrument, voxel, N_PREFERRED)))
    things = planted_things(instrument)
    named = [word for word in driving_words(instrument, preferred, heat_of(instrument, voxel, preferred)) if word in things]
    if not named:
        return None
    try:
        trial = run_trial(instrument, EditRequest("insert", voxel, stimulus, named[0]))
    except EditError:
        return None
    return float(trial.shift.shift[voxel])


def _best_training_images(instrument: Instrument, voxel: int, n: int) -> list[int]:
    """The `n` training stimuli of highest predicted response."""
    train = np.zeros(len(instrument.subject.stimuli), bool)
    train[instrument.subject.splits.train] = True
    return [int(stimulus) for stimulus in ranked_images(instrument, voxel, "top", len(train)) if train[stimulus]][:n]


def _cut_out_guided(instrument: Instrument, voxel: int, stimulus: int) -> float | None:
    """Shift by inserting what drives the voxel in its best training image, cut out by attribution; None where that fails."""
    [best] = _best_training_images(instrument, voxel, 1)
    images = instrument.subject.stimuli.images
    try:
        source = np.asarray(images[best])
        region, name = driving_region(instrument, voxel, best), instrument.subject.stimuli.ids[best]
        exemplar: Exemplar = cut_out("image", source, region, name, 1.0)
        image = np.asarray(images[stimulus])
        x, y = least_attributed_place(heat_of(instrument, voxel, stimulus), exemplar, size=INSERT_SIZE)
        edit = insert_at(image, exemplar, x=float(x), y=float(y), size=INSERT_SIZE)
    except EditError:
        return None
    pooled = instrument.backbone.get().embed(np.stack([image, edit.edited])).pooled
    return float((pooled[1] - pooled[0]) @ instrument.model.coef[:, voxel] / instrument.sd(voxel))


def _guided(pairs: Sequence[tuple[Tried, float]], rng: np.random.Generator) -> dict[str, Any]:
    """Shift of insertions that the description guides less that of those guided otherwise, in the same images; 95 % over voxels."""
    if len(pairs) < 2:
        return {"n": len(pairs)}
    profile, other = (np.array(values) for values in ([item.shift for item, _ in pairs], [shift for _, shift in pairs]))
    groups = np.array([item.voxel for item, _ in pairs])
    means = {"profile_guided": float(profile.mean()), "other": float(other.mean()), "equal": float((profile == other).mean())}
    return {"n": len(pairs), **means, **difference(profile - other, groups, rng)}
