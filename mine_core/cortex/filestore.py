"""pycortex opened for this instrument, with the user's own pycortex left as it was.

pycortex keeps the path of its surfaces from the machine that built it, writes a configuration file into the user's home at
first import, and keeps its flatmap caches inside the installation. Here all three point into a directory that is given.
"""

import contextlib
import importlib
import importlib.metadata
import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from filelock import FileLock

from mine_core.errors import SubjectError

PYCORTEX_LOCK = threading.RLock()
SHIPPED_SUBJECT = "S1"
_PROOF = Path(SHIPPED_SUBJECT) / "overlays.svg"
_log = logging.getLogger(__name__)


def open_pycortex(cache_dir: Path) -> ModuleType:
    """Import pycortex, or find it imported, with its surfaces found and its caches under `cache_dir`/pycortex.

    Whoever goes on to use the module holds `PYCORTEX_LOCK` while doing so: its caches are neither locked nor atomic.

    Raises
    ------
    SubjectError : if pycortex is not installed, or if subject S1, which comes with it, is in none of the usual places.
    """
    private = Path(cache_dir).resolve() / "pycortex"
    (private / "config").mkdir(parents=True, exist_ok=True)
    with PYCORTEX_LOCK, quiet():
        cortex = _import(private / "config")
        share = _shipped_share(Path(str(cortex.__file__)))
        store = str(share / "db")
        if cortex.db.filestore != store:
            cortex.db.filestore = store
            cortex.db.reload_subjects()
        cortex.options.config.set("basic", "filestore", store)
        cortex.options.config.set("basic", "cache", str(private).replace("%", "%%"))
        cortex.options.config.set("webgl", "colormaps", str(share / "colormaps"))
    return cortex


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send what pycortex prints to the log, so that a command's own output stays readable by machines."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        if printed.getvalue().strip():
            _log.debug("pycortex: %s", printed.getvalue().strip())


@contextlib.contextmanager
def whole_caches(cortex: ModuleType, subject: str) -> Iterator[None]:
    """Let one process at a time fill a subject's flatmap caches, and empty them first if the last one was cut off.

    pycortex writes these files in place and trusts whatever it finds under their names.
    """
    folder = Path(cortex.db.get_cache(subject))
    unfinished = folder / "unfinished"
    with FileLock(folder.parent / "cache.lock"):
        if unfinished.exists():
            for file in folder.glob("*.npz"):
                file.unlink()
        unfinished.touch()
        yield
        unfinished.unlink()


def _import(config: Path) -> ModuleType:
    """Import pycortex with every place that it or matplotlib would write to in `config`."""
    if "cortex" in sys.modules:
        return sys.modules["cortex"]
    import matplotlib  # before the redirection, so that the user's own matplotlibrc still counts

    if "matplotlib.pyplot" not in sys.modules:
        matplotlib.use("Agg")
    # pycortex asks Windows for APPDATA, macOS for the home, and everything else for XDG_CONFIG_HOME.
    wanted = {"win32": "APPDATA", "darwin": "HOME"}.get(sys.platform, "XDG_CONFIG_HOME")
    redirected = {wanted: str(config)}
    if "MPLCONFIGDIR" not in os.environ:
        redirected["MPLCONFIGDIR"] = str(config)
    before = {name: os.environ.get(name) for name in redirected}
    os.environ.update(redirected)
    try:
        return importlib.import_module("cortex")
    except ImportError as error:
        raise SubjectError(f"pycortex cannot be imported ({error}); run `pip install pycortex` in this environment.") from error
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _shipped_share(module_file: Path) -> Path:
    """Folder `share/pycortex` of this installation: by its record of files, else beside the interpreter or the package."""
    candidates = [*_recorded(), Path(sys.prefix) / "share" / "pycortex"]
    candidates += [parent / "share" / "pycortex" for parent in module_file.resolve().parents[1:6]]
    candidates += [module_file.resolve().parents[1] / "filestore"]
    for candidate in candidates:
        if (candidate / "db" / _PROOF).is_file():
            return candidate
    looked = ", ".join(dict.fromkeys(str(candidate / "db") for candidate in candidates))
    raise SubjectError(
        f"pycortex is installed but db/{_PROOF.as_posix()}, which comes with it, is in none of {looked}; "
        "reinstall it with `pip install --force-reinstall --no-deps pycortex`."
    )


def _recorded() -> list[Path]:
    """Where the package manager says that it put S1's overlays, if it keeps a record."""
    try:
        files = importlib.metadata.files("pycortex") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = [Path(str(file.locate())).resolve() for file in files if file.as_posix().endswith(f"db/{_PROOF.as_posix()}")]
    return [path.parents[2] for path in found]
