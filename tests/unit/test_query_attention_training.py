"""Training starts at ridge, finds planted patches, finds nothing in noise, and goes on exactly where it was cut off."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from query_attention_recording import N_FEATURES, N_PATCHES, Recording, a_recording, features_of, recording, some_features

from mine_core.encoding.query_attention import QueryAttentionConfig
from mine_core.encoding.query_attention import fit as fitting
from mine_core.encoding.query_attention.fit import encoder_of, fit_query_attention
from mine_core.encoding.query_attention.layer import make_keys, respond
from mine_core.encoding.query_attention.start import start_from_ridge
from mine_core.encoding.query_attention.training import CHECKPOINT, Training, one_cycle
from mine_core.encoding.ridge import fit_ridge
from mine_core.errors import AlignmentError, Cancelled, EncodingError
from mine_core.statistics import pearson_columns
from mine_core.types import Splits

SMALL = QueryAttentionConfig(key_width=4, feed_forward=3, epochs=3, images_per_step=16, voxels_per_block=3)


def held_out_r(encoder, made: Recording) -> np.ndarray:
    return pearson_columns(encoder.predict(made.features, made.splits.test), made.responses.values[made.splits.test])


@pytest.mark.parametrize("value_width", [2, 6], ids=["some values", "all values"])
@pytest.mark.parametrize("heads", [1, 2])
def test_the_start_predicts_as_ridge(rng, heads, value_width):
    made = a_recording(rng)
    config = replace(SMALL, heads=heads, value_width=value_width)
    ridge = fit_ridge(*made.all_of_it)
    training = Training(start_from_ridge(ridge, *made.all_of_it, config), *made.all_of_it, config)
    encoder = encoder_of(training)
    everything = np.arange(len(made.features.stimulus_ids))
    expected = ridge.predict(np.asarray(made.features.pooled, np.float64))
    scale = expected.std(axis=0)
    np.testing.assert_allclose(encoder.predict(made.features, everything) / scale, expected / scale, atol=2e-5)
    np.testing.assert_allclose(encoder.prediction_sd, ridge.prediction_sd, rtol=1e-4)


@pytest.mark.parametrize("heads", [1, 2])
def test_a_step_has_the_gradients_of_the_whole_loss(rng, heads):
    """Blocks of voxels, keys made once for all of them, and tables cut into blocks give what plain autograd gives at once."""
    made = a_recording(rng)
    config = replace(SMALL, heads=heads, value_width=4)
    training = Training(start_from_ridge(fit_ridge(*made.all_of_it), *made.all_of_it, config), *made.all_of_it, config)
    with torch.no_grad():
        for value in training.weights.values():
            value += torch.tensor(rng.normal(size=value.shape) * 0.3, dtype=torch.float32)
    source, positions = training.open_tokens(), made.splits.train[:16]
    weights = {name: value.detach().clone().requires_grad_() for name, value in training.weights.items()}
    training.step(source, positions)
    prepared = source.take(positions)
    read = weights | {"place": weights["cosines"] @ training.cosines}
    predicted = respond(make_keys(prepared, weights), prepared, weights, read)
    pooled = torch.tensor(made.features.pooled[positions] - training.pooled_mean)
    truth = (made.responses.values[positions] - training.start.response_mean) / training.start.response_sd
    errors = (torch.tensor(truth) - (predicted + pooled @ torch.tensor(training.start.linear))) ** 2
    held = (torch.tensor(training.start.penalty)[:, None] * weights["readout"] ** 2).sum()
    (errors.mean(0).sum() + heads * held).backward()
    for name, value in training.weights.items():
        assert weights[name].grad.abs().max() > 0, name
        torch.testing.assert_close(value.grad, weights[name].grad, rtol=1e-3, atol=1e-4, msg=name)


def one_patch_recording(rng: np.random.Generator) -> tuple[Recording, np.ndarray]:
    """Voxels that read one patch each: of the pooled embedding, that is one part in twelve."""
    features, read = some_features(rng, 500), np.array([0, 3, 7, 10])
    weights = rng.normal(size=(N_FEATURES, 4)) / np.asarray(features.patches).std(axis=(0, 1))[:, None]
    signal = np.einsum("ivf,fv->iv", features.patches[:, read], weights)
    return recording(features, signal, rng), read


def test_a_voxel_that_reads_one_patch_is_found(rng):
    made, read = one_patch_recording(rng)
    config = QueryAttentionConfig(key_width=0, feed_forward=0, epochs=30, rate_place=0.1, rate_readout=0.02, penalty=0.1)
    ridge = fit_ridge(*made.all_of_it)
    encoder = fit_query_attention(*made.all_of_it, config, ridge=ridge)
    np.testing.assert_array_equal(encoder.place[:, 0].argmax(axis=1), read)
    by_ridge = pearson_columns(ridge.predict(made.features.pooled[made.splits.test]), made.responses.values[made.splits.test])
    assert (by_ridge < 0.5).all()
    assert (held_out_r(encoder, made) > 0.85).all()


def test_a_voxel_that_reads_what_a_token_shows_wherever_it_is_is_found(rng):
    """The answer is written in feature 1 of the token that feature 0 marks; a map over places cannot know where that is."""
    patches = rng.normal(size=(600, N_PATCHES, N_FEATURES))
    marked = rng.integers(N_PATCHES, size=600)
    patches[:, :, 0] = 0
    patches[np.arange(600), marked, 0] = 4
    features = features_of(patches, np.zeros((600, N_FEATURES)))
    made = recording(features, patches[np.arange(600), marked, 1][:, None].repeat(2, axis=1), rng)
    fast = QueryAttentionConfig(key_width=6, feed_forward=0, epochs=30, rate_query=0.1, rate_readout=0.02, penalty=0.1)
    assert (held_out_r(fit_query_attention(*made.all_of_it, fast), made) > 0.8).all()
    blind = replace(fast, key_width=0)
    assert (held_out_r(fit_query_attention(*made.all_of_it, blind), made) < 0.5).all()


def test_the_feed_forward_finds_what_no_linear_read_out_can(rng):
    features = some_features(rng, 700)
    standard = (features.pooled - features.pooled.mean(0)) / features.pooled.std(0)
    made = recording(features, standard[:, :2] + 2 * np.abs(standard[:, :2]), rng)
    config = QueryAttentionConfig(key_width=4, feed_forward=16, epochs=12, rate_shared=0.05, rate_readout=0.03, penalty=0.1)
    assert (held_out_r(fit_query_attention(*made.all_of_it, config), made) > 0.85).all()
    assert (held_out_r(fit_query_attention(*made.all_of_it, replace(config, feed_forward=0)), made) < 0.75).all()


def test_shuffled_responses_are_not_predicted(rng):
    features = some_features(rng, 400)
    made = recording(features, features.pooled @ rng.normal(size=(N_FEATURES, 60)), rng)
    shuffled = replace(made.responses, values=rng.permuted(np.asarray(made.responses.values), axis=0))
    made = replace(made, responses=shuffled)
    r = held_out_r(fit_query_attention(*made.all_of_it, replace(SMALL, voxels_per_block=60)), made)
    # 80 test stimuli: the SD of r by chance is 1 / sqrt(79), of a mean over 60 voxels 0.015
    assert abs(r.mean()) < 0.05
    assert np.quantile(np.abs(r), 0.95) < 0.3


def test_the_best_epoch_is_kept_and_a_hopeless_run_stops_early(rng):
    made = a_recording(rng, n=100, v=20)
    noise = replace(made.responses, values=rng.normal(size=made.responses.values.shape).astype(np.float32))
    made = replace(made, responses=noise)
    config = replace(SMALL, epochs=30, patience=2, rate_readout=0.1, rate_query=0.3, rate_place=0.3, penalty=1e-3)
    encoder = fit_query_attention(*made.all_of_it, config)
    record = encoder.provenance
    errors = record["validation_error"]
    assert record["epochs"] == len(errors) < 30
    assert record["best_epoch"] == 1 + int(np.argmin(errors)) == record["epochs"] - 2
    truth, sd = (getattr(made.responses.values[made.splits.train], name)(axis=0) for name in ("mean", "std"))
    validation = made.splits.validation
    wrong = (encoder.predict(made.features, validation) - made.responses.values[validation]) / sd
    assert (wrong**2).mean() == pytest.approx(min(errors), rel=1e-4)


def test_blocks_of_voxels_and_the_token_budget_do_not_change_the_fit(rng):
    made = a_recording(rng)
    whole = fit_query_attention(*made.all_of_it, replace(SMALL, voxels_per_block=100))
    everything = np.arange(len(made.features.stimulus_ids))
    expected = whole.predict(made.features, everything)
    for other in (SMALL, replace(SMALL, token_budget=0)):
        found = fit_query_attention(*made.all_of_it, other).predict(made.features, everything)
        np.testing.assert_allclose(found / whole.prediction_sd, expected / whole.prediction_sd, atol=2e-3)


def test_bfloat16_is_near_float32(rng):
    made = a_recording(rng)
    exact, rough = (fit_query_attention(*made.all_of_it, replace(SMALL, precision=name)) for name in ("fp32", "bf16"))
    assert rough.query.dtype == np.float32
    test = made.splits.test
    difference = (rough.predict(made.features, test) - exact.predict(made.features, test)) / exact.prediction_sd
    assert 0 < np.abs(difference).mean() < 0.1


class Killed(Exception):
    """Stands for a process that ends."""


@pytest.mark.parametrize("killed_at", [3, 8], ids=["within the first epoch", "within the second"])
def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(rng, tmp_path, killed_at):
    made = a_recording(rng)  # 84 training images: 5 steps an epoch
    expected = fit_query_attention(*made.all_of_it, SMALL)

    def stop(done: int, total: int, message: str) -> None:
        assert total == 15
        if done == killed_at:
            raise Killed

    with pytest.raises(Killed):
        fit_query_attention(*made.all_of_it, SMALL, tmp_path, on_progress=stop)
    assert (tmp_path / CHECKPOINT).is_file() == (killed_at > 5)
    done: list[int] = []
    resumed = fit_query_attention(*made.all_of_it, SMALL, tmp_path, on_progress=lambda at, total, message: done.append(at))
    assert done == list(range(1 if killed_at < 5 else 6, 16))
    for name in ("query", "place", "readout", "key_map", "expand", "contract", "intercept"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(expected, name))
    assert resumed.provenance == expected.provenance


def test_a_checkpoint_of_another_run_or_a_broken_one_is_refused(rng, tmp_path):
    made = a_recording(rng)
    fit_query_attention(*made.all_of_it, SMALL, tmp_path)
    with pytest.raises(EncodingError, match="other data or settings"):
        fit_query_attention(*made.all_of_it, replace(SMALL, seed=1), tmp_path)
    values = np.array(made.responses.values)
    values[made.splits.train[0], 2] += 1
    with pytest.raises(EncodingError, match="other data or settings"):
        fit_query_attention(made.features, replace(made.responses, values=values), made.splits, SMALL, tmp_path)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(EncodingError, match="cannot be read"):
        fit_query_attention(*made.all_of_it, SMALL, tmp_path)


def test_it_can_be_cancelled(rng, tmp_path):
    made, asked = a_recording(rng), []

    def cancelled() -> bool:
        asked.append(True)
        return len(asked) > 7

    ridge = fit_ridge(*made.all_of_it)
    with pytest.raises(Cancelled, match="8 of 15 steps; 1 finished"):
        fit_query_attention(*made.all_of_it, SMALL, tmp_path, ridge=ridge, cancelled=cancelled)


def test_the_rate_rises_to_its_largest_and_falls():
    rates = np.array([one_cycle(share, 0.2) for share in np.linspace(0, 1, 101)])
    assert rates.argmax() == 20
    assert rates[20] == 1
    assert (np.diff(rates[:21]) > 0).all()
    assert (np.diff(rates[20:]) < 0).all()
    assert rates[-1] < 0.01 < rates[0]


def test_too_few_stimuli_are_refused(rng):
    made = a_recording(rng)
    for name, count in (("train", 19), ("validation", 9)):
        few = Splits(**vars(made.splits) | {name: getattr(made.splits, name)[:count]})
        with pytest.raises(EncodingError, match=f"{name} split has {count} stimuli"):
            fit_query_attention(made.features, made.responses, few, SMALL)


def test_values_that_are_not_finite_and_constant_voxels_are_refused(rng):
    made = a_recording(rng)
    ridge = fit_ridge(*made.all_of_it)

    def refused(message: str, **changed) -> None:
        with pytest.raises(EncodingError, match=message):
            fit_query_attention(*replace(made, **changed).all_of_it, SMALL, ridge=ridge)

    values = np.array(made.responses.values)
    values[made.splits.validation[2], 1] = np.nan
    refused("Validation responses have 1 values", responses=replace(made.responses, values=values))
    values = np.array(made.responses.values)
    values[made.splits.train[2], 1] = np.inf
    refused("Training responses have 1 values", responses=replace(made.responses, values=values))
    values = np.array(made.responses.values)
    values[made.splits.train, 4] = 2.5
    refused("1 voxels do not vary over the 84 training stimuli .first: 4", responses=replace(made.responses, values=values))
    for place in (made.splits.train[1], made.splits.validation[1]):
        patches = np.array(made.features.patches)
        patches[place, 0, 0] = np.nan
        refused("NaN or infinite", features=replace(made.features, patches=patches))


def test_what_does_not_belong_together_is_refused(rng):
    made = a_recording(rng)
    ids = made.features.stimulus_ids
    with pytest.raises(AlignmentError, match="another order"):
        fit_query_attention(replace(made.features, stimulus_ids=ids[::-1]), made.responses, made.splits, SMALL)
    overlapping = replace(made.splits, validation=made.splits.train[:20])
    with pytest.raises(AlignmentError, match="both the train and the validation"):
        fit_query_attention(made.features, made.responses, overlapping, SMALL)
    spec = replace(made.features.backbone, grid=(4, 4))
    with pytest.raises(AlignmentError, match="12 patches, the grid of backbone 'b' is 4x4"):
        fit_query_attention(replace(made.features, backbone=spec), made.responses, made.splits, SMALL)
    ridge = fit_ridge(*made.all_of_it)
    with pytest.raises(AlignmentError, match="backbone 'c'"):
        fit_query_attention(*made.all_of_it, SMALL, ridge=replace(ridge, backbone=replace(spec, name="c")))


def test_validation_and_test_stimuli_do_not_shape_the_start(rng, monkeypatch):
    made = a_recording(rng)
    monkeypatch.setattr(fitting, "run_epochs", lambda *arguments: None)
    before = fit_query_attention(*made.all_of_it, SMALL)
    others = np.concatenate([made.splits.validation, made.splits.test])
    values, patches = np.array(made.responses.values), np.array(made.features.patches)
    values[others] *= 7
    patches[others] += 5
    after = fit_query_attention(replace(made.features, patches=patches), replace(made.responses, values=values), made.splits, SMALL)
    for name in ("mean_patches", "feature_sd", "basis", "readout", "intercept", "linear"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
