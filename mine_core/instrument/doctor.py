"""What this machine has, what is missing, and what still works without it."""

import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from mine_core.artifacts import ArtifactStore, library_versions
from mine_core.backbones.presets import backbone_available
from mine_core.config import InstrumentConfig
from mine_core.cortex.filestore import open_pycortex
from mine_core.errors import MineError
from mine_core.instrument.build import is_built
from mine_core.instrument.subjects import known_subjects
from mine_core.instrument.weights_here import backbones_here, captioners_here, editors_here, room_here

NEEDED_FREE_GB = 2.0


def examine(config: InstrumentConfig, store: ArtifactStore) -> dict[str, Any]:
    """Look at libraries, hardware, space, weights and subjects; each line of `missing` says what works without it."""
    import torch

    free = shutil.disk_usage(_existing(store.root)).free / 1e9
    room = room_here()
    found: dict[str, Any] = {
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {room.processor_gb:.0f} GB memory",
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none",
        "free_disk_gb": round(free, 1),
        "libraries": library_versions(),
        "subjects": {name: _state(config, name, store) for name in known_subjects(store)},
        "backbones": backbones_here(room),
        "editors": editors_here(room),
        "captioners": captioners_here(room),
        "missing": [],
    }
    if found["gpu"] == "none":
        found["missing"].append("No GPU: everything here works on the processor; public backbones take minutes to embed images.")
    if free < NEEDED_FREE_GB:
        found["missing"].append(f"{free:.1f} GB of disk free, {NEEDED_FREE_GB:g} needed to build a subject: free some first.")
    absent = [name for name, state in found["backbones"].items() if not state.startswith("ready")]
    if absent:
        first = backbone_available(absent[0]).reason
        found["missing"].append(f"No weights of {', '.join(absent)}. {absent[0]}: {first}. The phantom's own backbone needs nothing.")
    if not any(state.startswith("ready") for state in found["editors"].values()):
        found["missing"].append("No weights of a generative editor: inserting and removing go on with cut-outs and fillings.")
    if not found["captioners"]:
        found["missing"].append(
            "No Florence-2 or Qwen-VL in the Hugging Face cache: `caption` goes on with the backbone's own captions."
        )
    try:
        open_pycortex(store.root)
        found["cortex"] = "S1 of pycortex"
    except MineError as refusal:
        found["cortex"] = "none"
        found["missing"].append(f"{refusal} Subjects without a cortex still work.")
    if importlib.util.find_spec("playwright") is None:
        found["missing"].append("playwright: only `benchmark start` and the browser tests need it.")
    return found


def _state(config: InstrumentConfig, name: str, store: ArtifactStore) -> str:
    seed = config.seed if name == "phantom" else 0
    try:
        built = is_built(InstrumentConfig(name, seed, config.backbone, config.n_permutations), store)
    except MineError as refusal:
        return f"not usable: {refusal}"
    return f"ready with {config.backbone}" if built else "not built"


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
