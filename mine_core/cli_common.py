"""What every command of the command line shares: the progress bar, the options that all take, the settings they name."""

import argparse
import sys
from typing import Any

from tqdm import tqdm

from mine_core.config import InstrumentConfig


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


def settings(options: argparse.Namespace) -> InstrumentConfig:
    """Settings of the instrument that the options name."""
    return InstrumentConfig(options.subject, options.seed, options.backbone)
