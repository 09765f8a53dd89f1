"""Predicted shifts against hand-computed ones and their null; places, verdicts and estimates against planted answers."""

import cv2
import numpy as np
import pytest
from scipy import stats

from mine_core.counterfactual.editors import finish_edit
from mine_core.counterfactual.instant import masked_patch_estimate, patch_overlap
from mine_core.counterfactual.shift import embed_distinct, predict_shift
from mine_core.counterfactual.verification import PresenceScale, presence_percentile, verify_edit, with_verification
from mine_core.errors import AlignmentError, EditError, EncodingError
from mine_core.types import BackboneSpec, EncodingModel, ImageEdit, VoxelIndex

GRID = (4, 4)
N_PATCHES, N_FEATURES, N_VOXELS = 16, 10, 6


def a_model(rng: np.random.Generator, n_features: int = N_FEATURES, n_voxels: int = N_VOXELS) -> EncodingModel:
    voxels = VoxelIndex("simulated", np.full(n_voxels, -1), (), (), np.zeros((0, n_voxels), bool))
    return EncodingModel(
        kind="ridge",
        coef=rng.normal(size=(n_features, n_voxels)),
        intercept=rng.normal(size=n_voxels),
        alpha=np.ones(n_voxels),
        prediction_sd=rng.uniform(0.5, 2.0, n_voxels),
        voxels=voxels,
        backbone=BackboneSpec("simulated", GRID, n_features, "0", "none"),
    )


def one_voxel_model() -> EncodingModel:
    voxels = VoxelIndex("simulated", np.array([-1]), (), (), np.zeros((0, 1), bool))
    spec = BackboneSpec("simulated", (1, 1), 2, "0", "none")
    ones = np.ones(1)
    return EncodingModel("ridge", np.array([[2.0], [1.0]]), np.array([5.0]), ones, np.array([4.0]), voxels, spec)


def an_edit(edit_mask: np.ndarray) -> ImageEdit:
    image = np.zeros((*edit_mask.shape, 3), np.uint8)
    return finish_edit(image, image, edit_mask, "remove it", editor="none", seed=0, provenance={"method": "none"})


def test_shift_p_and_rank_by_hand() -> None:
    before, after = np.array([1.0, 0.0]), np.array([-1.0, 0.0])  # predictions 7 and 3: -4, which is -1 SD
    controls = np.array([[0.0, 0.0], [1.0, 0.0], [-2.0, 0.0], [-1.0, 0.0]])  # -0.5, 0, -1.5 and -1 SD
    found = predict_shift(one_voxel_model(), before, after, controls, ["a"] * 4, direction=-1, guided_by="first")
    assert found.shift.tolist() == [-1.0]
    assert (found.before.tolist(), found.after.tolist()) == ([7 / 4], [3 / 4])
    assert found.controls[:, 0].tolist() == [-0.5, 0.0, -1.5, -1.0]
    assert found.rank.tolist() == [3], "one control is beyond the edit and one ties with it"
    assert found.p.tolist() == [3 / 5]
    raised = predict_shift(one_voxel_model(), before, after, controls, ["a"] * 4, direction=1, guided_by="first")
    assert (raised.rank.tolist(), raised.p.tolist()) == ([4], [4 / 5]), "-0.5, 0 and the tie rise as much; -1.5 does not"
    sized = predict_shift(one_voxel_model(), before, after, controls, ["a"] * 4, direction=0, guided_by="first")
    assert (sized.rank.tolist(), sized.p.tolist()) == ([3], [3 / 5]), "-1.5 and the tie are as large"


def test_shift_equals_the_difference_of_predictions(rng: np.random.Generator) -> None:
    model = a_model(rng)
    before, after, controls = rng.normal(size=N_FEATURES), rng.normal(size=N_FEATURES), rng.normal(size=(5, N_FEATURES))
    found = predict_shift(model, before, after, controls, list("abcde"), direction=1, guided_by="m", checked_by="n")
    predicted = model.predict(np.stack([before, after, *controls]))
    np.testing.assert_allclose(found.shift, (predicted[1] - predicted[0]) / model.prediction_sd, atol=1e-12)
    np.testing.assert_allclose(found.controls, (predicted[2:] - predicted[0]) / model.prediction_sd, atol=1e-12)
    np.testing.assert_allclose(found.after - found.before, found.shift, atol=1e-12)
    assert (found.guided_by, found.checked_by, found.control_names) == ("m", "n", tuple("abcde"))


@pytest.mark.parametrize("direction", [-1, 0, 1])
def test_an_edit_that_changes_nothing_shifts_exactly_nothing(direction: int, rng: np.random.Generator) -> None:
    before = rng.normal(size=N_FEATURES)
    controls = rng.normal(size=(9, N_FEATURES))
    found = predict_shift(a_model(rng), before, before.copy(), controls, ["c"] * 9, direction=direction, guided_by="m")
    assert (found.shift == 0).all()
    assert np.array_equal(found.after, found.before)
    if direction == 0:
        assert (found.p == 1).all()


def test_without_controls_nothing_is_claimed(rng: np.random.Generator) -> None:
    before, after = rng.normal(size=(2, N_FEATURES))
    found = predict_shift(a_model(rng), before, after, np.empty((0, N_FEATURES)), [], direction=-1, guided_by="m")
    assert (found.p == 1).all()
    assert (found.rank == 1).all()


@pytest.mark.parametrize("direction", [-1, 0, 1])
def test_p_is_uniform_when_edit_and_controls_are_exchangeable(direction: int, rng: np.random.Generator) -> None:
    model, n_controls, counts = a_model(rng, n_voxels=1), 9, np.zeros(10)
    for _ in range(600):
        embeddings = rng.normal(size=(n_controls + 2, N_FEATURES))
        found = predict_shift(model, *embeddings[:2], embeddings[2:], ["c"] * 9, direction=direction, guided_by="m")
        counts[found.rank[0] - 1] += 1
    assert stats.chisquare(counts).pvalue > 0.001


def test_shifts_that_cannot_be_measured_are_refused(rng: np.random.Generator) -> None:
    model, x = a_model(rng), rng.normal(size=N_FEATURES)
    none = np.empty((0, N_FEATURES))
    with pytest.raises(AlignmentError, match="embedding of before has 3 features, the model 10"):
        predict_shift(model, x[:3], x[:3], none[:, :3], [], direction=1, guided_by="m")
    with pytest.raises(AlignmentError, match="1 names were given for 0"):
        predict_shift(model, x, x, none, ["a"], direction=1, guided_by="m")
    with pytest.raises(EditError, match="Direction 2"):
        predict_shift(model, x, x, none, [], direction=2, guided_by="m")
    with pytest.raises(EditError, match="1 values that are not finite"):
        predict_shift(model, np.append(x[1:], np.nan), x, none, [], direction=1, guided_by="m")
    still = EncodingModel(**{**vars(model), "prediction_sd": np.append(np.zeros(2), model.prediction_sd[2:])})
    with pytest.raises(EncodingError, match="2 of 6 voxels"):
        predict_shift(still, x, x, none, [], direction=1, guided_by="m")


def test_equal_images_are_embedded_once_and_stay_equal(rng: np.random.Generator) -> None:
    first, second = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    seen: list[int] = []

    def rounding_depends_on_the_row(images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return images.reshape(len(images), -1).astype(float) + 1e-7 * np.arange(len(images))[:, None]

    embedded = embed_distinct(rounding_depends_on_the_row, [first, second, first.copy(), second])
    assert seen == [2]
    assert np.array_equal(embedded[0], embedded[2])
    assert np.array_equal(embedded[1], embedded[3])
    np.testing.assert_allclose(embedded[1], second.ravel(), atol=1e-6)
    with pytest.raises(AlignmentError, match="2 images of shapes"):
        embed_distinct(rounding_depends_on_the_row, [first, first[:4]])


def test_overlap_is_the_covered_share_of_each_patch() -> None:
    mask = np.zeros((8, 8), bool)
    mask[0:2, 0:3] = True  # patches of 2 x 2 pixels: the first whole, half of the second
    assert patch_overlap(mask, GRID)[:3].tolist() == [1.0, 0.5, 0.0]
    assert patch_overlap(mask, GRID).sum() * 4 == mask.sum()


def test_the_estimate_is_the_shift_of_the_mean_patches_put_in_place(rng: np.random.Generator) -> None:
    model = a_model(rng)
    patches, mean_patches = rng.normal(size=(2, N_PATCHES, N_FEATURES))
    mask = np.zeros((16, 16), bool)
    mask[4:12, 0:4] = True  # covers patches 4 and 8 whole
    replaced = patches.copy()
    replaced[[4, 8]] = mean_patches[[4, 8]]
    expected = (model.predict(replaced.sum(0)[None]) - model.predict(patches.sum(0)[None]))[0] / model.prediction_sd
    for voxel in range(len(model.intercept)):
        values = ((patches - mean_patches) @ model.coef[:, voxel]).reshape(GRID)
        estimate = masked_patch_estimate(values, mask, float(model.prediction_sd[voxel]))
        assert estimate == pytest.approx(expected[voxel], abs=1e-12)
    assert masked_patch_estimate(np.zeros(GRID), mask, 1.0) == 0


def planted_patches(rng: np.random.Generator, n: int, text: np.ndarray, share: float) -> np.ndarray:
    """Patches of noise; a share of the images show the concept in patches 5 and 6."""
    patches = rng.normal(size=(n, N_PATCHES, N_FEATURES))
    patches[: round(share * n), 5:7] += 6 * text
    return patches


def test_presence_is_a_percentile_of_the_same_region(rng: np.random.Generator) -> None:
    text = np.eye(N_FEATURES)[0]
    scale = PresenceScale(planted_patches(rng, 400, text, 0.05), GRID)
    overlap = np.zeros(N_PATCHES)
    overlap[5:7] = 1
    by_hand = scale.patches[:, 5:7, 0].sum(1)
    one = rng.normal(size=(N_PATCHES, N_FEATURES))
    assert presence_percentile(one, text, overlap, scale) == pytest.approx((by_hand < one[5:7, 0].sum()).mean(), abs=1e-9)
    null = [presence_percentile(patches, text, overlap, scale) for patches in rng.normal(size=(300, N_PATCHES, N_FEATURES))]
    assert stats.kstest(np.array(null) / 0.95, "uniform").pvalue > 0.001


def test_verdicts_follow_what_is_in_the_region(rng: np.random.Generator) -> None:
    text = np.eye(N_FEATURES)[0]
    scale = PresenceScale(planted_patches(rng, 300, text, 0.05), GRID)
    mask = np.zeros((32, 32), bool)
    mask[8:16, 8:24] = True  # patches 5 and 6
    without = 0.1 * rng.normal(size=(N_PATCHES, N_FEATURES))
    shown, elsewhere = without.copy(), without.copy()
    shown[5:7] += 6 * text
    elsewhere[12:14] += 6 * text
    edit = an_edit(mask)

    def verdict(before: np.ndarray, after: np.ndarray, direction: int) -> tuple[bool, str]:
        found = verify_edit(edit, "dog", text, before, after, scale, direction=direction)
        return found.verified, found.reason.split(":")[0]

    assert verdict(shown, without, -1) == (True, "removed")
    assert verdict(shown, shown, -1) == (False, "still there")
    assert verdict(without, without, -1) == (False, "it was not there to remove")
    assert verdict(elsewhere, without, -1) == (False, "it was not there to remove")
    assert verdict(without, shown, 1) == (True, "inserted")
    assert verdict(without, without, 1) == (False, "not recognised")
    assert verdict(without, elsewhere, 1) == (False, "not recognised")
    assert verdict(shown, shown, 1) == (False, "it was there already")
    with pytest.raises(EditError, match="Direction 0"):
        verify_edit(edit, "dog", text, shown, without, scale, direction=0)


def test_a_verdict_is_recorded_in_the_edit(rng: np.random.Generator) -> None:
    text = np.eye(N_FEATURES)[0]
    scale = PresenceScale(planted_patches(rng, 100, text, 0.05), GRID)
    shown, without = np.zeros((2, N_PATCHES, N_FEATURES))
    shown[5:7] = 8 * text
    mask = np.zeros((32, 32), bool)
    mask[8:16, 8:24] = True
    edit = an_edit(mask)
    verification = verify_edit(edit, "dog", text, shown, without, scale, direction=-1)
    recorded = with_verification(edit, verification)
    assert (edit.verified, recorded.verified) == (None, True)
    assert recorded.provenance["method"] == "none"
    assert recorded.provenance["verification"]["presence_before"] == verification.before
    with pytest.raises(AlignmentError, match="16 patches, the grid"):
        PresenceScale(scale.patches, (3, 3))


def test_a_null_edit_shifts_nothing_through_a_real_embedding(rng: np.random.Generator) -> None:
    """Image to shift with an embedding whose rounding depends on the batch: the null is still exactly 0."""
    model = a_model(rng, n_features=12)
    image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    controls = [cv2.GaussianBlur(image, (0, 0), width) for width in (1.0, 2.0)]

    def embed(images: np.ndarray) -> np.ndarray:
        small = np.stack([cv2.resize(one, (2, 2), interpolation=cv2.INTER_AREA).ravel() for one in images]).astype(float)
        return small * (1 + 1e-6 * np.arange(len(images))[:, None])

    pooled = embed_distinct(embed, [image, image.copy(), *controls])
    found = predict_shift(model, pooled[0], pooled[1], pooled[2:], ["blur"] * 2, direction=-1, guided_by="m")
    assert (found.shift == 0).all()
    assert (found.controls != 0).any()
