"""An exported edit is read back bit for bit, says where it comes from, and is not handed on without its data agreement."""

import hashlib
import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mine_core.artifacts import hash_array
from mine_core.errors import AlignmentError, ArtifactError, ConfigError
from mine_core.exports.edits import edit_zip, read_edit
from mine_core.exports.provenance import NSD
from mine_core.exports.records import shift_record
from mine_core.instrument import trials
from mine_core.instrument.trials import EditRequest, run_trial


@pytest.fixture(scope="module")
def made(small):
    """A removal, and what a second encoder would say of it: other numbers, whatever they are."""
    region = np.zeros((96, 96), bool)
    region[20:50, 30:60] = True
    request = EditRequest("remove", int(small.instrument.score.r.argmax()), 3, region=np.packbits(region).tobytes(), seed=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "N_ELSEWHERE", 2)
        patch.setattr(trials, "N_CONTENT", 2)
        trial = run_trial(small.instrument, request)
    check = replace(trial.shift, shift=trial.shift.shift / 3, controls=trial.shift.controls / 7, checked_by="second")
    return request, replace(trial, check=check)


def files_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def repacked(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def test_an_edit_is_read_back_bit_for_bit(small, made, tmp_path):
    request, trial = made
    content = edit_zip(small.instrument, small.store, request, trial)
    path = tmp_path / "edit.zip"
    path.write_bytes(content)
    for source in (content, path):
        read = read_edit(source)
        np.testing.assert_array_equal(read.original, trial.edit.original)
        np.testing.assert_array_equal(read.edited, trial.edit.edited)
        np.testing.assert_array_equal(read.edit_mask, trial.edit.edit_mask)
        assert read.shift.dtype == np.float64
        np.testing.assert_array_equal(read.shift, trial.shift.shift.astype(np.float64))
        np.testing.assert_array_equal(read.controls, trial.shift.controls)
    outside = ~read.edit_mask
    np.testing.assert_array_equal(read.original[outside], read.edited[outside])


def test_tables_hold_every_voxel_and_every_control(small, made):
    request, trial = made
    files = files_of(edit_zip(small.instrument, small.store, request, trial))
    shift = pd.read_csv(io.BytesIO(files["shift.tsv"]), sep="\t")
    assert shift["voxel"].tolist() == list(range(len(small.instrument.score.r)))
    np.testing.assert_array_equal(shift["after"] - shift["before"], trial.shift.after.astype(float) - trial.shift.before.astype(float))
    np.testing.assert_array_equal(shift["rank"], trial.shift.rank)
    np.testing.assert_array_equal(shift["p"], trial.shift.p)
    np.testing.assert_array_equal(shift["check_shift"], trial.check.shift.astype(float))
    assert ((shift["reliable"] == "yes") == small.instrument.reliable).all()
    controls = pd.read_csv(io.BytesIO(files["controls.tsv"]), sep="\t")
    assert controls["kind"].tolist() == list(trial.shift.control_names)
    np.testing.assert_array_equal(controls["shift"], trial.shift.controls[:, request.voxel].astype(float))
    # the rank can be found again from the tables alone
    value = shift["shift"][request.voxel]
    assert 1 + int((controls["shift"] <= value).sum()) == shift["rank"][request.voxel]


def test_the_record_says_what_was_done_by_whom_and_from_what(small, made):
    request, trial = made
    found = json.loads(files_of(edit_zip(small.instrument, small.store, request, trial))["provenance.json"])
    assert found["instruction"] == trial.edit.instruction and found["request"]["region"] == "drawn"
    assert found["editor"]["name"] == trial.edit.editor and found["editor"]["seed"] == 4
    assert {name: found["editor"][name] for name in trial.edit.provenance} == json.loads(json.dumps(dict(trial.edit.provenance)))
    assert found["mask_sha256"] == hash_array(trial.edit.edit_mask)
    assert found["guided_by"] == small.instrument.model.provenance["key"] and found["checked_by"] == "second"
    assert found["changed_outside_mask"] == 0 and "not measurements" in found["nature"]
    origin = found["of"]
    assert origin["artifacts"]["encoding"] == small.instrument.model.provenance["key"]
    assert origin["backbone"]["revision"] and origin["libraries"]["torch"] and origin["made"]


def test_a_diffusion_editors_own_record_is_kept_whole(small, made):
    request, trial = made
    own = {"pipeline": "P", "repository": "r", "weights": "abc", "scheduler": "S", "steps": 8, "strength": 0.9, "guidance": 3.0}
    edit = replace(trial.edit, provenance=own)
    found = json.loads(files_of(edit_zip(small.instrument, small.store, request, replace(trial, edit=edit)))["provenance.json"])
    assert {name: found["editor"][name] for name in own} == own


@pytest.mark.parametrize("kind", ["nsd", "algonauts"])
def test_images_of_a_restricted_dataset_need_its_agreement_by_name(small, made, kind):
    request, trial = made
    guarded = replace(small.instrument, subject=replace(small.instrument.subject, kind=kind))
    for given in (None, "", "yes", NSD.lower()):
        with pytest.raises(ConfigError, match=f"may not be handed on.*Name '{NSD}'"):
            edit_zip(guarded, small.store, request, trial, agreement=given)
    read = read_edit(edit_zip(guarded, small.store, request, trial, agreement=NSD))
    np.testing.assert_array_equal(read.original, trial.edit.original)
    # the map of its shift is numbers, and needs none
    assert shift_record(guarded, trial, request).about["stimulus_id"] == "s003"


def test_damage_is_refused_wherever_it_is(small, made):
    request, trial = made
    content = edit_zip(small.instrument, small.store, request, trial)
    files = files_of(content)
    read_edit(repacked(files))
    for name in files:
        changed = bytearray(files[name])
        changed[len(changed) // 2] ^= 1
        with pytest.raises(ArtifactError):
            read_edit(repacked(files | {name: bytes(changed)}))
        if name != "provenance.json":
            with pytest.raises(ArtifactError, match=name):
                read_edit(repacked({other: kept for other, kept in files.items() if other != name}))
    for length in (0, 100, len(content) // 2, len(content) - 10):
        with pytest.raises(ArtifactError):
            read_edit(content[:length])
    # a changed image with a hash to match, but not the record's own checksum
    record = json.loads(files["provenance.json"])
    record["files"]["edited.png"] = hashlib.sha256(files["original.png"]).hexdigest()
    forged = files | {"edited.png": files["original.png"], "provenance.json": json.dumps(record).encode()}
    with pytest.raises(ArtifactError, match=r"provenance.json was changed"):
        read_edit(repacked(forged))


def test_a_trial_of_another_subject_is_refused(small, made):
    request, trial = made
    score = small.instrument.score
    fewer = {name: getattr(score, name)[:-1] for name in ("r", "r2", "noise_ceiling", "p", "q")}
    other = replace(small.instrument, score=replace(score, **fewer))
    with pytest.raises(AlignmentError, match="shifts 32 voxels, the subject has 31"):
        edit_zip(other, small.store, request, trial)


def test_the_same_edit_gives_the_same_bytes_but_for_the_time(small, made):
    request, trial = made
    first, second = (files_of(edit_zip(small.instrument, small.store, request, trial)) for _ in range(2))
    assert {name for name in first if first[name] != second[name]} <= {"provenance.json"}
