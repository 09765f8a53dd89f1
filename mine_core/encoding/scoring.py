"""Held-out accuracy of an encoding model beside its permutation null and its noise ceiling."""

import numpy as np
from jaxtyping import Float, Int

from mine_core.encoding.alignment import check_positions, check_predictions, check_same_model, check_same_stimuli
from mine_core.encoding.noise_ceiling import ceiling_for_test
from mine_core.errors import EncodingError
from mine_core.statistics import FdrMethod, false_discovery_rate, pearson_columns, standardise_columns
from mine_core.types import EncodingModel, EncodingScore, Features, Responses, Splits

# small enough that a block of predictions, of responses and of one permutation stay in a core's cache
VOXELS_PER_BLOCK = 256
FDR: FdrMethod = "by"
LEVEL = 0.05
FINER = 20


def score(
    model: EncodingModel,
    features: Features,
    responses: Responses,
    test: Int[np.ndarray, " test"],
    n_permutations: int,
    rng: np.random.Generator,
    noise_ceiling: Float[np.ndarray, " voxel"] | None = None,
) -> EncodingScore:
    """Accuracy of a linear read-out on held-out stimuli: `score_predictions` of what it predicts for them.

    Raises
    ------
    AlignmentError
        If stimuli, voxels or backbone are not the model's, or as `score_predictions`.
    EncodingError
        As `score_predictions`.
    """
    check_same_stimuli(features, responses)
    check_same_model(model, features, responses)
    check_positions("test", test, len(features.stimulus_ids), at_least=3)
    predicted = model.predict(np.asarray(features.pooled[test]))
    return score_predictions(predicted, responses, test, n_permutations, rng, noise_ceiling)


def score_predictions(
    predicted: Float[np.ndarray, "stimulus voxel"],
    responses: Responses,
    test: Int[np.ndarray, " test"],
    n_permutations: int,
    rng: np.random.Generator,
    noise_ceiling: Float[np.ndarray, " voxel"] | None = None,
) -> EncodingScore:
    """Accuracy of every voxel's predictions on held-out stimuli, whatever model made them.

    r = Pearson(response, prediction); R2 = 1 - sum (y - yhat)^2 / sum (y - mean y)^2, as scikit-learn's r2_score;
    p = (1 + #{r of permuted test stimuli >= r}) / (1 + n_permutations), the same permutations for all voxels;
    q = Benjamini-Yekutieli over voxels, whose responses depend on each other in either direction.

    Parameters
    ----------
    predicted : one row for each position in `test`, in that order, in the units of the responses.
    test : positions, among all stimuli of `responses`, of stimuli that the model was not fit on.
    noise_ceiling : share of variance, 0 to 1, NaN where it is unknown; by default from the test stimuli's repeats, and
        unknown without any.

    Raises
    ------
    AlignmentError
        If `predicted` is not one row a test stimulus and one column a voxel, or `test` repeats or leaves the stimuli.
    EncodingError
        If a test value is not finite, a test response or prediction does not vary, a noise ceiling is not within 0 to 1 (nor
        NaN), or `n_permutations` is below 1.

    Notes
    -----
    Permuting stimuli takes them to be exchangeable: neither drift nor repeated images among the test stimuli is allowed for.
    The smallest p is 1 / (1 + n_permutations). Where that is too coarse for a single voxel to reach q <= 0.05, because few are that
    clear, those few are permuted 20 times as often: any other p is left as it is, so that p stays valid (Besag and Clifford 1991,
    10.1093/biomet/78.2.301, stop early where a voxel is not clear in the same manner).

    References
    ----------
    Phipson and Smyth (2010), 10.2202/1544-6115.1585. Benjamini and Yekutieli (2001), 10.1214/aos/1013699998.
    """
    check_positions("test", test, len(responses.stimulus_ids), at_least=3)
    check_predictions(predicted, test, responses.voxels)
    if n_permutations < 1:
        raise EncodingError(f"{n_permutations} permutations were asked for; at least 1 is needed.")
    measured = np.asarray(responses.values[test], np.float64)  # float16 sums would overflow
    check_test_values(predicted, measured)
    r, p = pearson_with_p(predicted, measured, n_permutations, rng)
    q = false_discovery_rate(p, FDR)
    clearest = p <= 1 / (1 + n_permutations)
    if clearest.any() and q.min() > LEVEL:
        p[clearest] = _finer_p(predicted[:, clearest], measured[:, clearest], n_permutations, rng)
        q = false_discovery_rate(p, FDR)
    if noise_ceiling is None:
        noise_ceiling = ceiling_for_test(responses, Splits(test[:0], test[:0], test)).values
    _check_ceiling(noise_ceiling, predicted.shape[1])
    return EncodingScore(
        r=r,
        r2=r2_columns(measured, predicted),
        noise_ceiling=np.asarray(noise_ceiling, np.float64),
        p=p,
        q=q,
        n_test=len(test),
        n_permutations=n_permutations,
    )


def _finer_p(
    predicted: Float[np.ndarray, "stimulus voxel"],
    measured: Float[np.ndarray, "stimulus voxel"],
    n_permutations: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, " voxel"]:
    """Give p of voxels whose r no permutation reached so far, from 19 times as many more."""
    more = (FINER - 1) * n_permutations
    _, p = pearson_with_p(predicted, measured, more, rng)
    reached = np.rint(p * (1 + more)) - 1
    return (1 + reached) / (1 + FINER * n_permutations)


def r2_columns(
    measured: Float[np.ndarray, "stimulus voxel"], predicted: Float[np.ndarray, "stimulus voxel"]
) -> Float[np.ndarray, " voxel"]:
    """Coefficient of determination of each column, at most 1 and without a lower bound: R2 = 1 - SSE / SST."""
    measured = np.asarray(measured, np.float64)
    residual = np.einsum("sv,sv->v", measured - predicted, measured - predicted)
    deviation = measured - measured.mean(axis=0)
    return 1 - residual / np.einsum("sv,sv->v", deviation, deviation)


def pearson_with_p(
    predicted: Float[np.ndarray, "stimulus voxel"],
    measured: Float[np.ndarray, "stimulus voxel"],
    n_permutations: int,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, " voxel"], Float[np.ndarray, " voxel"]]:
    """Correlation of each column and its one-sided p over permutations of the stimuli, the same for all columns."""
    r = pearson_columns(predicted, measured)
    n_stimuli, n_voxels = predicted.shape
    orders = [rng.permutation(n_stimuli) for _ in range(n_permutations)]
    reached = np.zeros(n_voxels, int)
    for start in range(0, n_voxels, VOXELS_PER_BLOCK):
        block = slice(start, start + VOXELS_PER_BLOCK)
        ours = standardise_columns(predicted[:, block], "predictions").astype(np.float32)
        theirs = standardise_columns(measured[:, block], "responses").astype(np.float32)
        # float32 sums may miss a tie with the observed r by rounding: such ties count against the model
        bar = r[block] - 1e-6
        for order in orders:
            reached[block] += np.einsum("sv,sv->v", ours[order], theirs) >= bar
    return r, (1 + reached) / (1 + n_permutations)


def normalised_accuracy(r2: Float[np.ndarray, " voxel"], noise_ceiling: Float[np.ndarray, " voxel"], floor: float = 0.1) -> float:
    """Mean of R2 / ceiling over voxels whose ceiling is at least `floor`; voxels of unknown ceiling (NaN) do not count.

    Comparable only between models scored on the same voxels: another floor is another figure.

    Raises
    ------
    EncodingError
        If no voxel's ceiling reaches the floor, or the floor is not above 0.
    """
    if not floor > 0:
        raise EncodingError(f"A floor of {floor} was given; dividing by a ceiling needs one above 0.")
    counted = noise_ceiling >= floor
    if not counted.any():
        known = noise_ceiling[np.isfinite(noise_ceiling)]
        highest = f"the highest is {known.max():.3f}" if len(known) else "none is known"
        raise EncodingError(f"No voxel of {len(noise_ceiling)} has a noise ceiling of {floor} or more ({highest}).")
    return float((r2[counted] / noise_ceiling[counted]).mean())


def _check_ceiling(noise_ceiling: Float[np.ndarray, " given"], n_voxels: int) -> None:
    wrong = (noise_ceiling < 0) | (noise_ceiling > 1)
    if noise_ceiling.shape != (n_voxels,) or wrong.any():
        raise EncodingError(
            f"{len(noise_ceiling)} noise ceilings were given for {n_voxels} voxels, {int(wrong.sum())} of them not within 0 to 1; "
            "give a share of variance for each (percentages divided by 100), and NaN where it is unknown."
        )


def check_test_values(predicted: Float[np.ndarray, "stimulus voxel"], measured: Float[np.ndarray, "stimulus voxel"]) -> None:
    """Raise EncodingError for a value that is not finite, or a voxel that does not vary: its accuracy is undefined."""
    for name, values in (("predictions", predicted), ("responses", measured)):
        wrong = ~np.isfinite(values)
        if wrong.any():
            first = int(np.nonzero(wrong)[1][0])
            raise EncodingError(
                f"Test {name} have {int(wrong.sum())} values that are NaN or infinite (first: voxel {first}); "
                "leave those stimuli or voxels out."
            )
        still = np.ptp(values, axis=0) == 0
        if still.any():
            raise EncodingError(
                f"Test {name} of {int(still.sum())} voxels do not vary over {len(values)} stimuli (first: voxel "
                f"{int(np.argmax(still))}); their accuracy is undefined. Leave them out."
            )
