"""The command `export`: writes what it says, reads it back, refuses in one line; and the 3-D viewer that it can write."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mine_core.artifacts import ArtifactStore
from mine_core.cli import REFUSED, main
from mine_core.config import cache_directory
from mine_core.cortex.filestore import PYCORTEX_LOCK, open_pycortex, quiet
from mine_core.cortex.s1 import s1_voxels
from mine_core.errors import ConfigError, SubjectError
from mine_core.exports import provenance
from mine_core.exports.edits import read_edit
from mine_core.exports.maps import CortexMap
from mine_core.exports.records import MapRecord, group_record, score_record
from mine_core.exports.space import space_of
from mine_core.exports.webgl import surface_information_in_cache, write_webgl
from mine_core.instrument import trials


def refused(capsys, *arguments) -> str:
    assert main(["export", *map(str, arguments)]) == REFUSED
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and "Traceback" not in printed.err
    return printed.err


@pytest.fixture
def edits_are_quick(monkeypatch):
    monkeypatch.setattr(trials, "N_ELSEWHERE", 2)
    monkeypatch.setattr(trials, "N_CONTENT", 2)


def test_maps_are_written_and_read_back(small, apart, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", "--subject", "small", "--out", str(out)]) == 0
    assert "units without a place" in capsys.readouterr().out
    names = sorted(path.name for path in out.glob("sub-small/*"))
    assert names == sorted(
        f"sub-small_desc-{name}_statmap.{ending}"
        for name in ("accuracy", "normalised", "ceiling", "q")
        for ending in ("json", "npz", "tsv")
    )
    assert (
        main(["export", "--subject", "small", "--out", str(out), "--map", "group,image", "--image", "3", "--format", "csv,svg,png"])
        == 0
    )
    assert len(list(out.glob("sub-small/*_flatmap.*"))) == 4
    assert main(["export", "--subject", "small", "--check", str(out)]) == 0
    assert "voxels_with_a_value: 32" in capsys.readouterr().out
    table = pd.read_csv(out / "sub-small/sub-small_desc-accuracy_statmap.tsv", sep="\t")
    np.testing.assert_array_equal(np.float32(table["value"]), np.float32(small.instrument.score.r))
    damaged = out / "sub-small/sub-small_desc-q_statmap.npz"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert "sub-small_desc-q_statmap.npz" in refused(capsys, "--subject", "small", "--check", out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "either --out DIR to write to or --check PATH"),
        (("--out", "x", "--check", "x"), "either --out DIR to write to or --check PATH"),
        (("--out", "OUT", "--map", "fame"), "no map 'fame'; there are accuracy, normalised"),
        (("--out", "OUT", "--format", "jpeg"), "no format 'jpeg'; there are nifti, gifti, npz, tsv, csv, png, svg, pdf, webgl"),
        (("--out", "OUT", "--format", "nifti"), "write npz, tsv or csv"),
        (("--out", "OUT", "--format", "npz,gifti"), "write npz, tsv or csv"),
        (("--out", "OUT", "--format", "webgl"), "has no surface in pycortex"),
        (("--out", "OUT", "--map", "image"), "Map 'image' needs --image N"),
        (("--out", "OUT", "--map", "search"), "give 1 to 12 texts"),
        (("--out", "OUT", "--map", "accuracy,layer"), "fit --dictionary"),
        (("--out", "OUT", "--map", "shift", "--edit", "insert"), "An insertion needs --word"),
        (
            ("--out", "OUT", "--map", "shift", "--voxel", "0", "--image", "0", "--editor", "brush"),
            "There is no generative editor 'brush'",
        ),
        (("--check", "OUT"), "is no export of MINE"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(arguments, said, apart, tmp_path, capsys):
    out = tmp_path / "out"
    # another test may have made the dictionary of this subject
    shutil.rmtree(apart.root / "matches", ignore_errors=True)
    assert said in refused(capsys, "--subject", "small", *(str(out) if part == "OUT" else part for part in arguments))
    assert not out.exists()


def test_an_edit_is_written_and_read_back(small, apart, tmp_path, capsys, edits_are_quick):
    voxel, out = int(small.instrument.score.r.argmax()), tmp_path / "out"
    image = int(small.instrument.predicted(voxel).argmax())
    asked = ["export", "--subject", "small", "--out", str(out), "--map", "shift,edit", "--voxel", str(voxel), "--image", str(image)]
    assert main(asked) == 0
    path = next(out.glob("edit-small-removev*.zip"))
    read = read_edit(path)
    np.testing.assert_array_equal(read.original, small.instrument.subject.stimuli.images[image])
    table = pd.read_csv(next(out.glob("sub-small/*shiftremove*.tsv")), sep="\t")
    told = (table["withheld"].isna()).to_numpy()
    np.testing.assert_array_equal(np.float32(table["value"])[told], np.float32(read.shift)[told])
    capsys.readouterr()
    assert main(["export", "--check", str(path)]) == 0
    assert "remove what drives the voxel" in capsys.readouterr().out
    smooth = tmp_path / "smooth"
    assert main([str(smooth) if part == str(out) else part for part in asked] + ["--editor", "smooth-fill"]) == 0
    other = read_edit(next(smooth.glob("edit-small-remove*.zip")))
    assert other.provenance["editor"]["name"] == "smooth-fill" and not np.array_equal(other.edited, read.edited)
    assert np.array_equal(other.edit_mask, read.edit_mask)


def test_guarded_images_leave_under_their_agreement_alone(small, apart, tmp_path, capsys, monkeypatch, edits_are_quick):
    monkeypatch.setitem(provenance.RESTRICTED, "custom", provenance.NSD)
    out = tmp_path / "out"
    asked = ["--subject", "small", "--out", out, "--map", "edit", "--voxel", 0, "--image", int(small.instrument.predicted(0).argmax())]
    for given in ([], ["--agreement", "yes"]):
        assert f"Name '{provenance.NSD}'" in refused(capsys, *asked, *given)
    assert not out.exists()
    assert main(["export", *map(str, asked), "--agreement", provenance.NSD]) == 0
    assert len(list(out.glob("*.zip"))) == 1


@pytest.mark.parametrize("kind", ["phantom", "custom"])
def test_the_viewer_is_whole_and_holds_the_map(kind, small, rng, tmp_path):
    """Its picture of the volume is float32 in four bytes of colour: the values of the map and no others."""
    place = s1_voxels(cache_directory())
    values = rng.uniform(0.1, 0.9, len(place.index)).astype(np.float32)
    values[::5] = np.nan
    score = replace(small.instrument.score, **{name: values for name in ("r", "r2", "noise_ceiling", "p", "q")})
    responses = replace(small.instrument.subject.responses, voxels=place.index)
    # a recording imported onto the same cortex is shown as the phantom is
    record = {"cortex": {"kind": "pycortex", "subject": "S1", "transform": "fullhead"}, "affine": np.eye(4).tolist()}
    subject = replace(small.instrument.subject, kind=kind, responses=responses, provenance={"import": record})
    instrument = replace(small.instrument, subject=subject, score=score)
    shown = CortexMap("Planted", values, 0.0, 1.0, False, "unit", "planted")
    record = MapRecord("planted", shown, "planted", "none", "made up", ("",) * len(values), 7)
    store, folder = ArtifactStore(cache_directory()), tmp_path / "viewer"
    index = write_webgl(instrument, store, space_of(instrument, store.root), record, folder)
    endings = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert endings == {".html", ".ctm", ".json", ".svg", ".png"}
    page = index.read_text()
    assert "Planted (unit)" in page
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"'](?:https?:)?//[^\"']+", page)
    picture = np.asarray(Image.open(next((folder / "data").glob("*.png"))))
    packed = np.ascontiguousarray(picture).view(np.float32).ravel()
    found = packed[np.isfinite(packed) & (packed != 0)]
    np.testing.assert_array_equal(np.sort(found), np.sort(values[np.isfinite(values)]))
    with pytest.raises(ConfigError, match="no legend: map 'group' has"):
        write_webgl(
            instrument,
            store,
            space_of(instrument, store.root),
            replace(record, name="group", shown=replace(shown, categories=("a",))),
            folder,
        )
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="something else than a viewer"):
        write_webgl(instrument, store, space_of(instrument, store.root), record, tmp_path / "other")


def test_what_is_derived_of_surfaces_is_kept_in_the_cache(tmp_path):
    """Not in pycortex's installation, which other processes read; pycortex's own answer, once and again."""
    with PYCORTEX_LOCK, quiet():
        cortex = open_pycortex(tmp_path)
        filestore, cache = Path(cortex.db.filestore), Path(cortex.db.get_cache("S1"))
        before = {file: file.stat().st_mtime_ns for file in filestore.rglob("*") if file.is_file()}
        with surface_information_in_cache(cortex, "S1"):
            bends = cortex.db.get_surfinfo("S1", "curvature").data
            again = cortex.db.get_surfinfo("S1", "curvature").data
            shipped = cortex.db.get_surfinfo("S1", "bumpy_flatmap")
        assert {file: file.stat().st_mtime_ns for file in filestore.rglob("*") if file.is_file()} == before
        assert Path(cortex.db.get_paths("S1")["surfinfo"]).is_relative_to(filestore)
    assert {file.name for file in cache.glob("*.npz")} >= {"curvature.npz", "bumpy_flatmap.npz"}
    np.testing.assert_array_equal(bends, again)
    assert len(bends) == sum(len(cortex.db.get_surf("S1", "pia", half)[0]) for half in ("lh", "rh"))
    with np.load(filestore / "S1/surface-info/bumpy_flatmap.npz") as installed:
        for name in installed.files:
            np.testing.assert_array_equal(shipped[name], installed[name])


def test_a_subject_without_a_surface_has_no_viewer(small, tmp_path):
    instrument, store = small.instrument, small.store
    with pytest.raises(SubjectError, match="'small' has no surface in pycortex.*Write png"):
        write_webgl(instrument, store, space_of(instrument, store.root), score_record(instrument, "accuracy"), tmp_path / "v")
    assert group_record(instrument).shown.categories and not (tmp_path / "v").exists()
