"""Tokens of every layer, extracted once and memory-mapped."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mine_core.artifacts import canonical_json, write_text
from mine_core.backbones.base import Backbone, image_batches
from mine_core.errors import ArtifactError, BackboneError, Cancelled
from mine_core.types import BackboneSpec, IsCancelled, OnProgress, StimulusSet

RECORD, BATCH = "layers.json", 32
CELLS = 4
"""Cells a side into which an image is cut where place matters."""


@dataclass(frozen=True)
class LayerTokens:
    """Tokens after every block: `patches[layer][stimulus, patch, width]` (float16) and `pooled[stimulus, layer, width]` (float32)."""

    patches: tuple[Float[np.ndarray, "stimulus patch width"], ...]
    pooled: Float[np.ndarray, "stimulus layer width"]
    stimulus_ids: tuple[str, ...]
    backbone: BackboneSpec

    def __len__(self) -> int:
        return len(self.patches)

    def source(self, layer: int, kind: str) -> Float[np.ndarray, "stimulus patch width"]:
        """Tokens that an autoencoder reads: of patches, or the pooled one alone."""
        return self.patches[layer] if kind == "patch" else self.pooled[:, layer : layer + 1]

    def cells(self, layer: int, stimuli: Int[np.ndarray, " chosen"]) -> Float[np.ndarray, "chosen feature"]:
        """Tokens averaged over each of at most 4 x 4 cells of the image, side by side (float32).

        Place is kept, for early visual voxels see a part of the image; every layer has the same number of features.
        """
        tokens = np.asarray(self.patches[layer][stimuli], np.float32)
        place = place_of_patches(self.backbone.grid, CELLS)
        means = [tokens[:, place == cell].mean(axis=1) for cell in range(place.max() + 1)]
        return np.concatenate(means, axis=1)


def extract_layers(
    stimuli: StimulusSet,
    backbone: Backbone,
    directory: Path,
    on_progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
) -> LayerTokens:
    """Read all layers of all stimuli and keep them in `directory`: one file a layer, the record last.

    Raises
    ------
    BackboneError
        If the layers cannot be read, or a token is not finite or beyond float16.
    Cancelled
        When `cancelled()` becomes True between batches.
    """
    from mine_core.backbones.layers import read_layers

    files: list[np.memmap] = []
    pooled = np.empty(0)
    for rows in image_batches(len(stimuli), BATCH):
        if cancelled is not None and cancelled():
            raise Cancelled(f"Stopped after {rows.start} of {len(stimuli)} stimuli; nothing was kept.")
        patches, whole = read_layers(backbone, np.asarray(stimuli.images[rows]))
        if not files:
            shape = (len(stimuli), *patches.shape[2:])
            names = [directory / _name(layer) for layer in range(len(patches))]
            files = [np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape) for path in names]
            pooled = np.empty((len(stimuli), len(patches), patches.shape[3]), np.float32)
        largest = np.abs(patches).max()
        if not largest <= np.finfo(np.float16).max:
            raise BackboneError(f"Tokens of stimuli {rows.start} to {rows.stop - 1} reach {largest}, beyond what float16 holds.")
        for file, tokens in zip(files, patches, strict=True):
            file[rows] = tokens
        pooled[rows] = whole.transpose(1, 0, 2)
        if on_progress is not None:
            on_progress(rows.stop, len(stimuli), "reading layers")
    for file in files:
        file.flush()
    np.save(directory / "pooled.npy", pooled)
    record = {"stimulus_ids": list(stimuli.ids), "backbone": asdict(backbone.spec), "n_layers": len(files)}
    write_text(directory / RECORD, canonical_json(record))
    return load_layers(directory)


def place_of_patches(grid: tuple[int, int], cells: int) -> Int[np.ndarray, " patch"]:
    """Cell, row by row of at most `cells` x `cells`, that each patch of a grid lies in."""
    rows, cols = (np.arange(side) * min(cells, side) // side for side in grid)
    return (rows[:, None] * min(cells, grid[1]) + cols[None, :]).reshape(-1)


def load_layers(directory: Path) -> LayerTokens:
    """Open what `extract_layers` wrote, memory-mapped and read-only; raises ArtifactError if it is not whole."""
    try:
        record = json.loads((directory / RECORD).read_text())
        arrays = [np.load(directory / _name(layer), mmap_mode="r", allow_pickle=False) for layer in range(record["n_layers"])]
        pooled = np.load(directory / "pooled.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{directory.name}: layers cannot be read ({error}); delete the folder and fit again.") from error
    entry = record["backbone"]
    spec = BackboneSpec(**entry | {"grid": tuple(entry["grid"])})
    ids = tuple(record["stimulus_ids"])
    wrong = [array.shape for array in arrays if array.shape[:2] != (len(ids), spec.grid[0] * spec.grid[1])]
    if wrong or pooled.shape[:2] != (len(ids), len(arrays)):
        raise ArtifactError(f"{directory.name}: layers of shape {wrong or pooled.shape} do not fit {len(ids)} stimuli; fit again.")
    return LayerTokens(tuple(arrays), pooled, ids, spec)


def _name(layer: int) -> str:
    return f"layer_{layer + 1:02d}.npy"
