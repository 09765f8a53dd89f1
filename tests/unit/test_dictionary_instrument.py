"""The dictionary of a small subject: made on demand, goes on where it was stopped, and says of units what can be counted again."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats

from mine_core.dictionary.activations import codes_of
from mine_core.errors import Cancelled, EditError, EncodingError, SubjectError
from mine_core.experiments import dictionary_accuracy
from mine_core.exports.derivative import read_map, write_map
from mine_core.exports.layers import layer_record
from mine_core.exports.space import space_of
from mine_core.instrument.dictionary import (
    build_dictionary,
    dictionary_is_built,
    dictionary_stages,
    open_dictionary,
    page_stages,
    regions_of,
    stability_of_layers,
    stages_of_path,
    unit_numbers,
)
from mine_core.instrument.dictionary_edits import largest_activation, removal_of_unit, unit_region
from mine_core.instrument.dictionary_regions import units_of_region
from mine_core.instrument.dictionary_views import (
    Unit,
    activation,
    image_through_layers,
    patches_of_unit,
    top_images,
    unit_on_cortex,
    units_of_voxel,
    words_of_unit,
)
from mine_core.instrument.trials import run_trial


@pytest.fixture(scope="module")
def made(small):
    return build_dictionary(small.config, small.store, whole=False)


@pytest.fixture(scope="module")
def dictionary(made):
    return open_dictionary(made)


def test_it_is_no_part_of_the_build_and_goes_on_where_it_was_stopped(small):
    assert not {"layers", "autoencoders", "matches"} & set(small.first_made)
    stages = {stage.name for stage in page_stages(small.config, small.store)}
    assert stages < {stage.name for stage in dictionary_stages(small.config, small.store)}
    if not dictionary_is_built(small.config, small.store):
        seen: list[str] = []

        def stop() -> bool:
            return any("layer 3" in message for message in seen)

        with pytest.raises(Cancelled):
            build_dictionary(small.config, small.store, whole=False, on_progress=lambda *report: seen.append(report[2]), cancelled=stop)
        unfinished = list((small.store.root / "unfinished").rglob("*.safetensors"))
        assert len(unfinished) >= 2
    build_dictionary(small.config, small.store, whole=False)
    assert dictionary_is_built(small.config, small.store)
    assert not list((small.store.root / "unfinished").rglob("autoencoder_training.safetensors"))


def test_a_voxels_units_are_what_they_are_said_to_be(small, dictionary):
    voxel = int(np.argmin(dictionary.matches.q))
    found = units_of_voxel(small.instrument, dictionary, voxel)
    assert len(found) == 2 * len(dictionary.tokens)
    assert [entry.r_chosen for entry in found] == sorted((entry.r_chosen for entry in found), reverse=True)
    answers = small.instrument.subject.responses.values[:, voxel]
    for entry in found[:3]:
        values = activation(dictionary, entry.unit)
        chosen, measure = dictionary.halves.choose, dictionary.halves.measure
        assert entry.r_held_out == pytest.approx(stats.pearsonr(values[measure], answers[measure])[0], abs=2e-3)
        assert entry.r_chosen == pytest.approx(stats.pearsonr(values[chosen], answers[chosen])[0], abs=2e-3)
        assert 0 < entry.p <= 1
    with pytest.raises(SubjectError, match="voxels 0 to"):
        units_of_voxel(small.instrument, dictionary, 999)


def test_a_units_images_patches_and_activation_agree(small, dictionary):
    unit = Unit(1, int(np.asarray(dictionary.whole[1], np.float32).sum(axis=0).argmax()))
    stimuli = top_images(dictionary, unit, 5)
    values = patches_of_unit(dictionary, unit, stimuli)
    assert values.shape == (5, *dictionary.tokens.backbone.grid)
    assert np.allclose(values.max(axis=(1, 2)), activation(dictionary, unit)[stimuli], rtol=2e-3, atol=2e-3)
    assert (np.diff(activation(dictionary, unit)[stimuli]) <= 0).all()
    codes = codes_of(dictionary.autoencoders[1], dictionary.tokens.patches[1], stimuli)
    assert np.allclose(values.reshape(5, -1), codes[:, :, unit.unit])
    with pytest.raises(SubjectError, match="units; unit 100000"):
        activation(dictionary, Unit(1, 100000))
    missing = next(u for u in range(768) if 5 * 768 + u not in set(dictionary.columns[0].column.tolist()))
    with pytest.raises(SubjectError, match="see it in whole images"):
        activation(dictionary, Unit(0, missing, 5))


def test_a_unit_on_the_cortex_is_its_correlation_and_its_words_are_held_out(small, dictionary):
    unit = Unit(3, int((np.asarray(dictionary.whole[3], np.float32) > 0).sum(axis=0).argmax()))
    found = unit_on_cortex(small.instrument, dictionary, unit)
    splits = small.instrument.subject.splits
    held_out = np.concatenate([splits.validation, splits.test])
    assert found.n_images == len(held_out)
    values = activation(dictionary, unit)[held_out]
    assert found.r[3] == pytest.approx(stats.pearsonr(values, small.instrument.subject.responses.values[held_out, 3])[0], abs=1e-4)
    assert ((found.q >= 0) & (found.q <= 1)).all()
    for word in words_of_unit(small.instrument, dictionary, unit):
        assert word.p <= 0.05 and word.word in small.instrument.vocabulary.words
        place = small.instrument.evidence.get().words.index(word.word)
        presence = np.asarray(small.instrument.evidence.get().presence[held_out, place], np.float64)
        assert word.r == pytest.approx(stats.pearsonr(presence, values)[0], abs=1e-3)


def test_an_image_through_the_layers_is_a_regression_on_one_unit(small, dictionary):
    values = image_through_layers(dictionary, 4)
    assert values.shape == (len(dictionary.tokens), len(small.instrument.score.r))
    assert np.array_equal(np.isfinite(values[0]), dictionary.matched)
    matches, measure = dictionary.matches, dictionary.halves.measure
    for voxel in np.flatnonzero(dictionary.matched)[:3]:
        for layer in range(len(dictionary.tokens)):
            rank = next(rank for rank, other in enumerate(matches.layer[voxel]) if other == layer)
            unit = Unit(layer, int(matches.unit[voxel, rank]), int(matches.place[voxel, rank]))
            seen = dictionary.columns[layer].of(unit.unit, unit.place)
            z = (seen[4] - seen[measure].mean()) / seen[measure].std() if seen[measure].std() > 0 else 0.0
            assert values[layer, voxel] == pytest.approx(matches.r_held_out[voxel, rank] * z, abs=1e-4)
    with pytest.raises(SubjectError, match="images 0 to"):
        image_through_layers(dictionary, -1)


def test_a_unit_is_taken_out_by_the_same_machinery_as_any_removal(small, dictionary):
    unit = Unit(2, int(np.asarray(dictionary.whole[2], np.float32).sum(axis=0).argmax()))
    stimulus = int(top_images(dictionary, unit, 1)[0])
    values = patches_of_unit(dictionary, unit, np.array([stimulus]))[0]
    region = unit_region(small.instrument, dictionary, unit, stimulus)
    side = small.instrument.subject.stimuli.images.shape[1] // 8
    for row, col in np.ndindex(8, 8):
        patch = region[row * side : (row + 1) * side, col * side : (col + 1) * side]
        assert patch.all() == patch.any() == (values[row, col] >= 0.5 * values.max())
    image = np.asarray(small.instrument.subject.stimuli.images[stimulus])
    seen = largest_activation(small.instrument, dictionary, unit, image)
    assert seen == pytest.approx(values.max(), rel=2e-2)
    trial = run_trial(small.instrument, removal_of_unit(small.instrument, dictionary, unit, 0, stimulus))
    assert trial.edit.changed_outside_mask == 0 and len(trial.shift.control_names) > 0
    assert np.array_equal(trial.edit.edit_mask, region)
    assert largest_activation(small.instrument, dictionary, unit, trial.edit.edited) < seen
    silent = int(np.argmin(np.asarray(dictionary.whole[2], np.float32).max(axis=1)))
    quiet = Unit(2, int(np.argmin(np.asarray(dictionary.whole[2][silent], np.float32))))
    with pytest.raises(EditError, match="is silent in image"):
        unit_region(small.instrument, dictionary, quiet, silent)


def test_units_are_numbered_over_all_layers(dictionary):
    n_units = [autoencoder.n_units for autoencoder in dictionary.autoencoders]
    layer, unit = dictionary.matches.layer[0, 0], dictionary.matches.unit[0, 0]
    assert unit_numbers(dictionary)[0] == sum(n_units[:layer]) + unit


def everyone_matched(small, dictionary):
    """The small subject with one region of six voxels, all of them matched."""
    voxels = small.instrument.subject.responses.voxels
    inside = np.arange(len(voxels)) < 6
    there = replace(voxels, regions=("FFA",), membership=inside[None])
    subject = replace(small.instrument.subject, responses=replace(small.instrument.subject.responses, voxels=there))
    sure = replace(dictionary.matches, q=np.zeros(len(voxels)))
    return replace(small.instrument, subject=subject), replace(dictionary, matches=sure), np.flatnonzero(inside)


def test_units_of_a_region_are_the_best_of_each_and_the_best_sum_of_all(small, dictionary):
    instrument, matched, voxels = everyone_matched(small, dictionary)
    own, alone = units_of_region(instrument, matched, "FFA")
    whole = np.concatenate([np.asarray(layer, np.float64) for layer in dictionary.whole], axis=1)
    answers = np.asarray(instrument.subject.responses.values, np.float64)
    n_units = [layer.shape[1] for layer in dictionary.whole]
    number = {"own": own, "alone": alone}
    for name, found in number.items():
        column = np.concatenate([[0], np.cumsum(n_units)])[found.layer] + found.unit
        for half, told in ((dictionary.halves.choose, found.r_chosen), (dictionary.halves.measure, found.r_held_out)):
            truth = [
                stats.pearsonr(whole[half, unit], answers[half, voxel])[0] if np.ptp(whole[half, unit]) else 0.0
                for unit, voxel in zip(column, found.voxels, strict=True)
            ]
            assert told == pytest.approx(truth, abs=1e-4), name
    assert np.array_equal(own.voxels, voxels) and sorted(alone.voxels) == list(voxels)
    assert alone.n_units == len(voxels) and (own.r_chosen[alone.voxels] >= alone.r_chosen - 1e-6).all()
    # no exchange of the units of two voxels raises the sum
    choose = dictionary.halves.choose
    column = np.concatenate([[0], np.cumsum(n_units)])[alone.layer] + alone.unit
    r = np.corrcoef(whole[choose][:, column].T, answers[choose][:, alone.voxels].T)[:6, 6:]
    assert all(r[a, a] + r[b, b] >= r[a, b] + r[b, a] - 1e-6 for a in range(6) for b in range(6))
    with pytest.raises(EncodingError, match="no region 'V9'"):
        units_of_region(instrument, matched, "V9")
    nobody = replace(matched, matches=replace(matched.matches, q=np.ones(len(matched.matches.q))))
    with pytest.raises(EncodingError, match="FFA has 0 voxels with a unit"):
        units_of_region(instrument, nobody, "FFA")


def test_quality_and_stability_of_every_layer_are_those_that_are_evaluated(small, dictionary):
    build_dictionary(small.config, small.store)
    told = dictionary_accuracy.measure(small.config, small.store, lambda *_: None)["autoencoders"]["patch"]["topk"]
    again = stability_of_layers(small.config, small.store, dictionary)
    for layer, entry in enumerate(told):
        assert {name: entry[name] for name in asdict(dictionary.quality[layer])} == asdict(dictionary.quality[layer])
        assert asdict(again[layer]) == entry["stability"]


def test_the_path_knows_early_and_category_regions():
    found = stages_of_path(("V1v", "V2", "V3d", "hV4", "FFA-1", "PPA", "IPS", "what"))
    assert found == {"V1v": 0, "V2": 1, "V3d": 2, "hV4": 3, "FFA-1": 4, "PPA": 4}


def test_everything_is_measured_and_written_as_plain_json(small, dictionary):
    found = dictionary_accuracy.measure(small.config, small.store, lambda *_: None)
    json.dumps(found, allow_nan=False)
    assert found["planted_depth"] is None and found["n_layers"] == 4
    for tokens in ("patch", "pooled"):
        for kind in ("topk", "jumprelu"):
            rows = found["autoencoders"][tokens][kind]
            assert [row["layer"] for row in rows] == [1, 2, 3, 4]
            assert all(row["explained"] <= 1 and 0 <= row["dead"] <= 1 and row["stability"]["null"] < 1 for row in rows)
            entry = found["matches"][f"{tokens} {kind}"]
            assert entry["null_voxel_match_rate"] is None and entry["inflation"]["r"] > 0
    regions, matched = regions_of(small.instrument), dictionary.matched
    assert set(found["layers"]["by_region"]) == set(regions)
    for name, inside in regions.items():
        assert sum(found["layers"]["by_region"][name]["share_best"]) == pytest.approx(1)
        n = int((inside & matched).sum())
        assert (name in found["one_to_one"]) == (n >= 2)
        assert n < 2 or found["one_to_one"][name]["one_to_one"]["units"] == found["one_to_one"][name]["n"] == n
        own, given = (found["one_to_one"][name][kind]["chosen"] for kind in ("own_best", "one_to_one"))
        assert given <= own + 1e-6
    assert found["layers"]["path"] is None


def test_the_map_of_layers_is_exported_and_read_back(small, dictionary, tmp_path):
    instrument, record = small.instrument, layer_record(dictionary)
    placed = dictionary.placed
    np.testing.assert_array_equal(record.values[placed], dictionary.preference.best[placed] + 1)
    assert np.isnan(record.values[~placed]).all() and [not reason for reason in record.withheld] == placed.tolist()
    write_map(instrument, small.store, space_of(instrument, tmp_path), record, tmp_path / "out", ("npz", "tsv"))
    for path in (tmp_path / "out").glob("sub-small/*layer_statmap.[nt]*"):
        np.testing.assert_array_equal(read_map(path, instrument.subject.responses.voxels), record.values)
