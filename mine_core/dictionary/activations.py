"""What a unit does in a whole image, and at places of it."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from mine_core.dictionary.autoencoder import Autoencoder
from mine_core.dictionary.tokens import CELLS, place_of_patches

BATCH = 64


def place_name(place: int, grid: tuple[int, int]) -> str:
    """Say where a place is: 0 the whole image, from 1 the cells row by row."""
    if place == 0:
        return "anywhere"
    n_rows, n_cols = (min(CELLS, side) for side in grid)
    row, col = divmod(place - 1, n_cols)
    return f"row {row + 1} of {n_rows}, column {col + 1} of {n_cols}"


@dataclass(frozen=True)
class Columns:
    """Columns of activations of one layer: place 0 first, all its units, then every cell; column = place * n_units + unit."""

    values: Float[np.ndarray, "stimulus column"]
    n_units: int

    @property
    def n_places(self) -> int:
        """The whole image, and cells."""
        return self.values.shape[1] // self.n_units


def unit_columns(
    autoencoder: Autoencoder,
    tokens: Float[np.ndarray, "stimulus patch width"],
    stimuli: Int[np.ndarray, " chosen"],
    grid: tuple[int, int],
    cells: int,
) -> Columns:
    """Activation of every unit in every image as a whole, and in each cell of it.

    whole[i, u] = max over patches p of code[i, p, u]; cell[i, c, u] = mean over patches of the cell of code[i, p, u].

    The whole image is the maximum, because a unit says that something is there, once or often: of the ways tried (seed 0 of the
    phantom) category voxels are matched best so (median held-out r 0.371, the mean over patches 0.367, cells alone 0.324). A cell is
    the mean, and says where: early visual voxels see a part of the image (0.222 by cells, 0.172 by the whole).
    Of pooled tokens there is one patch and no cell.

    Parameters
    ----------
    stimuli : positions of the images.
    cells : cells a side; 0 for the whole image alone.
    """
    n_patches, n_units = tokens.shape[1], autoencoder.n_units
    n_places = 1 + (len(np.unique(place_of_patches(grid, cells))) if cells and n_patches > 1 else 0)
    values = np.empty((len(stimuli), n_places * n_units), np.float32)
    share = None
    if n_places > 1:
        place = place_of_patches(grid, cells)
        inside = np.equal.outer(np.arange(n_places - 1), place).astype(np.float32)
        share = torch.from_numpy(inside / inside.sum(axis=1, keepdims=True))
    for start in range(0, len(stimuli), BATCH):
        rows = slice(start, start + BATCH)
        codes = codes_of(autoencoder, tokens, stimuli[rows])
        values[rows, :n_units] = codes.amax(dim=1).numpy()
        if share is not None:
            values[rows, n_units:] = torch.einsum("cp,ipu->icu", share, codes).reshape(len(codes), -1).numpy()
    return Columns(values, n_units)


def codes_of(
    autoencoder: Autoencoder, tokens: Float[np.ndarray, "stimulus patch width"], stimuli: Int[np.ndarray, " chosen"]
) -> Float[torch.Tensor, "chosen patch unit"]:
    """Codes of every patch of some images."""
    read = autoencoder.encode(autoencoder.standard.apply(tokens[stimuli]))
    return read.reshape(len(stimuli), tokens.shape[1], -1)
