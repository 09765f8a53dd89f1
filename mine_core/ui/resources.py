"""What all sessions of the app share: store, worker thread, opened instruments. Sessions are threads, so all is read-only."""

import streamlit as st

from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig, cache_directory
from mine_core.instrument import Instrument, is_built, open_instrument
from mine_core.instrument.attributions import Traced, build_traced, find_traced
from mine_core.instrument.build import build_instrument
from mine_core.instrument.own_words import is_scored, kept_words, with_own_words
from mine_core.instrument.stages import stages_of
from mine_core.jobs import Job, Worker

# stored numbers times patches of an image: traced in about ten minutes on two cores
PREPARED_UNASKED = 1e10


@st.cache_resource
def store() -> ArtifactStore:
    """Return the artifact store of this installation."""
    return ArtifactStore(cache_directory())


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
def preparer() -> Worker:
    """Return the thread that prepares what makes pages better but is not waited for, so that it delays no click and no edit."""
    return Worker(yielding=True)


@st.cache_resource(max_entries=3)
def _traced(config: InstrumentConfig, keys: tuple[str, ...]) -> Traced | None:  # noqa: ARG001
    return find_traced(instrument(config), store())


def traced(config: InstrumentConfig) -> Traced | Job | None:
    """Traced parts of an instrument's stimuli, or the job that prepares them in the background; None where neither is there.

    They are prepared unasked where that takes minutes; for a public backbone it may take hours without a GPU, and is left to
    `prepare_traced`. A job that was stopped is not started again by itself.
    """
    keys = _keys(config)
    found = _traced(config, keys)
    if found is not None:
        return found
    job = preparer().find(_traced_job(keys))
    if job is None:
        patches = instrument(config).features.patches
        return prepare_traced(config) if patches.size * patches.shape[1] <= PREPARED_UNASKED else None
    if job.state == "done":
        _traced.clear()
        return _traced(config, keys)
    return None if job.state == "cancelled" else job


def prepare_traced(config: InstrumentConfig) -> Job:
    """Prepare traced parts in the background, or find the job that does."""
    seen = instrument(config)
    return preparer().submit(
        _traced_job(_keys(config)),
        "Preparing sharper heatmaps",
        lambda on_progress, cancelled: build_traced(seen, store(), on_progress=on_progress, cancelled=cancelled),
    )


def _traced_job(keys: tuple[str, ...]) -> str:
    return f"traced {keys[-1]}"
