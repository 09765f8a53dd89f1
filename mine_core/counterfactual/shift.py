"""From embeddings before and after an edit to the predicted shift of every voxel, beside its matched controls."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from mine_core.errors import AlignmentError, EditError, EncodingError
from mine_core.statistics import t_interval
from mine_core.types import EncodingModel, PredictedShift

Embed = Callable[[UInt8[np.ndarray, "image height width 3"]], Float[np.ndarray, "image feature"]]


def predict_shift(
    model: EncodingModel,
    pooled_before: Float[np.ndarray, " feature"],
    pooled_after: Float[np.ndarray, " feature"],
    controls_pooled: Float[np.ndarray, "control feature"],
    names: Sequence[str],
    *,
    direction: int,
    guided_by: str,
    checked_by: str | None = None,
) -> PredictedShift:
    """Shift of each voxel's prediction by an edit, and where it stands among the shifts of control edits.

    shift[v] = (pooled_after - pooled_before) @ coef[:, v] / prediction_sd[v]
    p[v] = rank[v] / (1 + n_controls), rank[v] = 1 + #{controls at least as extreme in the edit's direction}

    Parameters
    ----------
    pooled_before, pooled_after : the image's embedding before and after the edit.
    controls_pooled : embeddings of the same image after each control edit; may have no rows, and then p is 1.
    names : one name per control, as it is to be shown; names may repeat.
    direction : -1 when the edit is to lower the prediction (removal), +1 when it is to raise it (insertion), 0 when no
        direction was predicted: then the size of the shift counts, whatever its sign.
    guided_by : the encoder that chose where and what to edit.
    checked_by : an encoder that took no part in that choice, if it made these predictions.

    Returns
    -------
    PredictedShift : `before`, `after`, `shift` and `controls` in SD of the voxel's predictions over the training stimuli, so
        that shift = after - before; equal embeddings give a shift of exactly 0.

    Raises
    ------
    AlignmentError : if the embeddings do not have the model's features, or names and controls differ in number.
    EditError : if the direction is none of -1, 0, 1, or an embedding is not finite.
    EncodingError : if a voxel's predictions do not vary, so that they have no SD to measure a shift in.

    Notes
    -----
    Ties count against the edit. The p-value compares one image's edit with edits of the same image; it says nothing about
    other images, and it is about the model's prediction, not about a brain.
    """
    _check(model, pooled_before, pooled_after, controls_pooled, names, direction)
    changes = np.concatenate([(pooled_after - pooled_before)[None], controls_pooled - pooled_before])
    shifts = changes @ model.coef / model.prediction_sd
    shift, controls = shifts[0], shifts[1:]
    rank = 1 + _as_extreme(shift, controls, direction).sum(0)
    before = model.predict(pooled_before[None])[0] / model.prediction_sd
    return PredictedShift(
        before=before,
        after=before + shift,
        shift=shift,
        controls=controls,
        control_names=tuple(names),
        p=rank / (1 + len(controls)),
        rank=rank,
        guided_by=guided_by,
        checked_by=checked_by,
    )


def beyond_controls(shift: PredictedShift, voxel: int) -> tuple[float, float, float]:
    """How much more an edit moves a voxel's prediction than its mean control, in SD, with a 95 % interval.

    shift - mean(controls) +- t(.975, n - 1) sd(controls) / sqrt(n): the uncertainty is that of which controls were made in this
    one image; other images and other edits are not in it. NaN ends with fewer than two controls.
    """
    controls = np.asarray(shift.controls[:, voxel], np.float64)
    if not len(controls):
        return float("nan"), float("nan"), float("nan")
    moved = float(shift.shift[voxel])
    low, high = t_interval(controls) if len(controls) > 1 else (float("nan"), float("nan"))
    return moved - float(controls.mean()), moved - high, moved - low


def _as_extreme(shift: Float[np.ndarray, " voxel"], controls: Float[np.ndarray, "control voxel"], direction: int) -> np.ndarray:
    if direction == 0:
        return np.abs(controls) >= np.abs(shift)
    return direction * controls >= direction * shift


def _check(
    model: EncodingModel,
    before: Float[np.ndarray, " feature"],
    after: Float[np.ndarray, " feature"],
    controls: Float[np.ndarray, "control feature"],
    names: Sequence[str],
    direction: int,
) -> None:
    n_features = len(model.coef)
    for what, array in (("before", before), ("after", after), ("controls", controls)):
        if array.shape[-1] != n_features:
            raise AlignmentError(
                f"The embedding of {what} has {array.shape[-1]} features, the model {n_features}; "
                f"embed with the model's backbone '{model.backbone.name}'."
            )
        if not np.isfinite(array).all():
            raise EditError(f"The embedding of {what} holds {int((~np.isfinite(array)).sum())} values that are not finite.")
    if len(names) != len(controls):
        raise AlignmentError(f"{len(names)} names were given for {len(controls)} control edits; give one name per control.")
    if direction not in (-1, 0, 1):
        raise EditError(f"Direction {direction} was given; it is -1 (removal), 1 (insertion) or 0 (none predicted).")
    still = int((~(model.prediction_sd > 0)).sum())
    if still:
        raise EncodingError(
            f"{still} of {len(model.prediction_sd)} voxels have predictions that do not vary, so a shift has no unit; "
            "fit the model without them."
        )


def embed_distinct(embed: Embed, images: Sequence[UInt8[np.ndarray, "height width 3"]]) -> Float[np.ndarray, "image feature"]:
    """Embed images, equal ones once, so that an edit which changes nothing shifts nothing, whatever a batch does to rounding.

    Parameters
    ----------
    embed : from images to pooled embeddings, for instance `lambda images: backbone.embed(images)[0]`.
    images : of one shape.

    Raises
    ------
    AlignmentError : if the images differ in shape.
    """
    shapes = sorted({image.shape for image in images})
    if len(shapes) != 1:
        raise AlignmentError(f"{len(images)} images of shapes {shapes} were given; embed images of one shape.")
    seen: dict[bytes, int] = {}
    rows: Int[np.ndarray, " image"] = np.array([seen.setdefault(image.tobytes(), len(seen)) for image in images])
    distinct = np.stack([images[int(np.flatnonzero(rows == row)[0])] for row in range(len(seen))])
    return embed(distinct)[rows]
