"""Layers: tokens are the tower's own, the layer that was planted is preferred, and a path that is none is not called one."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import stats
from test_decomposition import VARIANTS, some_pixels, tower

from mine_core.backbones import layers
from mine_core.backbones.layers import layer_tokens, layered_tower, read_layers
from mine_core.backbones.tracing import pool_tokens, run_blocks
from mine_core.dictionary.activations import place_name, unit_columns
from mine_core.dictionary.autoencoder import Autoencoder, AutoencoderConfig, Standard
from mine_core.dictionary.hierarchy import (
    depth_correlation,
    depth_difference,
    depth_interval,
    jackknife_interval,
    layer_matrix,
    load_preference,
    monotony,
    prefer_layers,
    save_preference,
)
from mine_core.dictionary.tokens import extract_layers, load_layers, place_of_patches
from mine_core.errors import ArtifactError, BackboneError, Cancelled, EncodingError, MineError


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "cls, oblong"])
@torch.no_grad()
def test_layers_are_those_of_the_tower(name):
    visual = tower(3, **({"image_size": 12, "width": 16, "heads": 2, "output_dim": 6} | VARIANTS[name]))
    pixels = some_pixels(2, 12)
    patches, pooled = layer_tokens(visual, pixels)
    blocks = run_blocks(visual, visual._embeds(pixels))
    assert len(patches) == len(blocks)
    for layer, block in enumerate(blocks):
        whole = block.attended + block.mlp
        assert (patches[layer] - whole[:, 1:]).abs().max() < 1e-12
        expected = whole[:, 1:].mean(dim=1) if visual.pool_type == "avg" else whole[:, 0]
        assert (pooled[layer] - expected).abs().max() < 1e-12
    truth = visual(pixels)
    last = blocks[-1].attended + blocks[-1].mlp
    assert (pool_tokens(visual, last) - (truth[0] if isinstance(truth, tuple) else truth)).abs().max() < 1e-12


def test_a_backbone_without_blocks_is_refused(monkeypatch):
    class Other:
        spec = type("spec", (), {"name": "llava"})

    monkeypatch.setattr(layers, "image_tower", getattr(layers.image_tower, "__wrapped__", layers.image_tower))
    with pytest.raises(BackboneError, match="'llava' cannot be read one by one"):
        getattr(layered_tower, "__wrapped__", layered_tower)(Other())


def test_stored_layers_are_those_read(small, tmp_path):
    backbone, stimuli = small.instrument.backbone.get(), small.instrument.subject.stimuli
    with pytest.raises(Cancelled):
        extract_layers(stimuli, backbone, tmp_path, cancelled=lambda: True)
    found = extract_layers(stimuli, backbone, tmp_path)
    patches, pooled = read_layers(backbone, np.asarray(stimuli.images[40:43]))
    assert len(found) == len(patches) and found.stimulus_ids == stimuli.ids
    for layer, tokens in enumerate(patches):
        assert np.abs(found.patches[layer][40:43] - tokens).max() < 2e-3 * np.abs(tokens).max()
        assert np.allclose(found.source(layer, "pooled")[40:43, 0], pooled[layer], atol=1e-4)
        cells = found.cells(layer, np.array([40]))
        grid = np.asarray(found.patches[layer][40], np.float32).reshape(8, 8, -1)
        assert np.allclose(cells[0, : grid.shape[2]], grid[:2, :2].mean(axis=(0, 1)), atol=1e-4)
        assert cells.shape[1] == 16 * grid.shape[2]
    (tmp_path / "layer_02.npy").write_bytes(b"cut off")
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_layers(tmp_path)


def test_places_cover_the_image_once():
    assert np.array_equal(np.bincount(place_of_patches((8, 8), 4)), np.full(16, 4))
    uneven = place_of_patches((14, 14), 4)
    assert uneven.max() == 15 and np.bincount(uneven).min() >= 9 and len(uneven) == 196
    assert np.array_equal(place_of_patches((2, 2), 4), np.arange(4))
    assert place_name(0, (8, 8)) == "anywhere" and place_name(7, (8, 8)) == "row 2 of 4, column 3 of 4"


def test_columns_are_the_maximum_of_the_image_and_the_means_of_its_cells():
    rng = np.random.default_rng(0)
    weights = {
        "encoder": torch.eye(5),
        "encoder_bias": torch.zeros(5),
        "decoder": torch.eye(5),
        "decoder_bias": torch.zeros(5),
        "log_threshold": torch.zeros(5),
    }
    autoencoder = Autoencoder(AutoencoderConfig(active=5), weights, Standard(np.zeros((16, 5), np.float32), 1.0))
    tokens = rng.normal(size=(3, 16, 5)).astype(np.float32)
    columns = unit_columns(autoencoder, tokens, np.array([2, 0]), (4, 4), 2)
    codes = np.maximum(tokens[[2, 0]], 0)
    assert columns.n_places == 5
    assert np.allclose(columns.values[:, :5], codes.max(axis=1))
    lower_left = codes.reshape(2, 4, 4, 5)[:, 2:, :2].mean(axis=(1, 2))
    assert np.allclose(columns.values[:, 3 * 5 : 4 * 5], lower_left)
    autoencoder = Autoencoder(autoencoder.config, weights, Standard(np.zeros((1, 5), np.float32), 1.0))
    alone = unit_columns(autoencoder, tokens[:, :1], np.arange(3), (4, 4), 0)
    assert alone.n_places == 1 and np.allclose(alone.values, np.maximum(tokens[:, 0], 0))


N_STIMULI = 300


def planted(rng: np.random.Generator, layer_of: np.ndarray, better: float = 1.0, n_layers: int = 4):
    """Responses of voxels that their layer predicts best, each other layer worse the farther it is."""
    measured = rng.normal(size=(N_STIMULI, len(layer_of)))
    noise = [0.8 + 0.6 * better * np.abs(layer - layer_of) for layer in range(n_layers)]
    return [measured + sd * rng.normal(size=measured.shape) for sd in noise], measured


def test_the_planted_layer_is_preferred_and_said_to_be_sure():
    rng = np.random.default_rng(1)
    layer_of = rng.integers(0, 4, 80)
    predicted, measured = planted(rng, layer_of)
    found = prefer_layers(predicted, measured, rng, 100)
    assert (found.best == layer_of).mean() > 0.95
    assert np.allclose(found.share.sum(axis=0), 1) and np.median(found.share.max(axis=0)) > 0.95
    for layer in (0, 3):
        assert found.r[layer, 5] == pytest.approx(stats.pearsonr(predicted[layer][:, 5], measured[:, 5])[0])
    inside = layer_of >= 2
    assert np.allclose(layer_matrix(found, {"late": inside, "none": inside & ~inside})["late"], found.r[:, inside].mean(axis=1))
    difference, low, high = depth_difference(found, layer_of == 3, layer_of == 0)
    assert low <= difference <= high and low > 2.5
    rho, low, high = depth_correlation(found, layer_of.astype(float))
    assert rho > 0.9 and -1 <= low <= rho <= high <= 1


def test_voxels_without_signal_prefer_no_layer():
    rng = np.random.default_rng(2)
    predicted, measured = [rng.normal(size=(N_STIMULI, 600)) for _ in range(4)], rng.normal(size=(N_STIMULI, 600))
    found = prefer_layers(predicted, measured, rng, 50)
    assert stats.chisquare(np.bincount(found.best, minlength=4)).pvalue > 0.001
    half = np.arange(600) < 300
    difference, low, high = depth_difference(found, half, ~half)
    assert low < 0 < high
    assert np.median(found.share.max(axis=0)) < 0.9


def test_the_jackknife_is_as_wide_as_other_images_make_it():
    rng = np.random.default_rng(3)
    layer_of = rng.integers(0, 2, 150)
    estimates, halves = [], []
    for _ in range(40):
        found = prefer_layers(*planted(rng, layer_of, better=0.15, n_layers=2), rng, 2)
        estimate, low, high = depth_interval(found, layer_of == 1)
        estimates.append(estimate)
        halves.append((high - low) / 2)
    assert 0.6 < np.mean(halves) / (2.06 * np.std(estimates)) < 1.7


def test_the_jackknife_of_a_mean_is_its_standard_error():
    rng = np.random.default_rng(4)
    values = rng.normal(size=400)
    halves = [rng.permutation(values)[:200].mean() for _ in range(2000)]
    estimate, low, high = jackknife_interval(np.array([values.mean(), *halves]))
    assert estimate == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.06)


def test_a_path_that_rises_is_found_and_its_p_is_exact():
    rng = np.random.default_rng(5)
    layer_of = np.repeat([0, 1, 2, 3, 3], 20)
    found = prefer_layers(*planted(rng, layer_of), rng, 10)
    regions = {name: np.arange(100) // 20 == place for place, name in enumerate(("V1", "V2", "V3", "FFA", "PPA"))}
    stage = {"V1": 0, "V2": 1, "V3": 2, "FFA": 4, "PPA": 4, "absent": 3}
    path = monotony(found, regions, stage, rng)
    assert path.rho > 0.9 and path.n_regions == 5 and path.ordered == path.n_steps == 3
    depth = [found.best[inside].mean() for inside in regions.values()]
    levels = [0, 1, 2, 4, 4]
    rho = [stats.spearmanr(order, depth).statistic for order in permutations(levels)]
    assert path.p == pytest.approx(np.mean(np.array(rho) >= path.rho - 1e-9))
    back = monotony(found, regions, {name: -level for name, level in stage.items()}, rng)
    assert back.rho == pytest.approx(-path.rho) and back.p > 0.9
    with pytest.raises(MineError, match="a path needs 3 regions"):
        monotony(found, regions, {"V1": 0, "V2": 1}, rng)


def test_a_preference_is_read_as_it_was_written_and_nonsense_is_refused(tmp_path):
    rng = np.random.default_rng(6)
    predicted, measured = planted(rng, rng.integers(0, 4, 12))
    found = prefer_layers(predicted, measured, rng, 5)
    save_preference(tmp_path, found)
    again = load_preference(tmp_path)
    assert again.n_images == N_STIMULI and np.array_equal(again.share, found.share) and not again.r.flags.writeable
    with pytest.raises(EncodingError, match="at least 2"):
        prefer_layers(predicted[:1], measured, rng)
    still = measured.copy()
    still[:, 3] = 1.0
    with pytest.raises(EncodingError, match="responses of 1 voxels do not vary"):
        prefer_layers(predicted, still, rng)
    with pytest.raises(EncodingError, match="No voxel"):
        depth_interval(found, np.zeros(12, bool))
    with pytest.raises(EncodingError, match="3 of 2 are needed"):
        depth_correlation(found, np.full(12, np.nan))
