"""Banded ridge: several feature spaces predict a voxel together, each with a penalty of its own, and share what they explain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from mine_core.encoding.alignment import check_disjoint, check_positions, check_same_stimuli
from mine_core.encoding.blocks import blocks_of, each, each_block
from mine_core.encoding.gram import Crossed, Design, Part
from mine_core.encoding.ridge import ALPHAS, VOXELS_PER_BLOCK, check_alphas, check_finite, check_folds, check_responses
from mine_core.errors import AlignmentError, Cancelled, EncodingError
from mine_core.types import BackboneSpec, Features, IsCancelled, OnProgress, Provenance, Responses, Splits, VoxelIndex

CONCENTRATIONS = (0.1, 1.0)


@dataclass(frozen=True)
class BandedModel:
    """A linear read-out of several embeddings per voxel: prediction = average + sum over bands of (pooled @ coef + offset).

    `coef[band]` is [feature, voxel]; `offset[band, voxel]` makes a band's part 0 on average over the training stimuli, and
    `average` is the mean training response. `share[band, voxel]` sums to 1 over bands: a band's penalty is alpha / share.
    """

    bands: tuple[str, ...]
    coef: Mapping[str, Float[np.ndarray, "_ voxel"]]
    offset: Float[np.ndarray, "band voxel"]
    average: Float[np.ndarray, " voxel"]
    alpha: Float[np.ndarray, " voxel"]
    share: Float[np.ndarray, "band voxel"]
    voxels: VoxelIndex
    backbones: Mapping[str, BackboneSpec]
    provenance: Provenance = field(default_factory=dict)

    def predict_bands(self, pooled: Mapping[str, Float[np.ndarray, "stimulus _"]]) -> Float[np.ndarray, "band stimulus voxel"]:
        """Each band's part of the prediction, in the units of the responses; raises AlignmentError if the bands are others."""
        check_same_bands(self.bands, pooled)
        return np.stack([pooled[band] @ self.coef[band] + self.offset[row] for row, band in enumerate(self.bands)])

    def predict(self, pooled: Mapping[str, Float[np.ndarray, "stimulus _"]]) -> Float[np.ndarray, "stimulus voxel"]:
        """Predicted responses: the average and every band's part."""
        return self.average + self.predict_bands(pooled).sum(axis=0)


@dataclass(frozen=True)
class BandedScore:
    """Variance explained on held-out stimuli and its split: r2 = r2_of_average + r2_of_band.sum(axis=0), to rounding.

    `r2_of_average` is what predicting the training average alone would reach, at most 0.
    """

    bands: tuple[str, ...]
    r2: Float[np.ndarray, " voxel"]
    r2_of_band: Float[np.ndarray, "band voxel"]
    r2_of_average: Float[np.ndarray, " voxel"]
    n_test: int


def fit_banded(
    features: Mapping[str, Features],
    responses: Responses,
    splits: Splits,
    alphas: Sequence[float] = ALPHAS,
    folds: int = 5,
    *,
    rng: np.random.Generator,
    n_draws: int = 20,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> BandedModel:
    """Fit every voxel on several feature spaces, how much each may count chosen with the penalty by cross-validation.

    b = argmin_b ||y - sum_k X_k b_k||^2 + alpha sum_k ||b_k||^2 / share_k, with sum_k share_k = 1 and features standardised
    over the training part. Tried are equal shares, each band alone, and `n_draws` random ones, from Dirichlet distributions
    of concentration 0.1 (sparse) and 1 (even) in turn; each voxel takes the shares and alpha of the smallest squared error
    summed over held-out folds. With one band this is `fit_ridge`.

    Parameters
    ----------
    features : feature spaces by name, of the same stimuli.
    alphas : penalties to choose from, for standardised features and responses in their own units.
    rng : draws the shares; the same draws for all voxels.
    n_draws : random shares beside the fixed ones, 0 or more.

    Raises
    ------
    AlignmentError
        If a feature space and the responses differ in their stimuli or the order of them, or splits overlap.
    EncodingError
        If there is no band, a training value is not finite, a voxel's responses do not vary, or an option is out of range.
    Cancelled
        When `cancelled()` becomes True between blocks of voxels or draws.

    Notes
    -----
    Sums over folds of every voxel are held, folds * features * voxels numbers. A random search over few draws finds good
    shares, not the best; shares of bands that predict alike are not determined.

    References
    ----------
    Nunez-Elizalde, Huth and Gallant (2019), 10.1016/j.neuroimage.2019.04.012; Dupre la Tour, Eickenberg, Nunez-Elizalde and
    Gallant (2022), 10.1016/j.neuroimage.2022.119728.
    """
    _check_request(features, responses, splits, folds, n_draws)
    check_alphas(alphas)
    bands, widths = tuple(features), [space.pooled.shape[1] for space in features.values()]
    X = np.concatenate([np.asarray(space.pooled[splits.train], np.float64) for space in features.values()], axis=1)
    check_finite("features", X)
    shares, grid = draw_shares(len(bands), n_draws, rng), np.asarray(alphas, np.float64)
    search = _Search(Design.of(X, folds, float(grid.min())), grid, np.repeat(np.sqrt(shares), widths, axis=1))
    crossed = search.cross(responses, splits.train, on_progress, cancelled)
    n_voxels = responses.values.shape[1]
    draw, alpha = search.choose(crossed, n_voxels, on_progress, cancelled)
    weights, average = search.solve(crossed, draw, alpha)
    ends = np.cumsum(widths)[:-1]
    coef = dict(zip(bands, np.split(weights, ends), strict=True))
    means = np.split(X.mean(axis=0), ends)
    offset = np.stack([-(mean @ coef[band]) for band, mean in zip(bands, means, strict=True)])
    return BandedModel(
        bands,
        coef,
        offset.astype(np.float32),
        average.astype(np.float32),
        alpha.astype(np.float32),
        shares[draw].T.astype(np.float32),
        responses.voxels,
        {band: space.backbone for band, space in features.items()},
        {"alphas": grid.tolist(), "folds": folds, "n_train": len(X), "shares": shares.tolist()},
    )


def draw_shares(n_bands: int, n_draws: int, rng: np.random.Generator) -> Float[np.ndarray, "draw band"]:
    """Shares to try: equal, each band alone, then random ones; a single band has one share only."""
    if n_bands == 1:
        return np.ones((1, 1))
    drawn = [rng.dirichlet(np.full(n_bands, CONCENTRATIONS[draw % len(CONCENTRATIONS)])) for draw in range(n_draws)]
    return np.concatenate([np.full((1, n_bands), 1 / n_bands), np.eye(n_bands), np.array(drawn).reshape(n_draws, n_bands)])


def split_variance(
    model: BandedModel, features: Mapping[str, Features], responses: Responses, test: Int[np.ndarray, " test"]
) -> BandedScore:
    """Split the variance explained on held-out stimuli over bands by the product measure.

    With d = y - average and f_k a band's part of the prediction f, r2_k = sum f_k (2 d - f) / sum (y - mean y)^2.

    Parameters
    ----------
    test : positions of stimuli that the model was not fit on.

    Raises
    ------
    AlignmentError
        If stimuli, voxels, bands or backbones are not the model's.
    EncodingError
        If a test value is not finite, or a voxel's test responses do not vary.

    Notes
    -----
    A band's part can be below 0 or above the whole where bands correct each other, and bands that predict alike share what
    they explain in a way that the data do not determine: this is a split of one model's predictions, not of causes.

    References
    ----------
    Hoffman (1960), 10.1037/h0047807; Dupre la Tour et al. (2022), 10.1016/j.neuroimage.2022.119728.
    """
    check_same_bands(model.bands, features)
    for band, space in features.items():
        check_same_stimuli(space, responses)
        if space.backbone != model.backbones[band]:
            raise AlignmentError(f"Band '{band}' was fit on backbone '{model.backbones[band].name}', not '{space.backbone.name}'.")
        check_finite(f"features of {band}", space.pooled[test])
    if model.voxels.subject != responses.voxels.subject or not np.array_equal(model.voxels.flat_index, responses.voxels.flat_index):
        raise AlignmentError(
            f"The model speaks of {len(model.voxels)} voxels of '{model.voxels.subject}', the responses of {len(responses.voxels)} "
            f"of '{responses.voxels.subject}', or in another order. Fit the model on these voxels."
        )
    check_positions("test", test, len(responses.stimulus_ids), at_least=3)
    n_voxels = len(model.average)
    of_band, of_average = np.empty((len(model.bands), n_voxels)), np.empty(n_voxels)
    for block in blocks_of(n_voxels, VOXELS_PER_BLOCK):
        measured = np.asarray(responses.values[test, block], np.float64)
        check_responses(measured, block.start, "test")
        parts = [
            features[band].pooled[test] @ model.coef[band][:, block] + model.offset[row, block] for row, band in enumerate(model.bands)
        ]
        wanted, whole = measured - model.average[block], np.sum(parts, axis=0)
        total = ((measured - measured.mean(axis=0)) ** 2).sum(axis=0)
        of_average[block] = 1 - (wanted**2).sum(axis=0) / total
        of_band[:, block] = [(part * (2 * wanted - whole)).sum(axis=0) / total for part in parts]
    return BandedScore(model.bands, of_average + of_band.sum(axis=0), of_band, of_average, len(test))


def check_same_bands(bands: tuple[str, ...], given: Mapping[str, object]) -> None:
    """Raise AlignmentError unless the same bands are given, in any order."""
    if set(bands) != set(given):
        raise AlignmentError(f"The model has the bands {', '.join(bands)}; {', '.join(given) or 'none'} were given. Give each by name.")


@dataclass(frozen=True)
class _Search:
    """Shares and penalties to try on sums over folds: `scales[draw, feature]` are roots of the shares."""

    design: Design
    alphas: Float[np.ndarray, " alpha"]
    scales: Float[np.ndarray, "draw feature"]

    def cross(
        self, responses: Responses, train: Int[np.ndarray, " train"], on_progress: OnProgress | None, cancelled: IsCancelled | None
    ) -> dict[int, Crossed]:
        """Sums of every block of voxels over each fold, by the block's first voxel."""
        crossed: dict[int, Crossed] = {}

        def work(block: slice) -> None:
            crossed[block.start] = self.design.cross(
                lambda rows: responses.values[train[rows], block], lambda Y: check_responses(Y, block.start)
            )

        blocks = blocks_of(responses.values.shape[1], VOXELS_PER_BLOCK)
        each_block(work, blocks, "summing responses", on_progress, cancelled)
        return crossed

    def _parts(self, scale: Float[np.ndarray, " feature"]) -> list[Part]:
        return each(lambda fold: self.design.part(fold, self.alphas, scale), range(len(self.design.counts)))

    def choose(
        self, crossed: dict[int, Crossed], n_voxels: int, on_progress: OnProgress | None, cancelled: IsCancelled | None
    ) -> tuple[Int[np.ndarray, " voxel"], Float[np.ndarray, " voxel"]]:
        """Each voxel's draw and penalty of the smallest error; the first of equals."""
        lowest, draw, alpha = np.full(n_voxels, np.inf), np.zeros(n_voxels, int), np.empty(n_voxels)
        blocks = _extent(crossed)
        for number, scale in enumerate(self.scales):
            if cancelled is not None and cancelled():
                raise Cancelled(f"Stopped after {number} of {len(self.scales)} shares of the bands; nothing was kept.")
            parts = self._parts(scale)

            def work(block: slice, number: int = number, parts: list = parts) -> None:
                errors = self.design.errors(parts, crossed[block.start])
                best = np.argmin(errors, axis=0)
                found = np.take_along_axis(errors, best[None], axis=0)[0]
                better = found < lowest[block]
                lowest[block], draw[block] = np.where(better, found, lowest[block]), np.where(better, number, draw[block])
                alpha[block] = np.where(better, self.alphas[best], alpha[block])

            each_block(work, blocks, "trying shares of the bands", None, cancelled)
            if on_progress is not None:
                on_progress(number + 1, len(self.scales), "trying shares of the bands")
        return draw, alpha

    def solve(
        self, crossed: dict[int, Crossed], draw: Int[np.ndarray, " voxel"], alpha: Float[np.ndarray, " voxel"]
    ) -> tuple[Float[np.ndarray, "feature voxel"], Float[np.ndarray, " voxel"]]:
        """Coefficients (float32) and average response of every voxel with its draw and penalty."""
        weights, average = np.empty((self.scales.shape[1], len(draw)), np.float32), np.empty(len(draw))
        for number in np.unique(draw):
            whole = self.design.whole(self.scales[number])
            for block in _extent(crossed):
                inside = np.flatnonzero(draw[block] == number)
                if not len(inside):
                    continue
                solved = self.design.solve(whole, _some(crossed[block.start], inside), alpha[block][inside])
                weights[:, block.start + inside], average[block.start + inside] = solved.weights, solved.average
        return weights, average


def _some(crossed: Crossed, voxels: Int[np.ndarray, " chosen"]) -> Crossed:
    return Crossed(crossed.products[:, :, voxels], crossed.means[:, voxels], crossed.centre[voxels], crossed.unit[voxels])


def _extent(crossed: dict[int, Crossed]) -> list[slice]:
    return [slice(start, start + len(sums.centre)) for start, sums in sorted(crossed.items())]


def _check_request(features: Mapping[str, Features], responses: Responses, splits: Splits, folds: int, n_draws: int) -> None:
    if not features:
        raise EncodingError("No feature space was given; banded ridge needs at least one.")
    if n_draws < 0:
        raise EncodingError(f"{n_draws} random shares were asked for; 0 or more are possible.")
    for space in features.values():
        check_same_stimuli(space, responses)
    check_disjoint(splits)
    check_positions("train", splits.train, len(responses.stimulus_ids), at_least=2 * folds)
    check_folds(folds, len(splits.train))
