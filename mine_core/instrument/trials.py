"""One counterfactual trial: an edit of an image, its matched controls, and how the predictions move."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, UInt8

from mine_core.counterfactual.controls import ControlEdit, make_controls
from mine_core.counterfactual.editor_presets import editor_available, load_editor_presets
from mine_core.counterfactual.editors import EDITORS, Editor, OnStep, create_editor
from mine_core.counterfactual.insertion import (
    Exemplar,
    ExemplarInserter,
    disc,
    insertion_mask,
    least_attributed_place,
    oval_mask,
)
from mine_core.counterfactual.instant import masked_patch_estimate
from mine_core.counterfactual.removal import DRIVING_SHARE, TRACED_SHARE, driving_mask
from mine_core.counterfactual.shift import embed_distinct, predict_shift
from mine_core.counterfactual.verification import PresenceScale, verify_edit, with_verification
from mine_core.description.decoding import attributed_words
from mine_core.errors import EditError
from mine_core.instrument.instrument import Instrument
from mine_core.instrument.second import SecondEncoder
from mine_core.instrument.things import exemplars_of, other_words, require_word, text_of, thing_in
from mine_core.instrument.where import heat_of, heat_of_read_out, on_patches
from mine_core.types import ImageEdit, IsCancelled, PredictedShift

Kind = Literal["remove", "insert"]
Stage = Literal["mask", "generate", "controls", "re-encode", "predict", "check", "verify"]
STAGES: tuple[Stage, ...] = get_args(Stage)
OnStage = Callable[[Stage], None]
N_ELSEWHERE, N_CONTENT = 10, 10
INSERT_SIZE = 0.45
PAINTED_SIZE = 0.5  # of the oval that something is painted into, which it does not fill
FILLS = tuple(name for name, entry in EDITORS.items() if entry.kind == "remove")  # the first unless another is asked for
DRIVING_WORDS = 5  # read in the patches that drive a voxel in one image
NOTES = {
    "remove": "Controls remove equally large regions elsewhere, or disturb the same place and keep what it shows.",
    "insert": "Controls insert other things in the same place and elsewhere, or the same pixels scrambled.",
}


def _unheard(stage: Stage) -> None:
    """Nobody asked what a trial is at."""


@dataclass(frozen=True)
class EditRequest:
    """What to do in one image: remove what drives a voxel, or insert a word.

    Where: in `region` (packed bits), if one is drawn; or an insertion at `place`, the (row, col) of the pixel, counted from 0
    at the top left, that the middle of what is inserted comes to lie on, or as near as it fits into the image. A removal with a
    `word` and no region takes out what the word is seen in.

    `editor` names what makes it: "" for the first of FILLS and for cut-outs, another of FILLS for a removal, or a generative editor.
    That paints an insertion as its words say, and `word` may then be a phrase that holds one of the vocabulary's, such as "a red
    ball"; of a removal it paints what may be behind.
    """

    kind: Kind
    voxel: int
    stimulus: int
    word: str = ""
    region: bytes | None = None
    place: tuple[int, int] | None = None
    seed: int = 0
    editor: str = ""

    @property
    def painted(self) -> bool:
        """Whether a generative editor makes it, step by step."""
        return bool(self.editor) and not (self.kind == "remove" and self.editor in FILLS)


@dataclass(frozen=True)
class Trial:
    """An edit with its predicted shift in every voxel beside its controls, and the instant estimate from patches alone.

    `check` is the shift of the same edit and controls by an encoder that took no part in choosing them; None without one.
    """

    edit: ImageEdit
    shift: PredictedShift
    instant: float
    control_note: str
    check: PredictedShift | None = None


def driving_region(instrument: Instrument, voxel: int, stimulus: int) -> Bool[np.ndarray, "height width"]:
    """Pixels of the object that drives a voxel in an image.

    Raises EditError where nothing in the image raises the voxel's prediction.
    """
    image = np.asarray(instrument.subject.stimuli.images[stimulus])
    return object_under(instrument, image, heat_of(instrument, voxel, stimulus))


def word_region(instrument: Instrument, stimulus: int, word: str) -> Bool[np.ndarray, "height width"]:
    """Pixels of the object that a word is seen in.

    Raises EditError for a word that is not in the vocabulary, or that nothing in the image shows.
    """
    require_word(instrument, word)
    image = np.asarray(instrument.subject.stimuli.images[stimulus])
    return object_under(instrument, image, heat_of_read_out(instrument, np.array([stimulus]), text_of(instrument, word))[0])


def object_under(
    instrument: Instrument, image: UInt8[np.ndarray, "height width 3"], heat: Float[np.ndarray, "row col"]
) -> Bool[np.ndarray, "height width"]:
    """The object under a heatmap, of which a traced one (on half patches) needs another share than the decomposition."""
    traced = heat.shape != instrument.features.backbone.grid
    return driving_mask(image, heat, TRACED_SHARE if traced else DRIVING_SHARE).mask


def painting_editors(instrument: Instrument) -> tuple[str, ...]:
    """Names of the generative editors that know images like this subject's and are at hand without a download.

    The phantom's own paints the phantom's world and nothing else; photographs are for the public ones, of which those are left out
    that know no mask. None where the backbone has no words: what was painted could not be verified.
    """
    if not instrument.features.backbone.has_words:
        return ()
    source = "assets" if instrument.subject.kind == "phantom" else "hub"
    known = [name for name, preset in load_editor_presets().items() if preset.source == source and preset.masked]
    return tuple(name for name in known if editor_available(name)[0])


def run_trial(
    instrument: Instrument,
    request: EditRequest,
    second: SecondEncoder | None = None,
    cancelled: IsCancelled | None = None,
    on_stage: OnStage = _unheard,
    on_step: OnStep | None = None,
) -> Trial:
    """Make the edit and its controls, embed all of them, and predict the shift of every voxel; a second encoder checks it.

    `on_stage` is told when each of STAGES begins; `on_step` what a generative editor expects after each of its steps.

    Raises
    ------
    EditError : if the edit cannot be made; if `place` is outside the image, or given with a region or for a removal.
    SubjectError, AlignmentError : if there is no such voxel or stimulus.
    Cancelled : if `cancelled()` became True; nothing is kept.
    """
    if request.word:
        require_word(instrument, _thing_of(instrument, request))
    on_stage("mask")
    heat = heat_of(instrument, request.voxel, request.stimulus)
    image = np.asarray(instrument.subject.stimuli.images[request.stimulus])
    editor, edit, thing = _edited(instrument, request, heat, image, cancelled, on_stage, on_step)
    on_stage("controls")
    pool = tuple(item for word in other_words(instrument, thing) for item in exemplars_of(instrument, word)[:2]) if thing else ()
    direction = -1 if request.kind == "remove" else 1
    controls = make_controls(
        edit,
        heat,
        editor,
        pool,
        direction=direction,
        n_elsewhere=N_ELSEWHERE,
        n_content=N_CONTENT,
        seed=request.seed,
        cancelled=cancelled,
    )
    shift, check = _shifts(instrument, second, edit, controls, direction, on_stage)
    on_stage("verify")
    word = request.word or next(iter(driving_words(instrument, request.stimulus, heat)), "")
    instant = masked_patch_estimate(heat, edit.edit_mask, instrument.sd(request.voxel))
    made = _verified(instrument, edit, word, direction) if word else edit
    return Trial(made, shift, instant, NOTES[request.kind], check)


def _shifts(
    instrument: Instrument,
    second: SecondEncoder | None,
    edit: ImageEdit,
    controls: Sequence[ControlEdit],
    direction: int,
    on_stage: OnStage,
) -> tuple[PredictedShift, PredictedShift | None]:
    """Shift of the edit beside its controls, and the same by the second encoder if there is one."""
    images = [edit.original, edit.edited, *(control.image for control in controls)]
    names = [control.name for control in controls]
    guide = str(instrument.model.provenance.get("key", ""))
    on_stage("re-encode")
    pooled = embed_distinct(lambda stack: instrument.backbone.get().embed(stack).pooled, images)
    on_stage("predict")
    # from the first image to the second, beside those from the first to each control
    shift_of = partial(predict_shift, direction=direction, guided_by=guide)
    shift = shift_of(instrument.model, pooled[0], pooled[1], pooled[2:], names)
    if second is None:
        return shift, None
    on_stage("check")
    pooled = embed_distinct(lambda stack: second.backbone.get().embed(stack).pooled, images)
    return shift, shift_of(second.model, pooled[0], pooled[1], pooled[2:], names, checked_by=second.key)


def _edited(
    instrument: Instrument,
    request: EditRequest,
    heat: Float[np.ndarray, "row col"],
    image: UInt8[np.ndarray, "height width 3"],
    cancelled: IsCancelled | None,
    on_stage: OnStage,
    on_step: OnStep | None,
) -> tuple[Editor, ImageEdit, str]:
    """Make the edit; returns what made it, the edit, and the word of what was inserted."""
    region = _drawn(request, image)
    _check_place(request, image)
    painter = create_editor("diffusion", preset=request.editor) if request.painted else None
    if request.kind == "remove":
        remover = painter or create_editor(request.editor or FILLS[0])
        what = f"the {request.word}" if request.word else "what drives the voxel"
        mask = planned_region(instrument, request)
        on_stage("generate")
        return remover, remover.edit(image, mask, f"remove {what}", seed=request.seed, on_step=on_step, cancelled=cancelled), ""
    thing = _thing_of(instrument, request)
    if painter is not None:
        mask = planned_region(instrument, request)
        on_stage("generate")
        edit = painter.edit(image, mask, f"insert {request.word}", seed=request.seed, on_step=on_step, cancelled=cancelled)
        edit = _with_place(replace(edit, provenance={**edit.provenance, "word": thing}), request)
        return painter, edit, thing
    inserter, mask = _inserter(request, exemplars_of(instrument, request.word), heat, image, region)
    on_stage("generate")
    edit = inserter.edit(image, mask, f"insert {request.word}", seed=request.seed, cancelled=cancelled)
    return inserter, _with_place(edit, request), thing


def planned_region(instrument: Instrument, request: EditRequest) -> Bool[np.ndarray, "height width"]:
    """Pixels (True) that a removal or a painted insertion may change, known before it is made.

    Raises
    ------
    EditError : if the word, the place or the region makes no sense, or a removal finds nothing to remove.
    """
    if request.word:
        require_word(instrument, _thing_of(instrument, request))
    image = np.asarray(instrument.subject.stimuli.images[request.stimulus])
    _check_place(request, image)
    drawn = _drawn(request, image)
    if drawn is not None:
        return drawn
    if request.kind == "insert":
        return _region_to_paint(request, heat_of(instrument, request.voxel, request.stimulus), image)
    if request.word:
        return word_region(instrument, request.stimulus, request.word)
    return driving_region(instrument, request.voxel, request.stimulus)


def _region_to_paint(
    request: EditRequest, heat: Float[np.ndarray, "row col"], image: UInt8[np.ndarray, "height width 3"]
) -> Bool[np.ndarray, "height width"]:
    """An oval at the place that is asked for, or where the image drives the voxel least."""
    height, width = image.shape[:2]
    if request.place is not None:
        at = ((request.place[1] + 0.5) / width, (request.place[0] + 0.5) / height)
    else:
        at = least_attributed_place(heat, disc(height, width, PAINTED_SIZE), size=PAINTED_SIZE)
    return oval_mask(height, width, x=at[0], y=at[1], size=PAINTED_SIZE)


def _thing_of(instrument: Instrument, request: EditRequest) -> str:
    """What is to be inserted, as a word of the vocabulary: a painted phrase holds one."""
    return thing_in(instrument, request.word) if request.painted else request.word


def _drawn(request: EditRequest, image: UInt8[np.ndarray, "height width 3"]) -> Bool[np.ndarray, "height width"] | None:
    if request.region is None:
        return None
    height, width = image.shape[:2]
    if len(request.region) != (height * width + 7) // 8:
        raise EditError(f"The region has {8 * len(request.region)} pixels, the image {height * width}; draw it on this image.")
    bits = np.unpackbits(np.frombuffer(request.region, np.uint8), count=height * width)
    return bits.astype(bool).reshape(height, width)


def _check_place(request: EditRequest, image: UInt8[np.ndarray, "height width 3"]) -> None:
    if request.place is None:
        return
    (row, col), (height, width) = request.place, image.shape[:2]
    if request.kind != "insert" or request.region is not None:
        given = "a removal" if request.kind != "insert" else "an insertion into a drawn region"
        raise EditError(f"A place was given for {given}; a place is for an insertion without one. Give the one or the other.")
    if not (0 <= row < height and 0 <= col < width):
        raise EditError(f"Row {row}, column {col} is outside the image; choose rows 0 to {height - 1} and columns 0 to {width - 1}.")


def _with_place(edit: ImageEdit, request: EditRequest) -> ImageEdit:
    """Record where the middle of an insertion lies, and who chose the place."""
    rows, cols = np.flatnonzero(edit.edit_mask.any(axis=1)), np.flatnonzero(edit.edit_mask.any(axis=0))
    chosen = "least attributed" if request.place is None else "given"
    place = {
        "row": int(rows[0] + rows[-1]) // 2,
        "col": int(cols[0] + cols[-1]) // 2,
        "chosen_by": chosen if request.region is None else "drawn region",
        "given": None if request.place is None else list(request.place),
    }
    return replace(edit, provenance={**edit.provenance, "place": place})


def _inserter(
    request: EditRequest,
    own: tuple[Exemplar, ...],
    heat: Float[np.ndarray, "row col"],
    image: UInt8[np.ndarray, "height width 3"],
    region: Bool[np.ndarray, "height width"] | None,
) -> tuple[Editor, Bool[np.ndarray, "height width"]]:
    exemplar = own[request.seed % len(own)]
    height, width = image.shape[:2]
    if region is not None:
        rows, cols = np.nonzero(region)
        x, y = (cols.min() + cols.max() + 1) / 2 / width, (rows.min() + rows.max() + 1) / 2 / height
        size = float(min(1.0, max(np.ptp(rows), np.ptp(cols)) / min(height, width)))
    elif request.place is not None:
        size, (row, col) = INSERT_SIZE, request.place
        x, y = (col + 0.5) / width, (row + 0.5) / height
    else:
        size = INSERT_SIZE
        x, y = least_attributed_place(heat, exemplar, size=size)
    mask = insertion_mask(exemplar, height, width, x=float(x), y=float(y), size=max(size, 0.05))
    return ExemplarInserter({request.word: own}), mask


def presence_scale(instrument: Instrument) -> PresenceScale:
    """How much of a word the patches of validation stimuli show: what an edit's own patches are held against."""
    validation = instrument.subject.splits.validation
    return PresenceScale(np.asarray(instrument.features.patches[validation]), instrument.features.backbone.grid)


def _verified(instrument: Instrument, edit: ImageEdit, word: str, direction: int) -> ImageEdit:
    """Ask the backbone whether the edit did what was asked, and record it in the edit."""
    scale = presence_scale(instrument)
    text = text_of(instrument, word)
    patches = instrument.backbone.get().embed(np.stack([edit.original, edit.edited])).patches
    found = verify_edit(edit, word, text, patches[0], patches[1], scale, direction=direction)
    return with_verification(edit, found)


def driving_words(instrument: Instrument, stimulus: int, heat: Float[np.ndarray, "row col"]) -> tuple[str, ...]:
    """Words that the patches which drive a voxel in an image are read as, clearest first; none where nothing does."""
    values = on_patches(instrument, heat)[None]
    chosen = np.array([stimulus])
    found = attributed_words(instrument.features, instrument.mean_patches, chosen, values, instrument.vocabulary, k=DRIVING_WORDS)
    return tuple(found[0])
