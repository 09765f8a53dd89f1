"""What every command of the command line shares: the progress bar, the options that all take, the settings they name."""

import argparse
import sys
from typing import Any

from tqdm import tqdm

from mine_core.batches import Where
from mine_core.config import InstrumentConfig
from mine_core.errors import ConfigError


class Bar:
    """A progress bar on a terminal, and silence elsewhere."""

    def __init__(self) -> None:
        self._bar = tqdm(total=1, disable=not sys.stderr.isatty(), leave=False, bar_format="{l_bar}{bar}| {elapsed}<{remaining}")

    def __call__(self, done: int, total: int, message: str) -> None:
        """Take a report of work done."""
        self._bar.total, self._bar.n = total, done
        self._bar.set_description(message)

    def close(self) -> None:
        """Clear the bar."""
        self._bar.close()


def add_group(commands: Any, name: str, purpose: str) -> Any:
    """Add a command that has commands of its own."""
    group = commands.add_parser(name, help=purpose, description=purpose)
    return group.add_subparsers(dest=f"{name}_what", required=True, metavar="WHAT")


def add(commands: Any, name: str, purpose: str, run: Any) -> argparse.ArgumentParser:
    """Add a command with the options that all share."""
    command = commands.add_parser(name, help=purpose, description=purpose)
    command.add_argument("--subject", default="phantom", help="name of a subject (default: phantom)")
    command.add_argument("--seed", type=int, default=0, help="which phantom, 0 to 89 (default: 0)")
    command.add_argument("--backbone", default="phantom", help="preset of assets/models.toml (default: phantom)")
    command.add_argument("--json", metavar="PATH", help="write the result there, as JSON")
    command.set_defaults(run=run)
    return command


def add_where(command: argparse.ArgumentParser, workers: int = 2) -> None:
    """Add the options that say where a batch runs; `workers` are its default."""
    where = command.add_argument_group("where it runs", "the results are the same; killed at any moment, the same command goes on")
    where.add_argument("--workers", type=int, default=workers, help=f"processes beside each other on this machine (default: {workers})")
    where.add_argument("--dask", default="", metavar="ADDRESS", help="a Dask scheduler whose workers share this cache, tcp://host:8786")
    where.add_argument("--slurm", type=int, default=0, metavar="N", help="N jobs of a SLURM cluster that share this cache")
    options = "of each job, as dask_jobqueue.SLURMCluster takes them: queue, account, memory, walltime"
    where.add_argument("--slurm-option", nargs="*", default=[], metavar="NAME=VALUE", help=options)


def where_of(options: argparse.Namespace) -> Where:
    """Where a batch runs; raises ConfigError for options that make no sense."""
    pairs = [pair.partition("=") for pair in options.slurm_option]
    wrong = [name for name, equals, _ in pairs if not (name and equals)]
    if wrong or (pairs and not options.slurm):
        raise ConfigError("--slurm-option takes NAME=VALUE, such as queue=short, beside --slurm N.")
    return Where(options.workers, options.dask, options.slurm, {name: value for name, _, value in pairs})


def settings(options: argparse.Namespace) -> InstrumentConfig:
    """Settings of the instrument that the options name."""
    return InstrumentConfig(options.subject, options.seed, options.backbone)
