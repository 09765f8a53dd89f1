"""What each claim of the paper is tested on: the values that one voxel gives, a row for every image and condition.

The same code for every subject. Values are predictions, of the encoder that guides and of the second one, which never does. Where a
subject's answer was planted, the true shift of an edit stands beside the predicted one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from mine_core.attribution.faithfulness import patched_predictions
from mine_core.counterfactual.insertion import (
    Exemplar,
    blend_in,
    cut_out,
    insert_at,
    insertion_mask,
    least_attributed_place,
)
from mine_core.counterfactual.placements import places_elsewhere
from mine_core.errors import EditError
from mine_core.experiments.attribution_curves import TOKEN_SHARE
from mine_core.experiments.composing import Maker, describe_patches
from mine_core.experiments.planted_edits import true_shift
from mine_core.instrument import Instrument
from mine_core.instrument.second import SecondEncoder
from mine_core.instrument.things import exemplars_of
from mine_core.instrument.trials import INSERT_SIZE, EditRequest, driving_region, run_trial
from mine_core.instrument.where import heat_of, heat_of_read_out, on_patches
from mine_core.subjects.phantom.responses import signal_scale
from mine_core.subjects.phantom.truth import PlantedTruth
from mine_core.types import EncodingModel, ImageEdit

Row = dict[str, Any]
N_IMAGES, N_TOKEN_IMAGES, N_AVERAGED = 3, 16, 100
N_PLACES, LEAST_DISTANCE = 6, 1.0
SEED = 83


@dataclass(frozen=True)
class Bench:
    """What the values of a voxel are measured with; `word` is the first thing that its description names."""

    instrument: Instrument
    second: SecondEncoder | None
    maker: Maker
    truth: PlantedTruth | None

    def shifts(
        self, images: Sequence[UInt8[np.ndarray, "height width 3"]], voxel: int
    ) -> tuple[Float[np.ndarray, " image"], Float[np.ndarray, " image"] | None]:
        """Predictions less that of the first image, in SD of each encoder's predictions."""
        return self.from_first(*self.predicted(images, voxel), voxel)

    def from_first(
        self, first: Float[np.ndarray, " image"], second: Float[np.ndarray, " image"] | None, voxel: int
    ) -> tuple[Float[np.ndarray, " image"], Float[np.ndarray, " image"] | None]:
        """Predictions of either encoder less that of the first image, in SD of each encoder's predictions."""
        other = None if second is None or self.second is None else (second - second[0]) / float(self.second.model.prediction_sd[voxel])
        return (first - first[0]) / self.instrument.sd(voxel), other

    def predicted(
        self, images: Sequence[UInt8[np.ndarray, "height width 3"]], voxel: int
    ) -> tuple[Float[np.ndarray, " image"], Float[np.ndarray, " image"] | None]:
        """Predictions in the units of the responses; of the second encoder None where it does not predict the voxel reliably."""
        stack, model = np.stack(images), self.instrument.model
        first = self.instrument.backbone.get().embed(stack).pooled @ model.coef[:, voxel] + model.intercept[voxel]
        if self.second is None or not self.second.reliable[voxel]:
            return np.asarray(first, np.float64), None
        other = self.second.model
        second = self.second.backbone.get().embed(stack).pooled @ other.coef[:, voxel] + other.intercept[voxel]
        return np.asarray(first, np.float64), np.asarray(second, np.float64)

    def image(self, stimulus: int) -> UInt8[np.ndarray, "height width 3"]:
        """One stimulus."""
        return np.asarray(self.instrument.subject.stimuli.images[stimulus])

    def measured(self, voxel: int) -> tuple[Float[np.ndarray, " stimulus"], float]:
        """Measured responses to every stimulus and their SD over training stimuli."""
        values = np.asarray(self.instrument.subject.responses.values[:, voxel], np.float64)
        return values, float(values[self.instrument.subject.splits.train].std()) or 1.0

    def preferred(self, voxel: int) -> list[int]:
        """Test stimuli of highest predicted response, highest first."""
        return self._ranked(voxel)[:N_IMAGES]

    def non_preferred(self, voxel: int) -> list[int]:
        """Test stimuli of lowest predicted response, lowest first."""
        return self._ranked(voxel)[::-1][:N_IMAGES]

    def _ranked(self, voxel: int) -> list[int]:
        test = np.asarray(self.instrument.subject.splits.test)
        pooled = np.asarray(self.instrument.features.pooled[test], np.float64)
        return [int(i) for i in test[np.argsort(-(pooled @ self.instrument.model.coef[:, voxel]), kind="stable")]]

    def ranked_patches(self, voxel: int, stimulus: int) -> Int[np.ndarray, " patch"]:
        """Patches of a stimulus, the most attributed first."""
        heat = on_patches(self.instrument, heat_of(self.instrument, voxel, stimulus))
        return np.argsort(-heat.ravel(), kind="stable")

    @property
    def n_critical(self) -> int:
        """Critical patches of an image: the paper's share of 50 in 576."""
        rows, columns = self.instrument.features.backbone.grid
        return max(1, round(TOKEN_SHARE * rows * columns))

    @cached_property
    def second_mean_patches(self) -> Float[np.ndarray, "patch feature"]:
        """Average patches of training stimuli as the second backbone sees them."""
        if self.second is None:
            raise EditError("There is no second encoder.")
        train = self.instrument.subject.splits.train[:N_AVERAGED]
        return self.second.backbone.get().embed(np.asarray(self.instrument.subject.stimuli.images[train])).patches.mean(axis=0)


def reconstruction(bench: Bench, voxel: int, _: str) -> list[Row]:
    """Images made from descriptions of the critical, of random and of the least attributed patches of preferred images.

    error = |measured response to the original - predicted response to the made image| in SD of measured responses, as in the paper;
    distance = |predicted response to the original - that to the made image| in SD of predictions.
    """
    rows, rng, k = [], np.random.default_rng([SEED, voxel]), bench.n_critical
    measured, spread = bench.measured(voxel)
    for stimulus in bench.preferred(voxel):
        ranked = bench.ranked_patches(voxel, stimulus)
        chosen = {"critical": ranked[:k], "random": rng.permutation(len(ranked))[:k], "least": ranked[-k:]}
        said = {name: describe_patches(bench.instrument, stimulus, patches) for name, patches in chosen.items()}
        made = {name: bench.maker.make(bench.instrument, each) for name, each in said.items()}
        images = [bench.image(stimulus), *(image for image, _ in made.values())]
        first, second = bench.predicted(images, voxel)
        shift, other = bench.from_first(first, second, voxel)
        for place, name in enumerate(chosen, start=1):
            rows.append(
                {
                    "image": stimulus,
                    "condition": name,
                    "error": abs(measured[stimulus] - first[place]) / spread,
                    "error_second": None if second is None else abs(measured[stimulus] - second[place]) / spread,
                    "distance": abs(shift[place]),
                    "distance_second": None if other is None else abs(other[place]),
                    "said": [item.text for item in said[name]],
                    "n_drawn": made[name][1],
                }
            )
    return rows


def discriminability(bench: Bench, voxel: int, _: str) -> list[Row]:
    """Predictions to images made from descriptions of the critical patches of preferred and of non-preferred images.

    In SD of predictions, from the neutral ground alone.
    """
    rows = []
    empty, _n = bench.maker.make(bench.instrument, ())
    for name, stimuli in (("preferred", bench.preferred(voxel)), ("non-preferred", bench.non_preferred(voxel))):
        for stimulus in stimuli:
            said = describe_patches(bench.instrument, stimulus, bench.ranked_patches(voxel, stimulus)[: bench.n_critical])
            image, drawn = bench.maker.make(bench.instrument, said)
            first, second = bench.shifts([empty, image], voxel)
            row: Row = {"image": stimulus, "condition": name, "said": [item.text for item in said], "n_drawn": drawn}
            rows.append(row | {"predicted": first[1], "predicted_second": None if second is None else second[1]})
    return rows


def edits(bench: Bench, voxel: int, word: str) -> list[Row]:
    """Removals of what drives a voxel from preferred images and insertions of its first word into non-preferred ones, with controls.

    Shifts in SD of predictions; `verified` where the backbone sees that the edit did what was asked. On a phantom also the true shift
    of the scene that the edit makes, and the predicted one, both in SD of the voxel's signal.
    """
    rows: list[Row] = []
    asked = [("remove", stimulus, "") for stimulus in bench.preferred(voxel)]
    asked += [("insert", stimulus, word) for stimulus in bench.non_preferred(voxel)]
    for kind, stimulus, what in asked:
        try:
            trial = run_trial(bench.instrument, EditRequest(kind, voxel, stimulus, what), bench.second)  # type: ignore[arg-type]
        except EditError as refusal:
            rows.append({"image": stimulus, "condition": "refused", "kind": kind, "reason": str(refusal)})
            continue
        check = trial.check if bench.second is not None and bench.second.reliable[voxel] else None
        common = {"image": stimulus, "kind": kind, "verified": bool(trial.edit.verified)}
        own: Row = {"shift": trial.shift.shift[voxel], "shift_second": None if check is None else check.shift[voxel]}
        other = {
            "shift": trial.shift.controls[:, voxel].mean(),
            "shift_second": None if check is None else check.controls[:, voxel].mean(),
        }
        own |= _planted(bench, voxel, stimulus, trial.edit, float(trial.shift.shift[voxel]))
        rows += [common | {"condition": "edit"} | own, common | {"condition": "controls"} | other]
    return rows


def _planted(bench: Bench, voxel: int, stimulus: int, edit: ImageEdit, shift: float) -> Row:
    """True shift of an edit and the predicted one in the same unit; nothing where no truth was planted or no scene tells."""
    if bench.truth is None:
        return {}
    true = true_shift(bench.truth, bench.instrument.subject.stimuli.ids[stimulus], edit, voxel)
    scale = float(signal_scale(bench.truth.ncsnr[[voxel]])[0])
    if not np.isfinite(true) or scale <= 0:
        return {}
    return {"true": true, "predicted": shift * bench.instrument.sd(voxel) / scale}


def faithfulness(bench: Bench, voxel: int, _: str) -> list[Row]:
    """Share of the way from a non-preferred image to a preferred one that a piece of the preferred one goes.

    F = [h(x' with f) - h(x')] / [h(x) - h(x')], x preferred, x' not, f cut out of x and laid into x' where it was in x: the object that
    drives the voxel (critical), an equally large piece elsewhere that shares no pixel with it (random), and that piece laid where the
    critical one was (random there). Pairs whose predictions are less than 1 SD apart are left out: the ratio is unstable there.
    """
    rows: list[Row] = []
    rng = np.random.default_rng([SEED, voxel])
    for stimulus, target in zip(bench.preferred(voxel), bench.non_preferred(voxel), strict=True):
        image, ground = bench.image(stimulus), bench.image(target)
        try:
            region = driving_region(bench.instrument, voxel, stimulus)
            others = places_elsewhere(image, region, np.zeros((2, 2)), N_PLACES)
            if not others:
                raise EditError("No equally large piece of the image is beside what drives the voxel.")
            other = others[int(rng.integers(len(others)))].mask
            pieces = {
                "critical": _laid(ground, image, region, region),
                "random": _laid(ground, image, other, other),
                "random there": _laid(ground, image, other, region),
            }
        except EditError as refusal:
            rows.append({"image": target, "condition": "refused", "reason": str(refusal)})
            continue
        first, second = bench.shifts([ground, image, *pieces.values()], voxel)
        if first[1] < LEAST_DISTANCE:
            rows.append({"image": target, "condition": "refused", "reason": "The two images are predicted less than 1 SD apart."})
            continue
        able = second is not None and second[1] >= LEAST_DISTANCE
        for place, name in enumerate(pieces, start=2):
            ratio = {
                "ratio": first[place] / first[1],
                "ratio_second": second[place] / second[1] if able and second is not None else None,
            }
            rows.append({"image": target, "condition": name, "from": stimulus, **ratio})
    return rows


def _laid(
    ground: UInt8[np.ndarray, "height width 3"],
    image: UInt8[np.ndarray, "height width 3"],
    taken: Bool[np.ndarray, "height width"],
    place: Bool[np.ndarray, "height width"],
) -> UInt8[np.ndarray, "height width 3"]:
    """Lay what a mask takes of an image into another, in its own size, its middle on the middle of `place`, or as near as it fits."""
    piece = cut_out("piece", image, taken, "")
    height, width = ground.shape[:2]
    rows, columns = np.nonzero(place)
    x, y = (columns.min() + columns.max() + 1) / 2 / width, (rows.min() + rows.max() + 1) / 2 / height
    size = min(1.0, max(piece.cutout.shape) / min(height, width))
    return blend_in(ground, piece, insertion_mask(piece, height, width, x=float(x), y=float(y), size=size))


def guidance(bench: Bench, voxel: int, word: str) -> list[Row]:
    """Insertions into the same non-preferred images that the voxel's profile guides, that one image's words guide, and that it gives.

    profile: a cut-out of the first thing that the voxel's description names. image's words: a cut-out of the first thing that is read
    in the critical patches of a preferred image. image: what drives the voxel in its best training image, cut out as it is. All are
    laid where the image drives the voxel least, equally large. Shifts in SD of predictions.
    """
    rows: list[Row] = []
    instrument = bench.instrument
    for source, stimulus in zip(bench.preferred(voxel), bench.non_preferred(voxel), strict=True):
        image, heat = bench.image(stimulus), heat_of(instrument, voxel, stimulus)
        try:
            said = describe_patches(instrument, source, bench.ranked_patches(voxel, source)[: bench.n_critical])
            pieces = {
                "profile": exemplars_of(instrument, word)[0],
                "image's words": exemplars_of(instrument, said[0].word)[0],
                "image": _best_piece(bench, voxel),
            }
            made = {name: _inserted(image, heat, piece) for name, piece in pieces.items()}
        except EditError as refusal:
            rows.append({"image": stimulus, "condition": "refused", "reason": str(refusal)})
            continue
        first, second = bench.shifts([image, *(edit.edited for edit in made.values())], voxel)
        for place, (name, edit) in enumerate(made.items(), start=1):
            row: Row = {"image": stimulus, "condition": name, "shift": first[place], "word": pieces[name].word}
            row |= {"shift_second": None if second is None else second[place]}
            rows.append(row | _planted(bench, voxel, stimulus, edit, float(first[place])))
    return rows


def _best_piece(bench: Bench, voxel: int) -> Exemplar:
    """What drives a voxel in the training image that it is predicted to answer most."""
    train = np.asarray(bench.instrument.subject.splits.train)
    predicted = np.asarray(bench.instrument.features.pooled[train], np.float64) @ bench.instrument.model.coef[:, voxel]
    best = int(train[int(np.argmax(predicted))])
    return cut_out(
        "image", bench.image(best), driving_region(bench.instrument, voxel, best), bench.instrument.subject.stimuli.ids[best]
    )


def _inserted(image: UInt8[np.ndarray, "height width 3"], heat: Float[np.ndarray, "row col"], piece: Exemplar) -> ImageEdit:
    x, y = least_attributed_place(heat, piece, size=INSERT_SIZE)
    return insert_at(image, piece, x=float(x), y=float(y), size=INSERT_SIZE)


def tokens(bench: Bench, voxel: int, _: str) -> list[Row]:
    """Squared error of predictions without the critical patches, with them alone, and the same of as many random ones.

    Other patches are the average patch of their place (mean-token patching). Over test stimuli drawn at random; in variances of the
    measured responses. The second encoder is given the same patches, which the first chose.
    """
    instrument, k, rng = bench.instrument, bench.n_critical, np.random.default_rng([SEED, voxel])
    test = np.asarray(instrument.subject.splits.test)
    stimuli = np.sort(rng.permutation(test)[:N_TOKEN_IMAGES])
    heat = heat_of_read_out(instrument, stimuli, np.asarray(instrument.model.coef[:, voxel], np.float32))
    values = np.stack([on_patches(instrument, each).ravel() for each in heat])
    rank = np.argsort(np.argsort(-values, axis=1, kind="stable"), axis=1)
    random = np.argsort(rng.random(values.shape), axis=1)
    kept = {
        "without critical": rank >= k,
        "without random": random >= k,
        "critical alone": rank < k,
        "random alone": random < k,
    }
    measured, spread = bench.measured(voxel)
    features, target = instrument.features, measured[stimuli] / spread
    first = (features.patches[stimuli], features.pooled[stimuli], instrument.mean_patches)
    errors = _token_errors(instrument.model, first, kept, voxel, target, spread)
    others: dict[str, Float[np.ndarray, " image"]] = {}
    if bench.second is not None and bench.second.reliable[voxel]:
        seen = bench.second.backbone.get().embed(np.asarray(instrument.subject.stimuli.images[stimuli]))
        if seen.patches.shape[1] == values.shape[1]:
            given = (seen.patches, seen.pooled, bench.second_mean_patches)
            others = _token_errors(bench.second.model, given, kept, voxel, target, spread)
    return [
        {"image": int(stimulus), "condition": name, "error": errors[name][i], "error_second": others[name][i] if others else None}
        for name in kept
        for i, stimulus in enumerate(stimuli)
    ]


def _token_errors(
    encoder: EncodingModel,
    seen: tuple[np.ndarray, np.ndarray, np.ndarray],
    kept: Mapping[str, Bool[np.ndarray, "image patch"]],
    voxel: int,
    measured: Float[np.ndarray, " image"],
    spread: float,
) -> dict[str, Float[np.ndarray, " image"]]:
    """Errors by what is kept; `seen` are patches, pooled embeddings and the average patches of one backbone."""
    patches, pooled, mean = (np.asarray(each, np.float32) for each in seen)
    return {
        name: (measured - patched_predictions(encoder, patches, pooled, mean, mask, voxel) / spread) ** 2 for name, mask in kept.items()
    }


MEASURES: Mapping[str, Callable[[Bench, int, str], list[Row]]] = {
    "reconstruction": reconstruction,
    "discriminability": discriminability,
    "edits": edits,
    "faithfulness": faithfulness,
    "guidance": guidance,
    "tokens": tokens,
}
