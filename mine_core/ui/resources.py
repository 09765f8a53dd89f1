"""What all sessions of the app share: store, worker thread, opened instruments. Sessions are threads, so all is read-only."""

from pathlib import Path

import streamlit as st

from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig, cache_directory, notebook_directory
from mine_core.instrument import Instrument, is_built, open_instrument
from mine_core.instrument.attributions import Prepared, PreparedName, build_prepared, find_prepared
from mine_core.instrument.build import build_instrument
from mine_core.instrument.own_words import is_scored, kept_words, with_own_words
from mine_core.instrument.stages import stages_of
from mine_core.jobs import Foreground, Job, Worker
from mine_core.notebook import Notebook

# stored numbers times patches of an image: traced in about ten minutes on two cores
PREPARED_UNASKED = 1e10


@st.cache_resource
def store() -> ArtifactStore:
    """Return the artifact store of this installation."""
    return ArtifactStore(cache_directory())


@st.cache_resource(max_entries=4)
def _notebook(directory: Path) -> Notebook:
    return Notebook(directory)


def notebook() -> Notebook:
    """Return the notebook of this installation; it is read when it is asked for something, and may refuse then."""
    return _notebook(notebook_directory())


@st.cache_resource
def worker() -> Worker:
    """Return the one thread that does long work."""
    return Worker()


# `keys` is read by the cache alone: a subject imported anew under its old name is another instrument
@st.cache_resource(max_entries=3)
def _opened(config: InstrumentConfig, keys: tuple[str, ...]) -> Instrument:  # noqa: ARG001
    return open_instrument(config, store())


@st.cache_resource(max_entries=3)
def _with_own(config: InstrumentConfig, keys: tuple[str, ...], own: tuple[str, ...]) -> Instrument:
    return with_own_words(_opened(config, keys), store(), own)


def stock_instrument(config: InstrumentConfig) -> Instrument:
    """Open an instrument whose parts are all in the store, without own words; arrays are memory-mapped and read-only."""
    return _opened(config, _keys(config))


def instrument(config: InstrumentConfig) -> Instrument:
    """Open an instrument whose parts are all in the store, with the user's own words where they are scored."""
    own = kept_words(config, store())
    if not own or not is_scored(config, store(), own):
        return stock_instrument(config)
    return _with_own(config, _keys(config), own)


def instrument_with(config: InstrumentConfig, own: tuple[str, ...]) -> Instrument:
    """Open an instrument with certain own words, all of which is in the store."""
    return _with_own(config, _keys(config), own) if own else stock_instrument(config)


def built(config: InstrumentConfig) -> bool:
    """Whether the instrument can be opened without building anything."""
    return is_built(config, store())


def build(config: InstrumentConfig) -> Job:
    """Start building an instrument that is not in the store, or find its build.

    A build that was stopped or refused is found too: it starts again when the user says so, not whenever a page is run.
    """
    key = build_key(config)
    last = worker().find(key)
    if last is not None and last.state != "done":
        return last
    worker().forget(key)
    return worker().submit(
        key,
        f"Building {config.subject}",
        lambda on_progress, cancelled: build_instrument(config, store(), on_progress=on_progress, cancelled=cancelled),
    )


def build_key(config: InstrumentConfig) -> str:
    """Name of the job that builds an instrument; another where a subject of that name was imported anew."""
    return f"build {_keys(config)[-1]}"


def _keys(config: InstrumentConfig) -> tuple[str, ...]:
    return tuple(stage.recipe.key for stage in stages_of(config, store()))


@st.cache_resource
def foreground() -> Foreground:
    """Return the count of pages that are being made for somebody."""
    return Foreground()


@st.cache_resource
def preparer() -> Worker:
    """Return the thread that prepares what makes pages better but is not waited for: it stands back while a page is being made."""
    return Worker(foreground=foreground())


@st.cache_resource(max_entries=6)
def _prepared(config: InstrumentConfig, keys: tuple[str, ...], method: PreparedName) -> Prepared | None:  # noqa: ARG001
    return find_prepared(instrument(config), store(), method)


def prepared(config: InstrumentConfig, method: PreparedName) -> Prepared | Job | None:
    """Parts of an instrument's stimuli by a method, or the job that prepares them in the background; None where neither is there.

    Traced parts are prepared unasked where that takes minutes; for a public backbone it may take hours without a GPU, and is left to
    `prepare`, as occlusion always is. A job that was stopped is not started again by itself.
    """
    keys = _keys(config)
    found = _prepared(config, keys, method)
    if found is not None:
        return found
    job = preparer().find(_prepared_job(keys, method))
    if job is None:
        patches = instrument(config).features.patches
        unasked = method == "traced" and patches.size * patches.shape[1] <= PREPARED_UNASKED
        return prepare(config, method) if unasked else None
    if job.state == "done":
        _prepared.clear()
        return _prepared(config, keys, method)
    return None if job.state == "cancelled" else job


def prepare(config: InstrumentConfig, method: PreparedName) -> Job:
    """Prepare a method for all stimuli in the background, or find the job that does."""
    seen = instrument(config)
    return preparer().submit(
        _prepared_job(_keys(config), method),
        f"Preparing heatmaps: {method}",
        lambda on_progress, cancelled: build_prepared(seen, store(), method, on_progress=on_progress, cancelled=cancelled),
    )


def _prepared_job(keys: tuple[str, ...], method: PreparedName) -> str:
    return f"{method} {keys[-1]}"
