"""What every image editor promises, the check that holds it to that, and the table of editors by name.

An editor changes an image inside a mask and nowhere else: outside the mask the change is exactly zero, so that a predicted
shift can only come from the marked place.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8

from mine_core.errors import Cancelled, EditError
from mine_core.types import ImageEdit, IsCancelled

LARGEST_SHARE = 0.6
SMALLEST_PIXELS = 4

OnStep = Callable[[int, int, UInt8[np.ndarray, "height width 3"]], None]


@runtime_checkable
class Editor(Protocol):
    """Makes one edit of one image; keeps nothing between calls."""

    @property
    def name(self) -> str:
        """Name under which edits are recorded."""
        ...

    def edit(
        self,
        image: UInt8[np.ndarray, "height width 3"],
        edit_mask: Bool[np.ndarray, "height width"],
        instruction: str,
        *,
        seed: int,
        on_step: OnStep | None = None,
        cancelled: IsCancelled | None = None,
    ) -> ImageEdit:
        """Edit `image` where `edit_mask` is True.

        Parameters
        ----------
        instruction : what is asked, in words; recorded, and read by editors that understand it.
        seed : makes an editor that draws at random repeatable.
        on_step : called with (step, number of steps, the image so far).
        cancelled : asked between steps.

        Raises
        ------
        EditError : if the mask or the outcome does not pass `check_edit`.
        Cancelled : if `cancelled()` became true; nothing is kept.
        """
        ...


@runtime_checkable
class Encodes(Protocol):
    """An editor that sees an image through an autoencoder, and can show what that alone does to it."""

    def round_trip(
        self, image: UInt8[np.ndarray, "height width 3"], edit_mask: Bool[np.ndarray, "height width"]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The image encoded and decoded where `edit_mask` is True, and as it was elsewhere."""
        ...


@dataclass(frozen=True)
class EditorEntry:
    """One editor by name: what it does, where its class is, and with which settings it is made."""

    name: str
    kind: Literal["remove", "insert", "both"]
    about: str
    module: str
    attribute: str
    settings: Mapping[str, Any] = field(default_factory=dict)


EDITORS: dict[str, EditorEntry] = {
    entry.name: entry
    for entry in (
        EditorEntry(
            "patch-fill",
            "remove",
            "fills the region with patches of the rest of the image",
            "mine_core.counterfactual.removal",
            "InpaintRemover",
            {"method": "patches"},
        ),
        EditorEntry(
            "smooth-fill",
            "remove",
            "continues the surrounding colours into the region (Bertalmio et al. 2001)",
            "mine_core.counterfactual.removal",
            "InpaintRemover",
            {"method": "navier-stokes"},
        ),
        EditorEntry(
            "exemplar",
            "insert",
            "pastes a cut-out of the concept from another image",
            "mine_core.counterfactual.insertion",
            "ExemplarInserter",
        ),
        EditorEntry(
            "diffusion",
            "both",
            "paints the region anew by a model of assets/editors.toml, in words",
            "mine_core.counterfactual.editor_loading",
            "load_editor",
            {"preset": "phantom"},
        ),
    )
}


def create_editor(name: str, **settings: Any) -> Editor:
    """Make the editor called `name`; raises EditError for a name that is not in `EDITORS`."""
    if name not in EDITORS:
        raise EditError(f"There is no editor '{name}'; choose one of {', '.join(EDITORS)}.")
    entry = EDITORS[name]
    return getattr(importlib.import_module(entry.module), entry.attribute)(**{**entry.settings, **settings})


def check_mask(image: UInt8[np.ndarray, "height width 3"], edit_mask: Bool[np.ndarray, "rows cols"]) -> None:
    """Refuse a mask that no edit can be made under.

    Raises
    ------
    EditError : if its shape is not the image's, if it marks fewer than 4 pixels or more than 60 % of the image.
    """
    if edit_mask.shape != image.shape[:2]:
        raise EditError(f"The mask is {_by(edit_mask)}, the image {_by(image)} pixels; draw the mask on this image.")
    marked = int(edit_mask.sum())
    if marked < SMALLEST_PIXELS:
        raise EditError(f"The mask marks {marked} pixels; mark at least {SMALLEST_PIXELS}.")
    if marked > LARGEST_SHARE * edit_mask.size:
        raise EditError(
            f"The mask covers {marked / edit_mask.size:.0%} of the image, and at most {LARGEST_SHARE:.0%} may change; "
            "mark a smaller region."
        )


def check_edit(edit: ImageEdit) -> None:
    """Hold an edit to its promise.

    Raises
    ------
    EditError : if the mask does not pass `check_mask`, if the images differ in shape, if any pixel outside the mask differs,
        or if `changed_outside_mask` is not the number of those that do.
    """
    if edit.edited.shape != edit.original.shape:
        raise EditError(f"Editor '{edit.editor}' turned {_by(edit.original)} pixels into {_by(edit.edited)}; they must agree.")
    check_mask(edit.original, edit.edit_mask)
    changed = count_changed_outside(edit.original, edit.edited, edit.edit_mask)
    if changed:
        raise EditError(
            f"Editor '{edit.editor}' changed {changed} pixels outside the mask where none may change; the edit is not kept."
        )
    if edit.changed_outside_mask:
        raise EditError(f"The edit records {edit.changed_outside_mask} pixels changed outside the mask; found 0. Make it again.")


def count_changed_outside(
    original: UInt8[np.ndarray, "height width 3"],
    edited: UInt8[np.ndarray, "height width 3"],
    edit_mask: Bool[np.ndarray, "height width"],
) -> int:
    """Count the pixels outside the mask that differ in any colour."""
    return int(((original != edited).any(-1) & ~edit_mask).sum())


def finish_edit(
    original: UInt8[np.ndarray, "height width 3"],
    edited: UInt8[np.ndarray, "height width 3"],
    edit_mask: Bool[np.ndarray, "height width"],
    instruction: str,
    *,
    editor: str,
    seed: int,
    provenance: Mapping[str, Any],
) -> ImageEdit:
    """Make the record of an edit from read-only copies, and check it; raises EditError as `check_edit` does."""
    changed = count_changed_outside(original, edited, edit_mask) if original.shape == edited.shape else 0
    kept = tuple(_read_only(part) for part in (original, edited, edit_mask))
    edit = ImageEdit(kept[0], kept[1], kept[2], instruction, editor, seed, changed, None, dict(provenance))
    check_edit(edit)
    return edit


def stop_if(cancelled: IsCancelled | None) -> None:
    """Raise Cancelled when the user asked to stop."""
    if cancelled is not None and cancelled():
        raise Cancelled("The edit was stopped; the image is as it was.")


def _read_only(array: np.ndarray) -> np.ndarray:
    kept = np.array(array)
    kept.flags.writeable = False
    return kept


def _by(array: np.ndarray) -> str:
    return f"{array.shape[0]} x {array.shape[1]}"
