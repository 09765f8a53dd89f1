"""Files of a public bucket, fetched over HTTPS into a local copy: resumed, checked, and never half there."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import requests
from filelock import FileLock, Timeout

from mine_core.artifacts import canonical_json, sync, write_text
from mine_core.errors import Cancelled, SubjectError
from mine_core.subjects.custom.limits import MIB, amount, counted, reason
from mine_core.types import IsCancelled, OnProgress

PIECE = MIB
SECONDS = (20.0, 60.0)
"""To connect, and between two pieces."""
ATTEMPTS = 5
PLAIN_MD5 = re.compile(r"[0-9a-f]{32}")
GONE = 404
Tell = Callable[[int], None]
BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


@dataclass(frozen=True)
class Remote:
    """A file of the bucket: its name below the bucket's address and below the local folder, bytes, and entity tag."""

    name: str
    size: int
    tag: str


def find_remote(base: str, name: str) -> Remote | None:
    """Ask for a file's size and tag; None if the bucket has no such file.

    Raises
    ------
    SubjectError
        If the bucket cannot be reached, refuses the file, or does not say its size.
    """
    url = f"{base}/{name}"
    try:
        answer = requests.head(url, timeout=SECONDS, allow_redirects=False, headers={"Accept-Encoding": "identity"})
    except requests.RequestException as error:
        raise SubjectError(f"{url} cannot be reached ({reason(error)}); check the connection and try again.") from error
    if answer.status_code == GONE:
        return None
    _require(answer, url, 200)
    size = answer.headers.get("Content-Length", "")
    if not size.isdigit():
        raise SubjectError(f"{url}: its size is not told; expected a public bucket's answer. Check the address.")
    return Remote(name, int(size), answer.headers.get("ETag", "").strip('"'))


def missing_files(files: list[Remote], root: Path) -> list[Remote]:
    """Those of `files` that are not below `root` yet; raises SubjectError for one that is there with another size."""
    missing = []
    for file in files:
        path = root / file.name
        found = path.stat().st_size if path.is_file() else None
        if found is None:
            missing.append(file)
        elif found != file.size:
            raise SubjectError(
                f"{file.name} is in {root} with {found:,} bytes, the bucket has {file.size:,}; move it away, or name another folder."
            )
    return missing


def fetch_files(base: str, files: list[Remote], root: Path, on_progress: OnProgress, cancelled: IsCancelled) -> None:
    """Fetch files into `root`, each under its name only when it is whole: its size, and its MD5 where the tag is one.

    A broken connection is taken up again where it broke, five times a file; what came in stays for the next run, which goes on
    with it if the bucket still has the same file (HTTP range with If-Range).

    Raises
    ------
    SubjectError
        If another process fetches into this folder, the disk is too full, or a file cannot be had or is not what was told.
    Cancelled
        When `cancelled()` becomes True between pieces; what came in stays.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".fetching.lock", timeout=0):
            total, done = sum(file.size for file in files), 0
            for file in files:
                _fetch(base, file, root, partial(_tell, on_progress, done, total, file.name), cancelled)
                done += file.size
    except Timeout as error:
        raise SubjectError(f"Another process is fetching into {root}; wait until it has finished.") from error
    except OSError as error:
        raise SubjectError(f"{root} cannot be written ({reason(error)}); free space, or name another folder.") from error


def _tell(on_progress: OnProgress, before: int, total: int, name: str, here: int) -> None:
    on_progress(before + here, total, name)


def _fetch(base: str, file: Remote, root: Path, tell: Tell, cancelled: IsCancelled) -> None:
    path = root / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    _forget_another(part, file)
    for attempt in range(ATTEMPTS):
        try:
            _take_up(f"{base}/{file.name}", file, part, tell, cancelled)
            break
        except BROKEN as error:
            if attempt + 1 == ATTEMPTS:
                raise SubjectError(
                    f"{file.name}: the connection broke {counted(ATTEMPTS, 'time')} ({reason(error)}) after "
                    f"{part.stat().st_size if part.exists() else 0:,} of {file.size:,} bytes; the same command goes on from there."
                ) from error
    _check(part, file)
    sync(part)
    part.replace(path)
    _record(part).unlink()


def _record(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _forget_another(part: Path, file: Remote) -> None:
    """Remove what came in of a file that is no longer the bucket's, and note which file is coming in."""
    told = {"size": file.size, "tag": file.tag}
    try:
        same = json.loads(_record(part).read_text()) == told
    except (OSError, ValueError):
        same = False
    if not same:
        part.unlink(missing_ok=True)
        write_text(_record(part), canonical_json(told))
    part.touch()


def _take_up(url: str, file: Remote, part: Path, tell: Tell, cancelled: IsCancelled) -> None:
    """Add what is missing of a file; an answer that is not the rest of the same file starts it again."""
    start = part.stat().st_size
    tell(start)
    if start >= file.size:
        return
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": f'"{file.tag}"'}
    with requests.get(url, headers=headers, stream=True, timeout=SECONDS, allow_redirects=False) as answer:
        _require(answer, url, 200, 206)
        rest = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        with part.open("ab" if rest else "wb") as stream:
            for piece in answer.iter_content(PIECE):
                if cancelled():
                    raise Cancelled(f"Stopped while {file.name} was fetched; what came in stays, and the same command goes on.")
                stream.write(piece)
                if stream.tell() > file.size:
                    break
                tell(stream.tell())


def _require(answer: requests.Response, url: str, *expected: int) -> None:
    if answer.status_code in expected:
        return
    known = {403: "the bucket does not give it out", GONE: "the bucket no longer has it"}
    said = known.get(answer.status_code, "try again later")
    raise SubjectError(f"{url}: the server answered {answer.status_code} {_called(answer)}: {said}.")


def _called(answer: requests.Response) -> str:
    """What the server calls its answer, safe to print."""
    return reason(ValueError(answer.reason or "without a reason"))


def _check(part: Path, file: Remote) -> None:
    """Refuse and remove what has another size than was told, or another MD5 where the tag is one."""
    size = part.stat().st_size
    problem = "" if size == file.size else f"{size:,} bytes came in, {file.size:,} were told"
    if not problem and PLAIN_MD5.fullmatch(file.tag):
        with part.open("rb") as stream:
            found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        problem = "" if found == file.tag else f"its MD5 is {found}, the bucket says {file.tag}"
    if problem:
        part.unlink()
        _record(part).unlink(missing_ok=True)
        raise SubjectError(f"{file.name}: {problem}; it was removed. Fetch it again.")


def told_sizes(files: list[Remote]) -> list[str]:
    """A line for each folder: how many files, and how much."""
    folders: dict[str, list[int]] = {}
    for file in files:
        folders.setdefault(str(Path(file.name).parent), []).append(file.size)
    return [f"{folder}: {counted(len(sizes), 'file')}, {amount(sum(sizes))}" for folder, sizes in folders.items()]
