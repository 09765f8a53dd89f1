"""A study in a TOML file: the same as the flags, refused in one line where it is wrong, and an example that says everything."""

import inspect
import tomllib
from pathlib import Path

import numpy as np
import pytest
from brain_files import N_STIMULI, nifti, pictures

from mine_core.artifacts import ArtifactStore
from mine_core.cli import REFUSED, main
from mine_core.errors import ConfigError
from mine_core.instrument.subjects import custom_artifact
from mine_core.subjects.custom import import_subject
from mine_core.subjects.custom.study import FIELDS, NAMES, REQUIRED, example_study, read_study, write_study


@pytest.fixture
def files(tmp_path: Path, rng: np.random.Generator) -> Path:
    grid = (4, 5, 3)
    (tmp_path / "data").mkdir()
    mask = (rng.random(grid) < 0.5).astype(np.uint8)
    for name, content in {
        "photographs.npy": pictures(rng),
        "first.nii": nifti(rng.normal(size=(*grid, N_STIMULI)).astype(np.float32)),
        "second.nii": nifti(rng.normal(size=(*grid, N_STIMULI)).astype(np.float32)),
        "mask.nii": nifti(mask),
    }.items():
        (tmp_path / "data" / name).write_bytes(content)
    return tmp_path


STUDY = """
name = "mine"
images = "data/photographs.npy"
responses = ["data/first.nii", "data/second.nii"]
files_are = "repeats"
mask = "data/mask.nii"
seed = 3
drop_incomplete = true
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text)
    return path


def test_a_file_and_flags_make_the_same_artifact(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    data = files / "data"
    flags = [
        "--name",
        "mine",
        "--images",
        str(data / "photographs.npy"),
        "--responses",
        str(data / "first.nii"),
        str(data / "second.nii"),
    ]
    flags += ["--files-are", "repeats", "--mask", str(data / "mask.nii"), "--seed", "3", "--drop-incomplete"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for number, arguments in enumerate((flags, ["--from", str(written(files, STUDY))])):
        monkeypatch.setenv("MINE_CACHE", str(tmp_path / f"cache{number}"))
        assert main(["import", *arguments]) == 0
        keys.append(custom_artifact("mine", ArtifactStore(tmp_path / f"cache{number}")).key)
    assert keys[0] == keys[1]


def test_paths_are_relative_to_the_file(files: Path) -> None:
    study = read_study(written(files, STUDY))
    assert study["images"] == files / "data/photographs.npy"
    assert study["responses"] == (files / "data/first.nii", files / "data/second.nii")
    absolute = STUDY.replace('"data/mask.nii"', '"/elsewhere/mask.nii"')
    assert read_study(written(files, absolute))["mask"] == Path("/elsewhere/mask.nii")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("respones = 'a.npy'", "unknown key 'respones'; did you mean 'responses'?"),
        ("noise-ceiling = 'a.npy'", "unknown key 'noise-ceiling'; did you mean 'noise_ceiling'?"),
        ("size = '224'", "'size' is '\"224\"'; expected a whole number"),
        ("size = 22.5", "'size' is '22.5'; expected a whole number"),
        ("size = true", "'size' is 'true'; expected a whole number"),
        ("drop_incomplete = 1", "'drop_incomplete' is '1'; expected true or false"),
        ("regions = 3", "'regions' is '3'; expected a path in quotes, or a list of them"),
        ("regions = []", "'regions' is '[]'; expected a path"),
        ("captions = ['a', 'b']", "'captions' is '[\"a\", \"b\"]'; expected the path of a file or folder"),
        ("response_axes = [1, 2]", "'response_axes' is '[1, 2]'; expected a list of words"),
        ("units = 1979-05-27", "'units' is '\"1979-05-27\"'; expected text in quotes"),
        ("cortex = 'globe'", "'cortex' is 'globe'; expected none or slices or fsaverage or pycortex or mapper"),
        ("name = 'twice'", "no readable TOML file"),
        ("size = ", "no readable TOML file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_study(written(tmp_path, f"name = 'a'\nimages = 'b'\nresponses = 'c'\n{line}\n"))
    message = str(caught.value)
    assert said in message and message.startswith("study.toml") and "\n" not in message and len(message) < 300


def test_what_every_import_needs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no images, responses; every import needs name, images, responses"):
        read_study(written(tmp_path, "name = 'a'\n"))
    with pytest.raises(ConfigError, match="no readable TOML file"):
        read_study(tmp_path / "gone.toml")
    (tmp_path / "raw.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no readable TOML file"):
        read_study(tmp_path / "raw.toml")


def test_every_field_is_an_argument_of_the_import_and_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = set(inspect.signature(import_subject).parameters) - {"check_cortex", "scratch", "on_progress", "cancelled"}
    assert set(NAMES) == arguments and len(NAMES) == len(set(NAMES))
    with pytest.raises(SystemExit):
        main(["import", "--help"])
    shown = capsys.readouterr().out
    assert all(field.flag in shown for field in FIELDS)


def test_the_example_names_every_field_and_can_be_read(tmp_path: Path) -> None:
    example = example_study()
    assert set(read_study(written(tmp_path, example))) == set(REQUIRED)
    filled = "\n".join(line[2:] if line.startswith("# ") and " = " in line else line for line in example.splitlines())
    assert set(tomllib.loads(filled)) == set(NAMES)
    assert set(read_study(written(tmp_path, filled))) == set(NAMES)


def test_what_is_saved_is_read_as_it_was_given(tmp_path: Path) -> None:
    study = {
        "name": "mine",
        "images": tmp_path / 'with "quotes" \\ and é',
        "responses": (tmp_path / "lh.gii", tmp_path / "rh.gii"),
        "response_axes": ("voxel", "stimulus"),
        "units": "a\tb\x7f\u2028😀",
        "size": 96,
        "drop_incomplete": False,
    }
    assert read_study(written(tmp_path, write_study(study))) == study


def test_the_command_writes_an_example_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "study.toml"
    assert main(["import", "--example", str(path)]) == 0 and path.read_text() == example_study()
    path.write_text("mine")
    assert main(["import", "--example", str(path)]) == REFUSED and path.read_text() == "mine"
    assert "is there already" in capsys.readouterr().err
    assert main(["import", "--example", str(tmp_path / "no/study.toml")]) == REFUSED


def test_a_file_stands_alone(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--from", str(written(files, STUDY)), "--size", "32"]) == REFUSED
    assert "--from study.toml and --size were given; expected the file alone" in capsys.readouterr().err
