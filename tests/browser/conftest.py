"""A real server on a built cache, and Chromium to look at it with; both end with these tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig, cache_directory
from mine_core.experiments.start_speed import CHROMIUM_FLAGS, browser_path, serving
from mine_core.instrument import Instrument, build_instrument

SCREENSHOTS = Path(__file__).parent / "screenshots"


@pytest.fixture(scope="package")
def instrument() -> Instrument:
    return build_instrument(InstrumentConfig(), ArtifactStore(cache_directory()))


@pytest.fixture(scope="package")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the server's notebook: never the user's own."""
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="package")
def address(instrument: Instrument, kept: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MINE_NOTEBOOK", str(kept))
        with serving(cache_directory()) as (_, url):
            yield url


@pytest.fixture(scope="package")
def screenshots() -> Path:
    shutil.rmtree(SCREENSHOTS, ignore_errors=True)
    SCREENSHOTS.mkdir()
    return SCREENSHOTS


@pytest.fixture(scope="package")
def window() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=list(CHROMIUM_FLAGS))
        yield browser
        browser.close()
