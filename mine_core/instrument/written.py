"""Texts of a batch of profiles by a language model: priced before anything is sent, gone on with where it was stopped."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from mine_core.artifacts import ArtifactStore
from mine_core.description.language_model import Endpoint, WrittenProfile, cost, is_kept, kept_answer, table_of, write_by_model
from mine_core.errors import Cancelled, DescriptionError
from mine_core.types import IsCancelled, OnProgress

KEY_VARIABLE = "MINE_WRITER_KEY"
TITLE = "Asking the language model"
# Tables asked for at once, and refusals one after another that end a batch: the server is not what was meant.
AT_ONCE, MOST_REFUSED = 4, 8
FIELDS = tuple(field.name for field in fields(WrittenProfile))


def answers_folder(store: ArtifactStore) -> Path:
    """Where answers are kept."""
    return store.root / "written"


def endpoint_of(address: str, model: str, price_in: float = 0.0, price_out: float = 0.0) -> Endpoint:
    """Endpoint with the key of the environment variable MINE_WRITER_KEY; raises ConfigError for an address or price of no use."""
    return Endpoint(address.strip(), model.strip(), os.environ.get(KEY_VARIABLE, ""), price_in=price_in, price_out=price_out)


def tables_of(profiles: pd.DataFrame) -> list[str]:
    """Table of words of every profile, empty where no word stands: the same that a single profile gives."""
    return [_table(row) for row in profiles.itertuples()]


def _table(row: Any) -> str:
    scores = json.loads(row.scores)
    tried = [entry for entry in json.loads(row.tried) if entry["stands"]]
    attributes = [(entry["attribute"], entry["word"], entry["score"]) for entry in tried]
    return table_of([(word, scores[word]) for word in row.phrases], attributes, list(row.company))


def price(tables: Sequence[str], endpoint: Endpoint, store: ArtifactStore) -> dict[str, float]:
    """Calls, tokens and price of what is not kept yet, at most (see `cost`); equal tables are asked for once."""
    return cost(_missing(tables, endpoint, store), endpoint)


def price_line(found: dict[str, float], endpoint: Endpoint) -> str:
    """Say what a batch asks for, and what that costs at most."""
    sent, received = found["tokens_in"], found["tokens_out"]
    told = f"{found['n_asked']:,.0f} calls, about {sent:,.0f} tokens to send and at most {received:,.0f} to receive"
    if not endpoint.price_in and not endpoint.price_out:
        return f"{told}; no price was given"
    return f"{told}; at most {found['price']:,.4f} at {endpoint.price_in:g} and {endpoint.price_out:g} a million tokens"


def _missing(tables: Sequence[str], endpoint: Endpoint, store: ArtifactStore) -> list[str]:
    folder = answers_folder(store)
    return [table for table in dict.fromkeys(tables) if table and not is_kept(table, endpoint, folder)]


def write_batch(
    profiles: pd.DataFrame,
    endpoint: Endpoint,
    store: ArtifactStore,
    *,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> pd.DataFrame:
    """Have a language model write every described voxel's text; returns the profiles with the five fields as columns.

    Only tables of words are sent. Answers are kept as they come: a batch that is stopped goes on from there and pays for no table
    twice. A table for which no usable answer came has empty fields, and says why in `written_refused`.

    Returns
    -------
    A copy of `profiles` with `written_by` (the model's name, empty where nothing was written), the fields, `written_refused`.

    Raises
    ------
    DescriptionError
        If eight tables, one after another, got no usable answer.
    Cancelled
        If `cancelled()` became True; answers that came are kept.

    Notes
    -----
    The text is the model's reading of the words, and no score. It was not tested on any response.
    """
    report, stopped = on_progress or (lambda *_: None), cancelled or (lambda: False)
    tables, refusals = tables_of(profiles), {}
    missing, refused_last = _missing(tables, endpoint, store), 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for start in range(0, len(missing), AT_ONCE):
            if stopped():
                raise Cancelled(f"Stopped after {start} of {len(missing)} texts; what was written is kept.")
            report(start, len(missing), TITLE)
            several = missing[start : start + AT_ONCE]
            for table, refusal in zip(several, pool.map(lambda table: _ask(table, endpoint, store), several), strict=True):
                refused_last = refused_last + 1 if refusal else 0
                if refusal:
                    refusals[table] = str(refusal)
                if refusal and refused_last >= min(MOST_REFUSED, len(missing)):
                    raise refusal
    report(len(missing), max(len(missing), 1), TITLE)
    answers = [kept_answer(table, endpoint, answers_folder(store)) if table else None for table in tables]
    return _with_columns(profiles, answers, [refusals.get(table, "") for table in tables], endpoint.model)


def _ask(table: str, endpoint: Endpoint, store: ArtifactStore) -> DescriptionError | None:
    try:
        write_by_model(table, endpoint, answers_folder(store))
    except DescriptionError as refusal:
        return refusal
    return None


def _with_columns(profiles: pd.DataFrame, answers: list[WrittenProfile | None], refusals: list[str], model: str) -> pd.DataFrame:
    rows = [asdict(answer) if answer else {} for answer in answers]
    found: dict[str, list[Any]] = {"written_by": [model if answer else "" for answer in answers]}
    for name in FIELDS:
        several = name in ("visual_attributes", "semantic_categories")
        found[name] = [list(row.get(name, ())) if several else row.get(name, "") for row in rows]
    return profiles.assign(**found, written_refused=refusals)
