"""From what the core computed to what is pinned: the numbers that are on screen, with units, uncertainty and null.

The same functions serve when a finding is pinned, when it is made again, and in exported scripts; so a number that differs
later differs because what it is made from does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Int

from mine_core.artifacts import ArtifactStore, hash_array
from mine_core.attribution.base import MethodName
from mine_core.encoding.uncertainty import region_interval
from mine_core.errors import MineError
from mine_core.exports.maps import CortexMap, cortex_map
from mine_core.instrument import Instrument
from mine_core.instrument.attributions import attribute_stimulus
from mine_core.instrument.explain import HeatOf, ImageExplanation
from mine_core.instrument.second import SecondEncoder
from mine_core.instrument.trials import EditRequest, Trial
from mine_core.notebook import pictures
from mine_core.notebook.records import Number
from mine_core.profiles import withheld_text
from mine_core.types import PredictedShift, VoxelProfile

RESAMPLES, SEED = 1000, 7310
N_WORDS, N_TOP = 6, 6
SD = "SD of predictions"


@dataclass(frozen=True)
class Found:
    """A finding as computed now: a title, its numbers, why it is withheld (or ""), its figure as PNG, and the figure in words."""

    title: str
    numbers: tuple[Number, ...]
    withheld: str
    draw: Callable[[], bytes]
    alt: str


def heat_by(instrument: Instrument, store: ArtifactStore, method: MethodName, voxel: int) -> HeatOf:
    """Heatmaps of a voxel by any method, each image computed now."""

    def heat(stimuli: Int[np.ndarray, " image"]) -> Float[np.ndarray, "image row col"]:
        return np.stack([attribute_stimulus(instrument, store, method, int(each), voxel).values[0] for each in stimuli])

    return heat


def find_voxel(instrument: Instrument, profile: VoxelProfile, top: Callable[[], Sequence[ImageExplanation]]) -> Found:
    """What is known of one voxel: accuracy, noise ceiling, and the words that it earned; of one that is withheld, no words.

    `top` explains the images of its figure when that is drawn.
    """
    voxel, score = profile.voxel, instrument.score
    place = " / ".join(profile.regions) or "outside the named regions"
    numbers = [
        accuracy(instrument, voxel),
        Number("R²", _plain(score.r2[voxel]), "share of variance", f"{score.n_test} held-out images", "0: the mean response"),
        Number("noise ceiling", _plain(profile.noise_ceiling), "share of variance", "from the repeats", "0: repeats do not agree"),
        Number("FDR q", _plain(profile.q), "", f"{score.n_permutations:,} permutations", "0.05: the limit for telling anything"),
        Number("reliability", profile.reliability),
        Number("region", place),
    ]
    words: tuple[str, ...] = ()
    if not profile.withheld:
        words, more = _word_numbers(instrument, profile)
        numbers += more
    shown = cortex_map(instrument, "accuracy", -1)
    return Found(
        title=f"Voxel {voxel} ({place}): {', '.join(words[:3]) or ('withheld' if profile.withheld else 'no word')}",
        numbers=tuple(numbers),
        withheld=profile.withheld,
        draw=lambda: pictures.voxel_picture(instrument, shown, voxel, top()),
        alt=f"Voxel {voxel} ringed on the flatmap, and its {N_TOP} strongest images with heatmaps.",
    )


def find_image(instrument: Instrument, voxel: int, item: ImageExplanation, method: MethodName) -> Found:
    """What one image is to one voxel: predicted and measured response, where the drive comes from, its words."""
    predicted = instrument.predicted(voxel)
    above = float(np.mean(predicted > item.predicted))
    strongest = int(np.abs(item.values).argmax())
    row, col = divmod(strongest, item.values.shape[1])
    numbers = (
        Number(
            "predicted response",
            item.predicted,
            SD,
            _residual(instrument, voxel),
            f"{100 * above:.1f} % of the other images are higher",
        ),
        Number("measured response", item.measured, "SD over images", _repeat_error(instrument, voxel, item.stimulus), "0: mean image"),
        Number("role in fitting", "held out" if item.held_out else "fitted on"),
        Number("heatmap", method),
        Number(
            "strongest place",
            float(item.values.ravel()[strongest]),
            f"{SD}, row {row + 1} and column {col + 1} of {item.values.shape[0]} x {item.values.shape[1]}",
            "not estimated",
            "0: the average image there",
        ),
        Number("words of the image", ", ".join(item.words) or "none"),
        accuracy(instrument, voxel),
    )
    return Found(
        title=f"Image {item.stimulus} for voxel {voxel}: predicted {item.predicted:+.1f} SD",
        numbers=numbers,
        withheld=_withheld(instrument, voxel),
        draw=partial(pictures.image_picture, instrument, voxel, item),
        alt=f"Image {item.stimulus}, and the same with the heatmap of voxel {voxel}.",
    )


def find_edit(instrument: Instrument, request: EditRequest, trial: Trial, second: SecondEncoder | None = None) -> Found:
    """How an edit moves one voxel's prediction, beside its controls and beside the second encoder."""
    voxel, shift = request.voxel, trial.shift
    value, before = float(shift.shift[voxel]), float(shift.before[voxel]) - instrument.mean_prediction(voxel)
    numbers = [
        _shift_number("predicted shift", shift, voxel),
        Number("prediction before", before, SD, _residual(instrument, voxel), "0: mean image"),
        Number("prediction after", before + value, SD, _residual(instrument, voxel), "0: mean image"),
        *_rank_numbers(shift, voxel),
        *_control_numbers(shift, voxel),
    ]
    if trial.check is not None:
        numbers.append(_shift_number("second encoder: predicted shift", trial.check, voxel))
        if second is not None:
            known = Number("second encoder: accuracy", _plain(second.score.r[voxel]), "Pearson r", f"{second.score.n_test} images", "0")
            numbers.append(known)
    edit = trial.edit
    checked = edit.provenance.get("verification")
    numbers += [
        Number("instant estimate from patches", trial.instant, SD, "not estimated", "0"),
        Number("changed region", 100 * float(edit.edit_mask.mean()), "% of the image"),
        Number("pixels changed outside the region", edit.changed_outside_mask, "pixels"),
        Number(
            "recognised by the backbone", "not asked" if not checked else f"{'yes' if edit.verified else 'no'}: {checked['reason']}"
        ),
        Number("edit", edit.instruction),
        accuracy(instrument, voxel),
    ]
    return Found(
        title=f"{edit.instruction.capitalize()} (image {request.stimulus}): voxel {voxel} {value:+.2f} SD",
        numbers=tuple(numbers),
        withheld=_withheld(instrument, voxel),
        draw=partial(pictures.edit_picture, instrument, voxel, trial),
        alt=f"Image {request.stimulus} before and after the edit, and the predicted shift of voxel {voxel} beside its controls.",
    )


def find_map(instrument: Instrument, shown: CortexMap, voxel: int = -1, image: int = -1, more: tuple[Number, ...] = ()) -> Found:
    """What a map shows: how many voxels, their mean and spread, and a fingerprint of all values; `image` is the selected one.

    `more` are numbers that only this map has.
    """
    values = np.asarray(shown.values, np.float64)
    known = values[np.isfinite(values)]
    numbers = [Number("voxels shown", len(known), f"of {len(values):,}")]
    if shown.categories:
        counts = np.bincount(known.astype(int), minlength=len(shown.categories))
        numbers += [Number(f"voxels: {name}", int(n), "voxels") for name, n in zip(shown.categories, counts, strict=True)]
    elif len(known):
        low, high = np.quantile(known, (0.05, 0.95))
        spread = f"5 to 95 % of voxels: {low:.3f} to {high:.3f}"
        numbers += [
            Number("mean over voxels", float(known.mean()), shown.unit, spread, "0"),
            Number("median over voxels", float(np.median(known)), shown.unit, spread, "0"),
        ]
    numbers += [
        *more,
        Number("reliable voxels", int(instrument.reliable.sum()), f"of {len(values):,}", "", "q ≤ 0.05 and held-out r ≥ 0.15"),
        Number("fingerprint of all values, to 4 decimals", hash_array(np.round(values, 4))[:16]),
    ]
    return Found(
        title=f"Map: {shown.title.replace('the selected image', f'image {image}')}",
        numbers=tuple(numbers),
        withheld="",
        draw=partial(pictures.map_picture, instrument, shown, voxel),
        alt=f"Flatmap: {shown.title}. {shown.caption}",
    )


def accuracy(instrument: Instrument, voxel: int) -> Number:
    """Held-out r of a voxel, its 95 % interval over test images, and its q."""
    score, test = instrument.score, instrument.subject.splits.test
    pooled = np.asarray(instrument.features.pooled[test], np.float64)
    predicted = pooled @ instrument.model.coef[:, [voxel]] + instrument.model.intercept[[voxel]]
    measured = np.asarray(instrument.subject.responses.values[:, [voxel]][test], np.float64)
    try:
        rng = np.random.default_rng(SEED)
        found = region_interval(predicted, measured, np.ones((1, 1), bool), rng, statistic="r", n_resamples=RESAMPLES)
        interval = f"95 % {found.low[0]:.3f} to {found.high[0]:.3f}, bootstrap over {score.n_test} test images"
    except MineError:
        # a voxel whose responses do not vary has no accuracy to be sure of
        interval = "unknown"
    null = f"0; q = {score.q[voxel]:.2g}, {score.n_permutations:,} permutations"
    return Number("accuracy", _plain(score.r[voxel]), "Pearson r", interval, null)


def fisher_interval(r: float, n: int) -> tuple[float, float]:
    """95 % interval of a correlation: tanh(atanh(r) ± 1.96 / sqrt(n - 3)), for samples that are drawn independently (Fisher 1915)."""
    centre, half = np.arctanh(np.clip(r, -0.999999, 0.999999)), 1.959964 / np.sqrt(max(n - 3, 1))
    return float(np.tanh(centre - half)), float(np.tanh(centre + half))


def _word_numbers(instrument: Instrument, profile: VoxelProfile) -> tuple[tuple[str, ...], list[Number]]:
    description, n = profile.description, instrument.words.n_held_out
    if description is None or not description.phrases:
        return (), [Number("words", profile.words_withheld or "none better than chance")]
    scores = dict(zip(description.words, zip(description.scores, description.p, strict=True), strict=True))
    numbers = [Number("wants", ", ".join(description.phrases))]
    for word in description.phrases[:N_WORDS]:
        score, p = (float(value) for value in scores[word])
        low, high = fisher_interval(score, n)
        interval = f"95 % {low:.2f} to {high:.2f}, {n} held-out images"
        numbers.append(Number(f"word '{word}'", score, "r with measured", interval, f"p = {p:.2g} against shuffled responses"))
    if np.isfinite(profile.words_r):
        low, high = fisher_interval(profile.words_r, n)
        interval = f"95 % {low:.2f} to {high:.2f}, {n} held-out images"
        numbers.append(Number("words together", float(profile.words_r), "r with measured", interval, "0"))
    for entry in profile.attributes:
        if entry.stands:
            null = f"p = {entry.p:.2g}"
            sure = f"chosen in {100 * entry.agreement:.0f} % of folds"
            numbers.append(Number(f"{entry.attribute}: {entry.word}", float(entry.score), "partial r", sure, null))
    numbers += [Number(f"caution {i}", caveat) for i, caveat in enumerate(profile.caveats, 1)]
    return description.phrases, numbers


def _shift_number(name: str, shift: PredictedShift, voxel: int) -> Number:
    controls, n = shift.controls[:, voxel], len(shift.control_names)
    spread = f"{n} controls: {controls.min():+.2f} to {controls.max():+.2f}, SD {controls.std():.2f}" if n else "no controls"
    null = f"rank {int(shift.rank[voxel])} of {n + 1}, one-sided p = {shift.p[voxel]:.3f}, smallest possible {1 / (n + 1):.3f}"
    return Number(name, float(shift.shift[voxel]), SD, spread, null)


def _rank_numbers(shift: PredictedShift, voxel: int) -> list[Number]:
    n = len(shift.control_names)
    return [
        Number(
            "rank among itself and controls", int(shift.rank[voxel]), f"of {n + 1}", "", f"{(n + 2) / 2:.1f}: an edit like its controls"
        ),
        Number("p, one-sided", float(shift.p[voxel]), "", f"smallest possible {1 / (n + 1):.3f}", "0.5"),
    ]


def _control_numbers(shift: PredictedShift, voxel: int) -> list[Number]:
    numbers = []
    for kind in dict.fromkeys(shift.control_names):
        values = shift.controls[[name == kind for name in shift.control_names], voxel]
        spread = f"{values.min():+.2f} to {values.max():+.2f}, n = {len(values)}"
        numbers.append(Number(f"control, {kind}: mean shift", float(values.mean()), SD, spread, "0"))
    return numbers


def _residual(instrument: Instrument, voxel: int) -> str:
    """How far held-out responses scatter about their predictions."""
    r = float(instrument.score.r[voxel])
    if not np.isfinite(r):
        return "unknown"
    return f"measured responses scatter by {np.sqrt(1 - r**2):.2f} SD about it, {instrument.score.n_test} held-out images"


def _repeat_error(instrument: Instrument, voxel: int, stimulus: int) -> str:
    responses = instrument.subject.responses
    if responses.repeats is None:
        return "unknown: no repeats"
    single = np.asarray(responses.repeats[:, stimulus, voxel], np.float64)
    single = single[np.isfinite(single)]
    if len(single) < 2:
        return "unknown: no repeats of this image"
    scale = float(np.asarray(responses.values[:, voxel], np.float64).std()) or 1.0
    return f"± {single.std(ddof=1) / np.sqrt(len(single)) / scale:.2f} SEM of {len(single)} repeats"


def _withheld(instrument: Instrument, voxel: int) -> str:
    score = instrument.score
    return withheld_text(float(score.r[voxel]), float(score.q[voxel]), score.n_test)


def _plain(value: float) -> float | None:
    """A number for JSON: None where it is unknown."""
    return float(value) if np.isfinite(value) else None
