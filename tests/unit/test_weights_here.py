"""What is said of backbones, editors and captioners follows from a cache of known files and a machine of known memory."""

import json
from pathlib import Path

import pytest

from mine_core.backbones.presets import find_preset
from mine_core.counterfactual.editor_presets import load_editor_presets
from mine_core.instrument import weights_here
from mine_core.instrument.weights_here import Room, backbones_here, captioners_here, editors_here

COMMIT = "a" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, and no editor in assets."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(weights_here, "EDITOR_WEIGHTS", tmp_path / "editors")
    monkeypatch.setattr("mine_core.counterfactual.editor_presets.EDITOR_WEIGHTS", tmp_path / "editors")
    return tmp_path / "hub"


def put(cache: Path, name: str, files: dict[str, bytes]) -> None:
    """A model in the layout of the cache: blobs, and a snapshot that links to them."""
    root = cache / f"models--{name.replace('/', '--')}"
    for number, (file, content) in enumerate(files.items()):
        blob = root / "blobs" / f"{number:040d}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link = root / "snapshots" / COMMIT / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)


def config(kind: str) -> bytes:
    return json.dumps({"model_type": kind}).encode()


def test_without_a_cache_every_editor_says_how_to_get_it_and_no_captioner_is_named(cache):
    room = Room(16.0, None)
    editors = editors_here(room)
    assert set(editors) == set(load_editor_presets())
    assert all(state.startswith("not here") for state in editors.values())
    assert "hf download stable-diffusion-v1-5" in editors["sd15-inpaint-lcm"]
    assert captioners_here(room) == {}


def test_what_is_in_the_cache_is_told_with_its_size(cache):
    put(cache, "stable-diffusion-v1-5/stable-diffusion-inpainting", {"model_index.json": b"{}", "unet.safetensors": bytes(30_000_000)})
    put(cache, "latent-consistency/lcm-lora-sdv1-5", {"pytorch_lora_weights.safetensors": bytes(10_000_000)})
    put(cache, "florence-community/Florence-2-base", {"config.json": config("florence2"), "model.safetensors": bytes(20_000_000)})
    put(cache, "Qwen/Qwen3-VL-2B-Instruct", {"config.json": config("qwen3_vl"), "model.safetensors": bytes(50_000_000)})
    put(cache, "someone/pickled", {"config.json": config("florence2"), "pytorch_model.bin": bytes(100)})
    put(cache, "someone/other", {"config.json": config("bert"), "model.safetensors": bytes(100)})
    put(cache, "someone/broken", {"config.json": b"[1", "model.safetensors": bytes(100)})
    room = Room(16.0, None)
    assert editors_here(room)["sd15-inpaint-lcm"] == "ready, 0.04 GB; runs on the processor, minutes an edit"
    assert captioners_here(room) == {
        "Qwen/Qwen3-VL-2B-Instruct": "qwen-vl, 0.05 GB; runs on the processor",
        "florence-community/Florence-2-base": "florence2, 0.02 GB; runs on the processor",
    }
    assert "runs on the GPU" in captioners_here(Room(16.0, 8.0))["Qwen/Qwen3-VL-2B-Instruct"]
    assert "too large for 0 GB" in captioners_here(Room(0.01, 0.01))["Qwen/Qwen3-VL-2B-Instruct"]


@pytest.mark.parametrize(
    ("processor", "gpu", "said"),
    [
        (64.0, 24.0, "runs whole on the GPU"),
        (64.0, 12.0, "runs part by part on the GPU"),
        (64.0, 4.0, "runs layer by layer on the GPU"),
        (64.0, 1.0, "runs on the processor, minutes an edit"),
        (64.0, None, "runs on the processor, minutes an edit"),
        (16.0, None, "too large for 16 GB of memory, it takes 34"),
    ],
)
def test_where_an_editor_of_17_gb_runs_follows_from_the_memory(cache, processor, gpu, said):
    assert said.replace("runs", "would run") in editors_here(Room(processor, gpu))["flux2-klein-4b"]


def test_an_editor_of_assets_is_measured_there(cache, tmp_path):
    folder = tmp_path / "editors" / "phantom"
    folder.mkdir(parents=True)
    for name in ("editor.json", "model_index.json"):
        (folder / name).write_text("{}")
    (folder / "weights.safetensors").write_bytes(bytes(22_000_000))
    assert editors_here(Room(16.0, None))["phantom"] == "ready, 0.02 GB; runs on the processor"


def test_backbones_are_told_with_their_size_and_where_they_run(cache):
    here, absent = "phantom", "llava-1.5-7b-hf"
    found = backbones_here(Room(25.0, None))
    assert found[here] == f"ready, {find_preset(here).size_mb} MB; runs on the processor"
    # float16 as published, float32 on a processor
    assert found[absent].startswith("not here (14127 MB; too large for 25 GB of memory, it takes 28): its weights")
    assert backbones_here(Room(64.0, None))[absent].startswith("not here (14127 MB; would run on the processor): ")
    assert backbones_here(Room(64.0, 16.0))[absent].startswith("not here (14127 MB; would run on the GPU): ")
    assert backbones_here(Room(64.0, 15.0))[absent].startswith("not here (14127 MB; would run on the processor): ")
    put(cache, find_preset("ViT-B-16").repository, {"open_clip_model.safetensors": bytes(10)})
    assert backbones_here(Room(25.0, 4.0))["ViT-B-16"] == "ready, 599 MB; runs on the GPU"
