"""Is it this thing, or its kind? An insertion beside the things that are hardest to tell from what was inserted."""

from dataclasses import dataclass

from mine_core.counterfactual.controls import RELATED, make_related
from mine_core.counterfactual.shift import embed_distinct, predict_shift
from mine_core.errors import EditError
from mine_core.instrument.instrument import Instrument
from mine_core.instrument.things import exemplars_of, related_words
from mine_core.types import ImageEdit, PredictedShift


@dataclass(frozen=True)
class Related:
    """Shift of an insertion, with those of related things in its place as its controls; `words` names them, in their order."""

    shift: PredictedShift
    words: tuple[str, ...]


def beside_related(instrument: Instrument, edit: ImageEdit) -> Related:
    """Insert the related things in the place of what was inserted, at its size, and predict the shift of every voxel.

    They are the things of its group nearest in meaning, then those of any group (`related_words`). `rank[voxel] = 1` where the
    insertion moves the prediction more than any of them: the voxel wants this thing rather than its kind. A voxel that wants the
    kind ranks low and is no failure, so these shifts enter no p-value of the insertion.

    Raises EditError for an edit that inserted nothing by name, or where nothing related can be cut out.
    """
    word = str(edit.provenance.get("word", ""))
    if not edit.instruction.startswith("insert") or not word:
        raise EditError(f"'{edit.instruction}' inserted nothing by name, so nothing is related to it; insert a word.")
    words = related_words(instrument, word)
    if not words:
        raise EditError(f"No thing related to '{word}' is shown clearly by a training image; there is nothing to compare it with.")
    others = make_related(edit, [exemplars_of(instrument, other)[0] for other in words])
    images = [edit.original, edit.edited, *(other.image for other in others)]
    pooled = embed_distinct(lambda stack: instrument.backbone.get().embed(stack).pooled, images)
    guide = str(instrument.model.provenance.get("key", ""))
    names = [RELATED] * len(others)
    shift = predict_shift(instrument.model, pooled[0], pooled[1], pooled[2:], names, direction=1, guided_by=guide)
    return Related(shift, tuple(words))
