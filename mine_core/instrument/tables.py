"""Tables for the user's own programs: parquet with lists as lists, or CSV with lists joined by '; '."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mine_core.errors import ConfigError

FORMATS = (".parquet", ".csv")


def check_target(path: Path) -> None:
    """Refuse a file that a table cannot be written to, before the table is made; raises ConfigError."""
    if path.suffix not in FORMATS or not path.parent.is_dir():
        raise ConfigError(f"The table cannot be written to {path}; give a name that ends in .parquet or .csv in a folder that exists.")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table to a .parquet or .csv file, at once or not at all; raises ConfigError for another ending, or without the folder."""
    check_target(path)
    temporary = path.with_name(f".{path.name}")
    if path.suffix == ".csv":
        temporary.write_text(as_csv(table))
    else:
        table.to_parquet(temporary)
    temporary.replace(path)


def as_csv(table: pd.DataFrame) -> str:
    """Text of a table as CSV, cells that are lists joined by '; '."""
    return table.map(_flat).to_csv(index=False)


def _flat(cell: Any) -> Any:
    return "; ".join(map(str, cell)) if isinstance(cell, list | tuple | np.ndarray) else cell
