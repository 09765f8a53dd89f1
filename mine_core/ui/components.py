"""The page's own elements: a map one can click, a gallery with heatmaps, an image to draw a region or choose a place on.

Each takes plain values and returns what the user did since the last run, or None. They are Streamlit components of the
second kind: inline HTML, CSS and JavaScript from assets/components, no frame, nothing fetched.
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import streamlit as st
from jaxtyping import Bool, Int, UInt8

from mine_core.config import PROJECT
from mine_core.figures import data_url


@cache
def _renderer(name: str) -> Any:
    folder = PROJECT / "assets" / "components"
    html, css, js = ((folder / f"{name}.{kind}").read_text() for kind in ("html", "css", "js"))
    return st.components.v2.component(f"mine_{name}", html=html, css=css, js=js)


@dataclass(frozen=True)
class MapLayer:
    """A flatmap ready to show: the picture, which voxel each pixel is, outlines, and a line of read-out per voxel."""

    image: UInt8[np.ndarray, "height width 4"]
    pixel_voxel: Int[np.ndarray, "height width"]
    outlines: Sequence[Mapping[str, Any]]
    readout: Sequence[str]
    alt: str


@lru_cache(maxsize=8)
def _packed(table: bytes) -> str:
    return base64.b64encode(zlib.compress(table, 6)).decode()


def flatmap(layer: MapLayer, *, selected: tuple[int, int] | None, table_key: str, key: str) -> tuple[int, int] | None:
    """Show a flatmap; return the (x, y) pixel clicked since the last run, or None.

    `table_key` names the pixel-to-voxel table, so that the browser unpacks it once.
    """
    data = {
        "image": data_url(layer.image, "webp"),
        "width": layer.image.shape[1],
        "height": layer.image.shape[0],
        "table": _packed(layer.pixel_voxel.astype("<i2").tobytes()),
        "table_key": table_key,
        "outlines": list(layer.outlines),
        "readout": list(layer.readout),
        "selected": None if selected is None else {"x": selected[0], "y": selected[1]},
        "alt": layer.alt,
    }
    clicked = _renderer("flatmap")(key=key, data=data, on_click_change=_nothing).click
    return None if clicked is None else (int(clicked["x"]), int(clicked["y"]))


@dataclass(frozen=True)
class GalleryItem:
    """One image of a gallery: picture, heatmap (or None), the line of numbers, caption, words, and text for screen readers."""

    stimulus: int
    image: UInt8[np.ndarray, "height width 3"]
    heat: UInt8[np.ndarray, "h w 4"] | None
    numbers: str
    caption: str
    words: Sequence[str]
    alt: str
    chosen: bool


def gallery(
    items: Sequence[GalleryItem], *, actions: Mapping[str, str], legend: tuple[str, str, str], label: str, key: str
) -> tuple[str, int] | None:
    """Show images with heatmaps and buttons; return (action, stimulus) of the button pressed since the last run, or None.

    `actions` maps names to button labels; a click on a picture is the action `select`. `legend` is (low, CSS gradient, high).
    """
    data = {
        "items": [
            {
                "id": item.stimulus,
                "image": data_url(item.image, "webp"),
                "heat": None if item.heat is None else data_url(item.heat),
                "numbers": item.numbers,
                "caption": item.caption,
                "words": list(item.words),
                "alt": item.alt,
                "chosen": item.chosen,
            }
            for item in items
        ],
        "actions": [{"name": name, "label": text} for name, text in actions.items()],
        "legend": {"low": legend[0], "gradient": legend[1], "high": legend[2]},
        "label": label,
    }
    acted = _renderer("gallery")(key=key, data=data, on_action_change=_nothing).action
    return None if acted is None else (str(acted["name"]), int(acted["stimulus"]))


def painter(
    image: UInt8[np.ndarray, "height width 3"],
    start: UInt8[np.ndarray, "height width 4"] | None,
    *,
    drawing: str,
    alt: str,
    label: str,
    key: str,
) -> Bool[np.ndarray, "height width"] | None:
    """Show a canvas over an image; return the region drawn on `drawing`, True where painted, or None if nothing was drawn.

    `drawing` names what is drawn on; when it changes the canvas starts anew from `start`.
    """
    height, width = image.shape[:2]
    data = {
        "image": data_url(image, "webp"),
        "width": width,
        "height": height,
        "start": None if start is None else data_url(start),
        "key": drawing,
        "alt": alt,
        "label": label,
    }
    drawn = _renderer("painter")(key=key, data=data, on_region_change=_nothing).region
    if drawn is None or drawn["key"] != drawing:
        return None
    return _unpack_region(drawn, height, width)


def placer(
    image: UInt8[np.ndarray, "height width 3"],
    *,
    choice: str,
    alt: str,
    label: str,
    key: str,
    unplaced: str = "Where the voxel is driven least",
) -> tuple[int, int] | None:
    """Show an image on which a place can be chosen by click or keyboard; return its pixel (row, col), or None if none is.

    `choice` names what the place is chosen for; when it changes, no place is chosen. `unplaced` is what the button that takes
    the choice back is called.
    """
    height, width = image.shape[:2]
    data = {"image": data_url(image, "webp"), "width": width, "height": height, "key": choice, "alt": alt, "label": label}
    data["unplaced"] = unplaced
    chosen = _renderer("placer")(key=key, data=data, on_place_change=_nothing).place
    if chosen is None or chosen["key"] != choice or chosen["row"] is None:
        return None
    return int(chosen["row"]), int(chosen["col"])


def _unpack_region(drawn: Mapping[str, Any], height: int, width: int) -> Bool[np.ndarray, "height width"] | None:
    """Read the bits that the browser sent; None if they are not a region of this image."""
    packed = np.frombuffer(base64.b64decode(drawn["bits"]), np.uint8)
    if (drawn["height"], drawn["width"]) != (height, width) or packed.size != -(-height * width // 8):
        return None
    return np.unpackbits(packed, count=height * width).astype(bool).reshape(height, width)


def _nothing() -> None:
    """Stand in for a callback: the value is read where the component is shown."""
