"""Maps of the cortex that a pin can hold, made again by name: those of Explore, that of a text, and that of the layers."""

from dataclasses import dataclass
from typing import Literal, get_args

from mine_core.artifacts import ArtifactStore
from mine_core.description.search import parse_query
from mine_core.errors import NotebookError
from mine_core.exports.maps import CortexMap, cortex_map, text_map
from mine_core.instrument import Instrument
from mine_core.instrument.search import search_text
from mine_core.notebook.findings import Found, find_map
from mine_core.notebook.records import Finding, Number

MapName = Literal["normalised", "accuracy", "ceiling", "group", "image", "search", "layer"]
MAP_NAMES: tuple[MapName, ...] = get_args(MapName)


@dataclass(frozen=True)
class AskedMap:
    """Which map: its name, the image that it is of ("image"), or the texts looked for and not ("search")."""

    name: MapName
    image: int = -1
    find: str = ""
    minus: str = ""


def map_of(pin: Finding) -> AskedMap:
    """The map of a pin; raises NotebookError if there is none of that name."""
    for name in MAP_NAMES:
        if name == pin.settings.get("map"):
            texts = (str(pin.settings.get("find", "")), str(pin.settings.get("minus", "")))
            return AskedMap(name, pin.image if name == "image" else -1, *texts)
    raise NotebookError(f"The pin's map is '{pin.settings.get('map')}'; there are {', '.join(MAP_NAMES)}.")


def made_map(instrument: Instrument, store: ArtifactStore, asked: AskedMap) -> CortexMap:
    """Make a map now; raises MineError if the text cannot be read, or the dictionary that it needs is not made."""
    return _made(instrument, store, asked)[0]


def map_now(instrument: Instrument, store: ArtifactStore, asked: AskedMap, voxel: int) -> Found:
    """Find what a map of the cortex shows."""
    shown, more = _made(instrument, store, asked)
    return find_map(instrument, shown, voxel, asked.image, more)


def _made(instrument: Instrument, store: ArtifactStore, asked: AskedMap) -> tuple[CortexMap, tuple[Number, ...]]:
    """The map, and what its null is where it has one of its own."""
    if asked.name == "search":
        found = search_text(instrument, parse_query(asked.find, asked.minus))
        counts = found.shuffled_calls
        by_chance = Number("voxels that shuffled responses reach", sum(counts) / len(counts), "voxels", f"at most {max(counts)}", "0")
        return text_map(instrument, found), (by_chance,)
    if asked.name == "layer":
        # a dictionary needs torch, which no other map does
        from mine_core.exports.layers import layer_map, made_dictionary

        return layer_map(made_dictionary(instrument.config, store)), ()
    return cortex_map(instrument, asked.name, asked.image), ()
