"""Do edits move predictions as they should, do controls stay put, and does the planted brain agree?"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from mine_core.artifacts import ArtifactStore
from mine_core.batches import Where
from mine_core.config import InstrumentConfig
from mine_core.counterfactual.insertion import Exemplar, cut_out, insert_at, least_attributed_place
from mine_core.errors import EditError
from mine_core.experiments import causal_calls
from mine_core.experiments.attribution_curves import difference
from mine_core.experiments.causal_calls import Called, middling_images, planted_things
from mine_core.experiments.pieces import HERE, Pieces, measure_pieces
from mine_core.experiments.planted import truth_of
from mine_core.experiments.tried import Tried, try_edit
from mine_core.experiments.voxel_faithfulness import images_to_test
from mine_core.instrument import Instrument, build_instrument
from mine_core.instrument.explain import ranked_images
from mine_core.instrument.second import SecondEncoder, build_second
from mine_core.instrument.trials import INSERT_SIZE, EditRequest, driving_region, driving_words, run_trial
from mine_core.instrument.wanting import first_words
from mine_core.instrument.where import heat_of
from mine_core.subjects.phantom.truth import PlantedTruth
from mine_core.types import OnProgress

N_VOXELS, N_IMAGES, AMONG = 40, 2, 800
N_PREFERRED = 10  # best training images, one of which guides an edit by its description
STILL = 0.2  # SD: what controls may move on average


Bench = tuple[Instrument, SecondEncoder, PlantedTruth]


def measure(config: InstrumentConfig, store: ArtifactStore, on_progress: OnProgress, where: Where = HERE) -> dict[str, Any]:
    """Remove what drives a voxel, insert what its description names, and compare with controls and with the planted brain.

    Reliable category voxels that earned a description, drawn at random, each with two held-out images: those of highest
    predicted response for a removal, and of middle response for an insertion. Words were chosen on training images.
    Effects are over verified edits, in SD of the voxel's predictions; `direction_rate` is the share that moved as they should.
    All intervals resample voxels. True shifts: the planted response to the scene with and without the objects that the edit
    took out or put in; edits that no scene describes (a part of an object, a word for a group) have none. A voxel is a task.

    `profile_guided_minus_image_guided`: the same editor inserts the word of the voxel's description, and that of the driving
    patches of one of its ten best training images. `profile_guided_minus_cut_out`: the same beside the pixels that drive the
    voxel in its very best training image, cut out: no description, and the most favourable of 2,000 images.
    `confounded`, `null`: see `causal_calls`.
    """
    instrument = build_instrument(config, store, on_progress=on_progress)
    second, truth = build_second(config, store, on_progress=on_progress), truth_of(instrument)
    rng = np.random.default_rng(21)
    voxels, words = _described(instrument, truth, rng)
    here: dict[str, Any] = {"opened": (instrument, second, truth), "where": where, "on_progress": on_progress}
    asked = [{"voxel": voxel, "word": words[voxel]} for voxel in voxels]
    edited = replace(EDITED, about={"second": second.key})
    found = measure_pieces(edited, asked, config, store, title="editing what each voxel wants", **here)

    def called(of: Sequence[int]) -> list[Called]:
        return measure_pieces(CALLED, [{"voxel": voxel} for voxel in of], config, store, title=causal_calls.TITLE, **here)

    removed = [Tried.from_row(row) for each in found for row in each["removed"] if row]
    inserted = [[Tried.from_row(row) if row else None for row in each["inserted"]] for each in found]
    pairs = {
        name: [
            (trial, shift)
            for trials, each in zip(inserted, found, strict=True)
            for trial, shift in zip(trials, each[name], strict=True)
            if trial is not None and shift is not None
        ]
        for name in ("image_guided", "cut_out")
    }
    made = [trial for trials in inserted for trial in trials if trial is not None]
    return {
        "subject": instrument.subject.name,
        "backbone": config.backbone,
        "n_voxels": len(voxels),
        "n_not_editable": sum(len(each["removed"]) + len(each["inserted"]) for each in found) - len(removed) - len(made),
        "second_encoder": second.independence,
        "remove": _effects(removed, -1, second.reliable, rng),
        "insert": _effects(made, 1, second.reliable, rng),
        "controls": _controls([*removed, *made], rng),
        "predicted_with_true_shift": _agreement([item for item in (*removed, *made) if item.verified], rng),
        "profile_guided_minus_image_guided": _guided(pairs["image_guided"], rng),
        "profile_guided_minus_cut_out": _guided(pairs["cut_out"], rng),
        **causal_calls.measure_calls(instrument, truth, rng, called),
    }


def _opened(config: InstrumentConfig, store: ArtifactStore) -> Bench:
    instrument = build_instrument(config, store)
    return instrument, build_second(config, store), truth_of(instrument)


def _edited(bench: Bench, voxel: int, word: str) -> dict[str, Any]:
    """Removals from the voxel's best held-out images and insertions into middling ones; of these also the shifts guided otherwise."""
    instrument, second, truth = bench
    best, middling = images_to_test(instrument, voxel, N_IMAGES).tolist(), middling_images(instrument, voxel, N_IMAGES, AMONG)
    removed = [try_edit(instrument, truth, EditRequest("remove", voxel, stimulus), second) for stimulus in best]
    inserted = [try_edit(instrument, truth, EditRequest("insert", voxel, stimulus, word), second) for stimulus in middling]
    made = [(trial is not None, stimulus) for trial, stimulus in zip(inserted, middling, strict=True)]
    return {
        "removed": [None if trial is None else trial.row() for trial in removed],
        "inserted": [None if trial is None else trial.row() for trial in inserted],
        "image_guided": [_image_guided(instrument, voxel, stimulus) if could else None for could, stimulus in made],
        "cut_out": [_cut_out_guided(instrument, voxel, stimulus) if could else None for could, stimulus in made],
    }


def _called(bench: Bench, voxel: int) -> Called:
    return causal_calls.called_by_edits(bench[0], voxel, planted_things(bench[0]))


EDITED, CALLED = Pieces("edited", _opened, _edited), Pieces("called", _opened, _called)


def _described(instrument: Instrument, truth: PlantedTruth, rng: np.random.Generator) -> tuple[list[int], dict[int, str]]:
    """Random reliable category voxels whose description names a thing, and the first such word of each."""
    able = truth.of_kind("category")
    drawn = rng.permutation(able[instrument.reliable[able]])[: 4 * N_VOXELS]
    found = first_words(instrument, drawn, planted_things(instrument))
    chosen = list(found)[:N_VOXELS]
    return chosen, found


def _effects(trials: Sequence[Tried], direction: int, sure: Bool[np.ndarray, " voxel"], rng: np.random.Generator) -> dict[str, Any]:
    """Verified trials: how many moved as they should, by how much, beyond which controls, and what the second encoder says."""
    kept = [item for item in trials if item.verified]
    entry: dict[str, Any] = {"n": len(kept), "verified_rate": len(kept) / max(1, len(trials))}
    if not kept:
        return entry
    voxels = np.array([item.voxel for item in kept])
    shift = np.array([item.guiding.shift for item in kept])
    controls = np.array([item.guiding.mean_control for item in kept])
    entry |= {
        "direction_rate": difference((direction * shift > 0).astype(float), voxels, rng),
        "mean_shift_sd": difference(shift, voxels, rng),
        "mean_shift_beyond_controls_sd": difference(shift - controls, voxels, rng),
        "beyond_all_controls": difference(np.array([item.guiding.rank == 1 for item in kept], float), voxels, rng),
    }
    checked = [(item.voxel, item.second.shift) for item in kept if item.second is not None and sure[item.voxel]]
    if len(checked) > 1:
        groups, other = np.array([voxel for voxel, _ in checked]), np.array([shift for _, shift in checked])
        entry["second_encoder"] = {
            "n": len(checked),
            "direction_rate": difference((direction * other > 0).astype(float), groups, rng),
            "mean_shift_sd": difference(other, groups, rng),
        }
    return entry


def _controls(trials: Sequence[Tried], rng: np.random.Generator) -> dict[str, Any]:
    """Mean shift of each kind of control over the trials that have it, and of all; `still` where within 0.2 SD of none."""
    kinds = dict.fromkeys(name for item in trials for name in item.control_names)
    entry = {name: _still([item for item in trials if name in item.control_names], name, rng) for name in kinds}
    for name, inserted in (("all of removals", False), ("all of insertions", True)):
        if some := [item for item in trials if item.inserted == inserted]:
            entry[name] = _still(some, None, rng)
    return entry


def _still(trials: Sequence[Tried], kind: str | None, rng: np.random.Generator) -> dict[str, Any]:
    """Mean shift of a trial's controls of one kind, or of all."""
    groups, values = np.array([item.voxel for item in trials]), np.empty(len(trials))
    for row, item in enumerate(trials):
        chosen = [i for i, name in enumerate(item.control_names) if kind in (None, name)]
        values[row] = np.mean([item.guiding.controls[i] for i in chosen])
    return {"n": len(trials), "mean_shift_sd": difference(values, groups, rng), "still": bool(abs(values.mean()) <= STILL)}


def _agreement(trials: Sequence[Tried], rng: np.random.Generator) -> dict[str, Any]:
    """Correlation over trials of predicted and true shifts, with an interval that resamples voxels, and with shuffled truth."""
    known = [item for item in trials if item.truth is not None]
    entry: dict[str, Any] = {"n": len(known), "n_without_a_true_shift": len(trials) - len(known), "r": None}
    if len(known) < 3:
        return entry
    predicted, true = np.array([item.guiding.shift for item in known]), np.array([item.truth for item in known])
    groups = [np.flatnonzero(np.array([item.voxel for item in known]) == voxel) for voxel in {item.voxel for item in known}]
    drawn = []
    for _ in range(1000):
        rows = np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))])
        drawn.append(np.corrcoef(predicted[rows], true[rows])[0, 1])
    within = {
        name: float(np.corrcoef(predicted[rows], true[rows])[0, 1])
        for name, inserted in (("removals", False), ("insertions", True))
        if (rows := np.array([item.inserted == inserted for item in known])).sum() > 2
    }
    return entry | {
        "r": float(np.corrcoef(predicted, true)[0, 1]),
        "interval": [float(end) for end in np.quantile(drawn, [0.025, 0.975])],
        "null_r": float(np.corrcoef(predicted, rng.permutation(true))[0, 1]),
        "within": within,
        "same_sign": float(np.mean(np.sign(predicted) == np.sign(true))),
    }


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
    profile, other = (np.array(values) for values in ([item.guiding.shift for item, _ in pairs], [shift for _, shift in pairs]))
    groups = np.array([item.voxel for item, _ in pairs])
    means = {"profile_guided": float(profile.mean()), "other": float(other.mean()), "equal": float((profile == other).mean())}
    return {"n": len(pairs), **means, **difference(profile - other, groups, rng)}
