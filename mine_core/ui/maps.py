"""The maps of the cortex on a page: painted, with a read-out for every voxel, a colour scale and a caption."""

import math

import numpy as np
import streamlit as st
from jaxtyping import Bool

from mine_core.exports.maps import CortexMap, cortex_map, painted, response_map, signed_map, text_map
from mine_core.figures import GROUP_COLOURS, css_gradient
from mine_core.instrument import Instrument
from mine_core.ui.components import MapLayer
from mine_core.ui.state import MAPS

__all__ = [
    "CortexMap",
    "cortex_map",
    "layer",
    "legend",
    "offered",
    "readouts",
    "region_text",
    "response_map",
    "signed_map",
    "text_map",
]


def offered(instrument: Instrument, image: int) -> list[str]:
    """Names of the maps that have something to show: no ceiling without repeats, no group without words, and so on."""
    unknown = {"normalised", "ceiling"} if np.isnan(instrument.score.noise_ceiling).all() else set()
    unknown |= set() if instrument.features.backbone.has_words else {"group"}
    return [name for name in MAPS if name not in unknown and (name != "image" or image >= 0)]


def layer(instrument: Instrument, shown: CortexMap) -> MapLayer:
    """Paint a map on the flatmap, with a line of read-out for every voxel."""
    flat = instrument.flatmap
    outlines = [
        {
            "name": outline.name,
            "polygons": [np.round(polygon, 1).tolist() for polygon in outline.polygons],
            "labels": [[round(float(x), 1), round(float(y), 1)] for x, y in outline.labels],
        }
        for outline in flat.outlines
    ]
    return MapLayer(painted(flat, shown), flat.pixel_voxel, outlines, readouts(instrument, shown), f"Cortical flatmap: {shown.title}")


def readouts(instrument: Instrument, shown: CortexMap) -> list[str]:
    """One line a voxel, for the pointer."""
    regions, reliable = region_text(instrument), instrument.reliable.tolist()
    lines = []
    for voxel, value in enumerate(np.asarray(shown.values, np.float64).tolist()):
        if not math.isfinite(value):
            text = "no value" if reliable[voxel] else "withheld"
        elif shown.categories:
            text = shown.categories[int(value)]
        else:
            text = f"{value:.2f} {shown.unit}"
        lines.append(f"voxel {voxel} · {regions[voxel]} · {text}")
    return lines


@st.cache_data(max_entries=4)
def _region_text(regions: tuple[str, ...], membership: Bool[np.ndarray, "region voxel"]) -> list[str]:
    names: list[list[str]] = [[] for _ in range(membership.shape[1])]
    for name, inside in zip(regions, membership, strict=True):
        for voxel in np.flatnonzero(inside):
            names[voxel].append(name)
    return ["/".join(found) or "no region" for found in names]


def region_text(instrument: Instrument) -> list[str]:
    """Region names of every voxel as text."""
    voxels = instrument.subject.responses.voxels
    return _region_text(voxels.regions, np.asarray(voxels.membership))


def legend(shown: CortexMap) -> None:
    """Draw the colour scale and the caption beneath a map."""
    if shown.categories:
        chips = "".join(
            f'<span style="white-space:nowrap"><i style="display:inline-block;width:12px;height:12px;border-radius:2px;'
            f'background:{colour};margin-right:5px"></i>{name}</span>'
            for name, colour in zip(shown.categories, GROUP_COLOURS, strict=False)
        )
        bar = f'<div style="display:flex;flex-wrap:wrap;gap:3px 14px">{chips}</div>'
    else:
        bar = (
            f'<div style="display:flex;align-items:center;gap:8px"><span>{shown.low:g}</span>'
            f'<i style="flex:0 1 240px;height:11px;border-radius:2px;background:{css_gradient(shown.colormap)}"></i>'
            f"<span>{shown.high:g} {shown.unit}</span></div>"
        )
    st.html(f'<div style="font-size:13px;line-height:1.5">{bar}<div style="opacity:.8;margin-top:3px">{shown.caption}</div></div>')
