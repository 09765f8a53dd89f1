"""The map of preferred layers; apart from the other maps because a dictionary needs torch, and a page that shows none does not."""

import numpy as np

from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig
from mine_core.errors import ConfigError
from mine_core.exports.maps import CortexMap
from mine_core.exports.records import AGREEMENT, NOTHING, MapRecord
from mine_core.instrument.dictionary import Dictionary, build_dictionary, dictionary_is_built, open_dictionary


def made_dictionary(config: InstrumentConfig, store: ArtifactStore) -> Dictionary:
    """Open the dictionary of a subject; raises ConfigError if it is not made yet."""
    if not dictionary_is_built(config, store):
        raise ConfigError("Map 'layer' needs the dictionary, which is not made yet; run `python -m mine_core fit --dictionary` first.")
    return open_dictionary(build_dictionary(config, store, whole=False))


def layer_map(dictionary: Dictionary) -> CortexMap:
    """Layer of the backbone, counted from 1, that predicts each voxel best, where it predicts it above chance."""
    preference, placed = dictionary.preference, dictionary.placed
    values = np.where(placed, preference.best + 1.0, np.nan)
    n = f"{int(placed.sum()):,} voxels that it predicts above chance (q ≤ 0.05), others grey; {preference.n_images} held-out images"
    caption = f"Layer whose tokens, cell by cell, predict the voxel best by ridge; {n}."
    return CortexMap("Best layer", values, 1, len(preference.r), False, "layer", caption)


def layer_record(dictionary: Dictionary) -> MapRecord:
    """The layer of each voxel, to be exported."""
    shown = layer_map(dictionary)
    definition = "layer of the backbone, counted from 1, whose patch tokens predict held-out responses best by ridge"
    null = "held-out responses shuffled over images; layers of voxels that no layer predicts at q <= 0.05 are withheld"
    withheld = tuple("" if placed else NOTHING for placed in dictionary.placed)
    return MapRecord(
        "layer", shown, definition, null, AGREEMENT, withheld, dictionary.preference.n_images, about={"dictionary": dictionary.key}
    )
