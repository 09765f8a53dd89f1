"""Contrast is measured where and how it is drawn, predicts what it drives, and takes back words that only follow it."""

from dataclasses import replace

import numpy as np
import pytest
from test_description_wants import BALL, TRAIN, N, indexed, world  # noqa: F401

from mine_core.description.contrast import (
    ADDS,
    CELLS,
    CYCLES,
    N_ORIENTATIONS,
    beside_contrast,
    contrast_energy,
    predict_from_contrast,
)
from mine_core.description.wants import prepare, want
from mine_core.errors import Cancelled
from mine_core.instrument.wanting import outdone_by_contrast
from mine_core.types import Splits


def grating(cycles: float, orientation: int, amplitude: float = 60.0, size: int = 64) -> np.ndarray:
    """Grey grating whose luminance varies along an angle of 45 degrees times `orientation`."""
    y, x = np.mgrid[:size, :size] / size
    angle = np.pi * orientation / N_ORIENTATIONS
    wave = 128 + amplitude * np.sin(2 * np.pi * cycles * (x * np.cos(angle) + y * np.sin(angle)))
    return np.repeat(wave.round().astype(np.uint8)[..., None], 3, axis=2)


def by_filter(image: np.ndarray) -> np.ndarray:
    return contrast_energy(image[None]).reshape(len(CYCLES), N_ORIENTATIONS, CELLS, CELLS)


@pytest.mark.parametrize("scale", range(3))
@pytest.mark.parametrize("orientation", range(4))
def test_a_grating_is_found_at_its_scale_and_orientation(scale, orientation):
    mean = by_filter(grating(CYCLES[scale], orientation)).mean(axis=(2, 3))
    assert np.unravel_index(mean.argmax(), mean.shape) == (scale, orientation)
    # the amplitude of the wave; what does not close at the edges of the image loses some of it
    assert mean[scale, orientation] == pytest.approx(60 / 255, rel=0.05 if orientation % 2 == 0 else 0.25)


def test_contrast_is_where_it_is_drawn_and_knows_no_brightness():
    image = np.full((64, 64, 3), 128, np.uint8)
    image[8:16, 40:48] = grating(20, 0)[8:16, 40:48]
    found = by_filter(image)[2, 0]
    assert np.unravel_index(found.argmax(), found.shape) == (1, 5)
    one, two = (by_filter(grating(10, 1, amplitude)) for amplitude in (30, 60))
    np.testing.assert_allclose(two[1, 1], 2 * one[1, 1], rtol=0.03)
    np.testing.assert_allclose(by_filter(image + 20), by_filter(image), atol=1e-5)
    assert by_filter(np.full((64, 64, 3), 90, np.uint8)).max() < 1e-6


def test_batches_and_sizes_do_not_matter(rng):
    images = rng.integers(0, 256, (70, 64, 64, 3), dtype=np.uint8)
    whole = contrast_energy(images)
    np.testing.assert_allclose(whole[66:68], contrast_energy(images[66:68]), rtol=1e-5)
    twice = np.repeat(np.repeat(images[:2], 2, axis=1), 2, axis=2)
    np.testing.assert_allclose(contrast_energy(twice), whole[:2], rtol=1e-4)
    with pytest.raises(Cancelled, match="0 of 70"):
        contrast_energy(images, cancelled=lambda: True)


def test_contrast_predicts_what_it_drives_and_nothing_else(rng):
    n = 400
    energy = rng.gamma(2.0, size=(n, 40)).astype(np.float32)
    driven = energy[:, 3] + energy[:, 17] + rng.normal(0, 0.5, n)
    splits = Splits(np.arange(250), np.arange(250, 300), np.arange(300, n))
    responses = indexed(np.stack([driven, rng.normal(size=n)], axis=1))
    predicted = predict_from_contrast(energy, responses, splits)
    r = [np.corrcoef(predicted[:, v], responses.values[250:, v])[0, 1] for v in range(2)]
    assert predicted.shape == (150, 2) and r[0] > 0.9 and abs(r[1]) < 0.25


def test_what_words_add_is_a_partial_correlation(rng):
    words, contrast = rng.normal(size=(2, 500))
    contrast += 0.5 * words
    answers = 0.3 * words + contrast + rng.normal(size=500)
    found = beside_contrast(words, answers, contrast)
    base = np.stack([np.ones(500), contrast], axis=1)
    rest = [column - base @ np.linalg.lstsq(base, column, rcond=None)[0] for column in (words, answers)]
    assert found.added == pytest.approx(np.corrcoef(*rest)[0, 1], abs=1e-6)
    assert found.r == pytest.approx(np.corrcoef(contrast, answers)[0, 1], abs=1e-6)
    assert not beside_contrast(np.zeros(500), answers, contrast).outdone


def test_words_that_only_follow_contrast_are_outdone_and_others_are_not(rng):
    followers, partners, better = [], [], []
    for _ in range(400):
        thing = rng.normal(size=500)
        contrast = 0.6 * thing + rng.normal(size=500)
        followers.append(beside_contrast(thing, contrast + rng.normal(size=500), contrast).outdone)
        partners.append(beside_contrast(thing, contrast + 0.6 * thing + rng.normal(size=500), contrast).outdone)
        better.append(beside_contrast(thing, thing + rng.normal(size=500), contrast).outdone)
    assert np.mean(followers) > 0.99  # one in 2,000 adds 3.29 standard errors by chance
    assert np.mean(partners) < 0.01 and not any(better) and ADDS == 3.29


def test_phrases_that_contrast_outdoes_are_not_told(world):  # noqa: F811
    evidence, words, responses, present = world
    rng = np.random.default_rng(4)
    contrast = present[:, 0] + rng.normal(0, 0.5, N)
    values = responses.values.copy()
    values[:, 1] = contrast + rng.normal(0, 0.3, N)  # follows contrast, which comes with balls
    by_contrast = np.tile(contrast[TRAIN:, None], (1, 5)).astype(np.float32)
    ground = prepare(evidence, words, np.arange(TRAIN), np.arange(TRAIN, N), by_contrast)
    ball, follower = want(ground, words, indexed(values), np.array([BALL, 1]))
    assert ball.description.phrases == ("ball",) and ball.contrast is not None and not ball.contrast.outdone
    assert follower.description.phrases == () and follower.contrast.outdone and follower.company == () and follower.shares == ()
    assert "ball" in follower.description.words  # its score is still shown
    unaware = want(replace(ground, by_contrast=None), words, indexed(values), np.array([1]))[0]
    assert unaware.description.phrases == ("ball",)


def test_the_map_leaves_out_what_contrast_outdoes(small):
    """Voxels that follow the predictions of contrast, and voxels that follow a word, by the small instrument's own images."""
    instrument = small.instrument
    splits, words = instrument.subject.splits, instrument.words
    held_out = np.concatenate([splits.validation, splits.test])
    assert instrument.by_contrast.shape == (len(held_out), len(instrument.score.r))
    told = np.flatnonzero(words.passes.any(axis=1) & instrument.reliable)
    assert len(told)
    values = np.asarray(instrument.subject.responses.values, np.float32)
    perfect = replace(instrument, by_contrast=values[held_out], model=keyed(instrument, "perfect"))
    assert outdone_by_contrast(perfect)[told].all()  # an account that says all leaves nothing to add
    rng = np.random.default_rng(0)
    blind = rng.normal(size=instrument.by_contrast.shape).astype(np.float32)
    assert not outdone_by_contrast(replace(instrument, by_contrast=blind, model=keyed(instrument, "blind"))).any()
    assert not outdone_by_contrast(replace(instrument, by_contrast=None)).any()


def keyed(instrument, name):
    """The instrument's model under another key: what is kept of one is not what is kept of the other."""
    return replace(instrument.model, provenance={**instrument.model.provenance, "key": name})
