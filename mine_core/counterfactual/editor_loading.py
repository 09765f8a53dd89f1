"""Loading generative editors: from assets, or from the user's hub cache, to where they fit."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from mine_core.counterfactual.diffusion import DiffusionEditor, LoadedPipeline, Specialist
from mine_core.counterfactual.editor_presets import (
    EDITOR_WEIGHTS,
    LORA_WEIGHTS,
    EditorPreset,
    choose_placement,
    find_editor_preset,
    how_to_get,
)
from mine_core.errors import EditError

_OFFLOADS = {"part by part on the GPU": "enable_model_cpu_offload", "layer by layer on the GPU": "enable_sequential_cpu_offload"}


@lru_cache(maxsize=2)
def load_editor(preset: str, device: str | None = None) -> DiffusionEditor:
    """Load a generative editor by its name in assets/editors.toml; kept in memory, two at most.

    Public weights come from the user's Hugging Face cache and are downloaded there, with the hub's progress bars, when they are
    missing and the machine is online; only safetensors are read, and no published code is run.

    Parameters
    ----------
    device : "cpu", "cuda" ...; by default a GPU where there is one, except for the phantom's own editor, which needs none.

    Raises
    ------
    EditError : if there is no such preset, its weights are missing, broken or cannot be had, a library that it needs is
        missing, or it fits nowhere.
    """
    import torch

    found = find_editor_preset(preset)
    if device is None:
        device = "cuda" if torch.cuda.is_available() and found.source == "hub" else "cpu"
    if found.source == "assets":
        return load_from_assets(found, EDITOR_WEIGHTS / found.name, device)
    folder = _published(found)
    return DiffusionEditor(found, load_pipeline(found, folder, device, weights=f"{found.repository}@{folder.name}"))


def load_from_assets(preset: EditorPreset, folder: Path, device: str = "cpu") -> DiffusionEditor:
    """Load an editor that was trained here, after a look at its weights' hash; raises EditError if it is not what it says."""
    from mine_core.counterfactual.packing import read_denoiser
    from mine_core.counterfactual.phantom_editor import EditorShape, read_description

    described = read_description(folder)
    shape = EditorShape.from_dict(described["shape"])
    if shape.surroundings != preset.surroundings:
        raise EditError(
            f"Editor '{preset.name}' learnt with surroundings of {shape.surroundings:g}, its preset says {preset.surroundings:g}; "
            "restore both."
        )
    if shape.size != preset.side:
        raise EditError(f"Editor '{preset.name}' paints {shape.size} pixels, its preset says {preset.side}; restore both.")
    parts = {"unet": read_denoiser(folder / "unet")}
    loaded = load_pipeline(preset, folder, device, weights=described["sha256"], parts=parts)
    for name, prompts in described.get("specialist", {}).items():
        # it shares an autoencoder, which must not be moved part by part
        loaded = replace(loaded, specialist=_specialist(loaded.pipeline, folder / name, prompts), offload=lambda: None)
    return DiffusionEditor(preset, loaded, frozenset(shape.words))


def _specialist(pipeline: Any, folder: Path, prompts: dict[str, list[str]]) -> Specialist:
    """The denoiser and the text encoder of a folder, with all else that a pipeline has."""
    from transformers import CLIPTextModel

    from mine_core.counterfactual.packing import read_denoiser

    like = {"device": pipeline.device, "dtype": pipeline.unet.dtype}
    denoiser = read_denoiser(folder / "unet").to(**like)
    try:
        encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True).to(**like)
    except (OSError, ValueError, RuntimeError) as error:
        raise EditError(f"{folder} cannot be read ({' '.join(str(error).split())[:300]}); restore its files.") from error
    parts = {**pipeline.components, "unet": denoiser.eval(), "text_encoder": encoder.eval()}
    other = type(pipeline)(**parts, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    return Specialist(folder.name, frozenset(prompts["words"]), frozenset(prompts["told"]), other)


def load_pipeline(
    preset: EditorPreset, folder: Path, device: str, *, weights: str, parts: dict[str, Any] | None = None
) -> LoadedPipeline:
    """Load a pipeline from a folder as its publisher saved it, but for `parts` that were read already, and put it where it fits.

    Raises
    ------
    EditError : if it cannot be read, or fits nowhere.
    """
    import diffusers
    import torch
    from safetensors import SafetensorError

    on_gpu = torch.device(device).type == "cuda"
    free_gb = torch.cuda.mem_get_info(torch.device(device))[0] / 1e9 if on_gpu else None
    placement = choose_placement(preset, free_gb)
    dtype = (torch.bfloat16 if preset.pipeline.startswith("Flux") else torch.float16) if on_gpu else torch.float32
    variant = {"variant": preset.variant} if preset.variant else {}
    more: dict[str, Any] = {} if preset.source == "assets" else {"use_safetensors": True}
    more |= {name: part.to(dtype) for name, part in (parts or {}).items()}
    if preset.checked:
        more |= {"safety_checker": None, "requires_safety_checker": False}
    try:
        pipeline = getattr(diffusers, preset.pipeline).from_pretrained(folder, local_files_only=True, dtype=dtype, **variant, **more)
        _fitted(preset, pipeline)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise EditError(
            f"Editor '{preset.name}' cannot be loaded ({' '.join(str(error).split())[:300]}); if its files are broken, delete "
            f"{preset.repository or folder} and get it again."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    _place(pipeline, placement, device)
    return LoadedPipeline(pipeline, weights, placement, _Offloader(pipeline, placement, device))


def _fitted(preset: EditorPreset, pipeline: Any) -> None:
    """Give a pipeline the scheduler and the LoRA of its preset, and let its autoencoder work in slices."""
    import diffusers

    if preset.scheduler:
        pipeline.scheduler = getattr(diffusers, preset.scheduler).from_config(pipeline.scheduler.config)
    if preset.lora:
        # by its file's name, which cannot be asked for without a connection; never a pickled one
        pipeline.load_lora_weights(preset.lora, weight_name=LORA_WEIGHTS, use_safetensors=True)
        pipeline.fuse_lora()
    if preset.source == "hub" and hasattr(pipeline.vae, "enable_slicing"):
        pipeline.vae.enable_slicing()


def _place(pipeline: Any, placement: str, device: str) -> None:
    if placement in _OFFLOADS:
        try:
            getattr(pipeline, _OFFLOADS[placement])(device=device)
        except ImportError as error:
            raise EditError("Too little GPU memory is free for this editor as a whole, and offloading needs `accelerate`.") from error
    else:
        pipeline.to(device)


class _Offloader:
    """Moves a pipeline to the next place that takes less memory, each time it is called."""

    def __init__(self, pipeline: Any, placement: str, device: str) -> None:
        self.pipeline, self.device = pipeline, device
        places = list(_OFFLOADS)
        self.left = places[places.index(placement) + 1 :] if placement in places else places if placement != "processor" else []

    def __call__(self) -> str | None:
        if not self.left:
            return None
        where = self.left.pop(0)
        self.pipeline.to("cpu")
        _place(self.pipeline, where, self.device)
        return where


def _published(preset: EditorPreset) -> Path:
    """Folder of the hub's cache that holds a preset's pipeline; its name is the commit."""
    import diffusers
    from huggingface_hub import constants

    more: dict[str, Any] = {"variant": preset.variant} if preset.variant else {}
    more |= {"safety_checker": None} if preset.checked else {}
    try:
        return Path(
            diffusers.DiffusionPipeline.download(
                preset.repository,
                revision=preset.revision,
                use_safetensors=True,
                local_files_only=constants.HF_HUB_OFFLINE,
                **more,
            )
        )
    except (OSError, ValueError) as error:  # the hub's own errors and those of its HTTP client are kinds of OSError
        raise EditError(f"Editor '{preset.name}': {how_to_get(preset)} ({type(error).__name__}).") from error
