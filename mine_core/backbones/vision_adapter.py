"""DINOv2 as a `Backbone`: it sees, and has no words."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from mine_core.backbones.token_adapters import TokenBackbone, grid_of, load_published, require_layer
from mine_core.errors import BackboneError
from mine_core.types import BackboneSpec

AT_ONCE = 32


class VisionBackbone(TokenBackbone):
    """A DINOv2 model, with or without registers.

    Its parts are the patch tokens after `layer`, through the model's final LayerNorm, as its authors take intermediate
    layers; after the last layer these are the model's output. The class token and the registers belong to no patch and are
    left out: what they hold beyond the patches is lost, and the remainder is 0.

    Parameters
    ----------
    model : Dinov2Model or Dinov2WithRegistersModel of transformers.
    processor : its image processor.
    layer : 1 to the number of its layers.
    weights_hash : SHA-256 that names the weights.

    Raises
    ------
    BackboneError
        If the model is of another kind, or has no such layer.

    References
    ----------
    Oquab et al. (2023), DINOv2, arXiv:2304.07193; Darcet et al. (2023), registers, arXiv:2309.16588.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str,
        supervision: str,
        layer: int,
        weights_hash: str,
        device: str | torch.device = "cpu",
    ) -> None:
        from transformers import Dinov2Model, Dinov2WithRegistersModel

        if not isinstance(model, Dinov2Model | Dinov2WithRegistersModel):
            raise BackboneError(f"A {type(model).__name__} was given; expected Dinov2Model or Dinov2WithRegistersModel.")
        require_layer(layer, model.config.num_hidden_layers, "")
        self._layer = layer
        self._n_before = 1 + getattr(model.config, "num_register_tokens", 0)
        spec = BackboneSpec(
            name=name,
            grid=grid_of(processor, model.config.patch_size),
            n_features=model.config.hidden_size,
            weights_hash=weights_hash,
            supervision=supervision,
            has_words=False,
        )
        super().__init__(model, processor, spec=spec, device=device, at_once=AT_ONCE)

    def tokens(self, pixels: Float[torch.Tensor, "image 3 side side"]) -> Float[torch.Tensor, "image patch feature"]:
        """Patch tokens after the layer, through the final LayerNorm."""
        hidden = self._model(pixel_values=pixels, output_hidden_states=[self._layer]).hidden_states[self._layer]
        return self._model.layernorm(hidden[:, self._n_before :])


def load_vision(snapshot: Path, *, name: str, supervision: str, layer: int, weights_hash: str, device: str) -> VisionBackbone:
    """Load a DINOv2 model from a folder of published files, in float32 on every device (it is small).

    Raises
    ------
    BackboneError
        If its files cannot be read or do not fit together.
    """
    from transformers import BitImageProcessor, Dinov2Model

    model = load_published(Dinov2Model, snapshot, torch.float32)
    processor = BitImageProcessor.from_pretrained(snapshot, local_files_only=True)
    return VisionBackbone(model, processor, name=name, supervision=supervision, layer=layer, weights_hash=weights_hash, device=device)
