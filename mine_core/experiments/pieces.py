"""An experiment as a list of small tasks: what each finds is kept when it is done, wherever it ran, and goes into one summary."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mine_core.artifacts import ArtifactStore, Recipe, canonical_json, code_version
from mine_core.batches import Task, Where, run_batch
from mine_core.config import InstrumentConfig
from mine_core.errors import Cancelled, EncodingError
from mine_core.instrument.stages import stages_of
from mine_core.types import IsCancelled, OnProgress

HERE = Where()
MEASURING = ("attribution", "counterfactual", "description", "encoding", "experiments", "instrument")
ROWS = "rows"
Asked = Mapping[str, Any]
Opened = tuple[str, InstrumentConfig, Path, tuple[Any, ...]]


@dataclass(frozen=True)
class Pieces:
    """What the tasks of an experiment have in common.

    A task is `run(opened, **asked)` with `opened = open_with(config, store, *setting)`; both are functions at the top of a module, and
    what `run` finds is what JSON can hold. It is kept under `name`, what was asked, `about` (of what else its answer depends on), all
    stages of the instrument, and the source of `code`.
    """

    name: str
    open_with: Callable[..., Any]
    run: Callable[..., Any]
    setting: tuple[Any, ...] = ()
    about: Asked = field(default_factory=dict)
    code: tuple[str, ...] = MEASURING


def measure_pieces(
    pieces: Pieces,
    asked: Sequence[Asked],
    config: InstrumentConfig,
    store: ArtifactStore,
    *,
    opened: Any = None,
    where: Where = HERE,
    title: str = "",
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> list[Any]:
    """Do what is not done of the tasks, and read what all of them found, in the order of `asked`.

    Parameters
    ----------
    opened : what `open_with` gives, for tasks of this process, where it is open already.

    Raises
    ------
    MineError
        What a task refused with; finished tasks are kept.
    BatchError
        If a cluster cannot be used, or is lost; finished tasks are kept.
    Cancelled
        If `cancelled()` became True; finished tasks are kept.
    """
    report, stopped = on_progress or (lambda *_: None), cancelled or (lambda: False)
    keys = keys_of(config, store)
    recipes = [_recipe(pieces, keys, each) for each in asked]
    missing = [each for each, recipe in zip(asked, recipes, strict=True) if store.find(recipe) is None]
    key = _key(pieces, config, store.root)
    if opened is not None:
        _OPENED[key] = opened
    done = len(asked) - len(missing)
    report(done, len(asked), title)
    try:
        for _ in run_batch([Task(do_piece, (pieces, config, store.root, each)) for each in missing], where, store.root, stopped):
            done += 1
            report(done, len(asked), title)
            if stopped():
                raise Cancelled(f"Stopped after {done} of {len(asked)} tasks; the same command goes on from there.")
    finally:
        _OPENED.pop(key, None)
    return [_kept(store, recipe) for recipe in recipes]


_OPENED: dict[Opened, Any] = {}


def do_piece(pieces: Pieces, config: InstrumentConfig, root: Path, asked: Asked) -> None:
    """Do one task and keep what it found; a process keeps what it opened for the next."""
    store, key = ArtifactStore(root), _key(pieces, config, root)

    def make(directory: Path) -> dict[str, Any]:
        if key not in _OPENED:
            _OPENED.clear()
            _OPENED[key] = pieces.open_with(config, store, *pieces.setting)
        (directory / f"{ROWS}.json").write_text(canonical_json(plain(pieces.run(_OPENED[key], **asked))))
        return {"asked": dict(asked)}

    store.build(_recipe(pieces, keys_of(config, store), asked), make)


def keys_of(config: InstrumentConfig, store: ArtifactStore) -> tuple[str, ...]:
    """Keys of all stages of an instrument."""
    return tuple(stage.recipe.key for stage in stages_of(config, store))


def plain(value: Any) -> Any:
    """A value as JSON can hold it; raises EncodingError for a number that is not finite."""
    if isinstance(value, Mapping):
        for name, of in value.items():
            if isinstance(of, float | np.floating) and not math.isfinite(of):
                where = f"'{name}' of image {value['image']}" if "image" in value else f"'{name}'"
                raise EncodingError(f"{where} is {of}; a prediction of an edited image is not finite.")
        return {name: plain(of) for name, of in value.items()}
    if isinstance(value, list | tuple):
        return [plain(of) for of in value]
    return value.item() if isinstance(value, np.generic) else value


def _key(pieces: Pieces, config: InstrumentConfig, root: Path) -> Opened:
    return pieces.name, config, root, pieces.setting


def _kept(store: ArtifactStore, recipe: Recipe) -> Any:
    found = store.find(recipe)
    if found is None:
        raise EncodingError(f"Task {recipe.key} was done but is not in the store; give the same command again.")
    return found.json(ROWS)


def _recipe(pieces: Pieces, keys: tuple[str, ...], asked: Asked) -> Recipe:
    return Recipe(pieces.name, {**asked, **pieces.about}, keys, code_version(*pieces.code))
