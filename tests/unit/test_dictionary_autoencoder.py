"""Sparse autoencoders: a planted code is found again, resumed is uninterrupted, dead units come back to life."""

import math

import numpy as np
import pytest
import torch

from mine_core.dictionary import training
from mine_core.dictionary.autoencoder import (
    Autoencoder,
    AutoencoderConfig,
    Standard,
    activate,
    count_active,
    load_autoencoder,
    preactivations,
)
from mine_core.dictionary.quality import score_autoencoder, stability
from mine_core.dictionary.training import Training, train_autoencoder
from mine_core.errors import AlignmentError, ArtifactError, Cancelled, ConfigError, EncodingError

WIDTH, N_PLANTED, N_IMAGES, N_PATCHES = 16, 24, 240, 16


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray]:
    """Tokens that are sums of two or three of 24 directions, and the directions."""
    rng = np.random.default_rng(5)
    directions = rng.normal(size=(N_PLANTED, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    chosen = rng.random((N_IMAGES, N_PATCHES, N_PLANTED)) < 2.5 / N_PLANTED
    codes = chosen * rng.uniform(1.0, 2.0, chosen.shape)
    return (codes @ directions + 0.01 * rng.normal(size=(*chosen.shape[:2], WIDTH)) + 3.0).astype(np.float32), directions


def settings(**changes) -> AutoencoderConfig:
    given = {"expansion": 2, "active": 3, "epochs": 30, "tokens_per_step": 256, "rate": 5e-3}
    return AutoencoderConfig(**given | changes)


@pytest.mark.parametrize("given", [{}, {"kind": "jumprelu", "epochs": 60, "rate": 1e-2}], ids=["topk", "jumprelu"])
def test_a_planted_code_is_found(planted, given):
    tokens, directions = planted
    train, held_out = np.arange(200), np.arange(200, N_IMAGES)
    found, history = train_autoencoder(tokens, train, settings(**given))
    cosine = found.weights["decoder"].numpy() @ directions.T
    assert np.median(cosine.max(axis=0)) > 0.95
    quality = score_autoencoder(found, tokens, held_out, np.random.default_rng(0))
    assert quality.explained > 0.8 > quality.null + 0.2
    assert 1.0 < quality.active <= 5
    assert quality.n_tokens == 40 * N_PATCHES
    assert history[-1][0] < history[0][0]
    # shuffled directions are no directions of the tokens
    mixed = np.random.default_rng(1).permuted(directions, axis=0)
    assert np.median((found.weights["decoder"].numpy() @ mixed.T).max(axis=0)) < 0.9


@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_a_resumed_run_is_the_uninterrupted_run(planted, kind, tmp_path):
    tokens, _ = planted
    train, config = np.arange(100), settings(kind=kind, epochs=4, expansion=4)
    whole, history = train_autoencoder(tokens, train, config)
    calls = iter(range(10_000))
    steps = Training(tokens, train, config).steps_per_epoch
    with pytest.raises(Cancelled, match="epoch 3 of 4"):
        train_autoencoder(tokens, train, config, tmp_path, cancelled=lambda: next(calls) >= 2 * steps + 1)
    resumed, again = train_autoencoder(tokens, train, config, tmp_path)
    for name, value in whole.weights.items():
        assert torch.equal(value, resumed.weights[name]), name
    assert history == again


def test_a_checkpoint_of_another_run_is_refused(planted, tmp_path):
    tokens, _ = planted
    train_autoencoder(tokens, np.arange(50), settings(epochs=1), tmp_path)
    with pytest.raises(EncodingError, match="other data or settings"):
        train_autoencoder(tokens, np.arange(50), settings(epochs=1, seed=1), tmp_path)
    path = tmp_path / training.CHECKPOINT
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(EncodingError, match="cannot be read"):
        train_autoencoder(tokens, np.arange(50), settings(epochs=1), tmp_path)


@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_dead_units_are_revived(planted, kind):
    tokens, _ = planted
    run = Training(tokens, np.arange(100), settings(kind=kind))
    dead = torch.arange(10)
    with torch.no_grad():
        run.weights["encoder_bias"][dead] = -100.0
    order, size = run.order(), run.images_per_step
    for index in range(run.steps_per_epoch):
        run.step(order[index * size : (index + 1) * size])
    assert not run.fired[dead].any()
    before = run.weights["decoder"][dead].clone()
    run.end_epoch(1.0, 3.0)
    assert run.progress.history[-1][2] >= 10
    assert not torch.allclose(before, run.weights["decoder"][dead])
    assert torch.allclose(run.weights["decoder"].norm(dim=1), torch.ones(len(run.fired)), atol=1e-5)
    assert run.moments["decoder"][0][dead].abs().max() == 0
    for _ in range(3):
        for index in range(run.steps_per_epoch):
            run.step(order[index * size : (index + 1) * size])
    assert run.fired[dead].float().mean() > 0.5


def test_top_k_keeps_the_largest_and_nothing_below_zero():
    config = AutoencoderConfig(active=2)
    pre = torch.tensor([[3.0, -1.0, 2.0, 1.0], [-3.0, -1.0, -2.0, 0.5]])
    assert activate(config, {}, pre).tolist() == [[3.0, 0, 2.0, 0], [0, 0, 0, 0.5]]


def test_the_jump_has_the_gradient_that_was_published():
    """Rajamanoharan et al. (2024), equations 11 and 12, spelled out for one unit and three tokens."""
    config = AutoencoderConfig(kind="jumprelu", bandwidth=0.4)
    log_threshold = torch.tensor([math.log(0.5)], requires_grad=True)
    pre = torch.tensor([[0.6], [0.45], [2.0]], requires_grad=True)
    weights = {"log_threshold": log_threshold}
    codes = activate(config, weights, pre)
    assert torch.allclose(codes, torch.tensor([[0.6], [0.0], [2.0]]))
    codes.sum().backward()
    assert pre.grad.tolist() == [[1.0], [0.0], [1.0]]
    # two tokens lie within half a bandwidth of the threshold: -theta / bandwidth each, times d theta / d log theta
    assert log_threshold.grad.item() == pytest.approx(-2 * (0.5 / 0.4) * 0.5)
    log_threshold.grad = None
    count = count_active(config, weights, pre.detach())
    assert count.item() == pytest.approx(2 / 3)
    count.backward()
    assert log_threshold.grad.item() == pytest.approx(-2 / 3 / 0.4 * 0.5)


def test_tokens_are_counted_from_the_mean_at_their_place(planted):
    tokens, _ = planted
    standard = Standard.of(tokens, np.arange(150), batch=37)
    assert np.allclose(standard.mean, tokens[:150].mean(axis=0), atol=1e-5)
    assert standard.scale == pytest.approx(np.sqrt(tokens[:150].astype(np.float64).var(axis=0).mean()), rel=1e-5)
    assert abs(float(standard.apply(tokens[:150]).mean())) < 1e-5


def test_an_autoencoder_is_read_as_it_was_written(planted, tmp_path):
    tokens, _ = planted
    found, _ = train_autoencoder(tokens, np.arange(40), settings(epochs=1, kind="jumprelu"))
    found.save(tmp_path)
    again = load_autoencoder(tmp_path)
    assert again.config == found.config and again.standard.scale == found.standard.scale
    rows = found.standard.apply(tokens[:3])
    assert torch.equal(found.encode(rows), again.encode(rows))
    (tmp_path / "autoencoder.safetensors").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_autoencoder(tmp_path)


def test_codes_and_reconstruction_are_the_written_equations(planted):
    rng = torch.Generator().manual_seed(3)
    weights = {
        "encoder": torch.randn(WIDTH, 20, generator=rng),
        "encoder_bias": torch.randn(20, generator=rng),
        "decoder": torch.randn(20, WIDTH, generator=rng),
        "decoder_bias": torch.randn(WIDTH, generator=rng),
        "log_threshold": torch.zeros(20),
    }
    autoencoder = Autoencoder(AutoencoderConfig(active=20), weights, Standard(np.zeros((1, WIDTH), np.float32), 1.0))
    x = torch.randn(7, WIDTH, generator=rng)
    codes = autoencoder.encode(x)
    for row in range(7):
        pre = (x[row] - weights["decoder_bias"]) @ weights["encoder"] + weights["encoder_bias"]
        assert torch.allclose(codes[row], pre.clamp(min=0), atol=1e-5)
    assert torch.allclose(preactivations(weights, x).clamp(min=0), codes, atol=1e-5)
    assert torch.allclose(autoencoder.decode(codes), codes @ weights["decoder"] + weights["decoder_bias"])


def test_stability_is_one_for_the_same_units_in_another_order_and_low_for_others(planted):
    tokens, _ = planted
    one, _ = train_autoencoder(tokens, np.arange(200), settings())
    order = torch.randperm(one.n_units, generator=torch.Generator().manual_seed(0))
    same = Autoencoder(one.config, one.weights | {"decoder": one.weights["decoder"][order]}, one.standard)
    found = stability(one, same, np.random.default_rng(0))
    assert found.assigned == pytest.approx(1, abs=1e-5) and found.shared == 1 and found.cosine == pytest.approx(1, abs=1e-5)
    other, _ = train_autoencoder(tokens, np.arange(200), settings(seed=1))
    across = stability(one, other, np.random.default_rng(0))
    assert across.null < across.assigned <= across.cosine <= 1 + 1e-6
    # both found what was planted
    assert across.cosine > 0.8
    narrow = Autoencoder(one.config, one.weights | {"decoder": one.weights["decoder"][:, :4]}, one.standard)
    with pytest.raises(AlignmentError, match="16 and 4 dimensions"):
        stability(one, narrow, np.random.default_rng(0))


def test_what_makes_no_sense_is_refused(planted):
    tokens, _ = planted
    unchecked = AutoencoderConfig()
    object.__setattr__(unchecked, "kind", "relu")
    with pytest.raises(ConfigError, match="Unknown autoencoder 'relu'"):
        unchecked.__post_init__()
    with pytest.raises(ConfigError, match="active"):
        AutoencoderConfig(active=0)
    with pytest.raises(EncodingError, match="at least 2"):
        train_autoencoder(tokens, np.arange(1), settings())
    found, _ = train_autoencoder(tokens, np.arange(20), settings(epochs=1))
    with pytest.raises(EncodingError, match="do not vary"):
        score_autoencoder(found, np.broadcast_to(found.standard.mean, tokens.shape), np.arange(4), np.random.default_rng(0))
