"""The subjects of an installation by name: the phantom, which is always there, and those that were imported."""

import json
from pathlib import Path
from typing import Any

from mine_core.artifacts import Artifact, ArtifactStore, Recipe, canonical_json, code_version, open_artifact, write_text
from mine_core.errors import Cancelled, SubjectError
from mine_core.subjects.custom import describe_import, import_subject
from mine_core.subjects.store import load_subject, save_subject
from mine_core.types import IsCancelled, Subject

PHANTOM = "phantom"


def known_subjects(store: ArtifactStore) -> tuple[str, ...]:
    """Names of all subjects, the phantom first."""
    return (PHANTOM, *sorted(path.stem for path in _names(store).glob("*.json")))


def custom_artifact(name: str, store: ArtifactStore) -> Artifact:
    """Find an imported subject; raises SubjectError if there is none of that name."""
    path = _names(store) / f"{name}.json"
    if name not in known_subjects(store):
        raise SubjectError(f"Subject '{name}' is not here; there are {', '.join(known_subjects(store))}. Import it first.")
    return open_artifact(store.root / "subject" / json.loads(path.read_text())["key"])


def subject_of(artifact: Artifact) -> Subject:
    """Open the subject that a subject artifact holds."""
    return load_subject(artifact.path / "subject")


def import_into(store: ArtifactStore, *, cancelled: IsCancelled | None = None, **arguments: Any) -> dict[str, Any]:
    """Import a subject (see `import_subject`) and keep it under its name; returns a report.

    Raises SubjectError for whatever cannot be used as given, and Cancelled if `cancelled()` became True; then nothing is kept.
    """
    asked = cancelled or (lambda: False)
    subject = import_subject(**arguments, cancelled=asked)
    _stop_if(asked, subject.name)
    recipe = Recipe(
        "subject", {"name": subject.name, "import": dict(subject.provenance["import"])}, (), code_version("subjects/custom")
    )

    def make(directory: Path) -> None:
        (directory / "subject").mkdir()
        save_subject(directory / "subject", subject)
        _stop_if(asked, subject.name)

    artifact = store.build(recipe, make)
    _names(store).mkdir(parents=True, exist_ok=True)
    write_text(_names(store) / f"{subject.name}.json", canonical_json({"key": artifact.key}))
    return {
        "subject": subject.name,
        "n_stimuli": len(subject.stimuli),
        "n_voxels": len(subject.responses.voxels),
        "report": list(describe_import(subject)),
    }


def _stop_if(cancelled: IsCancelled, name: str) -> None:
    if cancelled():
        raise Cancelled(f"The import of '{name}' was stopped; nothing of it was kept.")


def _names(store: ArtifactStore) -> Path:
    return store.root / "names"
