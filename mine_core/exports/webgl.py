"""A map on the folded and flattened cortex in three dimensions, as a folder that any web server can show: pycortex's viewer."""

import contextlib
import importlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from mine_core.artifacts import ArtifactStore
from mine_core.cortex.filestore import PYCORTEX_LOCK, open_pycortex, quiet, whole_caches
from mine_core.errors import ConfigError, SubjectError
from mine_core.exports.files import Sources, volume_of
from mine_core.exports.records import MapRecord
from mine_core.exports.space import Space, pycortex_of
from mine_core.instrument import Instrument

INDEX = "index.html"


def require_viewer(instrument: Instrument, record: MapRecord) -> None:
    """Refuse a subject (SubjectError) or a map (ConfigError) that the viewer cannot show, saying what can be written instead."""
    if pycortex_of(instrument) is None:
        raise SubjectError(
            f"The 3-D viewer was asked for; subject '{instrument.subject.name}' has no surface in pycortex. "
            "Write png, svg or pdf, or gifti where its voxels are vertices."
        )
    if record.shown.categories:
        n = len(record.shown.categories)
        raise ConfigError(f"The 3-D viewer has colour scales and no legend: map '{record.name}' has {n} groups. Write png, svg or pdf.")


def write_webgl(instrument: Instrument, store: ArtifactStore, space: Space, record: MapRecord, folder: Path) -> Path:
    """Write pycortex's static viewer of one map into a folder; returns its index.html.

    The viewer is whole: scripts, styles, surfaces and values lie in the folder (about 11 MB), and nothing is fetched from the
    internet. Browsers refuse to read its surfaces from `file://`, so it needs a web server, of which
    `python -m http.server --directory FOLDER` is one. It looks for a Leap Motion controller at 127.0.0.1:6437 and goes on
    without one. The surfaces are made once, in about a minute, and kept.

    Raises
    ------
    SubjectError
        If the subject is not drawn on a cortex of pycortex.
    ConfigError
        For a map of groups, whose colours the viewer has no scale for, or if something else lies in the folder.

    References
    ----------
    Gao, Huth, Lescroart, Gallant (2015), 10.3389/fninf.2015.00023.
    """
    require_viewer(instrument, record)
    if folder.exists() and any(folder.iterdir()) and not (folder / INDEX).is_file():
        raise ConfigError(f"{folder} holds something else than a viewer; name an empty or a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    name, transform = pycortex_of(instrument) or ("", "")
    volume = volume_of(Sources.of(instrument, space, record))
    shown = record.shown
    with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as scratch:
        made = Path(scratch) / "viewer"
        with PYCORTEX_LOCK, quiet():
            cortex = open_pycortex(store.root)
            data = cortex.Volume(volume, name, transform, cmap=shown.colormap, vmin=shown.low, vmax=shown.high)
            webgl = importlib.import_module("cortex.webgl")
            with whole_caches(cortex, name), surface_information_in_cache(cortex, name):
                title = f"MINE: {shown.title}"
                label = f"{shown.title} ({shown.unit})"
                webgl.make_static(str(made), {label: data}, title=title, overlays_visible=("rois",), labels_visible=("rois",))
        if folder.exists():
            shutil.rmtree(folder)
        made.replace(folder)
    return folder / INDEX


@contextlib.contextmanager
def surface_information_in_cache(cortex: ModuleType, subject: str) -> Iterator[None]:
    """Let pycortex keep what it derives of a subject's surfaces, as their curvature, in its cache and not beside the surfaces.

    Beside them is inside the installation, which other processes read and which may be read-only. What comes with the
    surfaces is copied. Whoever enters holds `PYCORTEX_LOCK` and the subject's `whole_caches`.
    """
    cache = Path(cortex.db.get_cache(subject))
    paths = cortex.db.get_paths
    for shipped in Path(paths(subject)["surfinfo"]).parent.glob("*.npz"):
        if not (cache / shipped.name).exists():
            shutil.copy(shipped, cache / shipped.name)

    def redirected(of: str) -> dict[str, Any]:
        found = dict(paths(of))
        return found | {"surfinfo": str(cache / "{type}{opts}.npz")} if of == subject else found

    cortex.db.get_paths = redirected
    try:
        yield
    finally:
        del cortex.db.get_paths
