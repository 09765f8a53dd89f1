"""From features and responses to a trained query-attention encoder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Int

from mine_core.encoding.alignment import check_disjoint, check_positions, check_same_model, check_same_stimuli
from mine_core.encoding.query_attention.config import QueryAttentionConfig
from mine_core.encoding.query_attention.encoder import QueryAttentionEncoder
from mine_core.encoding.query_attention.start import start_from_ridge
from mine_core.encoding.query_attention.training import Training, restore_checkpoint, run_epochs, save_checkpoint
from mine_core.encoding.ridge import fit_ridge
from mine_core.errors import AlignmentError, Cancelled, EncodingError
from mine_core.types import EncodingModel, Features, IsCancelled, OnProgress, Responses, Splits

LEAST_TRAIN, LEAST_VALIDATION = 20, 10


def fit_query_attention(
    features: Features,
    responses: Responses,
    splits: Splits,
    config: QueryAttentionConfig,
    directory: Path | None = None,
    *,
    ridge: EncodingModel | None = None,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> QueryAttentionEncoder:
    """Train the paper's encoder: an embedding per voxel queries the tokens of an image, and a linear read-out predicts.

    loss = sum_v (mean_i (y_iv - prediction_iv)² + ridge penalty of v), responses in SD over the training images; AdamW;
    one-cycle rate; the running average of the weights with the smallest error on the validation images is kept. For the
    layer see `QueryAttentionEncoder`.

    Choices that differ from Grosbard et al. (2026), whose training takes two to three days on a GPU.
    `mine_core.experiments.encoder_ablation` leaves out one at a time: it starts at ridge, as uniform attention over a linear
    map of the tokens; the read-outs keep the ridge penalty of their voxel, many times over; a voxel has a map over places
    beside its query over contents; one wide head stands for 128 of 4 dimensions; the feed-forward is narrow; averaged weights
    predict. Not ablated: queries are a voxel's own, not a shared map of an embedding; keys alone read normalised tokens; there
    is no residual stream, so that the feed-forward reads the attended values without a norm; a step computes all voxels.

    Parameters
    ----------
    directory : where a checkpoint is kept after each epoch and taken up again; None keeps none.
    ridge : encoder to start from, fit on the same features, responses and training stimuli; fit here if None.
    on_progress : told of steps done and in all.

    Raises
    ------
    AlignmentError
        If features, responses, splits or `ridge` do not speak of the same stimuli, voxels and backbone, or the patches are
        not the backbone's grid.
    EncodingError
        If there are fewer than 20 training or 10 validation stimuli, a value is not finite, a voxel does not vary, or the
        checkpoint is of another run.
    Cancelled
        When `cancelled()` becomes True between steps; the checkpoint of the last finished epoch stays in `directory`.

    Notes
    -----
    Test stimuli are not looked at; validation stimuli choose when to stop. What a voxel attends to is what helps to predict
    it, correlated neighbours included: attention is no proof of a cause.

    References
    ----------
    Grosbard, Geva, Yovel (2026), arXiv:2605.16468. Loshchilov and Hutter (2019), arXiv:1711.05101. Smith (2018),
    arXiv:1803.09820.
    """
    _check_inputs(features, responses, splits)
    if ridge is None:
        ridge = fit_ridge(features, responses, splits, cancelled=cancelled)
    check_same_model(ridge, features, responses)
    training = Training(start_from_ridge(ridge, features, responses, splits, config), features, responses, splits, config)
    if directory is not None:
        restore_checkpoint(training, directory)
    on_step = _watch(training, on_progress, cancelled)

    def on_epoch() -> None:
        if directory is not None:
            save_checkpoint(training, directory)

    run_epochs(training, on_epoch, on_step)
    return encoder_of(training)


def encoder_of(training: Training) -> QueryAttentionEncoder:
    """The encoder of the best weights so far, with the scales of tokens and responses folded in."""
    start, weights = training.start, {name: value.cpu().numpy() for name, value in training.best.items()}
    linear = start.linear * start.response_sd
    intercept = start.response_mean + start.response_sd * weights["intercept"] - training.pooled_mean @ linear
    return QueryAttentionEncoder(
        mean_patches=start.mean_patches.astype(np.float32),
        mean_remainder=start.mean_remainder.astype(np.float32),
        feature_sd=start.feature_sd.astype(np.float32),
        basis=start.basis.astype(np.float32),
        key_map=weights["key_map"],
        expand=weights["expand"],
        expand_query=weights["expand_query"],
        expand_bias=weights["expand_bias"],
        contract=weights["contract"],
        query=weights["query"],
        place=weights["cosines"] @ training.cosines.cpu().numpy(),
        readout=(weights["readout"] * start.response_sd[:, None, None]).astype(np.float32),
        linear=linear.astype(np.float32),
        intercept=intercept.astype(np.float32),
        prediction_sd=(prediction_sd(training) * start.response_sd).astype(np.float32),
        voxels=training.responses.voxels,
        backbone=training.features.backbone,
        config=training.config,
        provenance=_provenance(training),
    )


def prediction_sd(training: Training) -> np.ndarray:
    """SD of the best weights' predictions over the training images, in SD of the responses."""
    size = training.config.images_per_step
    source = training.open_tokens()
    total = squares = np.zeros(len(training.start.readout))
    for first in range(0, len(training.splits.train), size):
        positions = training.splits.train[first : first + size]
        predicted = training.predicted(training.best, source, positions).double().cpu().numpy()
        total, squares = total + predicted.sum(axis=0), squares + (predicted**2).sum(axis=0)
    n_train = len(training.splits.train)
    return np.sqrt(np.maximum(squares / n_train - (total / n_train) ** 2, 0))


def _provenance(training: Training) -> dict:
    progress = training.progress
    return {
        "config": training.config.to_dict(),
        "n_train": len(training.splits.train),
        "n_validation": len(training.splits.validation),
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch + 1,
        "validation_error": list(progress.history),
    }


def _watch(training: Training, on_progress: OnProgress | None, cancelled: IsCancelled | None) -> Callable[[float], None]:
    total = training.steps_per_epoch * training.config.epochs

    def on_step(error: float) -> None:
        progress = training.progress
        if cancelled is not None and cancelled():
            raise Cancelled(f"Stopped after {progress.step} of {total} steps; {progress.epoch} finished epochs can be taken up again.")
        if on_progress is not None:
            on_progress(progress.step, total, f"training attention, error {error:.3f}")

    return on_step


def _check_inputs(features: Features, responses: Responses, splits: Splits) -> None:
    check_same_stimuli(features, responses)
    check_disjoint(splits)
    for name, least in (("train", LEAST_TRAIN), ("validation", LEAST_VALIDATION)):
        positions: Int[np.ndarray, " chosen"] = getattr(splits, name)
        if len(positions) < least:
            raise EncodingError(f"The {name} split has {len(positions)} stimuli; attention needs at least {least}. Use ridge.")
        check_positions(name, positions, len(features.stimulus_ids), at_least=least)
    rows, cols = features.backbone.grid
    if features.patches.shape[1] != rows * cols:
        raise AlignmentError(
            f"Features have {features.patches.shape[1]} patches, the grid of backbone '{features.backbone.name}' is {rows}x{cols}; "
            "extract the features again."
        )
    values = np.asarray(responses.values[splits.validation])
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        raise EncodingError(f"Validation responses have {wrong} values that are NaN or infinite; leave those stimuli or voxels out.")
