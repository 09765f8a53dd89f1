"""The maps of the cortex that the app can show: values, colours, scale and a caption with units and n."""

from dataclasses import dataclass

import numpy as np
import streamlit as st
from jaxtyping import Bool, Float

from mine_core.cortex.flatmap import render_groups, render_map
from mine_core.figures import GROUP_COLOURS, SIGNED_MAP, UNSIGNED_MAP, css_gradient
from mine_core.instrument import Instrument
from mine_core.instrument.wanting import outdone_by_contrast
from mine_core.ui.components import MapLayer
from mine_core.ui.state import MAPS


@dataclass(frozen=True)
class CortexMap:
    """One value per voxel (NaN is not shown), its scale, and what to say beneath it; `categories` for a map of groups."""

    title: str
    values: Float[np.ndarray, " voxel"]
    low: float
    high: float
    signed: bool
    unit: str
    caption: str
    categories: tuple[str, ...] = ()

    @property
    def colormap(self) -> str:
        """Matplotlib name of the colours."""
        return SIGNED_MAP if self.signed else UNSIGNED_MAP


def offered(instrument: Instrument, image: int) -> list[str]:
    """Names of the maps that have something to show: no ceiling without repeats, no group without words, and so on."""
    unknown = {"normalised", "ceiling"} if np.isnan(instrument.score.noise_ceiling).all() else set()
    unknown |= set() if instrument.features.backbone.has_words else {"group"}
    return [name for name in MAPS if name not in unknown and (name != "image" or image >= 0)]


def cortex_map(instrument: Instrument, name: str, image: int) -> CortexMap:
    """Values of one of the maps that the user may choose."""
    score = instrument.score
    n = f"{len(score.r):,} voxels, {score.n_test} held-out images"
    if name == "accuracy":
        return CortexMap("Accuracy", score.r, 0.0, 0.8, False, "Pearson r", f"Correlation of predicted and measured responses; {n}.")
    if name == "ceiling":
        return CortexMap(
            "Noise ceiling",
            score.noise_ceiling,
            0.0,
            0.8,
            False,
            "share of variance",
            f"Explainable variance from repeats; {n}.",
        )
    if name == "group":
        return preferred_group(instrument)
    if name == "image" and image >= 0:
        return response_map(instrument, instrument.features.pooled[image], "the selected image")
    shown = np.where(score.noise_ceiling >= 0.1, score.r2 / np.maximum(score.noise_ceiling, 0.1), np.nan)
    return CortexMap(
        "Normalised accuracy",
        shown,
        0.0,
        1.0,
        False,
        "R² / noise ceiling",
        f"Held-out R² over the noise ceiling, where the ceiling is at least 0.1; {n}.",
    )


def response_map(instrument: Instrument, pooled: Float[np.ndarray, " feature"], what: str) -> CortexMap:
    """Predicted response of every reliable voxel to one image."""
    model = instrument.model
    mean = instrument.features.pooled[instrument.subject.splits.train].mean(axis=0)
    shift = (np.asarray(pooled, np.float64) - mean) @ model.coef / np.where(model.prediction_sd > 0, model.prediction_sd, np.inf)
    return signed_map(instrument, shift, f"Predicted response to {what}", f"Predicted, not measured: response to {what}")


def signed_map(instrument: Instrument, values: Float[np.ndarray, " voxel"], title: str, caption: str) -> CortexMap:
    """Show a signed value of every reliable voxel in SD of its predictions."""
    shown = np.where(instrument.reliable, values, np.nan)
    n = int(instrument.reliable.sum())
    return CortexMap(title, shown, -2.5, 2.5, True, "SD of predictions", f"{caption}; {n:,} reliable voxels, others grey.")


def preferred_group(instrument: Instrument) -> CortexMap:
    """Group of the word that scores best on held-out images, for voxels where one passes its null."""
    groups = tuple(dict.fromkeys(instrument.vocabulary.groups))
    chosen = instrument.words.preferred_group(groups)
    told = (chosen >= 0) & instrument.reliable & ~outdone_by_contrast(instrument)
    values = np.where(told, chosen.astype(float), np.nan)
    n = int(np.isfinite(values).sum())
    caption = (
        f"Group of the best held-out word, where it beats shuffled responses (q ≤ 0.05) and is not outdone by contrast; {n:,} voxels."
    )
    return CortexMap("Preferred group", values, 0, max(1, len(groups) - 1), False, "group", caption, groups)


def layer(instrument: Instrument, shown: CortexMap) -> MapLayer:
    """Paint a map on the flatmap, with a line of read-out for every voxel."""
    flat = instrument.flatmap
    if shown.categories:
        groups = np.where(np.isfinite(shown.values), shown.values, -1).astype(np.int64)
        image = render_groups(flat, groups, GROUP_COLOURS[: len(shown.categories)])
    else:
        image = render_map(flat, np.asarray(shown.values, np.float64), colormap=shown.colormap, vmin=shown.low, vmax=shown.high)
    outlines = [
        {
            "name": outline.name,
            "polygons": [np.round(polygon, 1).tolist() for polygon in outline.polygons],
            "labels": [[round(float(x), 1), round(float(y), 1)] for x, y in outline.labels],
        }
        for outline in flat.outlines
    ]
    return MapLayer(image, flat.pixel_voxel, outlines, readouts(instrument, shown), f"Cortical flatmap: {shown.title}")


def readouts(instrument: Instrument, shown: CortexMap) -> list[str]:
    """One line a voxel, for the pointer."""
    regions = region_text(instrument)
    lines = []
    for voxel, value in enumerate(shown.values):
        if not np.isfinite(value):
            text = "withheld" if not instrument.reliable[voxel] else "no value"
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
