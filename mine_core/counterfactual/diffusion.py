"""Editing by a diffusion model: what the mask covers is painted anew from words; everything else keeps its bytes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, UInt8

from mine_core.artifacts import hash_array
from mine_core.counterfactual.compositing import feather, paste
from mine_core.counterfactual.editor_presets import EditorPreset
from mine_core.counterfactual.editors import OnStep, check_mask, finish_edit, stop_if
from mine_core.counterfactual.windows import Window, cut, cut_mask, laid_back, settled, window_around
from mine_core.errors import EditError
from mine_core.types import ImageEdit, IsCancelled

FEATHER = 1.5  # pixels over which the new picture becomes opaque inside the mask
REACH = {"insert": 4.0, "remove": 30.0}  # pixels over which colours are made to meet those around the mask
Asked = Literal["insert", "remove"]


@dataclass(frozen=True, eq=False)
class Specialist:
    """A pipeline for prompts that hold one of its words and tell more of it, with a denoiser and a text encoder that learnt these."""

    name: str
    words: frozenset[str]
    told: frozenset[str]
    pipeline: Any

    def paints(self, prompt: str) -> bool:
        """Whether a prompt is painted with it: it names one of `words` and says one of `told`."""
        said = frozenset(prompt.split())
        return not self.words.isdisjoint(said) and not self.told.isdisjoint(said)


@dataclass(frozen=True, eq=False)
class LoadedPipeline:
    """A pipeline of diffusers in memory, which weights it has, where it runs, and a lock: it works on one edit at a time.

    `offload` moves it to where it takes less memory and returns where that is, or None when there is no such place; `specialist`
    paints some prompts in its stead, with the same autoencoder and scheduler.
    """

    pipeline: Any
    weights: str
    placement: str
    offload: Callable[[], str | None] = lambda: None
    lock: threading.Lock = field(default_factory=threading.Lock)
    specialist: Specialist | None = None

    def specialist_for(self, prompt: str) -> Specialist | None:
        """What paints this prompt in the pipeline's stead; None where nothing does."""
        return self.specialist if self.specialist is not None and self.specialist.paints(prompt) else None


def read_instruction(instruction: str) -> tuple[Asked, str]:
    """Split "insert a red ball" into what to do and its object; "remove ..." has none that matters.

    Raises
    ------
    EditError : if it begins with neither word, or nothing is named to insert.
    """
    verb, _, rest = " ".join(instruction.split()).partition(" ")
    if verb.lower() in ("remove", "delete"):
        return "remove", rest
    if verb.lower() in ("insert", "add") and rest:
        return "insert", rest
    raise EditError(f"'{instruction}' was asked; write 'insert' and what, or 'remove' and what.")


@dataclass(frozen=True, eq=False)
class DiffusionEditor:
    """Paints what is under the mask anew, as the instruction says, in a square window about the mask.

    Parameters
    ----------
    preset : how the model is asked; steps, guidance and window as published for it.
    loaded : the model.
    words : what a prompt may be made of; None if any text is understood.
    """

    preset: EditorPreset
    loaded: LoadedPipeline
    words: frozenset[str] | None = None

    @property
    def name(self) -> str:
        """Name under which edits are recorded."""
        return self.preset.name

    def edit(
        self,
        image: UInt8[np.ndarray, "height width 3"],
        edit_mask: Bool[np.ndarray, "height width"],
        instruction: str,
        *,
        seed: int,
        on_step: OnStep | None = None,
        cancelled: IsCancelled | None = None,
    ) -> ImageEdit:
        """Insert or remove by words where `edit_mask` is True; the same seed gives the same bytes on the same machine.

        Parameters
        ----------
        instruction : "insert a red ball", "remove the dog" (what is removed is what the mask covers).
        on_step : called with the expected picture after each step.

        Raises
        ------
        EditError : if the mask does not pass `check_mask`, the instruction is not understood, or memory runs out everywhere.
        Cancelled : if `cancelled()` became true between two steps.
        """
        check_mask(image, edit_mask)
        stop_if(cancelled)
        asked, what = read_instruction(instruction)
        prompt = self.prompt(asked, what)
        window = window_around(edit_mask, self.preset.surroundings)
        size = self.preset.side
        original, inside = cut(image, window, size), cut_mask(edit_mask, window, size)
        opacity = feather(edit_mask, FEATHER)

        def whole(painted: UInt8[np.ndarray, "size size 3"]) -> UInt8[np.ndarray, "height width 3"]:
            met = settled(painted, original, inside, REACH[asked])
            return paste(image, laid_back(image, met, window), opacity)

        def told(step: int, n_steps: int, painted: UInt8[np.ndarray, "size size 3"]) -> None:
            if on_step is not None:
                on_step(step, n_steps, whole(painted))

        paint = _Painting(self, original, inside, prompt, asked, seed, told if on_step is not None else None, cancelled)
        edited = whole(paint.made())
        record = self._record(asked, what, prompt, window, edit_mask) | {"placement": paint.placement, "steps": paint.steps_taken}
        return finish_edit(image, edited, edit_mask, instruction, editor=self.name, seed=seed, provenance=record)

    def round_trip(
        self, image: UInt8[np.ndarray, "height width 3"], edit_mask: Bool[np.ndarray, "height width"]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The image through the model's autoencoder and back where `edit_mask` is True, laid in as an edit is; no word is asked.

        Raises EditError if the mask does not pass `check_mask`.
        """
        check_mask(image, edit_mask)
        window = window_around(edit_mask, self.preset.surroundings)
        with self.loaded.lock:
            painted = _decoded(self.loaded.pipeline, cut(image, window, self.preset.side))
        return paste(image, laid_back(image, painted, window), feather(edit_mask, FEATHER))

    def prompt(self, asked: Asked, what: str) -> str:
        """What the model is told; raises EditError for a word that it never learnt."""
        if asked == "remove":
            return self.preset.removal
        if self.words is not None:
            what = _with_article(what.lower())
            strange = [word for word in what.split() if word not in self.words]
            if strange:
                raise EditError(
                    f"Editor '{self.name}' never saw '{strange[0]}'; use its {len(self.words)} words, such as "
                    f"{', '.join(sorted(self.words)[3:9])}."
                )
        return self.preset.insertion.format(what)

    def _record(self, asked: Asked, what: str, prompt: str, window: Window, edit_mask: np.ndarray) -> dict[str, Any]:
        preset, specialist = self.preset, self.loaded.specialist_for(prompt)
        return {
            "asked": asked,
            "word": what,
            "prompt": prompt,
            "pipeline": preset.pipeline,
            "repository": preset.repository or f"assets/editors/{preset.name}",
            "weights": self.loaded.weights,
            "lora": preset.lora,
            "specialist": specialist.name if specialist is not None else "",
            "scheduler": type(self.loaded.pipeline.scheduler).__name__,
            "guidance": preset.guidance if asked == "insert" else preset.removal_guidance,
            "strength": preset.strength,
            "window": [window.top, window.left, window.side],
            "mask_hash": hash_array(edit_mask),
        }


def _with_article(what: str) -> str:
    from mine_core.subjects.phantom.scenes.captions import with_article

    first = what.split()[0]
    # the noun decides whether there is an article, and it stands before what the thing is "with"
    noun = what.split(" with ")[0].split(" without ")[0].split(" looking ")[0]
    return what if first in ("a", "an") else what.replace(noun, with_article(noun), 1)


class _Painting:
    """One call of a pipeline: its progress, its pictures on the way, and where it ran."""

    def __init__(
        self,
        editor: DiffusionEditor,
        original: UInt8[np.ndarray, "size size 3"],
        inside: Bool[np.ndarray, "size size"],
        prompt: str,
        asked: Asked,
        seed: int,
        told: OnStep | None,
        cancelled: IsCancelled | None,
    ) -> None:
        self.preset, self.loaded = editor.preset, editor.loaded
        self.original, self.inside, self.prompt, self.asked, self.seed = original, inside, prompt, asked, seed
        self.told, self.cancelled = told, cancelled
        self.placement = self.loaded.placement
        self.steps_taken = 0

    def made(self) -> UInt8[np.ndarray, "size size 3"]:
        """Run the pipeline; where the GPU is too small, again in a place that takes less of it."""
        import torch

        with self.loaded.lock:
            while True:
                try:
                    return self._called()
                except torch.cuda.OutOfMemoryError as error:
                    torch.cuda.empty_cache()
                    where = self.loaded.offload()
                    if where is None:
                        raise EditError(
                            f"Editor '{self.preset.name}' ran out of GPU memory; close other programs that use the GPU, or choose "
                            "the editor 'phantom', which runs on the processor."
                        ) from error
                    self.placement = f"{where}, after memory ran out"

    def _called(self) -> UInt8[np.ndarray, "size size 3"]:
        import torch

        specialist, preset = self.loaded.specialist_for(self.prompt), self.preset
        pipeline = self.loaded.pipeline if specialist is None else specialist.pipeline
        self.steps_taken = 0
        generator = torch.Generator().manual_seed(self.seed)
        expected: list[Any] = []

        def after_step(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001
            stop_if(self.cancelled)
            self.steps_taken = step + 1
            if self.told is not None:
                picture = self._preview(expected[0] if expected else None)
                with torch.inference_mode(False):  # whoever is told may run models of its own
                    self.told(step + 1, max(step + 1, int(preset.steps * preset.strength)), picture)
            return {}

        asked_for = self._arguments() | {"generator": generator, "callback_on_step_end": after_step, "output_type": "np"}
        try:
            with torch.inference_mode(), _watched(pipeline.scheduler, expected) if self.told is not None else nullcontext():
                painted = pipeline(**asked_for).images[0]
        finally:
            pipeline.maybe_free_model_hooks()
        return np.clip(np.rint(np.asarray(painted) * 255), 0, 255).astype(np.uint8)

    def _arguments(self) -> dict[str, Any]:
        from PIL import Image

        preset, size = self.preset, self.preset.side
        guidance = preset.guidance if self.asked == "insert" else preset.removal_guidance
        common = {"prompt": self.prompt, "num_inference_steps": preset.steps, "guidance_scale": guidance}
        picture = Image.fromarray(self.original)
        if not preset.masked:
            return common | {"image": picture, "image_guidance_scale": 1.5}
        mask = Image.fromarray(self._repainted().astype(np.uint8) * 255)
        return common | {"image": picture, "mask_image": mask, "height": size, "width": size, "strength": preset.strength}

    def _repainted(self) -> Bool[np.ndarray, "size size"]:
        """The mask in whole latent cells: the model must not see a pixel of what goes at the rim of a cell."""
        from mine_core.counterfactual.windows import whole_cells

        cell = int(getattr(self.loaded.pipeline, "vae_scale_factor", 8))
        cells = whole_cells(self.inside, cell) if self.preset.side % cell == 0 else self.inside
        return np.kron(cells, np.ones((cell, cell), bool)) if cells.shape != self.inside.shape else cells

    def _preview(self, latents: Any) -> UInt8[np.ndarray, "size size 3"]:
        """The picture that the latents are expected to become, where that is cheap to know; else the original."""
        import torch

        pipeline = self.loaded.pipeline
        if latents is None or latents.ndim != 4 or self.preset.pipeline == "StableDiffusionXLInpaintPipeline":
            return self.original
        with torch.inference_mode():
            decoded = pipeline.vae.decode(latents.to(pipeline.vae.dtype) / pipeline.vae.config.scaling_factor, return_dict=False)[0]
        pixels = (decoded[0].float().permute(1, 2, 0).cpu().numpy() + 1) * 127.5
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _decoded(pipeline: Any, picture: UInt8[np.ndarray, "size size 3"]) -> UInt8[np.ndarray, "size size 3"]:
    """A picture encoded and decoded by a pipeline's autoencoder, in the middle of what it is encoded to."""
    import torch

    processor, autoencoder = pipeline.image_processor, pipeline.vae
    dtype = autoencoder.dtype
    try:
        with torch.inference_mode():
            if getattr(autoencoder.config, "force_upcast", False):  # its numbers overflow half precision
                autoencoder.to(torch.float32)
            pixels = processor.preprocess(picture[None].astype(np.float32) / 255)
            encoded = autoencoder.encode(pixels.to(device=pipeline._execution_device, dtype=autoencoder.dtype))
            latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
            decoded = autoencoder.decode(latents, return_dict=False)[0]
    finally:
        autoencoder.to(dtype)
        pipeline.maybe_free_model_hooks()
    shown = processor.postprocess(decoded.float().cpu(), output_type="np")[0]
    return np.clip(np.rint(shown * 255), 0, 255).astype(np.uint8)


@contextmanager
def _watched(scheduler: Any, expected: list[Any]) -> Iterator[None]:
    """Keep what a scheduler expects at the end, where its steps say so."""
    plain = scheduler.step

    def step(*args: Any, **named: Any) -> Any:
        out = plain(*args, **named)
        if isinstance(out, tuple) and len(out) > 1:
            expected[:] = [out[1]]
        return out

    scheduler.step = step
    try:
        yield
    finally:
        del scheduler.step
