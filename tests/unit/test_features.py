"""Features are stored with a known precision, all or nothing, and unusual images are told from usual ones."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from scipy.stats import kstest
from sklearn.covariance import LedoitWolf

from mine_core.backbones.base import Backbone, Embedding
from mine_core.errors import AlignmentError, ArtifactError, BackboneError, Cancelled
from mine_core.features import (
    STORED_PRECISION,
    Likeness,
    embed_image,
    extract_features,
    load_features,
    mean_patch,
)
from mine_core.types import BackboneSpec, StimulusSet

GRID, WIDTH = (3, 4), 10


class LinearBackbone(Backbone):
    """A backbone whose parts are known: each patch's mean colour times a fixed matrix, and a constant remainder."""

    spec = BackboneSpec("linear", GRID, WIDTH, "0" * 64, "none")
    device = torch.device("cpu")
    image_size = 12

    def __init__(self, scale: float = 1.0) -> None:
        rng = np.random.default_rng(1)
        self.colours, self.constant = scale * rng.normal(size=(3, WIDTH)), rng.normal(size=WIDTH)

    def embed(self, images, batch_size=32, on_progress=None, cancelled=None):
        cells = images.reshape(len(images), 3, 4, 4, 3, 3).mean(axis=(2, 4)).reshape(len(images), 12, 3) / 255
        patches = (cells @ self.colours).astype(np.float32)
        remainder = np.repeat(self.constant[None], len(images), 0).astype(np.float32)
        return Embedding(remainder + patches.sum(1), patches, remainder)


def stimuli(n: int = 11) -> StimulusSet:
    images = np.random.default_rng(0).integers(0, 256, (n, 12, 12, 3), dtype=np.uint8)
    return StimulusSet(tuple(f"s{index}" for index in range(n)), images, ((),) * n, "none")


def test_stored_features_are_additive_to_the_stated_precision(tmp_path):
    features = extract_features(stimuli(), LinearBackbone(), tmp_path, batch_size=4)
    exact = LinearBackbone().embed(stimuli().images)
    np.testing.assert_array_equal(features.pooled, exact.pooled)
    lost = STORED_PRECISION * np.abs(exact.patches).sum(1) + 1e-5
    assert (np.abs(features.remainder - exact.remainder) <= lost).all()
    parts = np.asarray(features.patches, np.float64)
    bound = STORED_PRECISION * np.abs(exact.patches) + 2.0**-25
    assert (np.abs(parts - exact.patches) <= bound).all()
    error = np.abs(features.pooled - features.remainder - parts.sum(1))
    assert (error <= 1e-6 * np.abs(parts).sum(1) + 1e-6).all()
    assert error.max() > 0  # float16 does round
    assert features.patches.dtype == np.float16


def test_features_are_opened_again_read_only(tmp_path):
    made = extract_features(stimuli(), LinearBackbone(), tmp_path)
    opened = load_features(tmp_path)
    assert opened.stimulus_ids == stimuli().ids
    assert opened.backbone == LinearBackbone.spec
    np.testing.assert_array_equal(opened.patches, made.patches)
    with pytest.raises(ValueError, match="read-only"):
        opened.patches[0] = 0


def test_progress_counts_stimuli(tmp_path):
    reports: list[tuple[int, int]] = []
    extract_features(stimuli(), LinearBackbone(), tmp_path, lambda done, total, _: reports.append((done, total)), batch_size=4)
    assert reports == [(4, 11), (8, 11), (11, 11)]


def test_a_cancelled_extraction_leaves_nothing(tmp_path):
    answers = iter([False, True])
    with pytest.raises(Cancelled, match="after 4 of 11"):
        extract_features(stimuli(), LinearBackbone(), tmp_path, cancelled=lambda: next(answers), batch_size=4)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ArtifactError, match="no readable"):
        load_features(tmp_path)


def test_a_failing_second_extraction_does_not_leave_the_first_under_a_new_name(tmp_path):
    extract_features(stimuli(), LinearBackbone(), tmp_path)
    with pytest.raises(Cancelled):
        extract_features(stimuli(), LinearBackbone(), tmp_path, cancelled=lambda: True)
    with pytest.raises(ArtifactError, match="no readable"):
        load_features(tmp_path)


def test_an_embedding_that_float16_cannot_hold_is_refused(tmp_path):
    with pytest.raises(BackboneError, match="beyond what float16 holds"):
        extract_features(stimuli(), LinearBackbone(scale=1e6), tmp_path)
    broken = LinearBackbone()
    broken.constant = broken.constant * np.nan
    with pytest.raises(BackboneError, match="reaches nan"):
        extract_features(stimuli(), broken, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_stimulus_is_refused(tmp_path):
    with pytest.raises(BackboneError, match="0 stimuli"):
        extract_features(stimuli(0), LinearBackbone(), tmp_path)


def test_arrays_that_do_not_fit_the_record_are_refused(tmp_path):
    extract_features(stimuli(), LinearBackbone(), tmp_path)
    np.save(tmp_path / "pooled.npy", np.zeros((11, WIDTH + 1), np.float32))
    with pytest.raises(ArtifactError, match=r"pooled.npy has float32 \(11, 11\)"):
        load_features(tmp_path)
    (tmp_path / "pooled.npy").write_bytes(b"short")
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_features(tmp_path)


def test_one_image_has_the_features_it_has_as_a_stimulus(tmp_path):
    features = extract_features(stimuli(), LinearBackbone(), tmp_path)
    single = embed_image(LinearBackbone(), stimuli().images[3])
    np.testing.assert_array_equal(single.pooled[0], features.pooled[3])
    other = embed_image(LinearBackbone(), stimuli().images[4])
    assert single.stimulus_ids != other.stimulus_ids
    assert single.stimulus_ids == embed_image(LinearBackbone(), stimuli().images[3].copy()).stimulus_ids


def test_the_mean_patch_is_the_average_over_training_stimuli_only(tmp_path):
    features = extract_features(stimuli(100), LinearBackbone(), tmp_path)
    train = np.arange(0, 90, 1)[::-1]
    expected = np.asarray(features.patches, np.float64)[:90].mean(axis=0)
    np.testing.assert_allclose(mean_patch(features, train), expected, rtol=1e-6, atol=1e-7)
    with pytest.raises(AlignmentError, match="90 ... 100"):
        mean_patch(features, np.array([90, 100]))
    with pytest.raises(AlignmentError, match="none"):
        mean_patch(features, np.array([], int))


def correlated(rng: np.random.Generator, n: int) -> np.ndarray:
    mixing = np.random.default_rng(7).normal(size=(8, 8))
    return rng.normal(size=(n, 8)) @ mixing + 5


def test_distance_is_mahalanobis_with_the_shrunk_covariance(rng):
    train, images = correlated(rng, 50), correlated(rng, 5)
    likeness = Likeness.fit(train, correlated(rng, 30))
    reference = LedoitWolf().fit(train)
    expected = [mahalanobis(image, reference.location_, reference.get_precision()) for image in images]
    np.testing.assert_allclose(likeness.distance(images), expected, rtol=1e-8)


def test_percentiles_of_stimuli_of_the_same_kind_are_uniform(rng):
    likeness = Likeness.fit(correlated(rng, 2000), correlated(rng, 500))
    percentiles = likeness.percentile(correlated(rng, 500))
    # two samples of 500 (calibration and these) of one distribution differ by more than this in 1 % of draws
    assert kstest(percentiles / 100, "uniform").statistic < 1.63 * np.sqrt(2 / 500)
    assert percentiles.min() >= 0 and percentiles.max() <= 100


def test_an_image_off_the_usual_axes_is_unusual_though_its_size_is_usual(rng):
    train = rng.normal(size=(500, 6)) * [10, 10, 10, 10, 10, 0.1]
    likeness = Likeness.fit(train, rng.normal(size=(200, 6)) * [10, 10, 10, 10, 10, 0.1])
    assert likeness.percentile(np.array([[0, 0, 0, 0, 0, 20.0]]))[0] == 100
    assert likeness.percentile(np.array([[20.0, 0, 0, 0, 0, 0]]))[0] < 60


def test_too_few_or_constant_stimuli_are_refused(rng):
    with pytest.raises(BackboneError, match="50 training and 19 validation"):
        Likeness.fit(correlated(rng, 50), correlated(rng, 19))
    with pytest.raises(BackboneError, match="are the same"):
        Likeness.fit(np.ones((50, 8)), correlated(rng, 30))
