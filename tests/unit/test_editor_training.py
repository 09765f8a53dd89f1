"""The editor's training: pairs whose truth is rendered, stages that resume where they were cut off, one atomic file each."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from randomised import randomise
from torch import nn

from mine_core.counterfactual import train_denoiser, train_phantom
from mine_core.counterfactual.packing import packed, unpacked
from mine_core.counterfactual.phantom_editor import EditorShape, build_denoiser, build_tokenizer, read_description, weights_hash
from mine_core.counterfactual.train_again import take_up
from mine_core.counterfactual.train_autoencoder import FIRST_SEED, autoencoder_loss, train_autoencoder, trained_autoencoder
from mine_core.counterfactual.train_denoiser import DenoiserBatches, Pool, encode_pool
from mine_core.counterfactual.train_pairs import TileBatches, crop_of, pairs_of, prompt_of, prompt_words
from mine_core.counterfactual.train_phantom import autoencoder_run, denoiser_run, export
from mine_core.counterfactual.train_run import CHECKPOINT, Recipe, Run, read_state
from mine_core.counterfactual.train_telling import TellingChunks
from mine_core.errors import EditError
from mine_core.subjects.phantom import scenes

CPU = torch.device("cpu")
RECIPE = Recipe("autoencoder", steps=6, batch_size=4, rate=2e-3, precision="fp32")


def tiny() -> EditorShape:
    small = {"size": 32, "first_size": 16, "width": 8, "encoder_blocks": (0, 1, 1), "decoder_blocks": (1, 1, 0)}
    unet = {"channels": (16, 32), "attention": (False, True), "heads": 2, "groups": 8, "text_width": 16, "text_layers": 1}
    return EditorShape(prompt_words(), **small, **unet)


@pytest.fixture(scope="module")
def pairs():
    return [pair for seed in range(16) for pair in pairs_of(seed)]


def test_pairs_differ_under_the_mask_alone_and_show_what_they_say(pairs) -> None:
    inserted = [pair for pair in pairs if pair.item is not None]
    assert 0.5 < len(inserted) / len(pairs) < 0.95
    for pair in pairs:
        assert np.array_equal(pair.before[~pair.edit_mask], pair.after[~pair.edit_mask])
        assert pair.edit_mask.mean() <= 0.6
    for pair in inserted:
        changed = (pair.before != pair.after).any(-1)
        assert changed.sum() > 0.2 * pair.edit_mask.sum() * 0.5, pair.item


def test_removal_ends_at_the_scene_drawn_without_the_object() -> None:
    """Under the mask of a removal stands exactly what insertion of the same object started from."""
    found = 0
    for seed in range(10):
        both = pairs_of(seed)
        for pair in both:
            befores = [other.before for other in both if other.item is not None]
            if pair.item is None and any(np.array_equal(pair.after[pair.edit_mask], b[pair.edit_mask]) for b in befores):
                found += 1
    assert found > 3


def test_masks_come_in_every_aspect(pairs) -> None:
    aspects = []
    for pair in pairs:
        if pair.item is not None:
            rows, cols = np.flatnonzero(pair.edit_mask.any(1)), np.flatnonzero(pair.edit_mask.any(0))
            aspects.append((rows[-1] - rows[0] + 1) / (cols[-1] - cols[0] + 1))
    assert min(aspects) < 0.6 and max(aspects) > 1.7


def test_pairs_depend_on_their_seed_alone() -> None:
    first, second = pairs_of(5), pairs_of(5)
    assert all(
        np.array_equal(a.after, b.after) and np.array_equal(a.edit_mask, b.edit_mask) for a, b in zip(first, second, strict=True)
    )


def test_prompts_tell_the_truth_in_known_words(pairs, rng) -> None:
    words = set(prompt_words())
    tokenizer = build_tokenizer(tiny())
    longest = 0
    for _ in range(4):
        for pair in pairs:
            prompt = prompt_of(pair.item, rng, told=1.0 if rng.random() < 0.5 else 0.5)
            told = prompt.split()
            assert set(told) <= words
            longest = max(longest, len(tokenizer(prompt).input_ids))
            if pair.item is None:
                assert prompt == "background"
                continue
            drawn = dict(pair.item.attributes)
            for name in ("colour", "expression", "pose", "age"):
                others = set(scenes.ATTRIBUTES[name]) - {drawn.get(name)}
                assert not others & set(told) or name == "colour" and "hair" in told
            assert ("glasses" in told) <= ("glasses" in drawn)
    assert longest <= tiny().context


def test_every_prompt_fits_the_context() -> None:
    face = tuple({"expression": "smiling", "age": "young", "hair": "black", "glasses": "yes", "hat": "no", "view": "front"}.items())
    item = scenes.SceneObject("woman", 0.5, 0.5, 0.5, face, 1)
    tokenizer = build_tokenizer(EditorShape(prompt_words()))
    rng = np.random.default_rng(0)
    lengths = [len(tokenizer(prompt_of(item, rng, told=1.0)).input_ids) for _ in range(200)]
    assert 12 < max(lengths) <= EditorShape(prompt_words()).context
    assert tokenizer("a red zebra").input_ids[3] == 3


def test_crop_covers_the_mask_in_whole_cells(pairs) -> None:
    for pair in pairs[:20]:
        crop = crop_of(pair, 32, 4)
        assert crop.after.shape == (32, 32, 3) and crop.cells.shape == (8, 8)
        assert crop.cells.any() and not crop.cells.all()


def test_tiles_say_where_objects_are() -> None:
    tiles, objects = TileBatches(9, 8)[3]
    again, _ = TileBatches(9, 8)[3]
    assert torch.equal(tiles, again) and tiles.shape == (8, 64, 64, 3)
    assert objects.min() >= 0 and objects.max() <= 1 and 0.05 < objects.mean() < 0.9


def test_autoencoder_loss_by_hand() -> None:
    """With a decoder that gives zero the error is the picture itself; squared latents are all that is added."""

    class Zero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.AvgPool2d(4), nn.Module()
            self.decoder.forward = lambda latents: torch.zeros(len(latents), 3, 16, 16)

    tiles = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    objects = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(1))
    run = Run(RECIPE, nn.ModuleDict({"autoencoder": nn.Linear(1, 1)}), CPU)
    found = autoencoder_loss(nn.ModuleDict({"autoencoder": Zero()}), tiles, objects, torch.zeros(2, 3, 4, 4), run)
    x = tiles.numpy().astype(float) / 127.5 - 1
    weight = 1 + 2 * objects.numpy()[..., None]
    weight = weight / weight.mean()
    latents = x.reshape(2, 4, 4, 4, 4, 3).mean((2, 4))
    wanted = (weight * (np.abs(x) + x**2)).mean() + 1e-3 * (latents**2).mean()
    wanted += 0.5 * ((np.abs(np.diff(x, axis=1)) * weight[:, 1:]).mean() + (np.abs(np.diff(x, axis=2)) * weight[:, :, 1:]).mean())
    assert float(found) == pytest.approx(wanted, rel=1e-4)


def made(tmp_path, steps=3):
    """A tiny training of all stages, by its own functions."""
    run, shape = autoencoder_run(replace(RECIPE, steps=steps), tiny(), CPU, tmp_path / "autoencoder")
    train_autoencoder(run, shape, tmp_path / "autoencoder", workers=0, save_minutes=9.0)
    return run, shape


def pool_of(root, size, n=24) -> Pool:
    autoencoder, shape = trained_autoencoder(root / "autoencoder")
    chunks = (TellingChunks(7, size, shape.cell)[number] for number in range(99))
    return encode_pool(autoencoder, shape, chunks, n)


def test_a_resumed_stage_equals_an_unbroken_one(tmp_path) -> None:
    unbroken, _ = made(tmp_path / "whole", steps=5)
    recipe = replace(RECIPE, steps=5)
    folder = tmp_path / "parts" / "autoencoder"
    cut_off, shape = autoencoder_run(recipe, tiny(), CPU, folder)
    batches = TileBatches(FIRST_SEED, recipe.batch_size)
    for number in range(2):
        noise = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(recipe.seed * 1_000_003 + number))
        cut_off.step(lambda parts, batch=batches[number], noise=noise: autoencoder_loss(parts, *batch, noise, cut_off))
    cut_off.save(folder, shape.to_dict())
    resumed, shape = autoencoder_run(recipe, EditorShape(("other",)), CPU, folder)
    assert resumed.progress.step == 2 and shape == tiny()
    train_autoencoder(resumed, shape, folder, workers=0, save_minutes=9.0)
    for name, value in unbroken.tensors().items():
        assert torch.equal(value, resumed.tensors()[name]), name
    assert list(tmp_path.rglob(".*")) == []


def test_checkpoint_restores_every_tensor(tmp_path) -> None:
    run, _ = made(tmp_path)
    again, _ = autoencoder_run(replace(RECIPE, steps=3), tiny(), CPU, tmp_path / "autoencoder")
    for name, value in run.tensors().items():
        assert torch.equal(value, again.tensors()[name]), name
    tiles, objects = TileBatches(1, 4)[0]
    noise = torch.zeros(4, 4, 16, 16)
    for each in (run, again):
        each.step(lambda parts, each=each: autoencoder_loss(parts, tiles, objects, noise, each))
    for name, value in run.tensors().items():
        assert torch.equal(value, again.tensors()[name]), name


def test_latents_of_the_pool_have_unit_spread_and_hide_what_goes(tmp_path) -> None:
    made(tmp_path)
    pool = pool_of(tmp_path, 32)
    assert pool.latents.shape == pool.seen.shape == (24, 4, 8, 8) and len(pool.items) == 24
    assert 0.5 < float(pool.latents.float().std()) < 2.0
    assert set(pool.inserted) | set(pool.removed) == set(range(24)) and not set(pool.inserted) & set(pool.removed)
    images, cells, items, maps = TellingChunks(7, 32, 4)[0]
    covered = np.kron(cells.numpy(), np.ones((1, 4, 4), bool))
    other = torch.where(torch.from_numpy(covered)[..., None], 255 - images, images)
    autoencoder, shape = trained_autoencoder(tmp_path / "autoencoder")
    pools = [encode_pool(autoencoder, shape, iter([(pictures, cells, items, maps)]), len(items)) for pictures in (images, other)]
    wanted = maps.numpy().reshape(len(maps), 8, 4, 8, 4).mean((2, 4))
    assert np.allclose(pools[0].telling, wanted, atol=0.5) and pools[0].telling.any()
    assert torch.equal(pools[0].seen, pools[1].seen) and not torch.equal(pools[0].latents, pools[1].latents)
    pool.save(tmp_path / "pool.safetensors", {"n": 1})
    again = Pool.load(tmp_path / "pool.safetensors")
    assert torch.equal(again.seen, pool.seen) and again.items == pool.items


def test_denoiser_learns_a_pool_by_heart_and_its_export_loads(tmp_path, monkeypatch) -> None:
    made(tmp_path)
    pools = [pool_of(tmp_path, 16, 40), pool_of(tmp_path, 32, 40)]
    for pool, size in zip(pools, (16, 32), strict=True):
        pool.save(tmp_path / f"pool-{size}.safetensors", {"n_edits": 40})
    recipe = Recipe("denoiser", steps=40, batch_size=16, rate=3e-3, hold=0.9, precision="fp32")
    run = denoiser_run(recipe, tiny(), CPU, tmp_path / "denoiser")
    losses = DenoiserBatches(pools, tiny(), run)
    seen: list[float] = []
    run.train(_noted(losses, seen), lambda done: done.save(tmp_path / "denoiser", tiny().to_dict()), save_minutes=9.0)
    assert run.progress.step == 40
    assert np.mean(seen[-8:]) < 0.75 * np.mean(seen[:6])
    record = export(tmp_path, tmp_path / "assets", ["trained in a test"])
    folder = tmp_path / "assets" / train_phantom.NAME
    assert read_description(folder) == json.loads(json.dumps(record))
    assert record["sha256"] == weights_hash(folder) and record["training"]["pool"] == {"16": 40, "32": 40}
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(EditError, match="restore both"):
        read_description(folder)


@pytest.mark.parametrize(("dtype", "precision"), [(torch.bfloat16, "bf16"), (torch.float32, "fp32")])
def test_a_stage_is_trained_in_bfloat16_where_the_device_multiplies_it(monkeypatch, dtype, precision) -> None:
    monkeypatch.setattr(train_phantom, "quick_dtype", lambda _device: dtype)
    asked = train_phantom._arguments().parse_args(["--batch", "5", "--seed", "3"])
    recipe = train_phantom._recipe(asked, "denoiser", 2.0, 1e-3)
    assert (recipe.precision, recipe.batch_size, recipe.seed, recipe.minutes) == (precision, 5, 3, 2.0)


def test_a_training_goes_on_from_what_was_shipped(tmp_path) -> None:
    made(tmp_path)
    pool_of(tmp_path, 32, 40).save(tmp_path / "pool-32.safetensors", {"n_edits": 40})
    shape = replace(tiny(), first_size=32)
    recipe = Recipe("denoiser", steps=7, batch_size=4, precision="fp32")
    run = denoiser_run(recipe, shape, CPU, tmp_path / "denoiser")
    for index, part in enumerate((run.parts, run.average)):
        randomise(part, 31 + index)
    run.progress.step, run.progress.seconds = 7, 600.0
    run.save(tmp_path / "denoiser", shape.to_dict())
    first = export(tmp_path, tmp_path / "assets", ["taught by hand"])
    first["training"]["critic-pictures"] = {"recipe": {}, "steps": 5, "minutes": 1.0}
    described = tmp_path / "assets" / train_phantom.NAME / "editor.json"
    described.write_text(json.dumps(first))

    again = tmp_path / "again"
    take_up(described.parent, again)
    taken = denoiser_run(replace(recipe, steps=9), shape, CPU, again / "denoiser")
    assert (taken.progress.step, taken.progress.seconds, taken.recipe.steps) == (7, 600.0, 9)
    text_encoder = {name: value.half().to(value.dtype) for name, value in run.average["text_encoder"].state_dict().items()}
    kept = {"denoiser": unpacked(packed(run.average["denoiser"].state_dict())), "text_encoder": text_encoder}
    for parts in (taken.parts, taken.average):
        for part, wanted in kept.items():
            assert all(torch.equal(parts[part].state_dict()[name], value) for name, value in wanted.items())
    (tmp_path / "pool-32.safetensors").rename(again / "pool-32.safetensors")
    second = export(again, tmp_path / "second", ["and went on"])
    assert second["sha256"] == first["sha256"], "what was taken up and not trained is what was shipped"
    assert second["training"] == first["training"] | {"notes": ["taught by hand", "and went on"]}
    with pytest.raises(EditError, match="holds checkpoints of autoencoder, denoiser"):
        take_up(described.parent, again)


def _noted(losses, seen):
    for loss_of in losses:

        def noted(parts, loss_of=loss_of):
            loss = loss_of(parts)
            seen.append(loss.item())
            return loss

        yield noted


def test_steps_of_the_denoiser_are_a_function_of_their_number(tmp_path) -> None:
    made(tmp_path)
    pool = pool_of(tmp_path, 16, 40)
    run = denoiser_run(Recipe("denoiser", steps=100, batch_size=8, precision="fp32"), tiny(), CPU, tmp_path / "none")
    batches = DenoiserBatches([pool, pool], tiny(), run)
    first, second, other = batches.loss_at(3).keywords, batches.loss_at(3).keywords, batches.loss_at(4).keywords
    assert all(torch.equal(first[name], second[name]) for name in ("rows", "ids", "times", "noise"))
    assert not torch.equal(first["noise"], other["noise"])
    assert len({int(time) // 125 for time in first["times"]}) == 8, "times are spread evenly over the range"
    wordless = torch.cat([batches.loss_at(step).keywords["ids"][:, 1] == 2 for step in range(60)]).float().mean()
    assert 0.04 < wordless < 0.2


def test_faces_are_drawn_more_often_than_they_are(tmp_path) -> None:
    """Of 2,400 draws: removals at their share, faces at theirs and at what chance adds."""
    made(tmp_path)
    pool = pool_of(tmp_path, 16, 60)
    run = denoiser_run(Recipe("denoiser", steps=100, batch_size=24, precision="fp32"), tiny(), CPU, tmp_path / "none")
    batches = DenoiserBatches([pool], tiny(), run)
    drawn = np.concatenate([batches.loss_at(step).keywords["rows"].numpy() for step in range(100)])
    faces = [item is not None and "expression" in dict(item.attributes) for item in pool.items]
    natural = np.mean([face for face, item in zip(faces, pool.items, strict=True) if item is not None])
    inserted = np.isin(drawn, pool.inserted)
    assert 0 < natural < 0.5 and abs(inserted.mean() - train_denoiser.INSERTED) < 0.04
    assert abs(np.take(faces, drawn[inserted]).mean() - (train_denoiser.FACES + (1 - train_denoiser.FACES) * natural)) < 0.05


def test_large_windows_come_last(tmp_path) -> None:
    made(tmp_path)
    pools = [pool_of(tmp_path, size, 30) for size in (16, 32)]
    run = denoiser_run(Recipe("denoiser", steps=100, batch_size=4, precision="fp32"), tiny(), CPU, tmp_path / "none")
    batches = DenoiserBatches(pools, tiny(), run)
    sizes = {}
    for step in (0, 50, 70, 99):
        run.progress.step = step
        sizes[step] = batches.loss_at(step).keywords["noise"].shape[-1]
    assert sizes == {0: 4, 50: 4, 70: 8, 99: 8}


def test_prompt_reaches_the_denoiser() -> None:
    torch.manual_seed(0)
    denoiser = build_denoiser(tiny()).eval()
    text = torch.randn(2, 5, 16)
    x = torch.randn(1, 9, 8, 8).repeat(2, 1, 1, 1)
    with torch.no_grad():
        out = denoiser(x, torch.tensor([500, 500]), encoder_hidden_states=text, return_dict=False)[0]
    assert float((out[0] - out[1]).abs().max()) > 1e-3


def test_rate_rises_holds_and_falls_and_time_ends_a_stage() -> None:
    recipe = replace(RECIPE, steps=1000, minutes=2.0)
    rates = [recipe.rate_at(share) for share in (0.0, recipe.warm_up, recipe.hold, 0.7, 1.0)]
    assert rates[0] < rates[1] == rates[2] == recipe.rate and rates[2] > rates[3] > rates[4] > 0
    run = Run(recipe, nn.ModuleDict({"part": nn.Linear(2, 2)}), CPU)
    run.progress.seconds = 90.0
    assert run.share_done() == pytest.approx(0.75) and run.seconds_left() == pytest.approx(30.0)


def test_refusals(tmp_path) -> None:
    with pytest.raises(EditError, match=CHECKPOINT):
        read_state(tmp_path)
    with pytest.raises(EditError, match="precision"):
        replace(RECIPE, precision="fp8")
    with pytest.raises(EditError, match="make no training"):
        replace(RECIPE, steps=0)
    with pytest.raises(EditError, match="multiples of 8"):
        replace(tiny(), size=36)
    with pytest.raises(EditError, match="Unknown editor settings"):
        EditorShape.from_dict({"words": ["a"], "depth": 3})
    run = Run(RECIPE, nn.ModuleDict({"part": nn.Linear(2, 2)}), CPU)
    with pytest.raises(EditError, match="step 0 of stage autoencoder"):
        run.step(lambda parts: parts["part"].weight.sum() * float("nan"))
    with pytest.raises(EditError, match="no insertion, no removal or no face"):
        none = torch.zeros(2, 4, 4, 4)
        DenoiserBatches([Pool(none, none, none[:, 0] > 0, none[:, 0].byte(), (None, None))], tiny(), run)
