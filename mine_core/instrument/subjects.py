"""The subjects of an installation by name: the phantom, which is always there, and those that were imported."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mine_core.artifacts import Artifact, ArtifactStore, Recipe, canonical_json, code_version, hash_text, open_artifact, write_text
from mine_core.encoding.noise_ceiling import ncsnr_from_repeats, noise_ceiling_from_ncsnr
from mine_core.errors import Cancelled, SubjectError
from mine_core.instrument.own_cortex import check_units, checker, with_drawn_regions
from mine_core.subjects import algonauts
from mine_core.subjects.custom import check_subject_name, describe_import, import_subject
from mine_core.subjects.custom.images import never, silent
from mine_core.subjects.custom.large import Scratch
from mine_core.subjects.custom.mapper import read_mapper, save_mapper
from mine_core.subjects.nsd import build_nsd, fingerprint_of, open_tree, plan_import
from mine_core.subjects.store import load_subject, save_subject
from mine_core.types import IsCancelled, OnProgress, Subject

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
    unfinished = store.root / "unfinished"
    unfinished.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="import-", dir=unfinished) as scratch:
        given: dict[str, Any] = {"check_cortex": checker(store), "scratch": Scratch(Path(scratch)), "cancelled": asked}
        subject = with_drawn_regions(store.root, import_subject(**arguments, **given))
        check_units(subject.provenance["import"]["cortex"]["kind"], len(subject.responses.voxels))
        _stop_if(asked, subject.name)
        recipe = Recipe(
            "subject", {"name": subject.name, "import": dict(subject.provenance["import"])}, (), code_version("subjects/custom")
        )

        def make(directory: Path) -> None:
            (directory / "subject").mkdir()
            save_subject(directory / "subject", subject)
            if arguments.get("mapper") is not None:
                (directory / "mapper").mkdir()
                save_mapper(read_mapper(arguments["mapper"]), directory / "mapper")
            _stop_if(asked, subject.name)

        _keep_name(store, subject.name, store.build(recipe, make))
        return {
            "subject": subject.name,
            "n_stimuli": len(subject.stimuli),
            "n_voxels": len(subject.responses.voxels),
            "report": list(describe_import(subject)),
        }


def import_nsd_into(
    store: ArtifactStore,
    *,
    root: Path,
    subject: int,
    space: str = "func1pt8mm",
    name: str | None = None,
    size: int = 224,
    seed: int = 0,
    coco: Sequence[Path] = (),
    on_progress: OnProgress = silent,
    cancelled: IsCancelled = never,
) -> dict[str, Any]:
    """Import a subject of a local copy of the Natural Scenes Dataset and keep it under its name; returns a report.

    Responses and images are written where they stay, a part at a time; `size` is the side that images are kept at, `coco` are
    files of COCO's captions. Raises SubjectError for whatever is missing or cannot be shown to be aligned, and Cancelled; then
    nothing is kept.
    """
    name = name or f"nsd-subj{subject:02d}-{space}"
    check_subject_name(name)
    plan = plan_import(open_tree(root, subject, space), seed, coco)
    settings = {"name": name, "nsd": fingerprint_of(plan), "size": size, "seed": seed, "space": space, "subject": subject}
    settings |= {"captions": hash_text(canonical_json(plan.captions))} if plan.captions else {}

    def build(directory: Path) -> Subject:
        return build_nsd(
            plan,
            directory,
            name=name,
            size=size,
            measure_ratio=ncsnr_from_repeats,
            make_ceiling=noise_ceiling_from_ncsnr,
            on_progress=on_progress,
            cancelled=cancelled,
        )

    return _keep(store, Recipe("subject", settings, (), code_version("subjects/nsd", "subjects/store.py")), name, build)


def import_algonauts_into(
    store: ArtifactStore,
    *,
    root: Path,
    subject: int,
    name: str | None = None,
    size: int = 224,
    seed: int = 0,
    on_progress: OnProgress = silent,
    cancelled: IsCancelled = never,
) -> dict[str, Any]:
    """Import a subject of a local copy of the Algonauts 2023 challenge and keep it under its name; returns a report.

    Raises SubjectError for whatever is missing or does not fit the rest, and Cancelled; then nothing is kept.
    """
    name = name or f"algonauts-subj{subject:02d}"
    check_subject_name(name)
    plan = algonauts.plan_algonauts(root, subject)
    settings = {"name": name, "algonauts": algonauts.fingerprint_of(plan), "size": size, "seed": seed, "subject": subject}
    settings |= {"space": "fsaverage"}

    def build(directory: Path) -> Subject:
        return algonauts.build_algonauts(plan, directory, name=name, size=size, seed=seed, on_progress=on_progress, cancelled=cancelled)

    return _keep(store, Recipe("subject", settings, (), code_version("subjects/algonauts.py", "subjects/store.py")), name, build)


def _keep(store: ArtifactStore, recipe: Recipe, name: str, build: Callable[[Path], Subject]) -> dict[str, Any]:
    """Make a subject where it stays, give it its name, and return the report that it carries."""

    def make(directory: Path) -> None:
        (directory / "subject").mkdir()
        save_subject(directory / "subject", build(directory / "subject"))

    artifact = store.build(recipe, make)
    _keep_name(store, name, artifact)
    kept = subject_of(artifact)
    return {
        "subject": name,
        "n_stimuli": len(kept.stimuli),
        "n_voxels": len(kept.responses.voxels),
        "report": list(kept.provenance["import"]["report"]),
    }


def _keep_name(store: ArtifactStore, name: str, artifact: Artifact) -> None:
    _names(store).mkdir(parents=True, exist_ok=True)
    write_text(_names(store) / f"{name}.json", canonical_json({"key": artifact.key}))


def _stop_if(cancelled: IsCancelled, name: str) -> None:
    if cancelled():
        raise Cancelled(f"The import of '{name}' was stopped; nothing of it was kept.")


def _names(store: ArtifactStore) -> Path:
    return store.root / "names"
