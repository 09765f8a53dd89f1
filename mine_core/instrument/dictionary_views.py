"""What a page asks of a dictionary: a voxel's units, a unit's images, words and voxels, an image layer by layer."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mine_core.description.scoring import held_out_scores, standardised
from mine_core.description.wants import select
from mine_core.dictionary.activations import codes_of, place_name
from mine_core.errors import SubjectError
from mine_core.instrument.dictionary import Dictionary
from mine_core.instrument.explain import require_voxel
from mine_core.instrument.instrument import Instrument
from mine_core.instrument.wanting import wanting_of
from mine_core.statistics import false_discovery_rate

SEED, N_PERMUTATIONS, LARGEST_P, MOST_WORDS = 7321, 1000, 0.05, 4


@dataclass(frozen=True)
class Unit:
    """One unit of one layer (from 0), read at a place (0: the whole image)."""

    layer: int
    unit: int
    place: int = 0


@dataclass(frozen=True)
class VoxelUnit:
    """A unit of a voxel: correlation on the images that chose it and on others, p among all of the voxel's units, where it is read."""

    unit: Unit
    where: str
    r_chosen: float
    r_held_out: float
    p: float


@dataclass(frozen=True)
class UnitWord:
    """A word of a unit, its correlation with the unit's activation on held-out images, and p among the words that were chosen."""

    word: str
    r: float
    p: float


@dataclass(frozen=True)
class UnitOnCortex:
    """Correlation of a unit's activation with every voxel's measured responses to held-out images, and q over voxels."""

    r: Float[np.ndarray, " voxel"]
    q: Float[np.ndarray, " voxel"]
    n_images: int


def units_of_voxel(instrument: Instrument, dictionary: Dictionary, voxel: int) -> tuple[VoxelUnit, ...]:
    """Units of a voxel, most similar on the choosing half first, each tested on the other half.

    p = (1 + #{shuffles whose largest correlation over the voxel's units >= r}) / (1 + 1000). Raises SubjectError if there is no
    such voxel.
    """
    require_voxel(instrument, voxel)
    matches, measure = dictionary.matches, dictionary.halves.measure
    units = [
        Unit(int(layer), int(unit), int(place))
        for layer, unit, place in zip(matches.layer[voxel], matches.unit[voxel], matches.place[voxel], strict=True)
    ]
    activations = np.stack([activation(dictionary, unit)[measure] for unit in units], axis=1)
    answers = np.asarray(instrument.subject.responses.values[:, voxel : voxel + 1][measure], np.float32)
    everyone = np.arange(len(units))[None]
    _, p = held_out_scores(activations, answers, everyone, n_permutations=N_PERMUTATIONS, rng=np.random.default_rng([SEED, voxel]))
    grid = dictionary.tokens.backbone.grid
    return tuple(
        VoxelUnit(unit, place_name(unit.place, grid), float(chosen), float(held_out), float(value))
        for unit, chosen, held_out, value in zip(units, matches.r_chosen[voxel], matches.r_held_out[voxel], p[0], strict=True)
    )


def activation(dictionary: Dictionary, unit: Unit) -> Float[np.ndarray, " stimulus"]:
    """Activation of a unit in every stimulus; raises SubjectError if no voxel was given the unit at that place."""
    n_units = dictionary.whole[unit.layer].shape[1] if 0 <= unit.layer < len(dictionary.whole) else 0
    if not 0 <= unit.unit < n_units:
        raise SubjectError(f"Layer {unit.layer + 1} has {n_units} units; unit {unit.unit} was asked for.")
    if unit.place == 0:
        return np.asarray(dictionary.whole[unit.layer][:, unit.unit], np.float32)
    try:
        return dictionary.columns[unit.layer].of(unit.unit, unit.place)
    except KeyError as missing:
        raise SubjectError(f"No voxel was given {missing.args[0]} of layer {unit.layer + 1}; see it in whole images.") from missing


def top_images(dictionary: Dictionary, unit: Unit, n: int) -> Int[np.ndarray, " image"]:
    """Stimuli in which a unit is most active, at most `n`, none in which it is silent."""
    values = activation(dictionary, unit)
    order = np.argsort(-values, kind="stable")[:n]
    return order[values[order] > 0]


def patches_of_unit(dictionary: Dictionary, unit: Unit, stimuli: Int[np.ndarray, " image"]) -> Float[np.ndarray, "image row col"]:
    """Activation of a unit at every patch of some stimuli."""
    codes = codes_of(dictionary.autoencoders[unit.layer], dictionary.tokens.patches[unit.layer], stimuli)
    return codes[:, :, unit.unit].reshape(len(stimuli), *dictionary.tokens.backbone.grid).numpy()


def words_of_unit(instrument: Instrument, dictionary: Dictionary, unit: Unit) -> tuple[UnitWord, ...]:
    """Words whose presence in images goes with a unit's activation, chosen on training images and scored on held-out ones.

    Chosen as the words of a voxel are (`mine_core.description.wants.select`), with the activation in whole images in place of
    responses; none for a backbone without words. p is against shuffled images, among the chosen words; those above 0.05 are
    left out.
    """
    wanting = wanting_of(instrument)
    if wanting is None:
        return ()
    ground = wanting.ground
    values = activation(dictionary, Unit(unit.layer, unit.unit))
    if np.ptp(values[ground.train]) == 0 or np.ptp(values[ground.held_out]) == 0:
        return ()
    towards = (ground.seen.T @ standardised(values[ground.train, None]))[:, 0].astype(np.float64)
    chosen, _ = select(ground.gram, towards, len(ground.train), ground.offered)
    if not chosen:
        return ()
    scores, p = held_out_scores(
        ground.left_out,
        values[ground.held_out, None],
        np.array([chosen]),
        n_permutations=N_PERMUTATIONS,
        rng=np.random.default_rng([SEED, unit.layer, unit.unit]),
    )
    found = [UnitWord(ground.words[word], float(scores[0, i]), float(p[0, i])) for i, word in enumerate(chosen)]
    return tuple(word for word in found if word.p <= LARGEST_P)[:MOST_WORDS]


def unit_on_cortex(instrument: Instrument, dictionary: Dictionary, unit: Unit) -> UnitOnCortex:
    """Voxels of a unit: correlations over validation and test images, which matched nothing.

    p = (1 + #{shuffles with r at least as large}) / (1 + 1000), the same shuffles for all voxels; q by Benjamini and Yekutieli
    over voxels. Raises SubjectError if the unit does not vary over those images.
    """
    splits = instrument.subject.splits
    held_out = np.concatenate([splits.validation, splits.test])
    values = activation(dictionary, unit)[held_out]
    if np.ptp(values) == 0:
        raise SubjectError(f"Unit {unit.unit} of layer {unit.layer + 1} is the same in all {len(held_out)} held-out images.")
    rng = np.random.default_rng([SEED, unit.layer, unit.unit, unit.place])
    answers = standardised(np.asarray(instrument.subject.responses.values[held_out], np.float32))
    ours = standardised(values[:, None])[:, 0]
    r = ours @ answers
    shuffled = np.stack([ours[rng.permutation(len(ours))] for _ in range(N_PERMUTATIONS)])
    reached = np.zeros(len(r), int)
    for start in range(0, len(shuffled), 100):
        reached += (shuffled[start : start + 100] @ answers >= r - 1e-6).sum(axis=0)
    q = false_discovery_rate((1 + reached) / (1 + N_PERMUTATIONS), "by")
    return UnitOnCortex(r, q, len(held_out))


def image_through_layers(dictionary: Dictionary, stimulus: int) -> Float[np.ndarray, "layer voxel"]:
    """Response to one image that the best unit of every layer predicts for each matched voxel, in SD from the mean (NaN: no unit).

    value[l, v] = r[l, v] z[u(l, v)], z the unit's activation in SD over the measuring half and r its correlation with the voxel
    there: a regression on one unit. A prediction, by one unit of one layer; voxels without a unit above chance are left out.
    """
    if not 0 <= stimulus < len(dictionary.tokens.stimulus_ids):
        raise SubjectError(f"Image {stimulus} was asked for; there are images 0 to {len(dictionary.tokens.stimulus_ids) - 1}.")
    matches, measure = dictionary.matches, dictionary.halves.measure
    voxels = np.flatnonzero(dictionary.matched)
    values = np.full((len(dictionary.tokens), len(matches.q)), np.nan, np.float32)
    for layer in range(len(dictionary.tokens)):
        rank = np.argmax(matches.layer[voxels] == layer, axis=1)  # ranks are in order of similarity
        used = dictionary.columns[layer]
        column = matches.place[voxels, rank] * used.n_units + matches.unit[voxels, rank]
        distinct, which = np.unique(column, return_inverse=True)
        kept = np.asarray(used.values[np.searchsorted(used.column, distinct)], np.float32)
        spread = kept[:, measure].std(axis=1)
        z = (kept[:, stimulus] - kept[:, measure].mean(axis=1)) / np.where(spread > 0, spread, np.inf)
        values[layer, voxels] = matches.r_held_out[voxels, rank] * z[which]
    return values
