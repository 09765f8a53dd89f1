"""Public editors as their publishers lay them out in the hub's cache: found, loaded offline, and used; no pickle is read."""

import fnmatch
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from tiny_pipelines import tiny_pipeline

from mine_core.counterfactual import editor_loading
from mine_core.counterfactual.editor_presets import LORA_WEIGHTS, EditorPreset, editor_available, how_to_get, load_editor_presets
from mine_core.errors import EditError

PUBLIC = {name: preset for name, preset in load_editor_presets().items() if preset.source == "hub"}
COMMIT = "0123456789" * 4


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, without a connection; editors of other tests are forgotten, and presets made small."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(editor_loading, "find_editor_preset", lambda name: replace(PUBLIC[name], side=32, steps=3))
    editor_loading.load_editor.cache_clear()
    yield tmp_path
    editor_loading.load_editor.cache_clear()


def snapshot_of(hub: Path, repository: str, tag: str) -> Path:
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / tag).write_text(COMMIT)
    return folder / "snapshots" / COMMIT


def publish(hub: Path, preset: EditorPreset) -> Path:
    """A tiny pipeline of the preset's class with the published names, pickles and a single file beside them."""
    snapshot = snapshot_of(hub, preset.repository, preset.revision)
    pipeline = tiny_pipeline(preset.pipeline)
    pipeline.save_pretrained(snapshot, variant=preset.variant or None)
    (snapshot / "single-file.safetensors").write_bytes(b"not a model")
    (snapshot / "model.ckpt").write_bytes(b"not a model")
    for weights in list(snapshot.glob("*/*.safetensors")):
        weights.with_suffix(".bin").write_bytes(b"not a model")
    if preset.lora:
        pipeline.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
        factors = get_peft_model_state_dict(pipeline.unet)
        StableDiffusionInpaintPipeline.save_lora_weights(snapshot_of(hub, preset.lora, "main"), unet_lora_layers=factors)
    return snapshot


@pytest.mark.parametrize("name", PUBLIC)
def test_an_editor_in_the_cache_is_loaded_offline_and_paints(name, hub, rng) -> None:
    assert not editor_available(name)[0]
    torch.manual_seed(0)
    publish(hub, PUBLIC[name])
    assert editor_available(name) == (True, "")
    editor = editor_loading.load_editor(name, "cpu")
    assert editor.loaded.weights == f"{PUBLIC[name].repository}@{COMMIT}"
    assert not PUBLIC[name].scheduler or type(editor.loaded.pipeline.scheduler).__name__ == PUBLIC[name].scheduler
    image = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
    mask = np.zeros((40, 48), bool)
    mask[8:24, 10:30] = True
    edited = editor.edit(image, mask, "insert a red ball", seed=1).edited
    assert np.array_equal(edited[~mask], image[~mask]) and (edited[mask] != image[mask]).any(1).mean() > 0.9


def test_an_editor_without_its_lora_is_not_here(hub) -> None:
    preset = PUBLIC["sd15-inpaint-lcm"]
    publish(hub, replace(preset, lora=""))
    ready, reason = editor_available("sd15-inpaint-lcm")
    assert not ready and f"hf download {preset.lora} {LORA_WEIGHTS}" in reason
    with pytest.raises(EditError, match="cannot be loaded"):
        editor_loading.load_editor("sd15-inpaint-lcm", "cpu")


@pytest.mark.parametrize("name", PUBLIC)
def test_what_one_is_told_to_download_is_what_is_read(name, hub) -> None:
    """Of what lies in the repository, the patterns of the advice leave what loads, and nothing pickled."""
    preset = PUBLIC[name]
    snapshot = publish(hub, preset)
    (snapshot / "safety_checker").mkdir()
    (snapshot / "safety_checker" / "model.fp16.safetensors").write_bytes(b"not a model")
    command = how_to_get(preset).split(preset.repository)[1].split("`")[0]
    wanted, unwanted = (re.findall(rf'--{kind} "([^"]+)"', command) for kind in ("include", "exclude"))
    files = [path for path in snapshot.rglob("*") if path.is_file()]
    for path in files:
        place = str(path.relative_to(snapshot))
        if not any(fnmatch.fnmatch(place, each) for each in wanted) or any(fnmatch.fnmatch(place, each) for each in unwanted):
            path.unlink()
    left = {path.name for path in snapshot.rglob("*") if path.is_file()}
    assert "model_index.json" in left and len(left) < len(files)
    assert not any(name.endswith((".bin", ".ckpt")) for name in left) and "single-file.safetensors" not in left
    assert not preset.checked or not list(snapshot.glob("safety_checker/*"))
    assert editor_loading.load_editor(name, "cpu").loaded.placement == "processor"


def test_a_broken_file_of_a_cache_is_refused_in_one_line(hub) -> None:
    preset = PUBLIC["instruct-pix2pix"]
    snapshot = publish(hub, preset)
    (snapshot / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut short")
    with pytest.raises(EditError, match="cannot be loaded .*delete timbrooks/instruct-pix2pix") as refused:
        editor_loading.load_editor("instruct-pix2pix", "cpu")
    assert "\n" not in str(refused.value)
