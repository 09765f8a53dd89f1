"""The command that runs other commands over subjects, seeds and backbones: one small task each, wherever they are to run."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mine_core.artifacts import ArtifactStore, write_text
from mine_core.batches import Task, run_batch
from mine_core.cli_common import Bar, add_where, where_of
from mine_core.config import InstrumentConfig, cache_directory
from mine_core.errors import ConfigError, MineError

MEASURED = ("encoding", "description", "dictionary", "learning", "attribution", "removal", "counterfactual", "claims")
WHAT = (
    "build",
    "fit-ridge",
    "fit-banded",
    "fit-query_attention",
    "fit-dictionary",
    "profile",
    *(f"evaluate-{name}" for name in MEASURED),
)


def add_batch_command(commands: Any) -> None:
    """Add `batch`."""
    purpose = "run other commands for several subjects, phantoms or backbones, here, in processes, or on a cluster"
    command = commands.add_parser("batch", help=purpose, description=purpose)
    command.add_argument("what", nargs="+", choices=WHAT, metavar="WHAT", help=f"one or more of {', '.join(WHAT)}")
    command.add_argument("--subjects", nargs="+", default=["phantom"], metavar="NAME", help="default: phantom")
    command.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="SEED", help="of the phantom, 0 to 89 (default: 0)")
    command.add_argument("--backbones", nargs="+", default=["phantom"], metavar="NAME", help="presets of assets/models.toml")
    command.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="a JSON file a task; what is there is done"
    )
    command.add_argument("--json", metavar="PATH", help="write what was done there, as JSON")
    add_where(command)
    command.set_defaults(run=run_batch_command)


def run_batch_command(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    """Do what is not done yet; a task that refuses does not stop the others."""
    where, store, out = where_of(options), ArtifactStore(cache_directory()), options.out.resolve()
    tasks = tasks_of(options.what, options.subjects, options.seeds, options.backbones)
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{'-'.join((what, config.subject, str(config.seed), config.backbone))}.json" for what, config in tasks]
    missing = [(path, *task) for path, task in zip(paths, tasks, strict=True) if not path.is_file()]
    store.root.mkdir(parents=True, exist_ok=True)
    done = len(tasks) - len(missing)
    bar(done, len(tasks), "running the batch")
    # what others build on comes first, and is not made twice at once: a stage that another task makes is waited for
    for _ in run_batch([Task(do_task, (what, config, store.root, path)) for path, what, config in missing], where, store.root):
        done += 1
        bar(done, len(tasks), "running the batch")
    refused = {path.stem: found["refused"] for path in paths if "refused" in (found := json.loads(path.read_text()))}
    for path in paths:
        if path.stem in refused:
            path.unlink()
    return {"tasks": len(tasks), "done_before": len(tasks) - len(missing), "refused": refused, "results": str(options.out)}


def tasks_of(
    what: Sequence[str], subjects: Sequence[str], seeds: Sequence[int], backbones: Sequence[str]
) -> list[tuple[str, InstrumentConfig]]:
    """Every task, those that others build on first; seeds are of the phantom alone.

    Raises ConfigError if something is named twice.
    """
    for names in (what, subjects, seeds, backbones):
        if len(set(names)) != len(names):
            raise ConfigError(f"{' '.join(map(str, names))} names something twice; name each once.")
    configs = [
        InstrumentConfig(subject, seed, backbone)
        for subject in subjects
        for seed in (seeds if subject == "phantom" else [0])
        for backbone in backbones
    ]
    return [(name, config) for name in sorted(what, key=WHAT.index) for config in configs]


def do_task(what: str, config: InstrumentConfig, root: Path, path: Path) -> None:
    """Do one task and keep what it found as JSON, or why it was refused."""
    if path.is_file():
        return
    try:
        found = _found(what, config, ArtifactStore(root))
    except MineError as refusal:
        found = {"refused": str(refusal)}
    write_text(path, json.dumps(found, indent=2, allow_nan=False) + "\n")


def _found(what: str, config: InstrumentConfig, store: ArtifactStore) -> dict[str, Any]:
    from mine_core.experiments import experiment
    from mine_core.instrument.build import build_instrument
    from mine_core.instrument.dictionary import build_dictionary
    from mine_core.instrument.encoders import fit_encoder
    from mine_core.instrument.profiling import profile_all, summary_of

    kind, _, name = what.partition("-")
    if kind == "evaluate":
        return experiment(name)(config, store, lambda *_: None)
    if kind == "profile":
        return summary_of(profile_all(config, store))
    instrument = build_instrument(config, store)
    if name == "dictionary":
        return {"dictionary": sorted(artifact.key for artifact in build_dictionary(config, store).values())}
    if name and name != "ridge":
        return {"encoding": fit_encoder(config, store, name).provenance["key"]}  # type: ignore[arg-type]
    return {"encoding": instrument.model.provenance["key"], "n_reliable": int(instrument.reliable.sum())}
