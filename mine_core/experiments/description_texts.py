"""Texts of voxels scored without any truth, beside captions after BrainSCUBA and beside shuffled texts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import rankdata

from mine_core.description.caption_scores import (
    caption_scores,
    mean_by_image,
    nearest_captions,
    project,
    word_likeness,
)
from mine_core.description.scoring import standardised
from mine_core.description.vocabulary import Vocabulary
from mine_core.instrument import Instrument
from mine_core.statistics import bootstrap_mean_interval, resample_counts
from mine_core.types import OnProgress

SEED, N_SHUFFLES, LEAST_VOXELS, N_RESAMPLES = 22, 5, 10, 1000
ByVoxel = Float[np.ndarray, "stimulus voxel"]


def text_scores(instrument: Instrument, table: pd.DataFrame, on_progress: OnProgress) -> dict[str, Any]:
    """Score every described voxel's text and its BrainSCUBA-style caption on the held-out images.

    The captions are the subject's own where it has them, else the backbone's. Two judges of likeness: the backbone's text
    tower, and the overlap of words, which no backbone judges.
    """
    described = np.flatnonzero((table["text"] != "").to_numpy())
    if len(described) < LEAST_VOXELS:
        return {"n": len(described)}
    vocabulary = instrument.vocabulary
    texts = [spoken(list(row.phrases), vocabulary) for row in table.iloc[described].itertuples()]
    captions, source = _captions(instrument)
    splits = instrument.subject.splits
    held_out = np.concatenate([splits.validation, splits.test])
    on_progress(0, 3, "reading captions")
    shown, bank = [captions[i] for i in held_out], [captions[i][0] for i in splits.train]
    bank_embedded = _encode(instrument, bank)
    pooled = np.asarray(instrument.features.pooled[splits.train], np.float32)
    coef = np.asarray(instrument.model.coef[:, described], np.float32)
    rival = nearest_captions(project(coef, pooled), bank, bank_embedded)
    on_progress(1, 3, "scoring texts")
    measured = np.asarray(instrument.subject.responses.values[:, described][held_out], np.float32)
    flat = [caption for several in shown for caption in several]
    owner = np.repeat(np.arange(len(shown)), [len(several) for several in shown])
    pictures = mean_by_image(_encode(instrument, flat), owner, len(shown))
    found: dict[str, Any] = {"n": len(described), "captions": source, "n_images": len(held_out), "example": f"{texts[0]} | {rival[0]}"}
    ours, theirs = pictures @ _encode(instrument, texts).T, pictures @ _encode(instrument, rival).T
    found["by_the_text_tower"] = _beside(ours, theirs, measured)
    on_progress(2, 3, "scoring texts")
    joined = [" ".join(several) for several in shown]
    found["by_shared_words"] = _beside(word_likeness(texts, joined), word_likeness(rival, joined), measured)
    return found


def spoken(phrases: Sequence[str], vocabulary: Vocabulary) -> str:
    """Phrases as a caption would say them: the shortest prompt of each, joined by 'and'."""
    said = [min(vocabulary.phrases[place], key=len) for place in vocabulary.positions(phrases)]
    return " and ".join(said)


def _captions(instrument: Instrument) -> tuple[list[tuple[str, ...]], str]:
    own = instrument.subject.stimuli.captions
    if own and all(own):
        return list(own), f"the subject's own ({instrument.subject.stimuli.caption_source})"
    return [(caption,) for caption in instrument.captions], f"written by {instrument.config.backbone}"


def _encode(instrument: Instrument, texts: Sequence[str]) -> Float[np.ndarray, "text feature"]:
    """Embed texts, each once."""
    distinct = list(dict.fromkeys(texts))
    embedded = np.asarray(instrument.backbone.get().encode_text(distinct), np.float32)
    place = {text: i for i, text in enumerate(distinct)}
    return embedded[[place[text] for text in texts]]


def _beside(
    ours: ByVoxel,
    theirs: ByVoxel,
    measured: ByVoxel,
) -> dict[str, Any]:
    """Mean scores with intervals over voxels, the paired difference, and scores of other voxels' texts."""
    rng = np.random.default_rng(SEED)
    own, rival = caption_scores(ours, measured).astype(np.float64), caption_scores(theirs, measured).astype(np.float64)
    shuffled = np.mean([caption_scores(ours[:, rng.permutation(ours.shape[1])], measured).mean() for _ in range(N_SHUFFLES)])
    difference = own - rival
    return {
        "profiles": float(own.mean()),
        "profiles_interval": list(bootstrap_mean_interval(own, rng=rng)),
        "brainscuba": float(rival.mean()),
        "brainscuba_interval": list(bootstrap_mean_interval(rival, rng=rng)),
        "difference": float(difference.mean()),
        "difference_interval": list(bootstrap_mean_interval(difference, rng=rng)),
        "difference_interval_over_images": _over_images(ours, theirs, measured),
        "shuffled_texts": float(shuffled),
    }


def _over_images(ours: ByVoxel, theirs: ByVoxel, measured: ByVoxel) -> list[float]:
    """Interval of the mean difference over resampled images, with the voxels and their ranks held."""
    answers = standardised(rankdata(measured, axis=0))
    added = [(standardised(rankdata(likeness, axis=0)) * answers).mean(axis=1) for likeness in (ours, theirs)]
    drawn = resample_counts(len(answers), N_RESAMPLES, np.random.default_rng(SEED)) @ (added[0] - added[1])
    return [float(end) for end in np.quantile(drawn, [0.025, 0.975])]
