"""Edits that test a concept: taken out of images that show it, put into images that do not; each image's edits are kept."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8

from mine_core.artifacts import Artifact, ArtifactStore, Recipe, code_version
from mine_core.counterfactual.editors import stop_if
from mine_core.counterfactual.insertion import insert_at
from mine_core.counterfactual.placements import places_elsewhere
from mine_core.counterfactual.removal import InpaintRemover
from mine_core.counterfactual.verification import verify_edit
from mine_core.errors import EditError
from mine_core.instrument.concept_stimuli import ConceptStimuli
from mine_core.instrument.instrument import Instrument
from mine_core.instrument.search import embed_texts
from mine_core.instrument.stages import encoding_stages
from mine_core.instrument.things import clear_words, exemplars_of
from mine_core.instrument.trials import object_under, presence_scale
from mine_core.instrument.where import heat_of_read_out
from mine_core.types import ImageEdit, IsCancelled, OnProgress

EditKind = Literal["remove", "insert"]
N_EDITED = 14  # of the images that show the concept apart, those that show it best
FILLS = ("patches", "navier-stokes")  # each image is edited once with each, and so is each place elsewhere
N_COMPARED, SIZE = 4, 0.45
PLACES = ((0.32, 0.6), (0.5, 0.6), (0.68, 0.6), (0.5, 0.45))  # x and y of what is put in, in turn
CODE = (
    "counterfactual/compositing.py",
    "counterfactual/exemplars.py",
    "counterfactual/filling.py",
    "counterfactual/insertion.py",
    "counterfactual/placements.py",
    "counterfactual/removal.py",
    "counterfactual/verification.py",
    "attribution/traced.py",
    "instrument/concept_edits.py",
    "instrument/things.py",
    "instrument/trials.py",
    "instrument/where.py",
)


@dataclass(frozen=True)
class ImageEdits:
    """One image's edits as embeddings: of the image, of its edits, of what they are compared with.

    Removals: `edited` are the concept taken out with each fill, `compared` as many equally large places elsewhere. Insertions:
    `edited` is the concept put in, `compared` the related words in the same place. `verified` and `compared_verified` say which
    the backbone recognises (removals elsewhere are of no concept, and are all True), `reasons` what it read.
    `picture` is the image after the first edit, `edit_mask` where it may differ. All are empty where `refused` says why.
    """

    stimulus: int
    kind: EditKind
    before: Float[np.ndarray, " feature"]
    edited: Float[np.ndarray, "edit feature"]
    compared: Float[np.ndarray, "control feature"]
    verified: Bool[np.ndarray, " edit"]
    compared_verified: Bool[np.ndarray, " control"]
    reasons: tuple[str, ...]
    words: tuple[str, ...]
    picture: UInt8[np.ndarray, "height width 3"]
    edit_mask: Bool[np.ndarray, "height width"]
    refused: str


def edit_images(
    instrument: Instrument,
    store: ArtifactStore,
    chosen: ConceptStimuli,
    *,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> tuple[tuple[ImageEdits, ...], tuple[ImageEdits, ...]]:
    """Take the concept out of 14 images that show it apart and put it into every neutral image; what the store has is not made again.

    Raises Cancelled if `cancelled()` became True; the images that are finished are kept.
    """
    work: list[tuple[EditKind, int]] = [("remove", int(stimulus)) for stimulus in chosen.apart[:N_EDITED]]
    n_removed = len(work)
    work += [("insert", int(stimulus)) for stimulus in chosen.neutral]
    key = encoding_stages(instrument.config, store)[-2].recipe.key
    found: dict[EditKind, list[ImageEdits]] = {"remove": [], "insert": []}
    for number, (kind, stimulus) in enumerate(work):
        stop_if(cancelled)
        if on_progress is not None:
            what = f"taking '{chosen.concept}' out of images" if kind == "remove" else f"putting '{chosen.concept}' into images"
            on_progress(number, len(work), what)
        one = (kind, stimulus, max(0, number - n_removed))
        made = store.build(_recipe(instrument, chosen, one, key), partial(_make, instrument, chosen, one, cancelled))
        found[kind].append(_opened(made, kind, stimulus))
    return tuple(found["remove"]), tuple(found["insert"])


def _recipe(instrument: Instrument, chosen: ConceptStimuli, one: tuple[EditKind, int, int], features: str) -> Recipe:
    kind, stimulus, turn = one
    settings: dict[str, Any] = {"concept": chosen.concept, "kind": kind, "stimulus": instrument.features.stimulus_ids[stimulus]}
    if kind == "insert":
        settings |= {"words": list(chosen.words), "turn": turn}
    return Recipe("concept-edits", settings, (features,), code_version(*CODE))


def _make(
    instrument: Instrument, chosen: ConceptStimuli, one: tuple[EditKind, int, int], cancelled: IsCancelled | None, directory: Path
) -> dict[str, Any]:
    """Make one image's edits and write them; an image that cannot be edited is written with the reason."""
    kind, stimulus, turn = one
    others: tuple[ImageEdit, ...] = ()
    words: tuple[str, ...] = ()
    try:
        if kind == "remove":
            edits, elsewhere = _removals(instrument, chosen, stimulus, cancelled)
        else:
            edits, others, words = _insertions(instrument, chosen, stimulus, turn, cancelled)
            elsewhere = tuple(other.edited for other in others)
    except EditError as refusal:
        (directory / "record.json").write_text(json.dumps({"refused": str(refusal)}))
        return {"refused": str(refusal)}
    images = np.stack([edits[0].original, *(edit.edited for edit in edits), *elsewhere])
    embedding = instrument.backbone.get().embed(images)
    checks = _checks(instrument, chosen, (*edits, *others), words, np.asarray(embedding.patches), -1 if kind == "remove" else 1)
    record = {
        "refused": "",
        "n_edits": len(edits),
        "words": list(words),
        "verified": [verified for verified, _ in checks[: len(edits)]],
        "reasons": [reason for _, reason in checks[: len(edits)]],
        "compared_verified": [verified for verified, _ in checks[len(edits) :]] if others else [True] * len(elsewhere),
    }
    (directory / "record.json").write_text(json.dumps(record))
    np.save(directory / "pooled.npy", np.asarray(embedding.pooled, np.float32), allow_pickle=False)
    np.save(directory / "picture.npy", edits[0].edited, allow_pickle=False)
    np.save(directory / "mask.npy", edits[0].edit_mask, allow_pickle=False)
    return {}


def _removals(
    instrument: Instrument, chosen: ConceptStimuli, stimulus: int, cancelled: IsCancelled | None
) -> tuple[tuple[ImageEdit, ...], tuple[UInt8[np.ndarray, "height width 3"], ...]]:
    """What the concept is seen in taken out with each fill; as many equally large places elsewhere, used again where fewer fit."""
    image = np.asarray(instrument.subject.stimuli.images[stimulus])
    heat = heat_of_read_out(instrument, np.array([stimulus]), chosen.text)[0]
    mask = object_under(instrument, image, heat)
    places = places_elsewhere(image, mask, heat, len(FILLS))
    if not places:
        raise EditError(f"Image {stimulus} has no place beside '{chosen.concept}' that is as large, to compare its removal with.")
    removers, told = [InpaintRemover(fill) for fill in FILLS], f"remove the {chosen.concept}"
    edits = tuple(one.edit(image, mask, told, seed=0, cancelled=cancelled) for one in removers)
    elsewhere = tuple(
        one.edit(image, places[turn % len(places)].mask, "remove elsewhere", seed=0, cancelled=cancelled).edited
        for turn, one in enumerate(removers)
    )
    return edits, elsewhere


def _insertions(
    instrument: Instrument, chosen: ConceptStimuli, stimulus: int, turn: int, cancelled: IsCancelled | None
) -> tuple[tuple[ImageEdit, ...], tuple[ImageEdit, ...], tuple[str, ...]]:
    """The thing put into an image, and related words that can be cut out in the same place at the same size."""
    image = np.asarray(instrument.subject.stimuli.images[stimulus])
    pool = {chosen.thing: exemplars_of(instrument, chosen.thing)}
    pool |= {word: exemplars_of(instrument, word) for word in clear_words(instrument, chosen.words, N_COMPARED)}
    if len(pool) == 1:
        raise EditError(f"None of the words related to '{chosen.concept}' can be cut out, so nothing stands beside its insertion.")
    edits = []
    x, y = PLACES[turn % len(PLACES)]
    for exemplars in pool.values():
        stop_if(cancelled)
        edits.append(insert_at(image, exemplars[turn % len(exemplars)], x=x, y=y, size=SIZE))
    return tuple(edits[:1]), tuple(edits[1:]), tuple(pool)


def _checks(
    instrument: Instrument,
    chosen: ConceptStimuli,
    edits: tuple[ImageEdit, ...],
    words: tuple[str, ...],
    patches: Float[np.ndarray, "image patch feature"],
    direction: int,
) -> list[tuple[bool, str]]:
    """Whether each edit did what was asked, and what was read; `words` name what each put in, none what all took out."""
    scale = presence_scale(instrument)
    texts = [chosen.text, *embed_texts(instrument, words[1:])] if words else [chosen.text] * len(edits)
    found = []
    for number, (edit, text) in enumerate(zip(edits, texts, strict=True)):
        name = chosen.concept if not words or number == 0 else words[number]
        check = verify_edit(edit, name, text, patches[0], patches[1 + number], scale, direction=direction)
        found.append((bool(check.verified), check.reason))
    return found


def _opened(made: Artifact, kind: EditKind, stimulus: int) -> ImageEdits:
    record = made.json("record")
    if record["refused"]:
        none, flags, blank = np.zeros((0, 0), np.float32), np.zeros(0, bool), np.zeros((0, 0, 3), np.uint8)
        return ImageEdits(stimulus, kind, none.ravel(), none, none, flags, flags, (), (), blank, blank[..., 0] > 0, record["refused"])
    pooled, n_edits = made.array("pooled"), record["n_edits"]
    return ImageEdits(
        stimulus,
        kind,
        pooled[0],
        pooled[1 : 1 + n_edits],
        pooled[1 + n_edits :],
        np.array(record["verified"], bool),
        np.array(record["compared_verified"], bool),
        tuple(record["reasons"]),
        tuple(record["words"]),
        made.array("picture"),
        made.array("mask"),
        "",
    )
