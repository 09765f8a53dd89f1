"""Which map a subject is drawn on, and whether its voxels can be: said before anything is kept."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from mine_core.errors import SubjectError
from mine_core.subjects.custom.limits import listed, quoted
from mine_core.subjects.custom.responses import Places, lengths

CortexKind = Literal["none", "slices", "fsaverage", "pycortex", "mapper"]
CORTEX_KINDS: tuple[CortexKind, ...] = get_args(CortexKind)
FSAVERAGE = {10242: "fsaverage5", 40962: "fsaverage6", 163842: "fsaverage"}
"""Vertices of one hemisphere of the average surface at each resolution that holds those of fsaverage5."""


@dataclass(frozen=True)
class CortexChoice:
    """Kind of map; `subject` and `transform` name one of pycortex's filestore, and are empty for any other kind."""

    kind: CortexKind
    subject: str = ""
    transform: str = ""

    def record(self) -> dict[str, Any]:
        """Return what is kept of it, and keys what is built."""
        return {"kind": self.kind, "subject": self.subject, "transform": self.transform}


CheckCortex = Callable[[CortexChoice, Places | None], tuple[str, ...]]
"""Looks at a surface that another layer knows; returns notes for the report, or raises SubjectError."""


def choose_cortex(
    kind: CortexKind | None,
    subject: str | None,
    transform: str | None,
    has_mapper: bool,
    places: Places | None,
) -> CortexChoice:
    """Take the kind that was asked for, or that follows from what else was given.

    A mapper or a pycortex subject names its kind; else volumes are shown as slices, vertices on fsaverage, and a table of voxels
    without places by similarity.

    Raises SubjectError where what was given contradicts itself.
    """
    by_places: CortexKind = "none" if places is None else "slices" if len(places.shape) == 3 else "fsaverage"
    chosen = kind or ("mapper" if has_mapper else "pycortex" if subject or transform else by_places)
    if has_mapper != (chosen == "mapper"):
        told = "a mapper was given" if has_mapper else "no mapper was given"
        raise SubjectError(f"The cortex is {chosen}, and {told}; expected a mapper with the cortex mapper alone. Change one.")
    if bool(subject or transform) != (chosen == "pycortex") or bool(subject) != bool(transform):
        raise SubjectError(
            f"The cortex is {chosen}, the pycortex subject {quoted(subject or '')}, its transform {quoted(transform or '')}; expected "
            "both names with the cortex pycortex, and none with another."
        )
    return CortexChoice(chosen, subject or "", transform or "")


def places_on(choice: CortexChoice, places: Places | None, n_voxels: int) -> Places | None:
    """Places of the voxels on the cortex that was chosen; a table of all vertices of fsaverage has those, left first.

    Raises SubjectError if the voxels have no place on it.
    """
    if choice.kind == "fsaverage":
        return _on_fsaverage(places, n_voxels)
    if choice.kind in ("slices", "pycortex") and (places is None or len(places.shape) != 3):
        found = "no place in a volume" if places is None else f"a place in an array of {lengths(places.shape)}"
        raise SubjectError(
            f"The cortex is {choice.kind}, and the {n_voxels:,} voxels have {found}; expected one in a volume of three axes. "
            "Give a mask as NIfTI, or another cortex."
        )
    return places


def _on_fsaverage(places: Places | None, n_voxels: int) -> Places:
    known = listed([f"{n:,} ({name})" for n, name in FSAVERAGE.items()], 3)
    if places is None:
        if n_voxels % 2 or n_voxels // 2 not in FSAVERAGE:
            raise SubjectError(
                f"The cortex is fsaverage, and the responses have {n_voxels:,} voxels; expected twice the vertices of a hemisphere: "
                f"{known}. Give all vertices, left first, or a mask of both hemispheres."
            )
        return Places((2, n_voxels // 2), np.arange(n_voxels), None)
    if len(places.shape) != 2 or places.shape[1] not in FSAVERAGE:
        what = "hemispheres x vertices" if len(places.shape) == 2 else "another kind"
        raise SubjectError(
            f"The cortex is fsaverage, and the responses lie in an array of {lengths(places.shape)} ({what}); expected vertices of a "
            f"hemisphere: {known}. Resample to one of these, or choose another cortex."
        )
    return places


def title_of(record: dict[str, Any]) -> str:
    """Say what map an imported subject has."""
    titles = {
        "none": "no cortex",
        "slices": "shown as slices of the volume",
        "fsaverage": "shown on the average surface laid flat, the vertices of fsaverage5; others are reached by number and region",
        "pycortex": f"shown on the flatmap of pycortex subject {record['subject']}, transform {record['transform']}",
        "mapper": "shown on the flatmap of the mapper that was given",
    }
    return titles[record["kind"]]
