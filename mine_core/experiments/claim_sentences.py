"""A plain sentence on each comparison, written from its numbers: what it shows, and what it does not."""

from collections.abc import Mapping
from typing import Any

TITLES: Mapping[str, str] = {
    "reconstruction": "Reconstruction",
    "discriminability": "Discriminability",
    "edits": "Removing and inserting",
    "faithfulness": "Faithfulness of an insertion",
    "guidance": "Edits guided by the profile",
    "tokens": "Necessity and sufficiency of patches",
}
ASKED: Mapping[str, str] = {
    "reconstruction": "Do words of the critical patches make an image anew that the voxel answers like the original?",
    "discriminability": "Do words of critical patches tell preferred images from non-preferred ones?",
    "edits": "Does the response fall where what drives it is removed, and rise where what is wanted is inserted, beyond controls?",
    "faithfulness": "How much of the way from a non-preferred image to a preferred one does the critical piece go?",
    "guidance": "Do edits that the voxel's whole profile guides move it more than those that one image guides?",
    "tokens": "Are the critical patches needed for the prediction, and are they enough?",
}
NOT_SHOWN: Mapping[str, str] = {
    "reconstruction": (
        "It does not show that the words are right or complete: images are made of a few things on a plain ground, and the places "
        "that the words name are taken from the patches."
    ),
    "discriminability": "It does not show what else differs between the images, nor that single images could be told apart.",
    "edits": "It is the prediction of a model, not the measurement of a brain, and of edits that the backbone recognises.",
    "faithfulness": (
        "The ratio divides by how far the two images are apart and is unstable where that is little: pairs less than 1 SD apart are "
        "left out, and medians are given beside."
    ),
    "guidance": "One thing is inserted each time, by cut-outs: a profile's further words play no part in it.",
    "tokens": "Patches replaced by the average patch are no images that anyone saw; what the model reads in the others may hold them.",
}
# What the claim says, and its opposite, of treated and reference; {t} and {r} are the means.
SAID: Mapping[tuple[str, str], tuple[str, str]] = {
    ("reconstruction", "random patches"): (
        "Images made from words of the critical patches are predicted nearer to the measured response than those from random patches",
        "Images made from words of random patches are predicted nearer to the measured response than those from critical patches",
    ),
    ("reconstruction", "least attributed patches"): (
        "They are predicted nearer to it than images made from words of the least attributed patches",
        "Images made from words of the least attributed patches are predicted nearer to it",
    ),
    ("reconstruction", "random patches, to the prediction"): (
        "Their predictions are nearer to the original's prediction than those from random patches",
        "Predictions of images from random patches are nearer to the original's prediction",
    ),
    ("reconstruction", "least attributed, to the prediction"): (
        "They are nearer to it than those from the least attributed patches",
        "Those from the least attributed patches are nearer to it",
    ),
    ("discriminability", "preferred images"): (
        "Images made from words of preferred images are predicted higher than those of non-preferred ones",
        "Images made from words of non-preferred images are predicted higher than those of preferred ones",
    ),
    ("edits", "removal"): (
        "Removing what drives a voxel lowers its prediction more than matched controls do",
        "Removing what drives a voxel lowers its prediction less than matched controls do",
    ),
    ("edits", "insertion"): (
        "Inserting the first word of a voxel raises its prediction more than matched controls do",
        "Inserting the first word of a voxel raises its prediction less than matched controls do",
    ),
    ("faithfulness", "random piece"): (
        "The critical piece goes more of the way than an equally large random piece",
        "An equally large random piece goes more of the way than the critical one",
    ),
    ("faithfulness", "random piece in the same place"): (
        "It goes more of the way than the random piece laid where the critical one was",
        "The random piece laid where the critical one was goes more of the way",
    ),
    ("guidance", "one image's words"): (
        "Insertions guided by the profile raise predictions more than those guided by one image's words",
        "Insertions guided by one image's words raise predictions more than those guided by the profile",
    ),
    ("guidance", "a piece of the best image"): (
        "They raise predictions more than a piece of the voxel's best image",
        "A piece of the voxel's best image raises predictions more than the profile's word",
    ),
    ("tokens", "necessity"): (
        "Without the critical patches the prediction errs more than without random ones",
        "Without the critical patches the prediction errs less than without random ones",
    ),
    ("tokens", "sufficiency"): (
        "The critical patches alone predict better than random ones alone",
        "Random patches alone predict better than the critical ones alone",
    ),
}


def sentence(entry: Mapping[str, Any]) -> str:
    """One sentence on a comparison, from its verdict and numbers, and what the second encoder says of it."""
    found = entry["guiding"]
    if found is None:
        return f"{entry['name'].capitalize()}: too few voxels or images could be tested to say anything."
    claimed, opposite = SAID[entry["claim"], entry["name"]]
    if found["verdict"] == "undecided":
        return f"Not shown: that {claimed[:1].lower()}{claimed[1:]} ({_numbers(entry, found)}). {_second(entry)}"
    told = claimed if found["verdict"] == "for" else f"Against the claim: {opposite[:1].lower()}{opposite[1:]}"
    return f"{told} ({_numbers(entry, found)}). {_second(entry)}"


def _numbers(entry: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    return (
        f"{entry['treated']} {found['mean_treated']:.2f}, {entry['reference']} {found['mean_reference']:.2f}, estimated difference "
        f"{found['estimate']:+.2f}, 95 % interval {low:+.2f} to {high:+.2f} {entry['unit']}; {found['n_voxels']} voxels, "
        f"{found['n_images']} images"
    )


def _second(entry: Mapping[str, Any]) -> str:
    found = entry["second"]
    if found is None:
        return "No second encoder could check it."
    low, high = found["interval"]
    numbers = f"{found['estimate']:+.2f}, {low:+.2f} to {high:+.2f}; {found['n_voxels']} voxels"
    if found["verdict"] == "undecided":
        return f"The second encoder does not decide it ({numbers})."
    if entry["guiding"]["verdict"] == "undecided":
        return f"The second encoder speaks {found['verdict']} it ({numbers})."
    return f"The second encoder {'agrees' if found['verdict'] == entry['guiding']['verdict'] else 'says the opposite'} ({numbers})."
