"""Backbones, editors and captioners whose weights are on this machine, their size, and where they would run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mine_core.backbones.presets import USABLE, backbone_available, load_presets, machine_memory_gb, memory_needed_gb
from mine_core.counterfactual.editor_presets import (
    EDITOR_WEIGHTS,
    EditorPreset,
    choose_placement,
    editor_available,
    load_editor_presets,
)
from mine_core.errors import EditError

KINDS = {"florence2": "florence2", "qwen2_vl": "qwen-vl", "qwen2_5_vl": "qwen-vl", "qwen3_vl": "qwen-vl"}
"""Captioner that reads a model, by the `model_type` of its config.json."""
ON_PROCESSOR = 2.0  # float32 there, float16 in the sizes that are told


@dataclass(frozen=True)
class Room:
    """Memory of this machine in GB: of the processor, and of its GPU that is free now (None: there is none)."""

    processor_gb: float
    gpu_gb: float | None


def room_here() -> Room:
    """Look at this machine's memory."""
    import torch

    gpu = torch.cuda.mem_get_info()[0] / 1e9 if torch.cuda.is_available() else None
    return Room(machine_memory_gb(), gpu)


def backbones_here(room: Room) -> dict[str, str]:
    """State of every backbone of assets/models.toml: whether it is here, its size, and where it runs or would run."""
    states = {}
    for name, preset in load_presets().items():
        available, needed = backbone_available(name), memory_needed_gb(preset, on_gpu=False)
        place = _runs(memory_needed_gb(preset, on_gpu=True), needed, room)
        place += f", it takes {needed:.0f}" if place.startswith("too large") else ""
        if available.ready:
            states[name] = f"ready, {preset.size_mb} MB; {place}"
        else:
            states[name] = f"not here ({preset.size_mb} MB; {place.replace('runs', 'would run')}): {available.reason}"
    return states


def editors_here(room: Room) -> dict[str, str]:
    """State of every editor of assets/editors.toml: whether it is here, its size, and where it runs or would run."""
    cached = _cached()
    states = {}
    for name, preset in load_editor_presets().items():
        ready, reason = editor_available(name)
        place = _place(preset, room)
        if not ready:
            states[name] = f"not here ({preset.size_mb} MB; {place.replace('runs', 'would run')}): {reason}"
            continue
        folder = EDITOR_WEIGHTS / name if preset.source == "assets" else None
        size = _folder_bytes(folder) if folder else sum(cached.get(repo, (0, None))[0] for repo in (preset.repository, preset.lora))
        states[name] = f"ready, {size / 1e9:.2f} GB; {place}"
    return states


def captioners_here(room: Room) -> dict[str, str]:
    """Models in the Hugging Face cache that `caption --by` reads: their kind, size, and where they run."""
    found = {}
    for name, (size, snapshot) in sorted(_cached().items()):
        kind = _captioner_kind(snapshot)
        if kind is None:
            continue
        gb = size / 1e9
        found[name] = f"{kind}, {gb:.2f} GB; {_runs(gb, gb, room)}"
    return found


def _runs(on_gpu: float, on_processor: float, room: Room) -> str:
    """Where a model runs that takes so many GB in either place."""
    if room.gpu_gb is not None and on_gpu <= USABLE * room.gpu_gb:
        return "runs on the GPU"
    if on_processor <= USABLE * room.processor_gb:
        return "runs on the processor"
    return f"too large for {room.processor_gb:.0f} GB of memory"


def _place(preset: EditorPreset, room: Room) -> str:
    try:
        place = choose_placement(preset, room.gpu_gb)
    except EditError:
        place = "processor"
    if place != "processor":
        return f"runs {place}"
    needed = ON_PROCESSOR * preset.memory_gb
    if needed > room.processor_gb:
        return f"too large for {room.processor_gb:.0f} GB of memory, it takes {needed:.0f}"
    return "runs on the processor" + (", minutes an edit" if preset.source == "hub" else "")


def _cached() -> dict[str, tuple[int, Path | None]]:
    """Models of the Hugging Face cache: bytes on disk, and the folder of the newest snapshot."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories: Any = scan_cache_dir().repos
    except CacheNotFound:
        return {}
    models = {}
    for repository in repositories:
        if repository.repo_type == "model":
            newest = max(repository.revisions, key=lambda revision: revision.last_modified, default=None)
            models[repository.repo_id] = (repository.size_on_disk, newest.snapshot_path if newest else None)
    return models


def _captioner_kind(snapshot: Path | None) -> str | None:
    """Captioner that reads a snapshot's model, or None; a snapshot without safetensors is none."""
    if snapshot is None or not list(snapshot.glob("*.safetensors")):
        return None
    try:
        return KINDS.get(json.loads((snapshot / "config.json").read_text()).get("model_type"))
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
