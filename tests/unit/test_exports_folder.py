"""An exported folder is a BIDS derivative without a stimulus, and is refused once anything in it is damaged."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exports_case import GRID, data_files, exported, record_of

from mine_core.errors import AlignmentError, ArtifactError, ConfigError, MineError
from mine_core.exports.derivative import check_folder, read_map, read_sidecar, write_map
from mine_core.exports.files import read_data
from mine_core.exports.records import score_record
from mine_core.exports.space import space_of


@pytest.mark.parametrize("place", ["volume", "surface"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_refused_whatever_its_format(place, damage, request, small, tmp_path):
    instrument = request.getfixturevalue(place)
    folder, voxels = exported(instrument, small, tmp_path), instrument.subject.responses.voxels
    check_folder(folder, voxels)
    for path in data_files(folder):
        whole = path.read_bytes()
        broken = bytearray(whole)
        broken[len(whole) // 2] ^= 1
        if damage == "remove":
            path.unlink()
        else:
            path.write_bytes(bytes(broken) if damage == "flip" else whole[: len(whole) // 2])
        with pytest.raises(ArtifactError, match=path.name):
            check_folder(folder, voxels)
        with pytest.raises(ArtifactError, match=path.name):
            read_map(path, voxels)
        path.write_bytes(whole)
    check_folder(folder, voxels)


@pytest.mark.parametrize("place", ["volume", "surface"])
def test_a_file_alone_that_is_cut_off_is_called_damaged(place, request, small, tmp_path):
    """Without its sidecar, by its format alone: half a file is no map."""
    instrument = request.getfixturevalue(place)
    for path in data_files(exported(instrument, small, tmp_path)):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(MineError):
            read_data(path, instrument.subject.responses.voxels)
        path.write_bytes(whole)
        read_data(path, instrument.subject.responses.voxels)


def test_a_changed_sidecar_is_refused(volume, small, tmp_path):
    folder = exported(volume, small, tmp_path)
    path = next(folder.glob("sub-*/*.json"))
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"Units": "Spearman rho"}))
    with pytest.raises(ArtifactError, match="changed after it was written"):
        check_folder(folder, volume.subject.responses.voxels)
    path.write_text(path.read_text()[:50])
    with pytest.raises(ArtifactError, match="no readable sidecar"):
        check_folder(folder, volume.subject.responses.voxels)


def test_other_values_under_a_right_hash_are_refused(volume, small, rng, tmp_path):
    """A file swapped for one of another export, hash and all, does not hold the values that the sidecar says."""
    voxels, space = volume.subject.responses.voxels, space_of(volume, tmp_path)
    write_map(volume, small.store, space, record_of(rng.random(len(voxels))), tmp_path / "a", ("npz",))
    write_map(volume, small.store, space, record_of(rng.random(len(voxels))), tmp_path / "b", ("npz",))
    for kind in (".npz", ".json"):
        path = next((tmp_path / "b").glob(f"sub-*/*{kind}"))
        if kind == ".npz":
            shutil.copy(path, next((tmp_path / "a").glob("sub-*/*.npz")))
    with pytest.raises(ArtifactError, match="it is damaged, export it again"):
        check_folder(tmp_path / "a", voxels)


def test_a_map_of_other_voxels_is_refused(volume, small, rng, tmp_path):
    folder, voxels = exported(volume, small, tmp_path), volume.subject.responses.voxels
    moved = replace(voxels, flat_index=np.sort(rng.choice(np.prod(GRID), len(voxels), replace=False)))
    turned = replace(voxels, grid_shape=GRID[::-1])
    for path in data_files(folder):
        with pytest.raises(AlignmentError, match="other voxels"):
            read_map(path, moved)
        for wrong in (moved, turned):
            with pytest.raises(AlignmentError):
                read_data(path, wrong)


def test_the_folder_is_a_bids_derivative_without_a_stimulus(volume, small, tmp_path):
    folder = exported(volume, small, tmp_path)
    described = json.loads((folder / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative" and described["BIDSVersion"]
    assert described["GeneratedBy"][0]["Name"] == "MINE" and described["GeneratedBy"][0]["Version"] == "0.1.0"
    assert described["SourceDatasets"][0]["DOI"] == "doi:10.1038/s41593-021-00962-x"
    assert "SHA-256" in (folder / "README.md").read_text()
    for path in folder.glob("sub-*/*"):
        stem = path.name.split("_statmap")[0]
        assert all(part.split("-")[1].isalnum() for part in stem.split("_")), path.name
    said = read_sidecar(next(folder.glob("sub-*/*.json")))
    assert said["Units"] == "Pearson r" and said["N"]["voxels"] == len(volume.score.r) and said["Null"] and said["Definition"]
    assert said["N"]["images"] == said["Reliability"]["held_out_images"] == volume.score.n_test
    origin = said["Provenance"]
    assert origin["encoder"]["key"] == volume.model.provenance["key"] == origin["artifacts"]["encoding"]
    assert origin["backbone"]["revision"] and origin["libraries"]["numpy"] == np.__version__ and origin["made"]
    images = np.asarray(volume.subject.stimuli.images)
    for path in data_files(folder):
        assert path.stat().st_size < images[0].nbytes


@pytest.mark.parametrize("place", ["volume", "surface"])
def test_the_validator_of_bids_has_nothing_against_the_folder(place, request, small, tmp_path):
    folder = exported(request.getfixturevalue(place), small, tmp_path)
    inside = next(folder.glob("sub-*"))
    stem = next(inside.glob("*_statmap.json")).name.removesuffix("_statmap.json")
    viewer = inside / f"{stem}_webgl"
    viewer.mkdir()
    for name in (*(f"{stem}_flatmap.{ending}" for ending in ("png", "svg", "pdf")), f"{viewer.name}/index.html", "edit-7.zip"):
        (inside / name).write_bytes(b"x")

    def errors():
        command = [Path(sys.executable).with_name("bids-validator-deno"), folder, "--format", "json"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout
        return [(issue["code"], issue["location"]) for issue in json.loads(said)["issues"]["issues"] if issue["severity"] == "error"]

    assert errors() == []
    (inside / f"{stem}_colours.txt").write_text("x")
    assert [code for code, _ in errors()] == ["NOT_INCLUDED"], "it does look at every file"


def test_what_was_added_to_the_description_is_kept(volume, small, tmp_path):
    described = exported(volume, small, tmp_path, ("tsv",)) / "dataset_description.json"
    known = json.loads(described.read_text())
    described.write_text(json.dumps(known | {"Authors": ["A. Author", "B. Author"], "BIDSVersion": "0.9"}))
    exported(volume, small, tmp_path, ("npz",))
    assert json.loads(described.read_text()) == known | {"Authors": ["A. Author", "B. Author"]}


def test_maps_join_a_folder_of_their_own_and_no_other(volume, small, rng, tmp_path):
    folder, space = exported(volume, small, tmp_path, ("tsv",)), space_of(volume, tmp_path)
    voxels = volume.subject.responses.voxels
    write_map(volume, small.store, space, score_record(volume, "accuracy"), folder, ("npz",))
    assert {path.suffix for path in data_files(folder)} == {".tsv", ".npz"}
    assert check_folder(folder, voxels)["sub-small_space-func1pt8mm_desc-accuracy"]["files"] == 2
    # the same map with other values takes the place of the old one: no file of the old stays beside it
    newer = replace(volume, score=replace(volume.score, r=rng.random(len(voxels))))
    write_map(newer, small.store, space, score_record(newer, "accuracy"), folder, ("npz",))
    assert {path.suffix for path in data_files(folder)} == {".npz"}
    check_folder(folder, voxels)
    other = replace(volume, model=replace(volume.model, provenance={"key": "another"}))
    with pytest.raises(ConfigError, match="of another encoder"):
        write_map(other, small.store, space, score_record(other, "accuracy"), folder, ("npz",))
    check_folder(folder, voxels)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else"):
        write_map(volume, small.store, space, score_record(volume, "accuracy"), tmp_path / "thesis", ("npz",))
    with pytest.raises(ArtifactError, match="no export of MINE"):
        check_folder(tmp_path / "thesis", voxels)
