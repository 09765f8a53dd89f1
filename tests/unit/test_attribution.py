"""Parts of a prediction sum to it, point where the drive is, and agree with an independent method where both are exact."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from mine_core.attribution.decomposition import attribute, attribute_images, attributed_region
from mine_core.attribution.integrated_gradients import integrated_gradients
from mine_core.errors import AlignmentError, BackboneError, EncodingError
from mine_core.types import BackboneSpec, EncodingModel, Features, VoxelIndex

GRID = (3, 5)
N_STIMULI, N_FEATURES, N_VOXELS = 40, 6, 7
SPEC = BackboneSpec("random", GRID, N_FEATURES, "0" * 64, "none")


def some_voxels(n: int = N_VOXELS) -> VoxelIndex:
    return VoxelIndex("s", np.arange(n), (n, 1, 1), (), np.zeros((0, n), bool))


def some_features(rng: np.random.Generator, dtype: type = np.float64) -> Features:
    patches = rng.normal(0.3, 1, (N_STIMULI, GRID[0] * GRID[1], N_FEATURES)).astype(dtype)
    remainder = rng.normal(-0.7, 1, (N_STIMULI, N_FEATURES)).astype(dtype)
    pooled = remainder.astype(np.float64) + patches.astype(np.float64).sum(axis=1)
    return Features(pooled, patches, remainder, tuple(map(str, range(N_STIMULI))), SPEC)


def some_model(rng: np.random.Generator, features: Features) -> EncodingModel:
    coef = rng.normal(size=(N_FEATURES, N_VOXELS))
    coef[:, 3] = 0  # a voxel that nothing predicts
    sd = (features.pooled @ coef).std(axis=0)
    return EncodingModel("ridge", coef, rng.normal(size=N_VOXELS), np.ones(N_VOXELS), sd, some_voxels(), SPEC)


@pytest.fixture
def case(rng):
    features = some_features(rng)
    return some_model(rng, features), features, rng.normal(0.5, 1, (GRID[0] * GRID[1], N_FEATURES))


def test_parts_sum_to_the_prediction(case):
    model, features, mean_patches = case
    for stimulus in (0, 17, N_STIMULI - 1):
        found = attribute(model, features, stimulus, mean_patches)
        expected = model.predict(features.pooled[stimulus : stimulus + 1])[0]
        assert np.abs(found.baseline + found.remainder + found.values.sum(axis=(1, 2)) - expected).max() < 1e-12
        assert np.abs(found.prediction - expected).max() < 1e-12
        assert found.completeness_error is not None and found.completeness_error < 1e-12
        assert np.abs(found.values[:3]).max() > 0.1


def test_a_value_is_the_patch_beyond_the_mean_patch(case):
    model, features, mean_patches = case
    found = attribute(model, features, 4, mean_patches, voxels=np.array([5]))
    row, col = 2, 1
    place = row * GRID[1] + col
    by_hand = sum((features.patches[4, place, f] - mean_patches[place, f]) * model.coef[f, 5] for f in range(N_FEATURES))
    assert found.values[0, row, col] == pytest.approx(by_hand, abs=1e-12)


def test_an_average_image_has_no_attribution(case):
    model, features, _ = case
    found = attribute(model, features, 4, features.patches[4])
    assert np.abs(found.values).max() == 0


def test_lost_parts_show_in_the_completeness_error(case):
    model, features, mean_patches = case
    broken = Features(features.pooled, features.patches, features.remainder + 0.5, features.stimulus_ids, features.backbone)
    error = attribute(model, broken, 0, mean_patches).completeness_error
    lost = np.abs(0.5 * model.coef.sum(axis=0))[model.prediction_sd > 0] / model.prediction_sd[model.prediction_sd > 0]
    assert error == pytest.approx(lost.max())


def test_the_quick_path_equals_the_exact_one(case, rng):
    model, features, mean_patches = case
    stimuli = np.array([7, 3, 3, 39])
    quick = attribute_images(model, features, stimuli, 2, mean_patches)
    exact = np.stack([attribute(model, features, int(s), mean_patches, np.array([2])).values[0] for s in stimuli])
    assert quick.dtype == np.float32
    assert np.abs(quick - exact).max() < 1e-5


def test_half_precision_parts_lose_less_than_a_thousandth_of_an_sd(rng):
    whole = some_features(rng)
    stored = Features(whole.pooled, whole.patches.astype(np.float16), whole.remainder.astype(np.float16), whole.stimulus_ids, SPEC)
    model = some_model(rng, whole)
    errors = [attribute(model, stored, s, np.zeros((GRID[0] * GRID[1], N_FEATURES))).completeness_error for s in range(N_STIMULI)]
    assert 0 < max(errors) < 1e-3


def test_what_does_not_belong_together_is_refused(case):
    model, features, mean_patches = case
    other = BackboneSpec("other", GRID, N_FEATURES, "1" * 64, "none")
    strange = Features(features.pooled, features.patches, features.remainder, features.stimulus_ids, other)
    with pytest.raises(BackboneError, match="backbone 'other'"):
        attribute(model, strange, 0, mean_patches)
    with pytest.raises(BackboneError, match="mean patches"):
        attribute_images(model, features, np.array([0]), 0, mean_patches[:-1])
    with pytest.raises(AlignmentError, match="Stimulus -1"):
        attribute(model, features, -1, mean_patches)
    with pytest.raises(AlignmentError, match="Voxel 7"):
        attribute_images(model, features, np.array([0]), 7, mean_patches)


# --- regions ---------------------------------------------------------------------------------------------------------


def test_a_region_grows_with_its_share(rng):
    for _ in range(40):
        values = ndimage.gaussian_filter(rng.normal(size=(8, 8)), 1.0)
        regions = [attributed_region(values, 96, 96, share) for share in (0.1, 0.3, 0.5, 0.8, 1.0)]
        for smaller, larger in zip(regions, regions[1:], strict=False):
            assert not (smaller & ~larger).any()
        assert regions[0].sum() < regions[-1].sum()


def test_a_region_covers_the_patches_that_carry_the_share():
    values = np.full((4, 4), -1.0)
    values[1, 1], values[1, 2], values[3, 3] = 4.0, 3.0, 0.5
    half = attributed_region(values, 80, 80, share=0.6)
    assert half[30, 30] and half[30, 50]  # centres of the two strong patches
    assert not half[70, 70] and not half[70, 10]
    assert 2 * 400 * 0.6 < half.sum() < 2 * 400 * 2


def test_a_stray_patch_is_left_out_and_a_second_object_is_not():
    values = np.zeros((8, 8))
    values[1:3, 1:3], values[5:7, 5:7], values[0, 7] = 1.0, 0.9, 0.3
    region = attributed_region(values, 160, 160, share=1.0)
    assert region[40, 40] and region[120, 120] and not region[:20, 140:].any()
    assert ndimage.label(region)[1] == 2


def test_a_strongest_patch_is_kept_even_alone():
    values = np.zeros((16, 16))
    values[3, 3] = 0.05
    values += 0.04 * (np.indices((16, 16)).sum(axis=0) % 5 == 0)
    region = attributed_region(values, 160, 160, share=0.01)
    assert region[35, 35]


def test_nothing_that_raises_the_prediction_gives_no_region(rng):
    assert not attributed_region(-rng.random((8, 8)), 64, 64).any()


def test_bad_regions_are_refused():
    with pytest.raises(EncodingError, match="1 of 4 patch values"):
        attributed_region(np.array([[1.0, np.nan], [0, 0]]), 8, 8)
    for share in (0.0, 1.5):
        with pytest.raises(EncodingError, match="share"):
            attributed_region(np.ones((2, 2)), 8, 8, share)


# --- integrated gradients --------------------------------------------------------------------------------------------


def small_tower(linear: bool) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Patches embedded one by one and averaged, so that which patch contributes what is known."""
    generator = torch.Generator().manual_seed(3)
    stem = torch.nn.Conv2d(3, N_FEATURES, 4, stride=4).double()
    for parameter in stem.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    act = torch.nn.Identity() if linear else torch.nn.Tanh()
    return stem, act


def gradients_case(rng, linear: bool):
    stem, act = small_tower(linear)
    coef = rng.normal(size=(N_FEATURES, 2))
    spec = BackboneSpec("small", (4, 4), N_FEATURES, "0" * 64, "none")
    model = EncodingModel("ridge", coef, rng.normal(size=2), np.ones(2), np.array([1.0, 2.0]), some_voxels(2), spec)
    pixels = torch.as_tensor(rng.normal(size=(3, 16, 16)))
    return stem, act, model, pixels


def test_integrated_gradients_equal_the_parts_of_a_linear_tower(rng):
    stem, act, model, pixels = gradients_case(rng, linear=True)
    found = integrated_gradients(lambda x: act(stem(x)).mean(dim=(2, 3)), pixels, model, 1, (4, 4), n_steps=2)
    mean = pixels.mean(dim=(1, 2), keepdim=True).expand_as(pixels)
    with torch.no_grad():
        parts = (stem(pixels[None]) - stem(mean[None]))[0] / 16
    expected = torch.einsum("frc,f->rc", parts, torch.as_tensor(model.coef[:, 1])).numpy()
    assert np.abs(found.values[0] - expected).max() < 1e-10
    assert found.completeness_error < 1e-10


def test_more_steps_leave_less_unaccounted(rng):
    stem, act, model, pixels = gradients_case(rng, linear=False)
    errors = [
        integrated_gradients(lambda x: act(stem(x)).mean(dim=(2, 3)), pixels, model, 0, (4, 4), n_steps=n).completeness_error
        for n in (2, 64)
    ]
    assert errors[1] < 1e-4 < errors[0]


def test_gradients_that_cannot_be_are_refused(rng):
    stem, act, model, pixels = gradients_case(rng, linear=True)
    with pytest.raises(BackboneError, match="no gradient"):
        integrated_gradients(lambda x: act(stem(x)).mean(dim=(2, 3)).detach(), pixels, model, 0, (4, 4))
    with pytest.raises(BackboneError, match="does not divide"):
        integrated_gradients(lambda x: act(stem(x)).mean(dim=(2, 3)), pixels, model, 0, (5, 5))
    with pytest.raises(AlignmentError, match="Voxel 2"):
        integrated_gradients(lambda x: act(stem(x)).mean(dim=(2, 3)), pixels, model, 2, (4, 4))
