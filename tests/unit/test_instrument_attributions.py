"""Attribution of an instrument: made on demand, once, and the same whether stored or computed."""

import shutil

import numpy as np
import pytest

from mine_core.attribution.base import METHOD_NAMES
from mine_core.attribution.occlusion import occlusion_values
from mine_core.errors import BackboneError, Cancelled, EncodingError
from mine_core.experiments import attribution_curves
from mine_core.experiments.attribution_curves import Curves, Pair, agreement, forgetful, sample_pairs, similarity, token_entry
from mine_core.experiments.attribution_maps import Maps
from mine_core.experiments.voxel_faithfulness import WHOLE, images_to_test, region_faithfulness, voxel_faithfulness
from mine_core.instrument.attributions import (
    attribute_stimulus,
    build_averages,
    build_prepared,
    find_prepared,
    occlude_stimulus,
)
from mine_core.instrument.explain import explain_voxel


def best_voxel(small) -> int:
    return int(np.argmax(small.instrument.score.r))


def test_traced_parts_are_made_once_and_not_by_the_build(small):
    instrument, store = small.instrument, small.store
    assert "traced" not in small.first_made
    # a page that another test opened may have prepared them
    shutil.rmtree(store.root / "traced", ignore_errors=True)
    store.made.clear()
    assert find_prepared(instrument, store, "traced") is None
    with pytest.raises(Cancelled):
        build_prepared(instrument, store, "traced", cancelled=lambda: True)
    assert find_prepared(instrument, store, "traced") is None
    seen: list[int] = []
    traced = build_prepared(instrument, store, "traced", on_progress=lambda done, *_: seen.append(done))
    assert seen[-1] == len(instrument.subject.stimuli)
    assert np.array_equal(build_prepared(instrument, store, "traced").parts, traced.parts)
    assert sorted(store.made)[-1] == "traced" and store.made.count("traced") <= 2
    voxel = best_voxel(small)
    exact = attribute_stimulus(instrument, store, "traced", 7, voxel).values[0]
    stored = traced.values(instrument, np.array([7]), voxel)[0]
    assert np.abs(stored - exact).max() < 5e-3 * np.abs(exact).max()
    # heatmaps on the finer grid are explained with the words of the same patches
    shown = explain_voxel(instrument, voxel, n=3, heat=lambda stimuli: traced.values(instrument, stimuli, voxel))
    rows, cols = instrument.features.backbone.grid
    assert all(item.values.shape == (2 * rows, 2 * cols) for item in shown)


def test_occlusion_of_all_stimuli_gives_what_each_gives(small):
    instrument, store = small.instrument, small.store
    assert find_prepared(instrument, store, "occlusion") is None
    with pytest.raises(Cancelled):
        build_prepared(instrument, store, "occlusion", cancelled=lambda: True)
    assert find_prepared(instrument, store, "occlusion") is None
    stored = build_prepared(instrument, store, "occlusion")
    assert find_prepared(instrument, store, "occlusion").parts.shape == stored.parts.shape == instrument.features.patches.shape
    assert not stored.parts.flags.writeable
    for voxel in (best_voxel(small), 0):
        exact = attribute_stimulus(instrument, store, "occlusion", 7, voxel).values[0]
        quick = occlude_stimulus(instrument, store, 7) @ instrument.model.coef[:, voxel]
        assert quick.reshape(exact.shape) == pytest.approx(exact, abs=1e-4 * np.abs(exact).max())
        told = stored.values(instrument, np.array([3, 7]), voxel)[1]
        assert np.abs(told - exact).max() < 5e-3 * np.abs(exact).max()
    with pytest.raises(BackboneError, match="has "):
        occlusion_values(instrument.model, np.zeros((1, 3, 3)), 0)


def test_every_method_explains_a_stimulus(small):
    for name in METHOD_NAMES:
        found = attribute_stimulus(small.instrument, small.store, name, 3, best_voxel(small))
        assert np.isfinite(found.values).all() and found.values.std() > 0
    averages = build_averages(small.instrument, small.store)
    assert averages.image.shape == (small.instrument.backbone.get().image_size,) * 2 + (3,)
    assert averages.tokens is not None


def test_curves_tokens_and_agreement_of_a_small_subject(small, monkeypatch):
    monkeypatch.setattr(attribution_curves, "LEAST_DROP", -np.inf)
    instrument, rng = small.instrument, np.random.default_rng(0)
    maps = Maps(instrument, small.store, instrument.model)
    pool = instrument.subject.splits.test[:3]
    maps.trace(pool)
    voxel = best_voxel(small)
    pairs = sample_pairs(maps, pool, {"all": np.array([voxel])}, 2, rng)
    assert [(pair.region, pair.voxel) for pair in pairs] == [("all", voxel)] and pairs[0].stimulus in pool
    curves = Curves(maps, rng)
    # the stimulus that drives the voxel most has something to take away
    pair = Pair("all", voxel, int(images_to_test(instrument, voxel, 1)[0]))
    maps.trace(np.array([pair.stimulus]))
    for name in ("mean", "blur", "inpainting"):
        areas = curves.areas("decomposition", pair, name)
        assert areas is None or np.isfinite(areas).all()
    entry = token_entry(maps, "decomposition", np.array([voxel]), instrument.subject.splits.test, rng)
    assert entry["tokens"] == 6 and entry["sufficiency"] <= 1
    assert agreement(maps, "occlusion", [pair]) == pytest.approx(1)
    shuffled = forgetful(maps, instrument)
    assert abs(similarity(maps, shuffled, "decomposition", [pair])) < 0.95


def test_a_voxel_is_tested_on_held_out_images(small):
    voxel = best_voxel(small)
    stimuli = images_to_test(small.instrument, voxel, 4)
    assert small.instrument.held_out[stimuli].all()
    predicted = small.instrument.predicted(voxel)
    assert (np.diff(predicted[stimuli]) <= 0).all()
    try:
        found = voxel_faithfulness(small.instrument, small.store, voxel, "decomposition")
    except EncodingError as refusal:
        assert "at least 2" in str(refusal)
    else:
        assert found.insertion_interval[0] <= found.insertion_gain <= found.insertion_interval[1]
        assert found.insertion_gain == pytest.approx(found.insertion - found.random)
        assert found.deletion_gain == pytest.approx(found.random - found.deletion)


def test_regions_and_the_subject_are_tested_each_on_its_own_voxels(small, monkeypatch):
    """Maps that are the model's own occlusion beat random order; maps that say nothing do not."""
    monkeypatch.setattr(attribution_curves, "LEAST_DROP", 0.1)
    seen: list[int] = []
    found = region_faithfulness(small.instrument, small.store, "occlusion", lambda done, *_: seen.append(done))
    assert WHOLE in found and set(found) <= {WHOLE, *small.instrument.subject.responses.voxels.regions} and seen == sorted(seen)
    whole = found[WHOLE]
    assert whole.n_voxels > 1 and whole.n_images > 1 and whole.deletion_gain > 0
    assert whole.deletion_gain == pytest.approx(whole.random - whole.deletion)
    rng = np.random.default_rng(3)
    monkeypatch.setattr(Maps, "coarse", lambda self, *_: rng.normal(size=self.setting.grid))
    nothing = region_faithfulness(small.instrument, small.store, "occlusion")[WHOLE]
    assert nothing.deletion_gain < whole.deletion_gain
    low, high = nothing.deletion_interval
    assert not nothing.faithful and low < nothing.deletion_gain < high
    monkeypatch.setattr(attribution_curves, "LEAST_DROP", np.inf)
    with pytest.raises(EncodingError, match="cannot be tested"):
        region_faithfulness(small.instrument, small.store, "occlusion")
