"""The content-addressed store in `cache/`: atomic, locked, with a manifest of where each thing came from.

An artifact is a directory `kind/key/` of plain files (npy, safetensors, parquet, JSON) and a `manifest.json`. The key is a
hash of configuration, input keys and code, so a changed setting or a changed line of the code that made it gives a new
artifact, and nothing is ever overwritten. It is made under a temporary name, flushed, and renamed: a cut-off write leaves
nothing that could be mistaken for a result. One lock per key holds across processes.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from mine_core.errors import ArtifactError, Cancelled
from mine_core.types import IsCancelled

MANIFEST = "manifest.json"
RECORDED_LIBRARIES = ("numpy", "torch", "open_clip_torch", "pycortex", "scikit-learn", "streamlit")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal settings give equal text; raises ArtifactError for other types."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"A key or manifest must be plain JSON without NaN; found {error}.") from error


def hash_text(*texts: str) -> str:
    """First 20 hex digits of the SHA-256 of the texts, each with its length in front, so that no two lists collide."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(str(len(encoded)).encode() + b":" + encoded)
    return digest.hexdigest()[:20]


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_array(array: np.ndarray) -> str:
    """SHA-256 of an array's dtype, shape and bytes, in hex."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@lru_cache
def code_version(*modules: str) -> str:
    """Hash of the source text of modules of this package, given as paths under mine_core (`features.py`, `encoding`).

    Read once per process: what runs is the code that was loaded, whatever happens to its files since.
    """
    root = Path(__file__).parent
    texts = []
    for module in modules:
        path = root / module
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        if not files or not all(file.is_file() for file in files):
            raise ArtifactError(f"No source at mine_core/{module}; give a file or folder of the package.")
        texts += [text for file in files for text in (file.relative_to(root).as_posix(), file.read_text())]
    return hash_text(*texts)


@dataclass(frozen=True)
class Recipe:
    """What an artifact is made of: its kind, settings, the keys of its inputs, and the version of the code that makes it."""

    kind: str
    config: Mapping[str, Any]
    inputs: tuple[str, ...]
    code: str

    @property
    def key(self) -> str:
        """Name of the artifact in the store."""
        return hash_text(self.kind, canonical_json(dict(self.config)), canonical_json(list(self.inputs)), self.code)


@dataclass(frozen=True)
class Artifact:
    """A finished directory of the store and its manifest."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Content key, to be named as an input of whatever is built on this."""
        return str(self.manifest["key"])

    def array(self, name: str) -> np.ndarray:
        """Memory-map `name`.npy, read-only."""
        return np.load(self.path / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    def json(self, name: str) -> Any:
        """Read `name`.json."""
        return json.loads((self.path / f"{name}.json").read_text())


class ArtifactStore:
    """Artifacts under one root directory."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def path(self, recipe: Recipe) -> Path:
        """Where the artifact of this recipe is, or would be."""
        return self.root / recipe.kind / recipe.key

    def find(self, recipe: Recipe) -> Artifact | None:
        """The finished artifact, or None; raises ArtifactError if files are missing or cut off."""
        path = self.path(recipe)
        return open_artifact(path) if (path / MANIFEST).is_file() else None

    def build(
        self, recipe: Recipe, make: Callable[[Path], Mapping[str, Any] | None], cancelled: IsCancelled | None = None
    ) -> Artifact:
        """Return the artifact, making it first if it is not there.

        `make(directory)` writes plain files into an empty directory and may return notes for the manifest. If it raises,
        nothing remains. Only one process makes a key; others wait and find it, or raise Cancelled if `cancelled()` becomes true
        meanwhile.
        """
        found = self.find(recipe)
        if found is not None:
            return found
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        try:
            held = FileLock(locks / f"{recipe.kind}-{recipe.key}.lock").acquire(cancel_check=cancelled)
        except Timeout as stop:
            raise Cancelled(f"Stopped while another process makes what is wanted here ({recipe.kind}); that one goes on.") from stop
        with held:
            found = self.find(recipe)
            if found is not None:
                return found
            return self._make(recipe, make)

    def _make(self, recipe: Recipe, make: Callable[[Path], Mapping[str, Any] | None]) -> Artifact:
        target = self.path(recipe)
        target.parent.mkdir(parents=True, exist_ok=True)
        self._sweep(target)
        temporary = Path(tempfile.mkdtemp(prefix=f".{recipe.key}-", dir=target.parent))
        try:
            notes = make(temporary)
            write_manifest(temporary, recipe, notes or {})
            temporary.replace(target)
            sync(target.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return open_artifact(target)

    def _sweep(self, target: Path) -> None:
        """Remove what a killed process left of this key: we hold its lock, so no one is writing it."""
        for leftover in target.parent.glob(f".{target.name}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if target.exists():
            shutil.rmtree(target)


def open_artifact(path: Path) -> Artifact:
    """Open a finished artifact; raises ArtifactError if a file is missing or has another size than its manifest says."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path.name}: no readable {MANIFEST} ({error}); delete the folder and build again.") from error
    for name, entry in manifest["files"].items():
        file = path / name
        size = file.stat().st_size if file.is_file() else None
        if size != entry["bytes"]:
            raise ArtifactError(
                f"{manifest['kind']}/{path.name}/{name}: {size} bytes found, {entry['bytes']} expected; "
                "delete the folder and build again."
            )
    return Artifact(path, manifest)


def verify(artifact: Artifact) -> None:
    """Read every byte and compare with the manifest's hashes; raises ArtifactError naming the first that differs."""
    for name, entry in artifact.manifest["files"].items():
        found = hash_file(artifact.path / name)
        if found != entry["sha256"]:
            raise ArtifactError(
                f"{artifact.manifest['kind']}/{name}: SHA-256 {found[:12]} found, {entry['sha256'][:12]} expected; "
                "delete the folder and build again."
            )


def write_manifest(directory: Path, recipe: Recipe, notes: Mapping[str, Any]) -> None:
    """Flush every file of `directory` and write the manifest last."""
    files = {}
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        sync(file)
        files[file.relative_to(directory).as_posix()] = {"bytes": file.stat().st_size, "sha256": hash_file(file)}
    manifest = {
        "kind": recipe.kind,
        "key": recipe.key,
        "config": dict(recipe.config),
        "inputs": list(recipe.inputs),
        "code": recipe.code,
        "files": files,
        "notes": dict(notes),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "libraries": library_versions(),
    }
    write_text(directory / MANIFEST, canonical_json(manifest))


def library_versions(names: Sequence[str] = RECORDED_LIBRARIES) -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on; absent ones are named so."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    return versions


def write_text(path: Path, text: str) -> None:
    """Write a small file of text atomically, as UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file atomically: temporary name, flush, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    sync(temporary)
    temporary.replace(path)


def sync(path: Path) -> None:
    """Ask the system to put a file or directory on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
