"""Backbones by name: what assets/models.toml lists, whether its weights are here, and loading them."""

import json
import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from mine_core.artifacts import hash_file, hash_text
from mine_core.backbones.base import Backbone
from mine_core.config import PROJECT
from mine_core.errors import BackboneError, ConfigError

MODELS = PROJECT / "assets" / "models.toml"
PHANTOM_WEIGHTS = PROJECT / "assets" / "backbones"
Source = Literal["assets", "open_clip", "transformers"]
# Keys that only some sources have.
OWN_KEYS = {
    "assets": (),
    "open_clip": ("architecture", "pretrained", "repository", "files"),
    "transformers": ("architecture", "repository", "layer"),
}
OPEN_CLIP = ("backbones/decomposition.py", "backbones/held.py", "backbones/open_clip_adapter.py")
# What embeds images: a change to it makes features anew.
ADAPTERS = {
    "assets": OPEN_CLIP,
    "open_clip": ("backbones/attention_pooling.py", *OPEN_CLIP),
    "llava": ("backbones/token_adapters.py", "backbones/llava_adapter.py"),
    "dinov2": ("backbones/token_adapters.py", "backbones/vision_adapter.py"),
}
TRANSFORMERS = ("llava", "dinov2")
# Names of published files that are read; pickled weights are not among them.
READ = ("*.json", "*.safetensors")
USABLE = 0.9  # of the memory that is there
SHARDS = "model.safetensors.index.json"


@dataclass(frozen=True)
class Preset:
    """One entry of assets/models.toml; the file's head says what each key means."""

    name: str
    source: Source
    size_mb: int
    licence: str
    vocabulary: str
    supervision: str
    about: str
    architecture: str = ""
    pretrained: str = ""
    repository: str = ""
    files: str = ""
    layer: int = 0


@dataclass(frozen=True)
class Availability:
    """Whether a backbone's weights are on this machine; if not, `reason` says what is missing and how to get it."""

    ready: bool
    reason: str
    size_mb: int


def load_presets(path: Path | None = None) -> dict[str, Preset]:
    """Read the presets of a TOML file (assets/models.toml by default), by name, in its order.

    Raises
    ------
    ConfigError
        If the file cannot be read, or an entry has an unknown key, lacks one, or has one of another type.
    """
    path = path or MODELS
    try:
        entries = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path.name} cannot be read ({error}); restore it from the repository.") from error
    return {name: _preset(path, name, entry) for name, entry in entries.items()}


def _preset(path: Path, name: str, entry: Any) -> Preset:
    if not isinstance(entry, dict) or entry.get("source") not in get_args(Source):
        found = entry.get("source") if isinstance(entry, dict) else entry
        raise ConfigError(f"{path.name}, {name}: source is {found!r}; expected one of {', '.join(get_args(Source))}.")
    wanted = {field.name: field.type for field in fields(Preset) if field.name != "name"}
    others = {key for keys in OWN_KEYS.values() for key in keys} - set(OWN_KEYS[entry["source"]])
    wanted = {key: kind for key, kind in wanted.items() if key not in others}
    unknown, missing = sorted(set(entry) - set(wanted)), sorted(set(wanted) - set(entry))
    if unknown or missing:
        raise ConfigError(
            f"{path.name}, {name}: unknown keys {', '.join(unknown) or 'none'}, missing keys {', '.join(missing) or 'none'}; "
            f"it takes exactly {', '.join(sorted(wanted))}."
        )
    for key, value in entry.items():
        kind = int if key in ("size_mb", "layer") else str
        if type(value) is not kind or not value:
            raise ConfigError(f"{path.name}, {name}: {key} is {value!r}; expected type {kind.__name__}, not empty and not 0.")
    if entry["source"] == "transformers" and entry["architecture"] not in TRANSFORMERS:
        raise ConfigError(f"{path.name}, {name}: architecture is '{entry['architecture']}'; expected {' or '.join(TRANSFORMERS)}.")
    return Preset(name=name, **entry)


def preset_names() -> tuple[str, ...]:
    """Names of all backbones that can be asked for, whether their weights are here or not."""
    return tuple(load_presets())


def find_preset(name: str) -> Preset:
    """Preset of that name; raises BackboneError naming those that exist."""
    presets = load_presets()
    if name not in presets:
        raise BackboneError(f"There is no backbone '{name}'; expected one of {', '.join(presets)}.")
    return presets[name]


def vocabulary_of(name: str) -> str:
    """Name of the vocabulary that a backbone is described with; raises BackboneError for an unknown backbone."""
    return find_preset(name).vocabulary


def backbone_available(name: str) -> Availability:
    """Look whether a backbone's weights are on this machine, without loading or downloading them.

    Raises
    ------
    BackboneError
        If there is no backbone of that name.
    """
    preset = find_preset(name)
    if preset.source == "assets":
        missing = [file for file in ("config.json", "model.safetensors") if not (PHANTOM_WEIGHTS / name / file).is_file()]
        reason = f"assets/backbones/{name} lacks {' and '.join(missing)}; restore it from the repository" if missing else ""
        return Availability(not missing, reason, preset.size_mb)
    found = _cached_folder(preset) if preset.source == "transformers" else _cached_weights(preset)
    return Availability(found is not None, "" if found else _how_to_get(preset), preset.size_mb)


def weights_key(name: str) -> str:
    """Text that names a backbone's weights, for the keys of what is made with them; reads no weights.

    For a backbone of assets/ it is the SHA-256 that its config names; for public weights the place and tag they are
    published under, which stays the same if their publisher should ever replace them (`BackboneSpec.weights_hash` does not).

    Raises
    ------
    BackboneError
        If there is no such backbone, or its config in assets/ is missing.
    """
    preset = find_preset(name)
    if preset.source == "open_clip":
        return f"{preset.repository}/{preset.architecture}/{preset.pretrained}"
    if preset.source == "transformers":
        return f"{preset.repository}/{preset.architecture}/layer {preset.layer}"
    path = PHANTOM_WEIGHTS / name / "config.json"
    try:
        return str(json.loads(path.read_text())["model"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackboneError(
            f"Backbone '{name}': assets/backbones/{name}/config.json cannot be read ({error}); restore it from the repository."
        ) from error


def adapter_code(name: str) -> tuple[str, ...]:
    """Modules of this package that embed a backbone's images; raises BackboneError for an unknown backbone."""
    preset = find_preset(name)
    return ADAPTERS[preset.architecture if preset.source == "transformers" else preset.source]


def load_backbone(name: str, device: str | None = None) -> Backbone:
    """Load a backbone by its name in assets/models.toml.

    Public weights come from the user's Hugging Face cache and are downloaded there when they are missing and the machine is
    online; only safetensors are read, and no published code is run.

    Parameters
    ----------
    device : "cpu", "cuda" ...; by default a GPU where there is one.

    Raises
    ------
    BackboneError
        If there is no such backbone, its weights are missing and cannot be had (with their size and how to get them), or
        they do not fit into memory.
    """
    import torch

    preset = find_preset(name)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    load = {"assets": _load_phantom, "open_clip": _load_public, "transformers": _load_transformers}[preset.source]
    return load(preset, chosen)


def _load_phantom(preset: Preset, device: str) -> Backbone:
    from mine_core.backbones.open_clip_adapter import OpenClipBackbone, area_transform
    from mine_core.backbones.phantom_model import load_phantom

    model, tokenizer, config = load_phantom(preset.name, device, PHANTOM_WEIGHTS)
    transform = area_transform(config.image_size, (config.mean,) * 3, (config.std,) * 3)
    return OpenClipBackbone(model, tokenizer, transform, name=preset.name, supervision=preset.supervision, device=device)


def _load_public(preset: Preset, device: str) -> Backbone:
    import open_clip
    from safetensors import SafetensorError

    from mine_core.backbones.open_clip_adapter import OpenClipBackbone, open_clip_transform

    # a path instead of a tag: open_clip falls back to a pickled file where it finds no safetensors
    weights = _cached_weights(preset) or _download_weights(preset)
    published = open_clip.get_pretrained_cfg(preset.architecture, preset.pretrained)
    # cropped like every other backbone, also where it was trained on squashed pictures: a patch then is a square of the picture
    preprocessing = {key: published[key] for key in ("mean", "std", "interpolation")} | {"resize_mode": "shortest"}
    try:
        model = open_clip.create_model(preset.architecture, pretrained=str(weights), device=device, force_preprocess_cfg=preprocessing)
        # by the folder, not by the repository: transformers would look for it in a cache of its own
        own = "tokenizer.json" in preset.files.split()
        tokenizer = open_clip.get_tokenizer(f"local-dir:{weights.parent}" if own else preset.architecture)
    except (RuntimeError, OSError, ValueError, SafetensorError) as error:
        raise BackboneError(
            f"Backbone '{preset.name}': {weights.name} cannot be loaded ({str(error)[:200]}); delete {preset.repository} from "
            "the Hugging Face cache and load it again."
        ) from error
    return OpenClipBackbone(
        model,
        tokenizer,
        open_clip_transform(model.visual),
        name=preset.name,
        supervision=preset.supervision,
        device=device,
    )


def _load_transformers(preset: Preset, device: str) -> Backbone:
    from huggingface_hub import constants

    from mine_core.backbones.llava_adapter import load_llava
    from mine_core.backbones.vision_adapter import load_vision

    folder = _cached_folder(preset)
    if folder is None and constants.HF_HUB_OFFLINE:
        raise BackboneError(f"Backbone '{preset.name}': {_how_to_get(preset)}.")
    _require_memory(preset, device)
    folder = folder or _download_folder(preset)
    # hashed as published: the same on every device, whatever precision the model is computed in
    published = [part for file in sorted(folder.glob("*.safetensors")) for part in (file.name, hash_file(file))]
    weights_hash = hash_text(*published, f"layer {preset.layer}")
    load: Any = {"llava": load_llava, "dinov2": load_vision}[preset.architecture]
    about = {"name": preset.name, "supervision": preset.supervision, "layer": preset.layer, "device": device}
    try:
        return load(folder, **about, weights_hash=weights_hash)
    except (BackboneError, OSError, ValueError) as error:
        raise BackboneError(
            f"Backbone '{preset.name}': {' '.join(str(error).split())[:300].rstrip('.')}; if its files are broken, delete "
            f"{preset.repository} from the Hugging Face cache and load it again."
        ) from error


def _require_memory(preset: Preset, device: str) -> None:
    """Refuse a model that does not fit: to try it would end the process, or stop the machine."""
    import torch

    on_gpu = torch.device(device).type == "cuda"
    needed = memory_needed_gb(preset, on_gpu)
    have = torch.cuda.mem_get_info(torch.device(device))[0] / 1e9 if on_gpu else machine_memory_gb()
    if needed > USABLE * have:
        where = f"{have:.0f} GB are free on its GPU" if on_gpu else f"it has {have:.0f} GB and no GPU that is used"
        raise BackboneError(
            f"Backbone '{preset.name}' needs {needed:.0f} GB of memory on this machine, where {where}; use a GPU with "
            f"{preset.size_mb / 1000 + 2:.0f} GB, or a smaller backbone."
        )


def memory_needed_gb(preset: Preset, on_gpu: bool) -> float:
    """Memory that a backbone's weights take where they are computed with; LLaVA's float16 becomes float32 on a processor."""
    return preset.size_mb * (2 if preset.architecture == "llava" and not on_gpu else 1) / 1000


def machine_memory_gb() -> float:
    """Memory of this machine's processor, all of it."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _cached_folder(preset: Preset) -> Path | None:
    """Folder of the hub's cache that holds a model's configuration and all of its weights, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(preset.repository, "config.json")
    if not isinstance(found, str):
        return None
    folder = Path(found).parent
    needed = {"model.safetensors"}
    if (folder / SHARDS).is_file():
        try:
            needed = set(json.loads((folder / SHARDS).read_text())["weight_map"].values())
        except (OSError, ValueError, KeyError):
            return None
    needed |= {"preprocessor_config.json"} | ({"tokenizer.json"} if preset.architecture == "llava" else set())
    return folder if all((folder / name).is_file() for name in needed) else None


def _download_folder(preset: Preset) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(preset.repository, allow_patterns=list(READ)))
    except (OSError, ValueError) as error:
        raise BackboneError(f"Backbone '{preset.name}': {_how_to_get(preset)} ({type(error).__name__}).") from error


def _cached_weights(preset: Preset) -> Path | None:
    """Path of an open_clip model's weights in the hub's cache, or None where one of its files is missing."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(preset.repository, name) for name in preset.files.split()]
    return Path(str(found[0])) if all(isinstance(path, str) for path in found) else None


def _download_weights(preset: Preset) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return [Path(hf_hub_download(preset.repository, name)) for name in preset.files.split()][0]
    except (OSError, ValueError) as error:  # the hub's own errors and those of its HTTP client are kinds of OSError
        raise BackboneError(f"Backbone '{preset.name}': {_how_to_get(preset)} ({type(error).__name__}).") from error


def _how_to_get(preset: Preset) -> str:
    files = " ".join(f'--include "{name}"' for name in READ) if preset.source == "transformers" else preset.files
    return (
        f"its weights ({preset.size_mb} MB, licence {preset.licence}) are not in the Hugging Face cache of this machine; "
        f"run `hf download {preset.repository} {files}` while online, or copy that cache from a machine that has them"
    )
