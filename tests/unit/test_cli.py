"""The command line: every command is there, refuses in one line with exit status 2, and writes what it says as JSON."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mine_core import cli
from mine_core.artifacts import ArtifactStore
from mine_core.cli import REFUSED, main
from mine_core.instrument.subjects import custom_artifact, known_subjects, subject_of

COMMANDS = [
    ["doctor"],
    ["build"],
    ["fit"],
    ["import"],
    ["profile"],
    ["batch"],
    ["regions"],
    ["concept"],
    ["caption"],
    ["export"],
    ["notebook", "list"],
    ["evaluate", "encoding"],
    ["evaluate", "learning"],
    ["evaluate", "description"],
    ["evaluate", "attribution"],
    ["evaluate", "removal"],
    ["evaluate", "claims"],
    ["evaluate", "counterfactual"],
    ["evaluate", "concept"],
    ["evaluate", "dictionary"],
    ["benchmark", "attribution"],
    ["benchmark", "explain"],
    ["benchmark", "start"],
    ["benchmark", "words"],
    ["benchmark", "edit"],
    ["benchmark", "encoding"],
]
OUT = {"concept": ["dog"], "caption": ["--out", "captions.csv"], "export": ["--out", "exported"]}
MADE_UP = (["benchmark", "start"], ["benchmark", "encoding"], ["benchmark", "attribution"])
"""Commands that measure on something made up for the purpose, whatever the subject."""
N_STIMULI, N_VOXELS, SIDE = 60, 3, 16


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def files(tmp_path: Path, rng: np.random.Generator) -> dict[str, Path]:
    """A user's files: images and responses, and beside them everything else that an import takes."""
    folder = tmp_path / "images"
    folder.mkdir()
    names = [f"im{i:02d}.png" for i in range(N_STIMULI)]
    for name, pixels in zip(names, rng.integers(0, 256, (N_STIMULI, SIDE, SIDE, 3), dtype=np.uint8), strict=True):
        Image.fromarray(pixels).save(folder / name)
    np.save(tmp_path / "responses.npy", rng.normal(size=(N_VOXELS, N_STIMULI)).astype(np.float32))
    np.save(tmp_path / "ceiling.npy", np.array([0.2, 0.4, 0.6]))
    split = ["train"] * 30 + ["validation"] * 15 + ["test"] * 15
    tables = {
        "ids.txt": names[::-1],
        "splits.csv": ["stimulus,split", *(f"{name},{part}" for name, part in zip(names, split, strict=True))],
        "regions.csv": ["voxel,region", "0,V4", "2,IT"],
        "captions.csv": ["stimulus,caption", *(f"{name},scene {name[2:4]}" for name in names)],
    }
    for name, lines in tables.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    return {path.stem: path for path in tmp_path.iterdir()}


def importing(files: dict[str, Path], axes: str = "voxel,stimulus", *more: str) -> list[str]:
    given = ["--images", str(files["images"]), "--responses", str(files["responses"]), "--response-axes", axes]
    return ["import", "--name", "lab-1", *given, *more]


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one line that a command says on stderr when it refuses."""
    assert main(arguments) == REFUSED
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1 and printed.err.startswith("mine: ") and "Traceback" not in printed.err
    return printed.err


@pytest.mark.parametrize("command", [[], ["evaluate"], ["benchmark"], *COMMANDS], ids=" ".join)
def test_every_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*command, "--help"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m mine_core {' '.join(command)}".rstrip())


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert {line.split()[0] for line in shown.splitlines() if re.match(r" {4}\S", line)} == {command[0] for command in COMMANDS}


@pytest.mark.parametrize("arguments", [[], ["paint"], ["evaluate"], ["build", "--seed", "many"], ["build", "--sed", "many"]])
def test_an_unknown_command_or_option_leaves_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_an_import_takes_everything_a_user_may_give(
    files: dict[str, Path], cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--stimulus-ids", "ids", "--splits", "splits", "--regions", "regions"]
    options += ["--noise-ceiling", "ceiling", "--captions", "captions"]
    given = [str(files[option]) if option in files else option for option in options]
    answer = tmp_path / "answer.json"
    assert main(importing(files, "voxel, stimulus", *given, "--units", "spikes", "--size", "24", "--json", str(answer))) == 0
    subject = subject_of(custom_artifact("lab-1", ArtifactStore(cache)))
    responses = np.load(files["responses"])
    assert subject.stimuli.ids[0] == f"im{N_STIMULI - 1}.png"
    np.testing.assert_allclose(subject.responses.values, responses.T)
    np.testing.assert_array_equal(subject.splits.test, np.arange(15))
    assert subject.stimuli.images.shape == (N_STIMULI, 24, 24, 3)
    assert subject.stimuli.captions[0] == (f"scene {N_STIMULI - 1}",)
    np.testing.assert_allclose(subject.noise_ceiling, [0.2, 0.4, 0.6])
    assert subject.responses.voxels.regions == ("IT", "V4") or subject.responses.voxels.regions == ("V4", "IT")
    np.testing.assert_array_equal(subject.responses.voxels.in_region("IT"), [2])
    assert subject.responses.units == "spikes"
    written = json.loads(answer.read_text())
    assert {name: written[name] for name in ("subject", "n_stimuli", "n_voxels")} == {
        "subject": "lab-1",
        "n_stimuli": N_STIMULI,
        "n_voxels": N_VOXELS,
    }
    shown = capsys.readouterr().out
    assert "subject: lab-1" in shown and all(f"\n  {line}" in shown for line in written["report"])


def test_every_option_of_an_import_reaches_it_by_its_name(files: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict[str, Any] = {}
    monkeypatch.setattr("mine_core.instrument.subjects.import_into", lambda store, **given: taken.update(given) or {})
    more = ["--image-order", "number", "--image-dataset", "a/b", "--response-dataset", "c", "--seed", "4", "--drop-incomplete"]
    assert main(importing(files, "stimulus,voxel,repeat", *more)) == 0
    del taken["on_progress"]
    assert taken == {
        "name": "lab-1",
        "images": files["images"],
        "responses": files["responses"],
        "response_axes": ("stimulus", "voxel", "repeat"),
        "image_order": "number",
        "image_dataset": "a/b",
        "response_dataset": "c",
        "seed": 4,
        "drop_incomplete": True,
    }


@pytest.mark.parametrize(
    ("axes", "more", "said"),
    [
        ("stimulus,voxel", [], "60"),
        ("voxel,time", [], "time"),
        ("voxel,stimulus,repeat", [], "axes"),
        ("voxel,stimulus", ["--regions", "nowhere.csv"], "nowhere.csv"),
        ("voxel,stimulus", ["--name", "../x"], "../x"),
        ("voxel,stimulus", ["--name", "phantom"], "built-in"),
        ("voxel,stimulus", ["--size", "7"], "16 to 1024"),
        ("voxel,stimulus", ["--json", "no/such/folder/a.json"], "no/such/folder"),
    ],
)
def test_what_cannot_be_imported_is_refused_in_one_line_and_nothing_is_kept(
    files: dict[str, Path], cache: Path, capsys: pytest.CaptureFixture[str], axes: str, more: list[str], said: str
) -> None:
    assert said in refused(capsys, importing(files, axes, *more))
    assert known_subjects(ArtifactStore(cache)) == ("phantom",)
    assert not list(cache.rglob("*.npy"))


def test_files_that_are_not_there_are_refused_in_one_line(
    files: dict[str, Path], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for what in ("images", "responses"):
        assert "gone" in refused(capsys, importing(files | {what: Path("gone")}))


@pytest.mark.parametrize(
    # one measures a start with an empty cache, the other a recording made up for the purpose
    "command",
    [command for command in COMMANDS if command[0] not in ("doctor", "import", "batch", "notebook") and command not in MADE_UP],
)
def test_an_unknown_subject_is_refused_by_every_command(command: list[str], cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, [*command, "--subject", "nobody", *OUT.get(command[0], [])])
    assert "'nobody'" in line and "there are phantom" in line


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--backbone", "ResNet"], "no backbone 'ResNet'"), (["--seed", "90"], "0 to 89"), (["--subject", "x", "--seed", "1"], "phantom")],
)
def test_settings_out_of_range_are_refused(options: list[str], said: str, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused(capsys, ["build", *options])


def test_a_stop_by_the_user_says_what_is_kept_and_a_bug_surfaces(cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mine_core.instrument.build.build_instrument", interrupt)
    assert "what was finished is kept" in refused(capsys, ["build"])
    monkeypatch.setattr("mine_core.instrument.build.build_instrument", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["build"])


def test_json_is_never_written_with_nan(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mine_core.instrument.doctor.examine", lambda *_: {"median_r": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        main(["doctor", "--json", str(tmp_path / "a.json")])
    assert not (tmp_path / "a.json").exists()


def test_doctor_says_what_is_here_and_is_not_stopped_by_what_is_missing(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mine_core.backbones.presets.PHANTOM_WEIGHTS", tmp_path / "nothing")
    assert main(["doctor", "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["subjects"]["phantom"].startswith("not usable: ")
    assert "phantom" in found["backbones"] and found["backbones"]["phantom"].startswith("not here")
    assert any(line.startswith("No weights of phantom,") for line in found["missing"])
    assert "missing:" in capsys.readouterr().out


def test_results_are_shown_in_indented_lines(capsys: pytest.CaptureFixture[str]) -> None:
    told = [{"sentence": "It is so (+0.50).", "estimate": 0.5}, {"sentence": "Not shown: that.", "estimate": 0.0}]
    cli.show({"r": 0.123456, "n": 7, "inner": {"p": 1e-7}, "few": ["a", "b"], "many": list("abcd"), "found": told})
    assert capsys.readouterr().out.splitlines() == [
        "r: 0.1235",
        "n: 7",
        "inner:",
        "  p: 1e-07",
        "few: ['a', 'b']",
        "many:",
        *(f"  {letter}" for letter in "abcd"),
        "found:",
        "  It is so (+0.50).",
        "  Not shown: that.",
    ]


def test_a_built_subject_is_summarised_without_making_it_again(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINE_CACHE", str(small.store.root))
    before = sorted(path for path in small.store.root.rglob("*") if path.suffix != ".lock")
    assert main(["fit", "--subject", "small", "--json", str(tmp_path / "fit.json")]) == 0
    written = json.loads((tmp_path / "fit.json").read_text())
    assert written["subject"] == "small" and written["n_voxels"] == len(small.instrument.score.r)
    assert f"n_reliable: {written['n_reliable']}" in capsys.readouterr().out
    assert sorted(path for path in small.store.root.rglob("*") if path.suffix != ".lock") == before
