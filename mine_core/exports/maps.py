"""The maps of the cortex that can be shown and exported: values, colours, scale, and a caption with units and n."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from mine_core.cortex.flatmap import FlatMap, render_groups, render_map
from mine_core.description.search import TextSearch
from mine_core.figures import GROUP_COLOURS, SIGNED_MAP, UNSIGNED_MAP
from mine_core.instrument import Instrument
from mine_core.instrument.wanting import outdone_by_contrast

HIGHEST_R = 0.5


@dataclass(frozen=True)
class CortexMap:
    """One value per voxel (NaN is not shown), its scale, and what to say beneath it; `categories` for a map of groups."""

    title: str
    values: Float[np.ndarray, " voxel"]
    low: float
    high: float
    signed: bool
    unit: str
    caption: str
    categories: tuple[str, ...] = ()

    @property
    def colormap(self) -> str:
        """Matplotlib name of the colours."""
        return SIGNED_MAP if self.signed else UNSIGNED_MAP


def painted(flatmap: FlatMap, shown: CortexMap) -> UInt8[np.ndarray, "height width 4"]:
    """Paint a map on the flattened cortex."""
    if shown.categories:
        groups = np.where(np.isfinite(shown.values), shown.values, -1).astype(np.int64)
        return render_groups(flatmap, groups, GROUP_COLOURS[: len(shown.categories)])
    return render_map(flatmap, np.asarray(shown.values, np.float64), colormap=shown.colormap, vmin=shown.low, vmax=shown.high)


def cortex_map(instrument: Instrument, name: str, image: int) -> CortexMap:
    """Values of one of the maps that the user may choose."""
    score = instrument.score
    n = f"{len(score.r):,} voxels, {score.n_test} held-out images"
    if name == "accuracy":
        return CortexMap("Accuracy", score.r, 0.0, 0.8, False, "Pearson r", f"Correlation of predicted and measured responses; {n}.")
    if name == "ceiling":
        return CortexMap(
            "Noise ceiling",
            score.noise_ceiling,
            0.0,
            0.8,
            False,
            "share of variance",
            f"Explainable variance from repeats; {n}.",
        )
    if name == "group":
        return preferred_group(instrument)
    if name == "image" and image >= 0:
        return response_map(instrument, instrument.features.pooled[image], "the selected image")
    shown = np.where(score.noise_ceiling >= 0.1, score.r2 / np.maximum(score.noise_ceiling, 0.1), np.nan)
    return CortexMap(
        "Normalised accuracy",
        shown,
        0.0,
        1.0,
        False,
        "R² / noise ceiling",
        f"Held-out R² over the noise ceiling, where the ceiling is at least 0.1; {n}.",
    )


def response_map(instrument: Instrument, pooled: Float[np.ndarray, " feature"], what: str) -> CortexMap:
    """Predicted response of every reliable voxel to one image."""
    model = instrument.model
    mean = instrument.features.pooled[instrument.subject.splits.train].mean(axis=0)
    shift = (np.asarray(pooled, np.float64) - mean) @ model.coef / np.where(model.prediction_sd > 0, model.prediction_sd, np.inf)
    return signed_map(instrument, shift, f"Predicted response to {what}", f"Predicted, not measured: response to {what}")


def signed_map(instrument: Instrument, values: Float[np.ndarray, " voxel"], title: str, caption: str) -> CortexMap:
    """Show a signed value of every reliable voxel in SD of its predictions."""
    shown = np.where(instrument.reliable, values, np.nan)
    n = int(instrument.reliable.sum())
    return CortexMap(title, shown, -2.5, 2.5, True, "SD of predictions", f"{caption}; {n:,} reliable voxels, others grey.")


def preferred_group(instrument: Instrument) -> CortexMap:
    """Group of the word that scores best on held-out images, for voxels where one passes its null."""
    groups = tuple(dict.fromkeys(instrument.vocabulary.groups))
    chosen = instrument.words.preferred_group(groups)
    told = (chosen >= 0) & instrument.reliable & ~outdone_by_contrast(instrument)
    values = np.where(told, chosen.astype(float), np.nan)
    n = int(np.isfinite(values).sum())
    caption = (
        f"Group of the best held-out word, where it beats shuffled responses (q ≤ 0.05) and is not outdone by contrast; {n:,} voxels."
    )
    return CortexMap("Preferred group", values, 0, max(1, len(groups) - 1), False, "group", caption, groups)


def text_map(instrument: Instrument, found: TextSearch) -> CortexMap:
    """Correlation of a text with measured responses, in reliable voxels that it goes with beyond chance."""
    called = found.calls & instrument.reliable
    caption = (
        f"Correlation of '{found.query.title}' with measured responses, {found.n_held_out} held-out images; {int(called.sum()):,} "
        f"reliable voxels at q ≤ 0.05, others grey."
    )
    return CortexMap(found.query.title, np.where(called, found.r, np.nan), 0.0, HIGHEST_R, False, "r", caption)
