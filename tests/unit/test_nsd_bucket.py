"""A miniature of the dataset is fetched from a server of this machine that breaks, lies and refuses, byte for byte."""

import hashlib
import re
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from nsd_tree import PRESENT, VERSION, write

from mine_core.cli import main
from mine_core.errors import Cancelled, ConfigError, SubjectError
from mine_core.subjects import fetching, nsd_bucket
from mine_core.subjects.nsd.tree import AGREEMENT, TERMS

DESIGN = "nsddata/experiments/nsd/nsd_expdesign.mat"
STIMULI = "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
RATIO = f"nsddata_betas/ppdata/subj01/func1pt8mm/{VERSION}/ncsnr.nii.gz"


def quiet(done: int, total: int, message: str) -> None:
    """Say nothing."""


class Bucket:
    """What a server gives: files below `root`; answers cut after `breaks[name]` bytes, or `status[name]` instead."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[tuple[str, str, str]] = []
        self.breaks: dict[str, list[int]] = {}
        self.status: dict[str, int] = {}
        self.larger: set[str] = set()
        self.multipart: set[str] = set()
        self.swapped: dict[str, bytes] = {}

    def content(self, name: str) -> bytes | None:
        path = self.root / name
        return path.read_bytes() if path.is_file() else None

    def gets(self, name: str = "") -> list[tuple[str, str]]:
        return [(asked, span) for method, asked, span in self.asked if method == "GET" and (not name or asked == name)]


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        bucket, name = self.bucket, self.path[1:]
        span = self.headers.get("Range", "")
        bucket.asked.append((self.command, name, span))
        content = bucket.content(name)
        status = bucket.status.get(name, 200 if content is not None else 404)
        if status >= 300 or content is None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        tag = hashlib.md5(content, usedforsecurity=False).hexdigest() + ("-3" if name in bucket.multipart else "")
        sent = bucket.swapped.get(name, content) if body else content
        start = int(span[6:-1]) if span and self.headers.get("If-Range") == f'"{tag}"' else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(sent) - 1}/{len(sent)}")
        extra = 5 if name in bucket.larger and not body else 0
        self.send_header("Content-Length", str(len(sent) - start + extra))
        self.send_header("ETag", f'"{tag}"')
        self.end_headers()
        if body:
            cuts = bucket.breaks.get(name, [])
            rest = sent[start:]
            self.wfile.write(rest[: cuts.pop(0)] if cuts else rest)
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    served = Bucket(tmp_path / "served")
    write(served.root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Answer,), {"bucket": served}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(nsd_bucket, "BUCKET", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield served
    server.shutdown()
    server.server_close()


def fetch(root: Path, cancelled=lambda: False, on_progress=quiet) -> list[str]:
    """Fetch whatever is missing of subject 1; what was fetched."""
    files = nsd_bucket.needed_files(root, 1, "func1pt8mm", nsd_bucket.sessions_up_to(40), quiet)
    missing = nsd_bucket.to_fetch(files, root)
    fetching.fetch_files(nsd_bucket.BUCKET, missing, root, on_progress, cancelled)
    return [file.name for file in missing]


def below(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file() and ".lock" not in path.name
    }


def test_the_copy_is_the_published_tree_byte_for_byte_and_is_fetched_once(bucket, tmp_path):
    told: list[tuple[int, int]] = []
    fetched = fetch(tmp_path / "copy", on_progress=lambda done, total, _: told.append((done, total)))
    assert below(tmp_path / "copy") == below(bucket.root)
    assert len(fetched) == len(below(bucket.root)) and len(PRESENT) == sum("betas_session" in name for name in fetched)
    assert told == sorted(told) and told[-1] == (sum(map(len, below(bucket.root).values())),) * 2
    n_gets = len(bucket.gets())
    assert fetch(tmp_path / "copy") == [] and len(bucket.gets()) == n_gets


@pytest.mark.parametrize("tag", ["MD5", "of parts"])
def test_a_broken_connection_is_taken_up_where_it_broke(bucket, tmp_path, monkeypatch, tag):
    monkeypatch.setattr(fetching, "PIECE", 512)
    bucket.multipart |= {STIMULI} if tag == "of parts" else set()
    bucket.breaks[STIMULI] = [20_000, 30_000]
    fetch(tmp_path / "copy")
    assert below(tmp_path / "copy") == below(bucket.root)
    starts = [int(span[6:-1] or 0) if span else 0 for _, span in bucket.gets(STIMULI)]
    assert len(starts) == 3 and starts[0] == 0 < starts[1] <= 20_000 < starts[2] <= 50_000
    # nothing that had come in was asked for twice, but for a piece
    assert starts[1] > 20_000 - 512 and starts[2] > starts[1] + 30_000 - 512


def test_after_five_breaks_it_gives_up_and_the_next_run_goes_on(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "PIECE", 512)
    bucket.breaks[STIMULI] = [5_000] * 5
    with pytest.raises(SubjectError, match="the connection broke 5 times .* bytes; the same command goes on from there"):
        fetch(tmp_path / "copy")
    assert not (tmp_path / "copy" / STIMULI).exists()
    before = len(bucket.gets(STIMULI))
    fetch(tmp_path / "copy")
    ((_, span),) = bucket.gets(STIMULI)[before:]
    assert int(span[6:-1]) > 5 * (5_000 - 512)
    assert below(tmp_path / "copy") == below(bucket.root)


def test_a_stopped_fetch_keeps_what_came_in_and_half_a_file_is_never_a_file(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "PIECE", 512)
    answers = iter([False] * 40)
    with pytest.raises(Cancelled, match="what came in stays"):
        fetch(tmp_path / "copy", cancelled=lambda: next(answers, True))
    assert any(name.endswith(".part") for name in below(tmp_path / "copy"))
    whole = below(bucket.root)
    assert all(content == whole[name] for name, content in below(tmp_path / "copy").items() if ".part" not in name)
    fetch(tmp_path / "copy")
    assert below(tmp_path / "copy") == whole


def test_what_came_in_of_a_file_that_has_changed_since_is_thrown_away(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "PIECE", 512)
    bucket.breaks[STIMULI] = [5_000] * 5
    with pytest.raises(SubjectError, match="broke 5 times"):
        fetch(tmp_path / "copy")
    path = bucket.root / STIMULI
    path.write_bytes(bytes(reversed(path.read_bytes())))
    fetch(tmp_path / "copy")
    assert below(tmp_path / "copy") == below(bucket.root)


def spoil(bucket: Bucket, how: str, copy: Path) -> None:
    design = (bucket.root / DESIGN).read_bytes()
    if how == "wrong size":
        bucket.larger.add(DESIGN)
    elif how in ("longer", "other bytes"):
        bucket.swapped[DESIGN] = design + b"more" if how == "longer" else design[:200] + bytes([design[200] ^ 1]) + design[201:]
    elif how == "another file there":
        (copy / DESIGN).parent.mkdir(parents=True)
        (copy / DESIGN).write_bytes(b"mine")
    elif how.startswith("no "):
        for path in bucket.root.rglob({"no images": "nsd_stimuli.hdf5", "no responses": "betas_session*"}[how]):
            path.unlink()
    else:
        bucket.status[RATIO] = {"refused": 403, "redirected": 302, "broken": 503}[how]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("wrong size", r"nsd_expdesign.mat: [\d,]+ bytes came in, [\d,]+ were told; it was removed"),
        ("longer", r"nsd_expdesign.mat: [\d,]+ bytes came in, [\d,]+ were told; it was removed"),
        ("other bytes", "its MD5 is .*, the bucket says .*; it was removed"),
        ("no images", "The bucket has no nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"),
        ("no responses", "no responses of subj01 in func1pt8mm"),
        ("refused", "the server answered 403 Forbidden: the bucket does not give it out"),
        ("redirected", "the server answered 302 Found"),
        ("broken", "the server answered 503 Service Unavailable: try again later"),
        ("another file there", "nsd_expdesign.mat is in .* with 4 bytes, the bucket has [0-9,]+; move it away"),
    ],
)
def test_what_is_not_as_told_is_refused_in_one_line_and_no_wrong_file_stays(bucket, tmp_path, how, said):
    copy = tmp_path / "copy"
    spoil(bucket, how, copy)
    with pytest.raises(SubjectError, match=said) as refusal:
        fetch(copy)
    assert "\n" not in str(refusal.value)
    assert not (copy / DESIGN).exists() or how not in ("wrong size", "longer", "other bytes")
    if how == "another file there":
        assert (copy / DESIGN).read_bytes() == b"mine"


def test_an_unreachable_bucket_and_a_full_disk_are_refused(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(nsd_bucket.shutil, "disk_usage", lambda path: type("Free", (), {"free": 1000})())
    with pytest.raises(SubjectError, match="are to be fetched, 1000 bytes are free"):
        fetch(tmp_path / "copy")
    monkeypatch.setattr(nsd_bucket, "BUCKET", "http://127.0.0.1:9")
    with pytest.raises(SubjectError, match="cannot be reached"):
        fetch(tmp_path / "copy")
    assert bucket.gets() == []


def test_two_processes_do_not_fetch_into_one_folder(bucket, tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".fetching.lock"), pytest.raises(SubjectError, match="Another process is fetching"):
        fetch(tmp_path)


def test_nothing_is_asked_of_the_bucket_before_the_agreement_is_accepted(bucket, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINE_CACHE", str(tmp_path / "cache"))
    command = ["import", "nsd", "--from-bucket", "--root", str(tmp_path / "copy"), "--size", "24"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert AGREEMENT in said and TERMS in said and said.count("\n") == 1
    assert bucket.asked == [] and not (tmp_path / "copy").exists()
    # the sizes are told, and nothing is fetched until the user says yes
    assert main([*command, "--accept-nsd-terms"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"nsddata_stimuli/stimuli/nsd: 1 file, [\d.]+ KiB", told) and "Give --yes" in told
    assert bucket.gets() == []
    assert main([*command, "--accept-nsd-terms", "--yes"]) == 0
    assert "subject: nsd-subj01-func1pt8mm" in capsys.readouterr().out
    assert below(tmp_path / "copy") == below(bucket.root)


@pytest.mark.parametrize(("answer", "fetched"), [("n\n", False), ("", False), ("y\n", True)])
def test_on_a_terminal_it_asks(bucket, tmp_path, monkeypatch, capsys, answer, fetched):
    monkeypatch.setenv("MINE_CACHE", str(tmp_path / "cache"))
    terminal = type("Terminal", (), {"isatty": lambda self: True, "readline": lambda self: answer})()
    monkeypatch.setattr("sys.stdin", terminal)
    command = ["import", "nsd", "--from-bucket", "--accept-nsd-terms", "--root", str(tmp_path / "copy"), "--size", "24"]
    assert main(command) == (0 if fetched else 2)
    assert bool(bucket.gets()) == fetched
    assert ("Nothing was fetched" in capsys.readouterr().err) != fetched


def test_fewer_sessions_may_be_asked_for(bucket, tmp_path):
    files = partial(nsd_bucket.needed_files, tmp_path, 1, "func1pt8mm", on_progress=quiet)
    names = [file.name for file in files(sessions=nsd_bucket.sessions_up_to(2))]
    assert [name[-7:-5] for name in names if "betas_session" in name] == ["01", "02"]
    with pytest.raises(ConfigError, match="--sessions 41: expected 1 to 40"):
        nsd_bucket.sessions_up_to(41)


def test_the_surfaces_are_fetched_and_hemispheres_of_labels_too(bucket, tmp_path):
    for path in bucket.root.rglob("streams.nii.gz"):
        for side in ("lh", "rh"):
            path.with_name(f"{side}.streams.nii.gz").write_bytes(path.read_bytes())
        path.unlink()
    names = {Path(name).name for name in fetch(tmp_path / "copy")}
    assert {"lh.streams.nii.gz", "rh.streams.nii.gz", "streams.mgz.ctab"} <= names
    surface = tmp_path / "surface"
    write(surface, "fsaverage")
    bucket.root = surface
    files = nsd_bucket.needed_files(tmp_path / "other", 1, "fsaverage", range(1, 5), quiet)
    assert {file.name for file in files} == set(below(surface))
