"""Integrated gradients: from the average token, as the paper takes them, and from the pixels, the field's reference.

Computed by captum. Slow for a linear read-out (a backward pass through the backbone per step); for query attention only its one
layer is needed, on stored tokens.
"""

from collections.abc import Callable

import numpy as np
import torch
from captum.attr import IntegratedGradients
from jaxtyping import Float, Int
from torch import Tensor

from mine_core.attribution.base import Scene, Setting, checked_backbone
from mine_core.errors import AlignmentError, BackboneError
from mine_core.types import EncodingModel, PatchAttribution

N_STEPS = 16
PooledEmbedding = Callable[[Float[Tensor, "image 3 side side"]], Float[Tensor, "image feature"]]


def integrated_gradients(
    pooled: PooledEmbedding,
    pixels: Float[Tensor, "3 side side"],
    model: EncodingModel,
    voxel: int,
    grid: tuple[int, int],
    *,
    n_steps: int = 16,
) -> PatchAttribution:
    """Attribute one voxel's predicted response to the pixels of one image, summed over patches.

    values[r, c] = sum over pixels i of the patch of (x_i - x0_i) * mean over steps s of d f(x0 + s (x - x0)) / d x_i,
    f(x) = pooled(x) @ coef[:, v] + intercept[v], x0 the image's mean colour everywhere, Gauss-Legendre steps.

    Parameters
    ----------
    pooled : differentiable map from preprocessed images to the joint-space embedding that `model` reads.
    pixels : one preprocessed image.
    voxel : 0-based.
    grid : rows and columns to sum pixels into; both must divide the side.
    n_steps : points on the path.

    Returns
    -------
    One voxel; `baseline` is f(x0), `remainder` 0, `completeness_error` the shortfall of the path integral in SD of the
    voxel's predictions, which falls as steps are added.

    Raises
    ------
    AlignmentError : if there is no such voxel.
    BackboneError : if the grid does not divide the image, or `pooled` has no gradient.

    References
    ----------
    Sundararajan, Taly, Yan (2017), arXiv:1703.01365. Computed by captum.
    """
    if not 0 <= voxel < model.coef.shape[1]:
        raise AlignmentError(f"Voxel {voxel} was asked for; this encoding model has 0 to {model.coef.shape[1] - 1}.")
    side = pixels.shape[1]
    if side % grid[0] or side % grid[1]:
        raise BackboneError(f"A grid of {grid[0]}x{grid[1]} does not divide an image of {side} pixels; use the backbone's own.")
    weights = torch.tensor(np.array(model.coef[:, voxel]), dtype=pixels.dtype, device=pixels.device)
    intercept = float(model.intercept[voxel])

    def predict(images: Float[Tensor, "image 3 side side"]) -> Float[Tensor, " image"]:
        return pooled(images) @ weights + intercept

    image = pixels.detach().clone()[None].requires_grad_()
    if not predict(image).requires_grad:
        raise BackboneError("The embedding has no gradient with respect to the pixels; compute it outside inference mode.")
    start = pixels.mean(dim=(1, 2), keepdim=True).expand_as(pixels)[None]
    gradients = IntegratedGradients(predict).attribute(image, start, n_steps=n_steps, internal_batch_size=n_steps)
    by_pixel = gradients.detach().double().sum(dim=(0, 1))
    values = by_pixel.reshape(grid[0], side // grid[0], grid[1], side // grid[1]).sum(dim=(1, 3)).cpu().numpy()
    with torch.no_grad():
        prediction, baseline = float(predict(image)), float(predict(start))
    sd = float(model.prediction_sd[voxel])
    shortfall = abs(baseline + values.sum() - prediction)
    return PatchAttribution(
        values=values[None],
        remainder=np.zeros(1),
        baseline=np.array([baseline]),
        prediction=np.array([prediction]),
        method=f"integrated gradients, {n_steps} steps",
        completeness_error=shortfall / sd if sd > 0 else shortfall,
    )


def attribute_scene(setting: Setting, scene: Scene, voxels: Int[np.ndarray, " chosen"]) -> PatchAttribution:
    """Attribute to tokens along the straight line from the average token at each place, 16 steps.

    values[v, p] = sum_f (x_pf - mean_pf) * mean over steps s of d y_v(mean + s (x - mean)) / d x_pf. For query attention x are the
    stored tokens, its own input, as in the paper; `remainder` is the remainder token's. For a linear read-out of stored
    tokens that would be the exact decomposition again, so there x are the tokens that enter the backbone's blocks, and
    `remainder` is the class token's.

    Returns
    -------
    In the units of the responses; `completeness_error` is the shortfall of the path integral in SD of the predictions.

    Raises
    ------
    BackboneError
        If the encoder is a linear read-out and the backbone no open_clip vision transformer.

    References
    ----------
    Sundararajan, Taly, Yan (2017), arXiv:1703.01365; Grosbard, Geva, Yovel (2026), arXiv:2605.16468, for the baseline.
    """
    make = _through_blocks if isinstance(setting.encoder, EncodingModel) else _through_the_layer
    predict, tokens, start = make(setting, scene, voxels)
    with torch.no_grad():
        prediction, baseline = (predict(end[None])[0].double().cpu().numpy() for end in (tokens, start))
    by_token = np.empty((len(voxels), len(tokens)))
    with torch.enable_grad():
        method = IntegratedGradients(predict)
        for number in range(len(voxels)):
            gradients = method.attribute(tokens[None], start[None], target=number, n_steps=N_STEPS, internal_batch_size=N_STEPS)
            by_token[number] = gradients[0].detach().double().sum(dim=-1).cpu().numpy()
    places, left = (by_token[:, 1:], by_token[:, 0]) if make is _through_blocks else (by_token[:, :-1], by_token[:, -1])
    shortfall = np.abs(baseline + by_token.sum(axis=1) - prediction) / setting.sd(voxels)
    return PatchAttribution(
        values=places.reshape(len(voxels), *setting.grid),
        remainder=left,
        baseline=baseline,
        prediction=prediction,
        method="integrated_gradients",
        completeness_error=float(shortfall.max(initial=0.0)),
    )


Tokens = Float[Tensor, "token width"]
Path = tuple[Callable[[Float[Tensor, "step token width"]], Float[Tensor, "step chosen"]], Tokens, Tokens]


def _through_blocks(setting: Setting, scene: Scene, voxels: Int[np.ndarray, " chosen"]) -> Path:
    """Tokens that enter the backbone's blocks, class token first, and the predictions of a linear read-out from them."""
    from mine_core.backbones.tracing import image_tower, pool_tokens

    backbone, averages, model = checked_backbone(setting), setting.averages(), setting.encoder
    visual = image_tower(backbone)
    if averages.tokens is None or not isinstance(model, EncodingModel):
        raise BackboneError("The averages hold no input tokens; make them with a backbone whose blocks can be traced.")
    like = {"dtype": visual.proj.dtype, "device": backbone.device}
    weights, intercept = (torch.tensor(np.array(part), **like) for part in (model.coef[:, voxels], model.intercept[voxels]))
    with torch.no_grad():
        tokens = visual._embeds(backbone.preprocess(scene.image[None]).to(**like))[0]

    def predict(rows: Float[Tensor, "step token width"]) -> Float[Tensor, "step chosen"]:
        return pool_tokens(visual, visual.transformer(rows)) @ weights + intercept

    return predict, tokens, torch.tensor(np.array(averages.tokens), **like)


def _through_the_layer(setting: Setting, scene: Scene, voxels: Int[np.ndarray, " chosen"]) -> Path:
    """Stored tokens, the remainder last, and the predictions of query attention from them."""
    encoder = setting.encoder
    if isinstance(encoder, EncodingModel):
        raise BackboneError("Integrated gradients over stored tokens are for query attention; ridge needs the backbone.")
    tokens, start = (
        torch.from_numpy(np.concatenate([patches, rest[None]]).astype(np.float32))
        for patches, rest in ((scene.patches, scene.remainder), (encoder.mean_patches, encoder.mean_remainder))
    )

    def predict(rows: Float[Tensor, "step token width"]) -> Float[Tensor, "step chosen"]:
        return encoder.forward_tokens(rows, voxels)

    return predict, tokens, start
