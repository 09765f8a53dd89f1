"""Editors of diffusers: every preset's class with tiny random weights, offline; what they may change, see, record and refuse."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_pipelines import tiny_pipeline

from mine_core.counterfactual import diffusion, editor_loading
from mine_core.counterfactual.diffusion import DiffusionEditor, LoadedPipeline, read_instruction
from mine_core.counterfactual.editor_loading import load_from_assets, load_pipeline
from mine_core.counterfactual.editor_presets import load_editor_presets
from mine_core.counterfactual.editors import Editor, check_edit
from mine_core.counterfactual.windows import (
    Window,
    cut,
    cut_mask,
    laid_back,
    settled,
    whole_cells,
    window_around,
)
from mine_core.errors import Cancelled, EditError

PRESETS = load_editor_presets()
HEIGHT, WIDTH = 40, 48


def small(name: str):
    return replace(PRESETS[name], side=32, steps=3, lora="", variant="")


@pytest.fixture(scope="module")
def editors(tmp_path_factory):
    """Each preset's editor, loaded from files as its publisher would lay them out."""
    made = {}
    for name in PRESETS:
        folder = tmp_path_factory.mktemp(name)
        tiny_pipeline(PRESETS[name].pipeline).save_pretrained(folder)
        made[name] = DiffusionEditor(small(name), load_pipeline(small(name), folder, "cpu", weights="w"))
    return made


@pytest.fixture
def picture(rng):
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[8:24, 10:30] = True
    return image, mask


@pytest.mark.parametrize("name", PRESETS)
def test_edits_repeat_obey_seed_and_words_and_keep_to_their_mask(name, editors, picture) -> None:
    image, mask = picture
    editor = editors[name]
    assert isinstance(editor, Editor)
    first, again = (editor.edit(image, mask, "insert a red ball", seed=1) for _ in range(2))
    check_edit(first)
    assert np.array_equal(first.edited[~mask], image[~mask]) and np.array_equal(first.edited, again.edited)
    assert (first.edited[mask] != image[mask]).any(1).mean() > 0.9
    assert not np.array_equal(first.edited, editor.edit(image, mask, "insert a red ball", seed=2).edited)
    assert not np.array_equal(first.edited, editor.edit(image, mask, "insert a dog", seed=1).edited)
    record = first.provenance
    assert record["pipeline"] == PRESETS[name].pipeline and record["weights"] == "w" and record["placement"] == "processor"
    assert record["asked"] == "insert" and "red ball" in record["prompt"] and record["steps"] in (2, 3)
    assert len(record["mask_hash"]) == 64 and record["window"][2] >= 20


@pytest.mark.parametrize("name", PRESETS)
def test_saved_and_loaded_pipelines_paint_the_same(name, editors, picture) -> None:
    image, mask = picture
    memory = tiny_pipeline(PRESETS[name].pipeline)
    memory.set_progress_bar_config(disable=True)
    editor_loading._fitted(small(name), memory)
    before = DiffusionEditor(small(name), LoadedPipeline(memory, "w", "processor"))
    both = [editor.edit(image, mask, "remove it", seed=4).edited for editor in (before, editors[name])]
    assert np.array_equal(*both)


@pytest.mark.parametrize("name", [name for name in PRESETS if PRESETS[name].pipeline.endswith("InpaintPipeline")])
def test_masked_models_of_nine_channels_never_see_what_goes(name, editors, picture) -> None:
    """What stood under the mask is unknown to the model: with it changed, the same is painted."""
    if PRESETS[name].pipeline.startswith("Flux"):
        pytest.skip("this model reads the whole picture beside the masked one, by its design")
    image, mask = picture
    other = image.copy()
    other[mask] = 255 - other[mask]
    editor = editors[name]
    deep = np.zeros_like(mask)
    deep[14:18, 16:24] = True  # far from the border, where the paste blends with what was there
    painted = [editor.edit(each, mask, "insert a dog", seed=3).edited[deep].astype(int) for each in (image, other)]
    # with a strength below 1 the noise begins on the picture itself
    limit = 0 if PRESETS[name].strength == 1 else 60
    assert np.abs(painted[0] - painted[1]).max() <= limit + 1


@pytest.mark.parametrize("name", PRESETS)
def test_the_round_trip_changes_the_mask_alone_and_asks_nothing(name, editors, picture) -> None:
    image, mask = picture
    editor = editors[name]
    through = editor.round_trip(image, mask)
    assert np.array_equal(through[~mask], image[~mask]) and (through[mask] != image[mask]).any()
    assert np.array_equal(through, editor.round_trip(image, mask))  # its middle, not a draw from it
    window = window_around(mask, editor.preset.surroundings)
    pipeline, pixels = editor.loaded.pipeline, torch.from_numpy(cut(image, window, 32)).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        encoded = pipeline.vae.encode(pixels)
        decoded = pipeline.vae.decode(encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean).sample
    wanted = laid_back(image, ((decoded[0].permute(1, 2, 0).clamp(-1, 1) + 1) * 127.5).round().byte().numpy(), window)
    inner = np.zeros_like(mask)
    inner[12:20, 14:26] = True  # where the new picture is opaque
    assert np.abs(through[inner].astype(int) - wanted[inner]).max() <= 1


def test_a_lora_is_fused_into_the_weights(tmp_path, picture) -> None:
    """A made-up LoRA with random factors: each weight that it targets becomes W + B A, and the edit another."""
    from diffusers import StableDiffusionInpaintPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(3)
    plain = tiny_pipeline(PRESETS["sd15-inpaint-lcm"].pipeline)
    plain.save_pretrained(tmp_path / "plain")
    plain.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    factors = get_peft_model_state_dict(plain.unet)
    StableDiffusionInpaintPipeline.save_lora_weights(tmp_path / "lora", unet_lora_layers=factors)
    preset = small("sd15-inpaint-lcm")
    without = load_pipeline(preset, tmp_path / "plain", "cpu", weights="w")
    fused = load_pipeline(replace(preset, lora=str(tmp_path / "lora")), tmp_path / "plain", "cpu", weights="w")
    name = next(key for key in factors if "to_q" in key and "lora_A" in key)
    update = factors[name.replace("lora_A", "lora_B")] @ factors[name]
    layer = name.split(".lora_A")[0]
    changed = fused.pipeline.unet.get_submodule(layer)
    weight = (changed.base_layer if hasattr(changed, "base_layer") else changed).weight
    torch.testing.assert_close(weight, without.pipeline.unet.get_submodule(layer).weight + update, atol=1e-5, rtol=1e-4)
    edits = [DiffusionEditor(preset, loaded).edit(*picture, "insert a dog", seed=0).edited for loaded in (without, fused)]
    assert (edits[0] != edits[1]).any()


def test_a_painted_edit_is_controlled_by_its_round_trip(editors, picture) -> None:
    from mine_core.counterfactual.controls import ROUND_TRIP, make_controls
    from mine_core.counterfactual.removal import InpaintRemover

    image, mask = picture
    editor = editors["phantom"]
    edit = editor.edit(image, mask, "remove the thing", seed=0)
    made = {}
    for remover in (editor, InpaintRemover()):
        made[remover.name] = make_controls(edit, np.ones((8, 8)), remover, direction=-1, n_elsewhere=0, n_content=1, seed=0)
    [through] = [control for control in made["phantom"] if control.name == ROUND_TRIP]
    assert np.array_equal(through.image, editor.round_trip(image, mask))
    assert ROUND_TRIP not in [control.name for control in made[InpaintRemover().name]]


def test_steps_are_told_and_can_be_cancelled(editors, picture) -> None:
    image, mask = picture
    editor = editors["phantom"]
    seen: list[tuple[int, int]] = []

    def told(step, n_steps, shown):
        seen.append((step, n_steps))
        assert np.array_equal(shown[~mask], image[~mask])
        assert not torch.is_inference_mode_enabled(), "a model that is loaded here could never be trained or traced again"

    edit = editor.edit(image, mask, "insert a dog", seed=0, on_step=told)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert np.array_equal(edit.edited, editor.edit(image, mask, "insert a dog", seed=0).edited), "watching changes nothing"
    asked = iter([False, False, True])
    with pytest.raises(Cancelled):
        editor.edit(image, mask, "insert a dog", seed=0, cancelled=lambda: next(asked))
    assert "step" not in vars(editor.loaded.pipeline.scheduler), "the watch is taken off"
    assert not editor.loaded.lock.locked()


def test_last_preview_is_the_picture(editors, picture) -> None:
    image, mask = picture
    last = []
    edit = editors["phantom"].edit(image, mask, "insert a dog", seed=0, on_step=lambda *seen: last.append(seen[2]))
    assert np.abs(last[-1].astype(int) - edit.edited).max() <= 1


class _Small(SimpleNamespace):
    """A pipeline that runs out of GPU memory as long as it is not offloaded often enough."""

    def __call__(self, **asked):
        if self.failures:
            self.failures -= 1
            raise torch.cuda.OutOfMemoryError("too little")
        return SimpleNamespace(images=[np.zeros((32, 32, 3))])

    def maybe_free_model_hooks(self):
        self.freed += 1


def test_too_little_memory_falls_back_and_says_so(picture) -> None:
    image, mask = picture
    for failures, places in ((1, ["part by part on the GPU"]), (3, ["part by part on the GPU", "layer by layer on the GPU"])):
        pipeline = _Small(failures=failures, freed=0, scheduler=object(), vae_scale_factor=8)
        left = list(places)
        loaded = LoadedPipeline(pipeline, "w", "whole on the GPU", lambda left=left: left.pop(0) if left else None)
        editor = DiffusionEditor(small("sdxl-inpaint"), loaded)
        if failures == 1:
            edit = editor.edit(image, mask, "remove it", seed=0)
            assert edit.provenance["placement"] == "part by part on the GPU, after memory ran out"
            assert pipeline.freed == 2
        else:
            with pytest.raises(EditError, match="ran out of GPU memory"):
                editor.edit(image, mask, "remove it", seed=0)
            assert not left and not loaded.lock.locked()


def test_offloader_goes_from_large_to_small(monkeypatch) -> None:
    placed = []
    monkeypatch.setattr(editor_loading, "_place", lambda pipeline, where, device: placed.append(where))
    pipeline = SimpleNamespace(to=lambda where: None)
    whole = editor_loading._Offloader(pipeline, "whole on the GPU", "cuda")
    assert [whole(), whole(), whole()] == ["part by part on the GPU", "layer by layer on the GPU", None]
    assert placed == ["part by part on the GPU", "layer by layer on the GPU"]
    assert editor_loading._Offloader(pipeline, "layer by layer on the GPU", "cuda")() is None
    assert editor_loading._Offloader(pipeline, "processor", "cpu")() is None


def test_broken_files_are_refused(tmp_path) -> None:
    tiny_pipeline("StableDiffusionInpaintPipeline").save_pretrained(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(EditError, match="cannot be loaded"):
        load_pipeline(small("sd15-inpaint-lcm"), tmp_path, "cpu", weights="w")


def test_instructions_are_read_and_others_refused() -> None:
    assert read_instruction("insert a  red ball") == ("insert", "a red ball")
    assert read_instruction("Add snow") == ("insert", "snow")
    assert read_instruction("remove what drives the voxel") == ("remove", "what drives the voxel")
    for wrong in ("paint a dog", "insert", ""):
        with pytest.raises(EditError, match="write 'insert'"):
            read_instruction(wrong)


def test_editor_of_few_words_refuses_others_and_minds_articles(editors, picture) -> None:
    words = frozenset(["a", "an", "red", "apple", "ball", "man", "with", "glasses", "skis", "background"])
    editor = replace(editors["phantom"], words=words)
    for what, prompt in (
        ("ball", "a ball"),
        ("apple", "an apple"),
        ("red ball", "a red ball"),
        ("a red ball", "a red ball"),
        ("Skis", "skis"),
        ("man with glasses", "a man with glasses"),
    ):
        assert editor.prompt("insert", what) == prompt
    assert editor.prompt("remove", "zebra") == "background"
    image, mask = picture
    with pytest.raises(EditError, match="never saw 'zebra'"):
        editor.edit(image, mask, "insert a zebra", seed=0)


def test_mask_outside_bounds_is_refused_before_any_work(editors, picture) -> None:
    image, _ = picture
    with pytest.raises(EditError, match="at most 60"):
        editors["phantom"].edit(image, np.ones((HEIGHT, WIDTH), bool), "remove it", seed=0)


def test_phantom_editor_of_another_size_is_refused(tmp_path, monkeypatch) -> None:
    other = PRESETS["phantom"].side + 32
    described = {"sha256": "x", "shape": {"words": ["a"], "size": other, "surroundings": PRESETS["phantom"].surroundings}}
    monkeypatch.setattr("mine_core.counterfactual.phantom_editor.read_description", lambda folder: described)
    with pytest.raises(EditError, match=f"paints {other} pixels"):
        load_from_assets(PRESETS["phantom"], tmp_path)


def test_phantom_editor_of_other_surroundings_is_refused(tmp_path, monkeypatch) -> None:
    described = {"sha256": "x", "shape": {"words": ["a"], "size": PRESETS["phantom"].side, "surroundings": 0.5}}
    monkeypatch.setattr("mine_core.counterfactual.phantom_editor.read_description", lambda folder: described)
    with pytest.raises(EditError, match="surroundings of 0.5"):
        load_from_assets(PRESETS["phantom"], tmp_path)


def test_window_holds_the_mask_and_lies_in_the_image(rng) -> None:
    for _ in range(60):
        mask = np.zeros((70, 90), bool)
        top, left = rng.integers(0, 60), rng.integers(0, 80)
        mask[top : top + rng.integers(1, 50), left : left + rng.integers(1, 50)] = True
        window = window_around(mask)
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert window.top <= rows[0] and rows[-1] < window.top + window.side
        assert window.left <= cols[0] and cols[-1] < window.left + window.side
        assert window.top >= 0 and window.top + window.side <= 70 and window.left >= 0 and window.left + window.side <= 90
    wide = np.zeros((20, 90), bool)
    wide[5:15, 4:84] = True
    assert window_around(wide).side == 80, "a mask longer than the image is tall needs a window beyond it"
    with pytest.raises(EditError, match="empty"):
        window_around(np.zeros((5, 5), bool))


def test_cutting_and_laying_back_is_the_identity(rng) -> None:
    image = rng.integers(0, 256, (30, 50, 3), dtype=np.uint8)
    for window in (Window(4, 6, 16), Window(-5, -3, 40), Window(0, 20, 30)):
        assert np.array_equal(laid_back(image, cut(image, window, window.side), window), image)
        doubled = cut(image, window, 2 * window.side)
        assert doubled.shape == (2 * window.side, 2 * window.side, 3)
        assert np.abs(laid_back(image, doubled, window).astype(int) - image).mean() < 12


def test_no_marked_pixel_is_lost_in_cells(rng) -> None:
    mask = np.zeros((60, 60), bool)
    mask[31, 17] = mask[20:40, 22:24] = True
    window = window_around(mask)
    cells = whole_cells(cut_mask(mask, window, 32), 4)
    white = 255 * np.kron(cells, np.ones((4, 4), np.uint8))[..., None].repeat(3, -1)
    back = laid_back(np.zeros((60, 60, 3), np.uint8), white.astype(np.uint8), window)
    assert (back[mask] > 100).all()


def test_settling_takes_out_a_cast_and_leaves_a_match_alone(rng) -> None:
    original = rng.integers(60, 180, (48, 48, 3), dtype=np.uint8)
    inside = np.zeros((48, 48), bool)
    inside[12:36, 12:36] = True
    assert np.array_equal(settled(original, original, inside, 30.0), original)
    cast = (original + np.array([20, -10, 5])).astype(np.uint8)
    assert np.abs(settled(cast, original, inside, 30.0)[inside].astype(int) - original[inside]).max() <= 1
    near = settled(cast, original, inside, 3.0)[24, 24].astype(int) - cast[24, 24]
    assert np.abs(near).max() <= 6, "a short reach leaves the middle as painted"


def test_preview_of_what_the_scheduler_expects(editors) -> None:
    """The watch keeps a scheduler's guess of the end, and the scheduler's own step is back afterwards."""
    expected: list = []
    scheduler = editors["instruct-pix2pix"].loaded.pipeline.scheduler
    scheduler.set_timesteps(4)
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with diffusion._watched(scheduler, expected):
        out = scheduler.step(torch.zeros_like(x), scheduler.timesteps[0], x, return_dict=False)
    share = scheduler.alphas_cumprod[scheduler.timesteps[0]]
    assert torch.allclose(expected[0], x / share**0.5, atol=1e-5) and len(out) == 2
    assert "step" not in vars(scheduler)
