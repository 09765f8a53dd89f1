"""The scores of a concept on a made-up brain whose answer is known exactly, on nulls, and against independent references."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from mine_core.counterfactual import concept_test
from mine_core.counterfactual.concept_test import ConceptEvidence, EditedImage, contrast_p, paired_p, score_concept
from mine_core.errors import AlignmentError, EditError

DRIVEN, COMPANY, GROUP, NOISE = range(4)
N_IMAGES, N_APART, N_WORDS = 60, 8, 3
# what each voxel answers: the concept, its company, a related word (any of them)
ANSWERS = np.array([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [1.5, 0.0, 1.5], [0.0, 0.0, 0.0]])


def brain(rng: np.random.Generator, noise: float = 0.3) -> ConceptEvidence:
    """Images 0-7 show the concept alone, 8-15 with company, 16-39 one of three related words, 40-45 company alone, others nothing."""
    shows = np.zeros((N_IMAGES, 3))
    shows[:16, 0], shows[8:16, 1], shows[40:46, 1], shows[16:40, 2] = 1, 1, 1, 1
    measured = shows @ ANSWERS.T
    removed, inserted = [], []
    for image in range(N_APART):
        before = measured[image]
        edits = np.stack([before - ANSWERS[:, 0], before - 0.9 * ANSWERS[:, 0]])
        controls = np.stack([before, before - 0.1])
        removed.append(EditedImage(before, edits + noise * rng.normal(size=edits.shape) / 10, controls))
        inserted.append(EditedImage(measured[50], (measured[50] + ANSWERS[:, 0])[None], (measured[50] + ANSWERS[:, 2])[None]))
    negatives = np.stack([np.arange(16, 24), np.arange(24, 32), np.arange(32, 40)], axis=1)
    noisy = measured + noise * rng.normal(size=measured.shape)
    return ConceptEvidence(noisy, measured, np.arange(16), np.arange(N_APART), negatives, tuple(removed), tuple(inserted))


def test_scores_of_a_linear_brain_are_what_was_put_in(rng) -> None:
    found = score_concept(brain(rng, noise=0.0), np.ones(4, bool), rng)
    assert found.s_pos == pytest.approx([2.0, 1.0, 1.5, 0.0])
    assert found.s_neg == pytest.approx([2.0, 0.0, 0.0, 0.0])
    # the largest of the edits loses 0.9 of the answer; the largest control loses nothing
    assert found.s_edit == pytest.approx([1.8, 0.0, 1.35, 0.0])
    assert found.s_elsewhere == pytest.approx(np.zeros(4))
    assert found.s_causal == pytest.approx([1.9, 0.0, 0.675, 0.0])
    assert found.s_insert == pytest.approx([2.0, 0.0, 1.5, 0.0]) and found.s_insert_other == pytest.approx([0.0, 0.0, 1.5, 0.0])
    assert (found.n_positive, found.n_apart, found.n_negative, found.n_removed, found.n_inserted) == (16, 8, 24, 8, 8)
    assert found.hardest_gap[GROUP] == pytest.approx(0.0) and found.hardest_gap[DRIVEN] == pytest.approx(2.0)


def test_the_driver_is_causal_and_company_is_refused(rng) -> None:
    found = score_concept(brain(rng), np.ones(4, bool), rng)
    assert [list(found.voxels(name)) for name in concept_test.VERDICTS] == [[], [NOISE], [COMPANY, GROUP], [DRIVEN]]
    assert found.q_active[COMPANY] <= 0.05 < found.q_edit[COMPANY] and found.q_neg[COMPANY] > 0.05
    assert found.q_edit[GROUP] <= 0.05 < found.q_neg[GROUP]
    assert (found.low < found.s_causal)[DRIVEN] and (found.s_causal < found.high)[DRIVEN]
    assert found.high[DRIVEN] - found.low[DRIVEN] < 0.5


def test_a_high_score_without_activation_is_not_causal(rng) -> None:
    evidence = brain(rng)
    quiet = evidence.measured.copy()
    quiet[40:] += 3.0  # every other image drives the voxels more than the positives
    found = score_concept(replace(evidence, measured=quiet), np.ones(4, bool), rng)
    assert found.s_causal[DRIVEN] > 1.5 and not len(found.voxels("causal")) and found.q_causal[DRIVEN] > 0.05


def test_unreliable_voxels_are_not_tested_and_do_not_enter_the_correction(rng) -> None:
    evidence, reliable = brain(rng), np.array([True, False, True, True])
    found = score_concept(evidence, reliable, rng)
    assert found.verdict[COMPANY] == 0 and np.isnan(found.q_causal[COMPANY]) and np.isnan(found.q_active[COMPANY])
    columns = [DRIVEN, GROUP, NOISE]
    kept = [EditedImage(one.before[columns], one.edited[:, columns], one.controls[:, columns]) for one in evidence.removed]
    alone = replace(
        evidence, measured=evidence.measured[:, columns], predicted=evidence.predicted[:, columns], removed=tuple(kept), inserted=()
    )
    assert score_concept(alone, np.ones(3, bool), rng).q_causal == pytest.approx(found.q_causal[columns])


def test_without_enough_edits_an_active_voxel_stays_untested(rng) -> None:
    few = replace(brain(rng), removed=brain(rng).removed[:4], inserted=())
    found = score_concept(few, np.ones(4, bool), rng)
    assert list(found.voxels("neither")) == [NOISE] and len(found.voxels("not tested")) == 3
    assert np.isnan(found.s_edit).all() and np.isnan(found.s_causal).all() and np.isnan(found.q_causal).all()
    assert np.isnan(found.s_insert).all() and (found.n_removed, found.n_inserted) == (4, 0)


def test_as_many_controls_as_verified_edits_are_taken(rng) -> None:
    evidence = brain(rng, noise=0.0)
    one_left = tuple(replace(image, edited=image.edited[:1], controls=image.controls[::-1]) for image in evidence.removed)
    found = score_concept(replace(evidence, removed=one_left), np.ones(4, bool), rng)
    assert found.s_edit[DRIVEN] == pytest.approx(2.0)
    assert found.s_elsewhere == pytest.approx(np.full(4, 0.1))  # of two controls the second would have been the larger


def test_noise_alone_is_called_no_more_often_than_it_may(rng) -> None:
    n_voxels = 2000
    evidence = brain(rng)
    removed = tuple(
        EditedImage(*(rng.normal(size=shape) for shape in (n_voxels, (2, n_voxels), (2, n_voxels)))) for _ in range(N_APART)
    )
    noise = rng.normal(size=(N_IMAGES, n_voxels))
    null = replace(evidence, measured=noise, predicted=noise, removed=removed, inserted=())
    found = score_concept(null, np.ones(n_voxels, bool), rng)
    assert (found.q_active <= 0.05).sum() <= 2 and not len(found.voxels("causal"))
    weights = np.where(np.arange(N_IMAGES) < 16, 1 / 16, -1 / 44)
    for p in (contrast_p(weights, noise)[1], paired_p(rng.normal(size=(N_APART, n_voxels)))):
        assert stats.kstest(p, "uniform").pvalue > 0.001
        assert 0.03 < (p <= 0.05).mean() < 0.07


def test_the_p_of_a_contrast_is_that_of_shuffled_responses(rng) -> None:
    responses = np.column_stack([rng.normal(size=30), rng.exponential(size=30), rng.normal(size=30) + np.arange(30) / 12])
    weights = np.repeat([1 / 10, -1 / 20], [10, 20]) * np.array([-1.0] * 30)
    value, p = contrast_p(weights, responses)
    assert p == pytest.approx(stats.pearsonr(weights[:, None], responses, axis=0, alternative="greater").pvalue)
    drawn = np.stack([weights @ responses[rng.permutation(30)] for _ in range(20000)])
    assert p == pytest.approx((drawn >= value).mean(axis=0), abs=0.012)
    assert contrast_p(weights, np.ones((30, 1)))[1] == pytest.approx([1.0])


def test_the_p_of_pairs_is_that_of_changed_signs(rng) -> None:
    differences = rng.normal(size=(14, 3)) + [0.0, 0.4, 1.0]
    p = paired_p(differences)
    assert p == pytest.approx(stats.ttest_1samp(differences, 0, alternative="greater").pvalue)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 14)).reshape(14, -1).T
    exact = (signs @ differences >= differences.sum(axis=0) - 1e-9).mean(axis=0)
    assert p == pytest.approx(exact, abs=0.01)
    assert paired_p(np.zeros((5, 1))) == pytest.approx([1.0])


def test_what_does_not_fit_is_refused(rng) -> None:
    evidence = brain(rng)
    with pytest.raises(AlignmentError, match="predicted"):
        replace(evidence, predicted=evidence.predicted[:-1])
    with pytest.raises(AlignmentError, match="8 images apart have negatives of 7"):
        replace(evidence, negatives=evidence.negatives[:-1])
    with pytest.raises(EditError, match="1 different positives"):
        replace(evidence, positives=np.array([3, 3]))
    with pytest.raises(AlignmentError, match="sum to"):
        contrast_p(np.ones(5), np.ones((5, 2)))
