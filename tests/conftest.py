"""Fixtures that every test may use; user files point into temporary directories and no test reaches a network."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

REAL = Path(__file__).resolve().parents[2] / "shared" / "real"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260516)


@pytest.fixture(scope="session")
def real() -> Path:
    """Folder of real recordings and photographs; tests that use it skip where it is absent."""
    if not REAL.is_dir():
        pytest.skip("real recordings are not on this machine (shared/real beside the checkout)")
    return REAL


@pytest.fixture(autouse=True)
def home_in_tmp(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("MINE_NOTEBOOK", str(home / "notebook"))
    yield
