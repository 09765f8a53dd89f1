"""Generative editors by name: what assets/editors.toml lists, whether the weights are here, and where they fit."""

import json
import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from mine_core.config import PROJECT
from mine_core.counterfactual.windows import SURROUNDINGS
from mine_core.errors import ConfigError, EditError

EDITOR_PRESETS = PROJECT / "assets" / "editors.toml"
EDITOR_WEIGHTS = PROJECT / "assets" / "editors"
PipelineName = Literal[
    "StableDiffusionInpaintPipeline",
    "StableDiffusionXLInpaintPipeline",
    "Flux2KleinInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline",
]
Placement = Literal["processor", "whole on the GPU", "part by part on the GPU", "layer by layer on the GPU"]
USABLE = 0.9  # of the memory that is free now; the rest is the library's own
LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
LEAST_GB = 1.5  # layer by layer any model runs in this


@dataclass(frozen=True)
class EditorPreset:
    """One entry of assets/editors.toml; the file's head says what each key means."""

    name: str
    source: Literal["assets", "hub"]
    pipeline: PipelineName
    size_mb: int
    memory_gb: float
    offload_gb: float
    side: int
    steps: int
    guidance: float
    removal_guidance: float
    strength: float
    removal: str
    insertion: str
    masked: bool
    licence: str
    about: str
    repository: str = ""
    revision: str = ""
    variant: str = ""
    lora: str = ""
    scheduler: str = ""
    surroundings: float = SURROUNDINGS

    @property
    def checked(self) -> bool:
        """Whether its class can hold a checker of what it paints, which is neither loaded nor fetched here."""
        return self.pipeline in ("StableDiffusionInpaintPipeline", "StableDiffusionInstructPix2PixPipeline")


def load_editor_presets(path: Path | None = None) -> dict[str, EditorPreset]:
    """Read the presets of a TOML file (assets/editors.toml by default), by name, in its order.

    Raises
    ------
    ConfigError : if the file cannot be read, or an entry has an unknown key, lacks one, or has one of another type or value.
    """
    path = path or EDITOR_PRESETS
    try:
        entries = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path.name} cannot be read ({error}); restore it from the repository.") from error
    return {name: _preset(path, name, entry) for name, entry in entries.items()}


def _preset(path: Path, name: str, entry: Any) -> EditorPreset:
    if not isinstance(entry, dict):
        raise ConfigError(f"{path.name}, {name}: found {entry!r}; expected a table of settings.")
    known = {field.name: field for field in fields(EditorPreset) if field.name != "name"}
    needed = {key for key, field in known.items() if field.default is MISSING}
    needed |= {"repository", "revision"} if entry.get("source") == "hub" else set()
    unknown, missing = sorted(set(entry) - set(known)), sorted(needed - set(entry))
    if unknown or missing:
        raise ConfigError(
            f"{path.name}, {name}: unknown keys {', '.join(unknown) or 'none'}, missing keys {', '.join(missing) or 'none'}; "
            f"it takes {', '.join(known)}."
        )
    for key, value in entry.items():
        kind = known[key].type
        if kind is float and type(value) is int:
            raise ConfigError(f"{path.name}, {name}: {key} is {value}; write it with a decimal point.")
        allowed = get_args(kind)
        if allowed and value not in allowed:
            raise ConfigError(f"{path.name}, {name}: {key} is {value!r}; expected one of {', '.join(map(str, allowed))}.")
        if not allowed and type(value) is not kind:
            raise ConfigError(f"{path.name}, {name}: {key} is {value!r}; expected type {getattr(kind, '__name__', kind)}.")
    preset = EditorPreset(name=name, **entry)
    if min(preset.size_mb, preset.side, preset.steps) < 1 or not 0 < preset.strength <= 1 or "{}" not in preset.insertion:
        raise ConfigError(
            f"{path.name}, {name}: size_mb, side and steps must be 1 or more, strength above 0 and at most 1, and insertion hold {{}}."
        )
    return preset


def find_editor_preset(name: str) -> EditorPreset:
    """Preset of that name; raises EditError naming those that exist."""
    presets = load_editor_presets()
    if name not in presets:
        raise EditError(f"There is no generative editor '{name}'; expected one of {', '.join(presets)}.")
    return presets[name]


def editor_available(name: str) -> tuple[bool, str]:
    """Whether an editor's weights are on this machine, and if not how to get them; loads and downloads nothing.

    Raises
    ------
    EditError : if there is no preset of that name.
    """
    preset = find_editor_preset(name)
    if preset.source == "assets":
        ready = (EDITOR_WEIGHTS / name / "editor.json").is_file() and (EDITOR_WEIGHTS / name / "model_index.json").is_file()
        return ready, "" if ready else f"assets/editors/{name} is missing; restore it from the repository"
    from huggingface_hub import try_to_load_from_cache

    asked = [(preset.repository, "model_index.json", preset.revision)]
    asked += [(preset.lora, LORA_WEIGHTS, "main")] if preset.lora else []
    ready = all(isinstance(try_to_load_from_cache(place, name, revision=tag), str) for place, name, tag in asked)
    return ready, "" if ready else how_to_get(preset)


def measured_quality(name: str) -> tuple[float, float, float] | None:
    """Share of an editor's insertions that an independent judge recognised, with its 95 % interval; None where it was not measured."""
    try:
        found = _quality(name)["insertions"]["recognised"]
        return float(found["value"]), float(found["low"]), float(found["high"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class RemovalError:
    """How far a way of removing ends from what is behind: mean over scenes with its 95 % interval, in grey levels (0 to 255).

    `more` is the mean error beyond that of the measured editor in the same scenes, with its interval; 0 for the editor itself.
    """

    mean: float
    low: float
    high: float
    n: float
    more: float
    more_low: float
    more_high: float


def measured_removals(name: str) -> dict[str, RemovalError]:
    """How far removals are from what is behind, where an editor was measured beside fills that need no model; empty where it was not.

    Returns
    -------
    By name of the editor, of each fill and of `ring median` (the median colour about the region, the null): the mean absolute
    difference under the mask from the scene drawn without the object.

    Notes
    -----
    The picture alone is compared: nothing is said of how near a predicted shift is to the true one.
    """
    wanted = [field.name for field in fields(RemovalError)]
    try:
        found = _quality(name)["removals"]
        return {way: RemovalError(**{key: float(entry[key]) for key in wanted}) for way, entry in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _quality(name: str) -> dict[str, Any]:
    return json.loads((EDITOR_WEIGHTS / name / "quality.json").read_text())


def how_to_get(preset: EditorPreset) -> str:
    """One line that says how to get a preset's weights, and nothing else of what its publisher keeps beside them."""
    weights = f"*/*.{preset.variant}.safetensors" if preset.variant else "*/*.safetensors"
    patterns = " ".join(f'--include "{pattern}"' for pattern in ("*.json", "*.txt", "*.jinja", weights))
    patterns += ' --exclude "safety_checker/*"' if preset.checked else ""
    more = f" and `hf download {preset.lora} {LORA_WEIGHTS}`" if preset.lora else ""
    return (
        f"its weights ({preset.size_mb} MB, licence {preset.licence}) are not in the Hugging Face cache of this machine; "
        f"run `hf download {preset.repository} --revision {preset.revision} {patterns}`{more} while online, or copy that cache"
    )


def choose_placement(preset: EditorPreset, free_gb: float | None) -> Placement:
    """Where a model goes, by the GPU memory that is free now in GB (None: there is no GPU).

    Raises
    ------
    EditError : if not even one layer at a time fits.
    """
    if free_gb is None:
        return "processor"
    if preset.memory_gb <= USABLE * free_gb:
        return "whole on the GPU"
    if preset.offload_gb <= USABLE * free_gb:
        return "part by part on the GPU"
    if free_gb * USABLE >= LEAST_GB:
        return "layer by layer on the GPU"
    raise EditError(
        f"Editor '{preset.name}' needs {LEAST_GB:g} GB of free GPU memory at least, and {free_gb:.1f} GB are free; close other "
        "programs that use the GPU, or choose the editor 'phantom'."
    )
