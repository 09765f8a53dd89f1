"""Integrated gradients from the input pixels: the field's reference, which the decomposition is measured against.

Slow (a backward pass per step and image) and needs the backbone; nothing in the app depends on it.
"""

from collections.abc import Callable

import numpy as np
import torch
from captum.attr import IntegratedGradients
from jaxtyping import Float
from torch import Tensor

from mine_core.errors import AlignmentError, BackboneError
from mine_core.types import EncodingModel, PatchAttribution

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
