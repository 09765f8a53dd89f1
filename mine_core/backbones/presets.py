"""Backbones by name: what assets/models.toml lists, whether its weights are here, and loading them."""

import json
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from mine_core.backbones.base import Backbone
from mine_core.config import PROJECT
from mine_core.errors import BackboneError, ConfigError

MODELS = PROJECT / "assets" / "models.toml"
PHANTOM_WEIGHTS = PROJECT / "assets" / "backbones"
PUBLIC_WEIGHTS = "open_clip_model.safetensors"
Source = Literal["assets", "open_clip"]
PUBLIC_ONLY = ("architecture", "pretrained", "repository")


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
    if entry["source"] == "assets":
        wanted = {key: kind for key, kind in wanted.items() if key not in PUBLIC_ONLY}
    unknown, missing = sorted(set(entry) - set(wanted)), sorted(set(wanted) - set(entry))
    if unknown or missing:
        raise ConfigError(
            f"{path.name}, {name}: unknown keys {', '.join(unknown) or 'none'}, missing keys {', '.join(missing) or 'none'}; "
            f"it takes exactly {', '.join(sorted(wanted))}."
        )
    for key, value in entry.items():
        kind = int if key == "size_mb" else str
        if type(value) is not kind or not value:
            raise ConfigError(f"{path.name}, {name}: {key} is {value!r}; expected type {kind.__name__}, not empty and not 0.")
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
    if _cached_weights(preset) is not None:
        return Availability(True, "", preset.size_mb)
    return Availability(False, _how_to_get(preset), preset.size_mb)


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
    path = PHANTOM_WEIGHTS / name / "config.json"
    try:
        return str(json.loads(path.read_text())["model"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackboneError(
            f"Backbone '{name}': assets/backbones/{name}/config.json cannot be read ({error}); restore it from the repository."
        ) from error


def load_backbone(name: str, device: str | None = None) -> Backbone:
    """Load a backbone by its name in assets/models.toml.

    Public weights come from the user's Hugging Face cache and are downloaded there when they are missing and the machine is
    online; only safetensors are read.

    Parameters
    ----------
    device : "cpu", "cuda" ...; by default a GPU where there is one.

    Raises
    ------
    BackboneError
        If there is no such backbone, or its weights are missing and cannot be had: with their size and how to get them.
    """
    import torch

    preset = find_preset(name)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return _load_phantom(preset, chosen) if preset.source == "assets" else _load_public(preset, chosen)


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
    weights = _cached_weights(preset) or _download(preset)
    published = open_clip.get_pretrained_cfg(preset.architecture, preset.pretrained)
    preprocessing = {key: published[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    try:
        model = open_clip.create_model(preset.architecture, pretrained=str(weights), device=device, force_preprocess_cfg=preprocessing)
    except (RuntimeError, OSError, ValueError, SafetensorError) as error:
        raise BackboneError(
            f"Backbone '{preset.name}': {weights.name} cannot be loaded ({str(error)[:200]}); delete {preset.repository} from "
            "the Hugging Face cache and load it again."
        ) from error
    return OpenClipBackbone(
        model,
        open_clip.get_tokenizer(preset.architecture),
        open_clip_transform(model.visual),
        name=preset.name,
        supervision=preset.supervision,
        device=device,
    )


def _cached_weights(preset: Preset) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(preset.repository, PUBLIC_WEIGHTS)
    return Path(found) if isinstance(found, str) else None


def _download(preset: Preset) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(preset.repository, PUBLIC_WEIGHTS))
    except (OSError, ValueError) as error:  # the hub's own errors and those of its HTTP client are kinds of OSError
        raise BackboneError(f"Backbone '{preset.name}': {_how_to_get(preset)} ({type(error).__name__}).") from error


def _how_to_get(preset: Preset) -> str:
    return (
        f"its weights ({preset.size_mb} MB, licence {preset.licence}) are not in the Hugging Face cache of this machine; "
        f"run `hf download {preset.repository} {PUBLIC_WEIGHTS}` while online, or copy that cache from a machine that has them"
    )
