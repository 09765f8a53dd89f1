"""What an import of the Natural Scenes Dataset needs of its public bucket, under the data agreement that users accept."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from mine_core.errors import ConfigError, SubjectError
from mine_core.subjects.custom.limits import amount
from mine_core.subjects.fetching import Remote, find_remote, missing_files
from mine_core.subjects.nsd.tree import AGREEMENT, HEMISPHERES, MASK, N_SESSIONS, REGION_SETS, TERMS, NsdTree, check_asked
from mine_core.types import OnProgress

BUCKET = "https://natural-scenes-dataset.s3.amazonaws.com"


def require_terms(accepted: bool) -> None:
    """Refuse with a ConfigError to fetch anything before the data agreement was accepted."""
    if not accepted:
        raise ConfigError(
            f"The Natural Scenes Dataset is given out under the {AGREEMENT}; read it at {TERMS}, fill in the form that it names, and "
            "then say so with --accept-nsd-terms. Nothing was fetched."
        )


def needed_files(root: Path, subject: int, space: str, sessions: Sequence[int], on_progress: OnProgress) -> list[Remote]:
    """Find the files of an import in the bucket: design, images, mask, ratios, regions and the responses of sessions.

    Sessions and sets of regions that the bucket does not have are left out.

    Raises
    ------
    SubjectError
        If there is no such subject or space, a file that is needed is not in the bucket, or the bucket cannot be reached.
    """
    tree = check_asked(root, subject, space)
    found = _needed(tree, (tree.design, tree.stimuli, *tree.ncsnr))
    information = find_remote(BUCKET, tree.shown(tree.information))
    found += [information] if information else []
    found += _labels(tree, MASK) or _needed(tree, tree.labels(MASK))
    for group in REGION_SETS:
        labels = _labels(tree, group)
        table = [remote for path in tree.tables(group) if (remote := find_remote(BUCKET, tree.shown(path)))][:1]
        found += [*labels, *table] if labels and table else []
    n_before = len(found)
    for number, session in enumerate(sessions):
        on_progress(number, len(sessions), "asking for sizes")
        files = [find_remote(BUCKET, tree.shown(path)) for path in tree.session_files(session)]
        found += [remote for remote in files if remote] if all(files) else []
    if len(found) == n_before:
        raise SubjectError(f"The bucket has no responses of {tree.folder} in {space}; expected {tree.session_files(1)[0].name} and on.")
    return found


def sessions_up_to(last: int) -> range:
    """Sessions 1 to `last`; raises ConfigError for a number that is not 1 to 40."""
    if not 1 <= last <= N_SESSIONS:
        raise ConfigError(f"--sessions {last}: expected 1 to {N_SESSIONS}, the number of sessions from the first on.")
    return range(1, last + 1)


def to_fetch(files: list[Remote], root: Path) -> list[Remote]:
    """Files that are not in `root` yet; raises SubjectError if the disk has no room for them."""
    missing, there = missing_files(files, root), root
    while not there.exists():
        there = there.parent
    wanted, free = sum(file.size for file in missing), shutil.disk_usage(there).free
    if wanted > free:
        raise SubjectError(
            f"{amount(wanted)} are to be fetched, {amount(free)} are free in {root}; free space, or fetch fewer sessions."
        )
    return missing


def _needed(tree: NsdTree, paths: Sequence[Path]) -> list[Remote]:
    found = []
    for path in paths:
        remote = find_remote(BUCKET, tree.shown(path))
        if remote is None:
            raise SubjectError(f"The bucket has no {tree.shown(path)}; its layout is not the one this import reads.")
        found.append(remote)
    return found


def _labels(tree: NsdTree, group: str) -> list[Remote]:
    """Labels of a set of regions: one file, else one of each hemisphere, else none."""
    whole = [find_remote(BUCKET, tree.shown(path)) for path in tree.labels(group)]
    if all(whole):
        return [remote for remote in whole if remote]
    folder = tree.labels(group)[0].parent
    halves = [find_remote(BUCKET, tree.shown(folder / f"{side}.{group}.nii.gz")) for side in HEMISPHERES]
    return [remote for remote in halves if remote] if all(halves) else []
