"""Whether features, responses, splits and a model speak of the same stimuli, voxels and backbone."""

import hashlib

import numpy as np
from jaxtyping import Float, Int

from mine_core.errors import AlignmentError
from mine_core.types import EncodingModel, Features, Responses, Splits, StimulusSet, VoxelIndex

# So many pairs of equal images are named; the rest are counted.
NAMED = 5


def check_same_stimuli(features: Features, responses: Responses) -> None:
    """Raise AlignmentError unless both name the same stimuli in the same order; equal length is not alignment."""
    ours, theirs = features.stimulus_ids, responses.stimulus_ids
    if ours == theirs:
        return
    missing, extra = set(ours) - set(theirs), set(theirs) - set(ours)
    counts = f"Features have {len(ours)} stimuli, responses {len(theirs)}"
    if missing or extra:
        first = sorted(missing or extra)[0]
        raise AlignmentError(
            f"{counts}: {len(missing)} ids only in features, {len(extra)} only in responses (first: '{first}'). "
            "Extract features for the stimuli of these responses."
        )
    moved = next(place for place, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other)
    raise AlignmentError(
        f"{counts}, the same ids in another order (first at position {moved}: '{ours[moved]}' and '{theirs[moved]}'). "
        "Give both in one order."
    )


def check_positions(name: str, positions: Int[np.ndarray, " chosen"], n_stimuli: int, at_least: int) -> None:
    """Raise AlignmentError unless `positions` are distinct, within the stimuli, and `at_least` so many."""
    if len(positions) < at_least:
        raise AlignmentError(f"The {name} split has {len(positions)} stimuli; at least {at_least} are needed.")
    if positions.min() < 0 or positions.max() >= n_stimuli or len(np.unique(positions)) != len(positions):
        raise AlignmentError(
            f"The {name} split has positions {positions.min()} ... {positions.max()}, {len(np.unique(positions))} distinct of "
            f"{len(positions)}; they must be distinct and within 0 ... {n_stimuli - 1}."
        )


def check_disjoint(splits: Splits) -> None:
    """Raise AlignmentError if a stimulus is in two splits."""
    pairs = (("train", "validation"), ("train", "test"), ("validation", "test"))
    for one, other in pairs:
        shared = np.intersect1d(getattr(splits, one), getattr(splits, other))
        if len(shared):
            raise AlignmentError(
                f"{len(shared)} stimuli are in both the {one} and the {other} split (first: position {shared[0]}); "
                "split by image, so that held-out scores are held out."
            )


def check_images_apart(stimuli: StimulusSet, splits: Splits) -> None:
    """Raise AlignmentError if two splits show the same pixels, under whatever names: a held-out image would be known.

    Compares hashes (BLAKE2b, 128 bits) of the pixels; an image that was stored anew or resized has other ones and is not found.
    Images that recur within a split are no leak, but the test stimuli are then fewer than they seem.
    """
    seen: dict[bytes, tuple[str, int]] = {}
    leaks: list[tuple[str, int, str, int]] = []
    for name in ("train", "validation", "test"):
        for position in getattr(splits, name).tolist():
            pixels = stimuli.images[position].tobytes()
            split, first = seen.setdefault(hashlib.blake2b(pixels, digest_size=16).digest(), (name, position))
            if split != name:
                leaks.append((split, first, name, position))
    if leaks:
        named = "; ".join(f"'{stimuli.ids[a]}' ({one}) and '{stimuli.ids[b]}' ({other})" for one, a, other, b in leaks[:NAMED])
        more = f" and {len(leaks) - NAMED} more" if len(leaks) > NAMED else ""
        raise AlignmentError(
            f"{len(leaks)} images are pixel for pixel in two splits: {named}{more}. Put "
            "identical images in one split, so that held-out scores are held out."
        )


def check_predictions(predicted: Float[np.ndarray, "row column"], test: Int[np.ndarray, " test"], voxels: VoxelIndex) -> None:
    """Raise AlignmentError unless there is one row of predictions a test stimulus and one column a voxel."""
    expected = len(test), len(voxels)
    if predicted.shape != expected:
        raise AlignmentError(
            f"Predictions are of shape {predicted.shape}; expected [test stimulus, voxel] = {expected} of subject "
            f"'{voxels.subject}'. Predict the test stimuli alone, in the order of the split."
        )


def check_same_model(model: EncodingModel, features: Features, responses: Responses) -> None:
    """Raise AlignmentError unless the model was fit on this backbone and these voxels."""
    if model.backbone != features.backbone:
        ours, theirs = model.backbone, features.backbone
        raise AlignmentError(
            f"The encoding model was fit on backbone '{ours.name}' (weights {ours.weights_hash[:8]}), the features come from "
            f"'{theirs.name}' (weights {theirs.weights_hash[:8]}). Extract features with the model's backbone."
        )
    same = model.voxels.subject == responses.voxels.subject and np.array_equal(model.voxels.flat_index, responses.voxels.flat_index)
    if not same:
        raise AlignmentError(
            f"The encoding model speaks of {len(model.voxels)} voxels of '{model.voxels.subject}', the responses of "
            f"{len(responses.voxels)} of '{responses.voxels.subject}', or in another order. Fit the model on these voxels."
        )
