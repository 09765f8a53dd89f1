"""The layer equals a reference written by hand, its derivatives autograd's, and an encoder survives disk, blocks and threads."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import erf

import numpy as np
import pytest
import torch
from query_attention_recording import GRID, N_FEATURES, N_PATCHES, random_encoder, some_features, voxel_index

from mine_core.encoding.query_attention import QueryAttentionConfig, QueryAttentionEncoder
from mine_core.encoding.query_attention import encoder as encoder_module
from mine_core.encoding.query_attention.layer import Attend, place_basis
from mine_core.errors import AlignmentError, ArtifactError, ConfigError, EncodingError


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(erf, otypes=[float])(x / np.sqrt(2)))


def by_hand(encoder: QueryAttentionEncoder, patches: np.ndarray, pooled: np.ndarray) -> np.ndarray:
    """The layer as the docstring has it, in float64, one image, voxel and head at a time."""
    answer = np.zeros((len(patches), len(encoder.intercept)))
    for i in range(len(patches)):
        centred = patches[i].astype(float) - encoder.mean_patches
        scaled = centred / encoder.feature_sd
        tokens = scaled / np.sqrt((scaled**2).mean(axis=1, keepdims=True) + 1e-6)
        rest = pooled[i] - patches[i].sum(axis=0) - encoder.mean_remainder
        for v in range(len(encoder.intercept)):
            hidden = encoder.query[v].reshape(-1) @ encoder.expand_query + encoder.expand_bias
            total = encoder.intercept[v] + pooled[i] @ encoder.linear[:, v]
            for h in range(encoder.query.shape[1]):
                logits = tokens @ encoder.key_map[:, h] @ encoder.query[v, h] + encoder.place[v, h]
                attention = np.exp(logits) / np.exp(logits).sum()
                attended = N_PATCHES * attention @ (centred @ encoder.basis) + rest @ encoder.basis
                total += encoder.readout[v, h] @ attended
                hidden = hidden + attended @ encoder.expand[h]
            answer[i, v] = total + encoder.readout[v].sum(axis=0) @ (gelu(hidden) @ encoder.contract)
    return answer


@pytest.mark.parametrize("hidden", [0, 5], ids=["no feed-forward", "feed-forward"])
@pytest.mark.parametrize("heads", [1, 3])
def test_predictions_equal_the_layer_written_by_hand(rng, heads, hidden):
    encoder, features = random_encoder(rng, heads=heads, hidden=hidden), some_features(rng, 9)
    expected = by_hand(encoder, features.patches, features.pooled)
    assert expected.std() > 1
    np.testing.assert_allclose(encoder.predict_tokens(features.patches, features.pooled), expected, rtol=2e-3, atol=0.02)
    if not hidden:  # GELU is computed by its usual tanh formula; all else is exact
        np.testing.assert_allclose(encoder.predict_tokens(features.patches, features.pooled), expected, rtol=1e-5, atol=2e-4)


def test_attention_equals_torchs_own(rng):
    """A head with identity keys and values against scaled_dot_product_attention with the places as its mask."""
    encoder, features = random_encoder(rng, heads=1, key=N_FEATURES, value=N_FEATURES, hidden=0), some_features(rng, 4)
    eye = np.eye(N_FEATURES, dtype=np.float32)
    encoder = replace(encoder, key_map=eye[:, None], basis=eye, linear=0 * encoder.linear, intercept=0 * encoder.intercept)
    centred = torch.tensor(features.patches - encoder.mean_patches)
    keys = torch.nn.functional.rms_norm(centred / torch.tensor(encoder.feature_sd), (N_FEATURES,), eps=1e-6)
    query, mask = torch.tensor(encoder.query[:, 0]).expand(4, -1, -1), torch.tensor(encoder.place[:, 0])
    attended = torch.nn.functional.scaled_dot_product_attention(query, keys, centred, attn_mask=mask, scale=1.0)
    rest = torch.tensor(features.remainder - encoder.mean_remainder)
    expected = ((N_PATCHES * attended + rest[:, None]) * torch.tensor(encoder.readout[:, 0])).sum(-1)
    np.testing.assert_allclose(encoder.predict_tokens(features.patches, features.pooled), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("hidden", [0, 4])
def test_derivatives_equal_those_of_autograd(rng, hidden):
    shapes = ((3, 5, 7), (3, 5, 7), (5, 7, hidden))
    leaves = [torch.tensor(rng.normal(size=shape), dtype=torch.float32, requires_grad=True) for shape in shapes]
    weights = torch.tensor(rng.normal(size=(3, 5)), dtype=torch.float32), torch.tensor(rng.normal(size=(5, 3, hidden))).float()

    def loss_of(outputs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return sum((weight * torch.sin(output)).sum() for weight, output in zip(weights, outputs, strict=True))

    def plain(logits: torch.Tensor, scores: torch.Tensor, expanded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        attention = torch.softmax(logits, -1)
        return (attention * scores).sum(-1), torch.einsum("vip,iph->ivh", attention, expanded)

    ours = torch.autograd.grad(loss_of(Attend.apply(*leaves)), leaves)
    theirs = torch.autograd.grad(loss_of(plain(*leaves)), leaves, allow_unused=True)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other, rtol=1e-4, atol=1e-6)


def test_integrated_gradients_over_tokens_are_complete(rng):
    encoder, features = random_encoder(rng), some_features(rng, 1)
    tokens = torch.tensor(np.concatenate([features.patches, features.remainder[:, None]], axis=1))
    start = torch.tensor(np.concatenate([encoder.mean_patches, encoder.mean_remainder[None]]))[None]
    voxel = np.array([3])
    at = (torch.arange(400) + 0.5).view(-1, 1, 1) / 400
    path = (start + at * (tokens - start)).requires_grad_()
    (slope,) = torch.autograd.grad(encoder.forward_tokens(path, voxel).sum(), path)
    parts = (slope.mean(0) * (tokens - start)[0]).sum(-1)
    change = float(encoder.forward_tokens(tokens, voxel) - encoder.forward_tokens(start, voxel))
    assert abs(change) > 1
    assert float(parts.sum()) == pytest.approx(change, rel=5e-3)
    predicted = encoder.predict(features, np.array([0]), voxel)
    np.testing.assert_allclose(encoder.forward_tokens(tokens, voxel).numpy(), predicted, rtol=1e-5, atol=1e-4)


def test_blocks_of_images_and_voxels_do_not_change_predictions(rng, monkeypatch):
    encoder, features = random_encoder(rng), some_features(rng, 23)
    stimuli = rng.permutation(23)
    whole = encoder.predict(features, stimuli)
    monkeypatch.setattr(encoder_module, "IMAGES_PER_BLOCK", 5)
    monkeypatch.setattr(encoder_module, "NUMBERS_PER_BLOCK", 2 * 5 * N_PATCHES)
    np.testing.assert_allclose(encoder.predict(features, stimuli), whole, rtol=1e-5, atol=1e-4)
    chosen = np.array([4, 1])
    np.testing.assert_allclose(encoder.predict(features, stimuli, chosen), whole[:, chosen], rtol=1e-5, atol=1e-4)
    one = np.concatenate([encoder.predict_tokens(features.patches[[i]], features.pooled[[i]]) for i in stimuli])
    np.testing.assert_allclose(one, whole, rtol=1e-5, atol=1e-4)


def test_threads_share_an_encoder(rng):
    encoder, features = random_encoder(rng), some_features(rng, 40)
    parts = [np.arange(first, first + 10) for first in (0, 10, 20, 30)]
    alone = [encoder.predict(features, part) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda part: encoder.predict(features, part), parts * 5))
    for found, expected in zip(together, alone * 5, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_an_encoder_survives_the_disk(rng, tmp_path):
    encoder, features = random_encoder(rng), some_features(rng, 6)
    encoder.save(tmp_path)
    opened = QueryAttentionEncoder.load(tmp_path, encoder.voxels)
    np.testing.assert_array_equal(opened.predict(features, np.arange(6)), encoder.predict(features, np.arange(6)))
    assert (opened.config, opened.backbone, opened.kind, opened.provenance) == (
        encoder.config,
        encoder.backbone,
        "query_attention",
        encoder.provenance,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["query_attention.json", "query_attention.safetensors"]


def test_an_encoder_of_other_voxels_or_a_broken_one_is_refused(rng, tmp_path):
    encoder = random_encoder(rng)
    encoder.save(tmp_path)
    with pytest.raises(AlignmentError, match="5 voxels of another subject"):
        QueryAttentionEncoder.load(tmp_path, voxel_index(5, "another"))
    with pytest.raises(AlignmentError, match="than the 4"):
        QueryAttentionEncoder.load(tmp_path, voxel_index(4))
    arrays = tmp_path / "query_attention.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-40])
    with pytest.raises(ArtifactError, match="no readable encoder"):
        QueryAttentionEncoder.load(tmp_path, encoder.voxels)
    with pytest.raises(ArtifactError, match="no readable encoder"):
        QueryAttentionEncoder.load(tmp_path / "nothing", encoder.voxels)


def test_other_backbones_grids_and_positions_are_refused(rng):
    encoder, features = random_encoder(rng), some_features(rng, 4)
    other = replace(features, backbone=replace(features.backbone, weights_hash="others"))
    with pytest.raises(AlignmentError, match="weights others"):
        encoder.predict(other, np.arange(4))
    with pytest.raises(AlignmentError, match="11 patches and 6 features were given, the encoder reads 12 and 6"):
        encoder.predict_tokens(features.patches[:, 1:], features.pooled)
    with pytest.raises(AlignmentError, match="Voxel positions 2 ... 5 were given; there are 5"):
        encoder.predict(features, np.arange(4), np.array([2, 5]))
    with pytest.raises(AlignmentError, match="Stimulus positions 0 ... 4 were given; there are 4"):
        encoder.predict(features, np.arange(5))
    patches = np.array(features.patches)
    patches[1, 2, 3] = np.nan
    with pytest.raises(EncodingError, match="`patches` have 1 values"):
        encoder.predict_tokens(patches, features.pooled)


def test_cosines_of_places_are_orthogonal_and_without_a_constant():
    cosines = place_basis(GRID, 8).double()
    assert len(cosines) == N_PATCHES - 1  # with the constant that softmax ignores: every map over the grid
    np.testing.assert_allclose(cosines.sum(1), 0, atol=1e-5)
    gram = cosines @ cosines.T
    np.testing.assert_allclose(gram - torch.diag(torch.diag(gram)), 0, atol=1e-5)
    assert place_basis(GRID, 0).shape == (0, N_PATCHES)


@pytest.mark.parametrize(
    "wrong",
    [{"heads": 0}, {"penalty": 0.0}, {"average": 1.0}, {"rate_query": -0.1}, {"epochs": 0}, {"key_width": 0, "frequencies": 0}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        QueryAttentionConfig(**wrong)


def test_settings_survive_plain_values_and_unknown_ones_are_refused():
    config = QueryAttentionConfig(heads=3, penalty=0.5)
    assert QueryAttentionConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match="head_count"):
        QueryAttentionConfig.from_dict({"head_count": 3})
