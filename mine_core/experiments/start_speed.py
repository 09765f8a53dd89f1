"""How long a user waits from starting the app to a page that can be used."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mine_core.artifacts import ArtifactStore
from mine_core.config import PROJECT, InstrumentConfig
from mine_core.errors import MineError
from mine_core.types import OnProgress

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
LONGEST_COLD, LONGEST_WARM = 600.0, 120.0
# The flatmap is the last thing of the first page that a user needs before clicking.
READY = ".flatmap img.map"


def measure(config: InstrumentConfig, _store: ArtifactStore, on_progress: OnProgress) -> dict[str, Any]:
    """Start the app twice in an empty cache, cold and warm, and wait in Chromium until its flatmap is shown.

    Seconds count from the start of the process; memory is the largest resident size of the server in each start.
    Raises MineError if there is no Chromium or playwright to look with.
    """
    browser = browser_path()
    cache = Path(tempfile.mkdtemp(prefix="mine-start-"))
    try:
        on_progress(0, 2, "cold start")
        cold = _start(cache, browser, config, LONGEST_COLD)
        on_progress(1, 2, "warm start")
        warm = _start(cache, browser, config, LONGEST_WARM)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    return {
        "cold_seconds": cold[0],
        "warm_seconds": warm[0],
        "peak_memory_gb_cold": cold[1],
        "peak_memory_gb_warm": warm[1],
    }


def browser_path() -> str:
    """Find Chromium; raises MineError if it or playwright is missing."""
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        raise MineError(f"No browser found ({', '.join(BROWSERS)}); install Chromium to measure the start of the app.")
    try:
        import playwright  # noqa: F401
    except ImportError as error:
        raise MineError("playwright is not installed; run `pip install -r tests/requirements.txt` first.") from error
    return found


@contextmanager
def serving(cache: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """Run the app on a free port of this machine with its cache in a given folder; stops it at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    environment = os.environ | {"MINE_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    with (cache / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield server, f"http://localhost:{port}"
    finally:
        server.terminate()
        server.wait(20)


def _start(cache: Path, browser: str, config: InstrumentConfig, longest: float) -> tuple[float, float]:
    """Seconds until the flatmap is shown, and peak memory in GB."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=browser, args=list(CHROMIUM_FLAGS))
        page = window.new_page(viewport={"width": 1440, "height": 900})
        started = time.perf_counter()
        with serving(cache) as (server, address):
            peak = _Peak(server.pid)
            _visit(page, f"{address}/?seed={config.seed}&backbone={config.backbone}", started + longest)
            page.wait_for_selector(READY, timeout=1000 * max(1.0, started + longest - time.perf_counter()))
            seconds = time.perf_counter() - started
            gigabytes = peak.stop()
        window.close()
    return seconds, gigabytes


def _visit(page: Any, address: str, deadline: float) -> None:
    from playwright.sync_api import Error

    while True:
        try:
            page.goto(address)
            return
        except Error:
            if time.perf_counter() > deadline:
                raise MineError(f"The app did not answer at {address} in time; see its log.") from None
            time.sleep(0.1)


class _Peak:
    """Watches the resident memory of a process."""

    def __init__(self, process: int) -> None:
        self._status, self._most, self._done = Path(f"/proc/{process}/status"), 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            for line in self._status.read_text().splitlines() if self._status.exists() else ():
                if line.startswith("VmHWM:"):
                    self._most = max(self._most, int(line.split()[1]) / 1e6)

    def stop(self) -> float:
        """Stop watching; returns the largest size in GB."""
        self._done.set()
        self._thread.join()
        return self._most
