"""Making findings: what to keep of one so that it can be made again, and making it again from what is in the cache."""

import base64
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_args

import numpy as np
from jaxtyping import Bool

from mine_core.artifacts import ArtifactStore
from mine_core.attribution.base import METHOD_NAMES, MethodName
from mine_core.config import InstrumentConfig
from mine_core.errors import NotebookError
from mine_core.instrument import Instrument, is_built, open_instrument
from mine_core.instrument.explain import explain_images, explain_voxel
from mine_core.instrument.own_words import is_scored, with_own_words
from mine_core.instrument.second import SecondEncoder, build_second, second_is_built
from mine_core.instrument.stages import stages_of
from mine_core.instrument.trials import EditRequest, Kind, Trial, run_trial
from mine_core.instrument.wanting import full_profile
from mine_core.notebook.findings import N_TOP, Found, find_edit, find_image, find_voxel, heat_by
from mine_core.notebook.maps import map_now, map_of
from mine_core.notebook.records import Finding, Pin, software
from mine_core.types import IsCancelled


def voxel_now(instrument: Instrument, store: ArtifactStore, voxel: int, method: MethodName) -> Found:
    """Find what is known of a voxel; `method` draws the heatmaps of its figure. Raises AlignmentError if there is no such voxel."""
    top = partial(explain_voxel, instrument, voxel, n=N_TOP, heat=heat_by(instrument, store, method, voxel))
    return find_voxel(instrument, full_profile(instrument, voxel), top)


def image_now(instrument: Instrument, store: ArtifactStore, voxel: int, stimulus: int, method: MethodName) -> Found:
    """Find what an image is to a voxel, by one method of heatmaps."""
    item = explain_images(instrument, voxel, np.array([stimulus]), heat_by(instrument, store, method, voxel))[0]
    return find_image(instrument, voxel, item, method)


def settings_of(instrument: Instrument, **more: Any) -> dict[str, Any]:
    """What is needed beside the view to make a finding again."""
    return {"own_words": list(instrument.own_words), **more}


def edit_settings(instrument: Instrument, request: EditRequest, trial: Trial, second: SecondEncoder | None) -> dict[str, Any]:
    """What is needed to make an edit again, and the region that it changed, for a preview without making it."""
    mask = base64.b64encode(np.packbits(trial.edit.edit_mask).tobytes()).decode()
    return settings_of(instrument, request=request_to(request), second=second.key if second else "", mask=mask)


def provenance_of(instrument: Instrument, store: ArtifactStore) -> dict[str, Any]:
    """Keys of the artifacts that an instrument was opened from, and the software that computes with them."""
    keys = {stage.name: stage.recipe.key for stage in stages_of(instrument.config, store)}
    return {"artifacts": keys, "software": software()}


def request_to(request: EditRequest) -> dict[str, Any]:
    """An edit's request as plain values; a drawn region is packed bits in base64."""
    return {
        "kind": request.kind,
        "voxel": request.voxel,
        "stimulus": request.stimulus,
        "word": request.word,
        "region": None if request.region is None else base64.b64encode(request.region).decode(),
        "place": None if request.place is None else list(request.place),
        "seed": request.seed,
        "editor": request.editor,
    }


def request_from(values: Mapping[str, Any]) -> EditRequest:
    """Read a request back; raises NotebookError if it is none."""
    try:
        if values["kind"] not in get_args(Kind):
            raise ValueError(f"kind '{values['kind']}'")
        row, col = values["place"] or (-1, -1)
        return EditRequest(
            kind=values["kind"],
            voxel=int(values["voxel"]),
            stimulus=int(values["stimulus"]),
            word=str(values["word"]),
            region=None if values["region"] is None else base64.b64decode(values["region"], validate=True),
            place=None if values["place"] is None else (int(row), int(col)),
            seed=int(values["seed"]),
            editor=str(values["editor"]),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise NotebookError(f"The pin holds no edit that can be read ({error}); delete it and pin the edit anew.") from error


def mask_of(pin: Finding, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """Pixels that a pinned edit changed; raises NotebookError if they are not of an image of this size."""
    try:
        bits = base64.b64decode(pin.settings.get("mask", ""), validate=True)
    except ValueError:
        bits = b""
    if len(bits) != -(-height * width // 8):
        raise NotebookError(
            f"The pin's region has {8 * len(bits)} pixels, the image {height * width}; delete it and pin the edit anew."
        )
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=height * width).astype(bool).reshape(height, width)


def method_of(pin: Finding) -> MethodName:
    """Method of a pinned heatmap; raises NotebookError if there is none of that name."""
    for name in METHOD_NAMES:
        if name == pin.settings.get("method"):
            return name
    raise NotebookError(f"The pin's heatmap is '{pin.settings.get('method')}'; there are {', '.join(METHOD_NAMES)}.")


def is_here(pin: Finding, store: ArtifactStore) -> bool:
    """Whether the instrument of a finding is in this cache, own words and all; raises SubjectError if the subject is not here."""
    return is_built(pin.config, store) and is_scored(pin.config, store, own_words_of(pin))


def own_words_of(pin: Finding) -> tuple[str, ...]:
    """Own words of the user that the instrument had."""
    return tuple(str(word) for word in pin.settings.get("own_words", ()))


def open_for(pin: Finding, store: ArtifactStore) -> Instrument:
    """Open the instrument of a finding, with the own words that it had.

    Raises NotebookError if it is not in this cache: nothing is built for looking at a notebook.
    """
    if not is_here(pin, store):
        raise absent(pin)
    return with_own_words(open_instrument(pin.config, store), store, own_words_of(pin))


def opener(store: ArtifactStore) -> Callable[[Finding], Instrument]:
    """Return a function that opens findings' instruments, each once."""
    opened: dict[tuple[InstrumentConfig, tuple[str, ...]], Instrument] = {}

    def open_once(pin: Finding) -> Instrument:
        key = (pin.config, own_words_of(pin))
        if key not in opened:
            opened[key] = open_for(pin, store)
        return opened[key]

    return open_once


def absent(pin: Finding) -> NotebookError:
    """Say that a finding's instrument is not in this cache."""
    return NotebookError(
        f"Subject {pin.subject} through backbone '{pin.config.backbone}' is not in this cache as it was pinned with; open it on "
        "Explore, or run python -m mine_core build."
    )


def second_for(pin: Finding, store: ArtifactStore) -> SecondEncoder | None:
    """Open the second encoder if the finding had one and it is in this cache."""
    wanted = bool(pin.settings.get("second"))
    return build_second(pin.config, store) if wanted and second_is_built(pin.config, store) else None


def make_again(
    pin: Finding,
    instrument: Instrument,
    store: ArtifactStore,
    *,
    second: SecondEncoder | None = None,
    cancelled: IsCancelled | None = None,
) -> Found:
    """Compute a finding from the present cache; an edit is made anew with its controls, which takes seconds.

    Raises MineError if the pin cannot be read or the computation is refused, Cancelled if `cancelled()` became True.
    """
    if pin.kind == "voxel":
        return voxel_now(instrument, store, pin.voxel, method_of(pin))
    if pin.kind == "image":
        return image_now(instrument, store, pin.voxel, pin.image, method_of(pin))
    if pin.kind == "map":
        return map_now(instrument, store, map_of(pin), pin.voxel)
    request = request_from(pin.settings.get("request", {}))
    return find_edit(instrument, request, run_trial(instrument, request, second, cancelled), second)


def version_line(pin: Pin) -> str:
    """The software that a pin was made with, in one line."""
    made = pin.provenance.get("software", {})
    libraries = made.get("libraries", {})
    told = ", ".join(f"{name} {libraries[name]}" for name in ("python", "numpy", "torch") if name in libraries)
    return f"MINE {made.get('mine', 'unknown')} (source {str(made.get('code', 'unknown'))[:12]}); {told}"
