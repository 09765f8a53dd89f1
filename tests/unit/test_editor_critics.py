"""Critics of the editor's training, and the autoencoder's second stage, which one of them teaches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from test_editor_training import CPU, RECIPE, made, pool_of, tiny
from torch import nn

from mine_core.counterfactual import train_denoiser, train_sharp
from mine_core.counterfactual.asked import QUESTIONS, answers_told
from mine_core.counterfactual.critic import Critic
from mine_core.counterfactual.phantom_editor import build_scheduler
from mine_core.counterfactual.train_autoencoder import trained_autoencoder
from mine_core.counterfactual.train_critic import ATTRIBUTE_WEIGHT, CriticBatches, answers_loss
from mine_core.counterfactual.train_denoiser import DenoiserBatches, denoiser_loss
from mine_core.counterfactual.train_pairs import CropChunks, draw_scene, pairs_of, prompt_of, read_items, rng_of, written_items
from mine_core.counterfactual.train_phantom import (
    autoencoder_folder,
    critic_run,
    denoiser_run,
    finished_autoencoder,
    sharp_run,
    trained_critic,
)
from mine_core.counterfactual.train_run import Run
from mine_core.counterfactual.train_sharp import SharpBatches, made_crops, sharp_loss
from mine_core.counterfactual.train_telling import SCALE, TellingChunks, telling_map, telling_pixels
from mine_core.errors import EditError
from mine_core.subjects.phantom import scenes

FACE = (("expression", "smiling"), ("age", "old"), ("hair", "grey"), ("glasses", "no"), ("hat", "yes"), ("view", "left"))
WOMAN = scenes.SceneObject("woman", 0.5, 0.5, 0.5, FACE, 3)
CAR = scenes.SceneObject("car", 0.5, 0.5, 0.5, (("colour", "red"),), 4)


def random_critic(channels: int, halvings: int, seed: int = 0) -> Critic:
    torch.manual_seed(seed)
    critic = Critic(channels, halvings).eval()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape) + (1.0 if parameter.ndim == 1 else 0.0))
    return critic.requires_grad_(False)


@pytest.mark.parametrize(
    ("item", "prompt", "told"),
    [
        (WOMAN, "a smiling old woman with grey hair and a hat without glasses looking left", dict(FACE) | {"concept": "woman"}),
        (WOMAN, "a woman with a hat", {"concept": "woman", "hat": "yes"}),
        (WOMAN, "a smiling face", {"expression": "smiling"}),
        (CAR, "a photo of a red car", {"concept": "car", "colour": "red"}),
        (CAR, "", {}),
        (None, "background", {}),
    ],
)
def test_only_what_a_prompt_says_is_asked_of_a_critic(item, prompt, told) -> None:
    found = answers_told([CAR, item], ["", prompt])
    assert {name: QUESTIONS[name][values[1]] for name, values in found.items() if values[1] >= 0} == told
    assert all(values[0] == -1 for values in found.values()), "an empty prompt says nothing"


def test_whatever_the_prompts_of_training_say_is_found() -> None:
    rng = np.random.default_rng(0)
    prompts = [prompt_of(WOMAN, rng, told=1.0) for _ in range(60)]
    found = answers_told([WOMAN] * 60, prompts)
    for name in ("expression", "age", "hair", "hat"):
        assert (found[name] >= 0).all(), name
    assert 0 < (found["glasses"] >= 0).sum() < 60 and 0 < (found["concept"] < 0).sum() < 20


def test_cross_entropy_by_hand() -> None:
    rng = np.random.default_rng(1)
    scores = {name: torch.from_numpy(rng.normal(size=(3, len(QUESTIONS[name]))).astype(np.float32)) for name in ("concept", "hat")}
    answers, weight = {"concept": torch.tensor([4, -1, 7]), "hat": torch.tensor([-1, -1, 1])}, torch.tensor([0.5, 1.0, 0.25])
    concept, hat = (-log_softmax(scores[name].numpy(), axis=1) for name in ("concept", "hat"))
    wanted = (0.5 * concept[0, 4] + 0.25 * concept[2, 7] + ATTRIBUTE_WEIGHT * 0.25 * hat[2, 1]) / 3
    assert float(answers_loss(scores, answers, weight)) == pytest.approx(wanted, rel=1e-5)


def test_critic_sees_what_is_under_the_mask_and_nothing_else() -> None:
    critic, inside = random_critic(4, 2), torch.zeros(1, 1, 16, 16)
    inside[..., 4:10, 5:12] = 1
    shown = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    outside = shown + 5 * (1 - inside)
    scores, same = critic(shown, inside), critic(outside, inside)
    other = critic(shown + inside, inside)
    assert all(torch.equal(scores[name], same[name]) for name in QUESTIONS)
    assert not torch.allclose(scores["concept"], other["concept"])


def test_critic_learns_its_pictures_by_heart_and_is_kept(tmp_path) -> None:
    made(tmp_path)
    pool = pool_of(tmp_path, 32, 40)
    recipe = replace(RECIPE, stage="critic-latents", steps=30, batch_size=16, rate=3e-3)
    run = critic_run(recipe, CPU, tmp_path / "critic-latents")
    batches = CriticBatches(lambda rows: pool.latents[rows].float(), pool.cells, pool.items, run, roughest=0.5)
    before = batches.loss_at(500)(run.parts).item()
    run.train(batches, lambda done: done.save(tmp_path / "critic-latents", {}), save_minutes=9.0)
    assert batches.loss_at(500)(run.parts).item() < 0.5 * before
    kept = trained_critic(tmp_path, "critic-latents", CPU)
    assert not any(parameter.requires_grad for parameter in kept.parameters())
    assert all(torch.equal(value, run.average["critic"].state_dict()[name]) for name, value in kept.state_dict().items())
    assert trained_critic(tmp_path, "critic-pictures", CPU) is None


def test_expected_latents_of_a_perfect_denoiser_are_the_true_ones(tmp_path) -> None:
    """Where the velocity is right the squared error is zero, and the critic is shown the latents that were noised."""
    made(tmp_path)
    pool = pool_of(tmp_path, 16, 30)
    run = denoiser_run(replace(RECIPE, stage="denoiser", batch_size=6), tiny(), CPU, tmp_path / "none")
    given = DenoiserBatches([pool], tiny(), run, random_critic(4, 2)).loss_at(5).keywords
    latents, scheduler = pool.latents[given["rows"]].float(), build_scheduler()
    velocity = scheduler.get_velocity(latents, given["noise"], given["times"])

    class Perfect(nn.Module):
        def forward(self, *_args, **_named):
            return (velocity,)

    parts = nn.ModuleDict({"text_encoder": run.parts["text_encoder"], "denoiser": Perfect()})
    shown = []

    def asked(expected, cells, kept):
        shown.append((expected, kept))
        return torch.tensor(2.0)

    found = denoiser_loss(parts, **{**given, "asked": asked})
    assert float(found) == pytest.approx(2.0 * train_denoiser.CRITIC_WEIGHT, rel=1e-5)
    assert torch.allclose(shown[0][0], latents, atol=1e-4)
    assert torch.allclose(shown[0][1], scheduler.alphas_cumprod[given["times"]])


def test_cells_count_by_what_they_tell(tmp_path) -> None:
    """Of a denoiser that always says 0 the error is the mean of squared velocities, by weights that are made here by hand."""
    made(tmp_path)
    pool = pool_of(tmp_path, 16, 30)
    telling = torch.randint(0, 200, pool.telling.shape, generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    pool = replace(pool, telling=telling)
    run = denoiser_run(replace(RECIPE, stage="denoiser", batch_size=6), tiny(), CPU, tmp_path / "none")
    given = DenoiserBatches([pool], tiny(), run).loss_at(5).keywords
    rows, latents = given["rows"], pool.latents[given["rows"]].float()

    class Silent(nn.Module):
        def forward(self, noisy, *_args, **_named):
            return (torch.zeros_like(noisy[:, :4]),)

    parts = nn.ModuleDict({"text_encoder": run.parts["text_encoder"], "denoiser": Silent()})
    velocity = build_scheduler().get_velocity(latents, given["noise"], given["times"]).numpy()
    weight = 0.05 + 0.95 * pool.cells[rows, None].numpy() * (1 + telling[rows, None].numpy() / 8)
    wanted = (weight * velocity**2).sum() / (weight.sum() * 4)
    assert float(denoiser_loss(parts, **given)) == pytest.approx(wanted, rel=1e-5)


def test_critic_reaches_the_denoiser(tmp_path) -> None:
    made(tmp_path)
    pool = pool_of(tmp_path, 16, 30)
    run = denoiser_run(replace(RECIPE, stage="denoiser", batch_size=6), tiny(), CPU, tmp_path / "none")
    plain, criticised = (DenoiserBatches([pool], tiny(), run, critic).loss_at(5)(run.parts) for critic in (None, random_critic(4, 2)))
    (criticised - plain).backward()
    weight = run.parts["denoiser"].conv_out.weight.grad
    assert criticised.item() > plain.item() and float(weight.abs().max()) > 0


class Same(nn.Module):
    """An autoencoder whose latents are the picture, and which gives them back, or another picture."""

    def __init__(self, gives: torch.Tensor | None = None) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Identity(), nn.Module()
        self.decoder.forward = lambda latents: latents if gives is None else gives


def test_sharp_loss_is_the_error_of_pixels_and_of_what_the_critic_sees(monkeypatch) -> None:
    monkeypatch.setattr(train_sharp, "LATENT_NOISE", 0.0)
    generator = torch.Generator().manual_seed(0)
    pixels, other = (2 * torch.rand(2, 3, 32, 32, generator=generator) - 1 for _ in range(2))
    critic, run = random_critic(3, 4), Run(RECIPE, nn.ModuleDict({"part": nn.Linear(1, 1)}), CPU)
    inside = (torch.rand(2, 1, 32, 32, generator=generator) < 0.5).float()
    telling = 5 * torch.rand(2, 1, 32, 32, generator=generator)

    def loss(gives):
        return float(sharp_loss(nn.ModuleDict({"autoencoder": Same(gives)}), pixels, inside, telling, generator, critic, run))

    small = 1e-3 * float((pixels**2).mean())
    assert loss(None) == pytest.approx(small, rel=1e-5)
    error, weight = (other - pixels).numpy(), 1 + 2 * (inside + telling).numpy()
    weight = weight / weight.mean()
    wanted = (weight * (np.abs(error) + error**2)).mean()
    wanted += 0.5 * (
        (weight[..., 1:] * np.abs(np.diff(error, axis=3))).mean() + (weight[:, :, 1:] * np.abs(np.diff(error, axis=2))).mean()
    )
    layers = zip(critic.seen(other, inside)[1:], critic.seen(pixels, inside)[1:], strict=True)
    seen = np.mean([float((now - was).abs().mean() / was.std()) for now, was in layers])
    assert loss(other) == pytest.approx(wanted + small + train_sharp.SEEN_WEIGHT * seen, rel=1e-4)


def test_noise_on_latents_reaches_the_picture() -> None:
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    critic, run = random_critic(3, 4), Run(RECIPE, nn.ModuleDict({"part": nn.Linear(1, 1)}), CPU)
    parts, inside = nn.ModuleDict({"autoencoder": Same()}), torch.ones(1, 1, 32, 32)
    noises = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    found = [float(sharp_loss(parts, pixels, inside, 0 * inside, noise, critic, run)) for noise in noises]
    assert found[0] == found[1] != found[2] and found[0] > 1e-3 * float((pixels**2).mean()) + 0.04


def test_second_stage_goes_on_from_the_first_and_is_taken_up(tmp_path) -> None:
    made(tmp_path)
    crops = made_crops(tmp_path / "crops.safetensors", replace(tiny(), size=48), 30, 0)
    again = made_crops(tmp_path / "crops.safetensors", replace(tiny(), size=48), 30, 0)
    assert torch.equal(crops.images, again.images) and crops.items == again.items and len(crops.items) == 30
    assert crops.inside.shape == (30, 48, 48) and crops.inside.any() and None not in crops.items
    assert [bool(each.any()) for each in crops.telling] == ["expression" in dict(item.attributes) for item in crops.items]
    first, shape = trained_autoencoder(tmp_path / "autoencoder")
    assert autoencoder_folder(tmp_path) == tmp_path / "autoencoder"
    run = sharp_run(replace(RECIPE, stage="sharp", steps=25, batch_size=8), CPU, tmp_path)
    assert all(torch.equal(value, run.parts["autoencoder"].state_dict()[name]) for name, value in first.state_dict().items())
    batches = SharpBatches(crops, random_critic(3, 4), run, tile=32)
    given = [batches.loss_at(step).keywords for step in (4, 4, 5)]
    assert torch.equal(given[0]["pixels"], given[1]["pixels"]) and given[0]["pixels"].shape == (8, 3, 32, 32)
    assert not torch.equal(given[0]["pixels"], given[2]["pixels"])
    before = batches.loss_at(500)(run.parts).item()
    run.train(batches, lambda done: done.save(tmp_path / "sharp", shape.to_dict()), save_minutes=9.0)
    assert batches.loss_at(500)(run.parts).item() < 0.9 * before
    found, _ = trained_autoencoder(autoencoder_folder(tmp_path))
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in run.average["autoencoder"].state_dict().items())
    assert sharp_run(replace(RECIPE, stage="sharp", steps=25), CPU, tmp_path).progress.step == 25


def test_decoder_is_trained_on_alone_and_the_latents_stay_what_they_were(tmp_path) -> None:
    made(tmp_path)
    crops = made_crops(tmp_path / "crops.safetensors", replace(tiny(), size=48), 60, 0)
    first, shape = trained_autoencoder(autoencoder_folder(tmp_path))
    run = sharp_run(replace(RECIPE, stage="decoder", steps=25, batch_size=8, weight_decay=0.5), CPU, tmp_path)
    batches = SharpBatches(crops, random_critic(3, 4), run, tile=32)
    before = batches.loss_at(500)(run.parts).item()
    run.train(batches, lambda done: done.save(tmp_path / "decoder", shape.to_dict()), save_minutes=9.0)
    assert batches.loss_at(500)(run.parts).item() < 0.9 * before
    assert autoencoder_folder(tmp_path) == tmp_path / "autoencoder", "pools stay good"
    last, was = finished_autoencoder(tmp_path), first.state_dict()
    assert last.config.scaling_factor == first.config.scaling_factor
    same = {name: torch.equal(value, was[name]) for name, value in last.state_dict().items()}
    assert all(same[name] for name in same if name.startswith("encoder."))
    assert not any(same[name] for name in same if name.startswith("decoder.") and name.endswith("weight"))
    resumed = sharp_run(replace(RECIPE, stage="decoder", steps=26), CPU, tmp_path)
    assert resumed.progress.step == 25
    resumed.step(batches.loss_at(25))


def test_decoder_of_another_encoder_is_not_exported(tmp_path) -> None:
    _, shape = made(tmp_path)
    first, _ = trained_autoencoder(tmp_path / "autoencoder")
    assert finished_autoencoder(tmp_path).config.scaling_factor == first.config.scaling_factor
    sharp_run(replace(RECIPE, stage="decoder"), CPU, tmp_path).save(tmp_path / "decoder", shape.to_dict())
    finished_autoencoder(tmp_path)
    made(tmp_path, steps=4)
    with pytest.raises(EditError, match="belongs to another encoder; remove it, or train --stage decoder anew"):
        finished_autoencoder(tmp_path)


def test_share_of_faces_is_chosen(tmp_path) -> None:
    crops = made_crops(tmp_path / "crops.safetensors", replace(tiny(), size=48), 60, 0)
    face = np.array(["expression" in dict(item.attributes) for item in crops.items])
    run = Run(replace(RECIPE, batch_size=40), nn.ModuleDict({"part": nn.Linear(1, 1)}), CPU)
    critic = random_critic(3, 4)
    plain, half = SharpBatches(crops, critic, run, tile=48), SharpBatches(crops, critic, run, tile=48, faces=0.5)
    assert 0 < face.sum() < 60 and np.allclose(plain.chance, 1 / 60)
    assert half.chance[face].sum() == pytest.approx(0.5) and half.chance[~face].sum() == pytest.approx(0.5)
    shown = half.loss_at(3).keywords["pixels"]
    known = crops.pixels(torch.arange(60))
    of = [min(float((known - each).abs().amax((1, 2, 3)).min()) for each in (one, one.flip(-1))) for one in shown]
    assert max(of) == 0, "whole windows, mirrored or not"
    only = replace(crops, items=tuple(CAR for _ in crops.items))
    with pytest.raises(EditError, match="faces only, or none"):
        SharpBatches(only, critic, run, faces=0.5)


def test_what_tells_an_attribute_is_where_it_is_drawn_and_each_counts_the_same() -> None:
    """Against the renderer: another value changes these pixels and no others; a map is the mean of attributes of weight one."""
    seed, pair = next((seed, pair) for seed in range(40) for pair in pairs_of(seed) if pair.item and pair.item.concept == "woman")
    pixels = telling_pixels(draw_scene(rng_of(seed), seed), pair.item)
    assert set(pixels) == {"expression", "glasses", "hat", "view", "hair", "age"}
    scene = draw_scene(rng_of(seed), seed)
    drawn = dict(pair.item.attributes)
    other = next(value for value in ("smiling", "serious") if value != drawn["expression"])
    changed = replace(pair.item, attributes=tuple((drawn | {"expression": other}).items()))
    objects = tuple(changed if each == pair.item else each for each in scene.objects)
    now, then = (scenes.render(shown, 192).image.astype(int) for shown in (replace(scene, objects=objects), scene))
    differs = np.abs(now - then).max(-1)
    assert np.array_equal(pixels["expression"], differs >= 24) and 20 < pixels["expression"].sum() < 0.1 * pair.edit_mask.sum()
    whole = telling_map(pair, pixels, 96, 0.12)
    assert whole.mean() == pytest.approx(1.0) and whole.min() == 0
    each = [telling_map(pair, {name: mask}, 96, 0.12) for name, mask in pixels.items() if (mask & pair.edit_mask).any()]
    assert np.allclose(whole, np.mean(each, axis=0), atol=1e-4)
    assert not telling_map(pair, {}, 96, 0.12).any() and not telling_pixels(scene, CAR)


def test_maps_of_what_tells_belong_to_their_pictures() -> None:
    plain, told = CropChunks(7, 48, 4, surroundings=0.12)[1], TellingChunks(7, 48, 4, surroundings=0.12)[1]
    assert torch.equal(plain[0], told[0]) and torch.equal(plain[1], told[1]) and plain[2] == told[2]
    pairs = [(seed, pair) for seed in range(15, 23) for pair in pairs_of(seed)]
    for (seed, pair), kept in zip(pairs, told[3], strict=True):
        wanted = telling_map(pair, telling_pixels(draw_scene(rng_of(seed), seed), pair.item), 48, 0.12)
        assert np.allclose(kept.numpy() / SCALE, np.minimum(wanted, 255 / SCALE), atol=0.5 / SCALE + 1e-6)
    assert told[3].any()


def test_noise_that_a_critic_learns_from_is_as_strong_as_asked(tmp_path) -> None:
    made(tmp_path)
    pool = pool_of(tmp_path, 32, 40)
    run = critic_run(replace(RECIPE, stage="critic-latents", batch_size=16), CPU, tmp_path / "critic-latents")

    def shown(roughest: float) -> torch.Tensor:
        given = CriticBatches(lambda rows: pool.latents[rows].float(), pool.cells, pool.items, run, roughest=roughest)
        return given.loss_at(3).keywords["shown"]

    none, some, twice = shown(0.0), shown(0.1), shown(0.2)
    assert all(any(torch.equal(each, latents.float()) for latents in pool.latents) for each in none)
    assert torch.allclose(twice - none, 2 * (some - none), atol=1e-6)
    assert 0.02 < float((some - none).std()) < 0.1


def test_items_are_written_and_read() -> None:
    assert read_items(written_items([WOMAN, None, CAR])) == (WOMAN, None, CAR)
