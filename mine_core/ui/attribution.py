"""Which method draws the heatmaps, and a closer look at one image and one voxel: what happens when patches are taken away."""

from collections.abc import Mapping
from functools import partial
from typing import Literal, get_args

import numpy as np
import streamlit as st
from jaxtyping import Float, Int

from mine_core.attribution.base import DEFAULT, METHODS, STAND_IN, MethodName
from mine_core.attribution.critical import CriticalSet, critical_set
from mine_core.attribution.faithfulness import replacements
from mine_core.attribution.occlusion import occlusion_values, pooled_of
from mine_core.attribution.receptive_field import covariance_shares, field_of
from mine_core.attribution.seeing import as_seen
from mine_core.attribution.traced import coarse_values
from mine_core.config import InstrumentConfig
from mine_core.errors import MineError
from mine_core.experiments.voxel_faithfulness import voxel_faithfulness
from mine_core.figures import data_url, outlined
from mine_core.figures_attribution import curve_figure, field_figure, heat_over
from mine_core.instrument import Instrument
from mine_core.instrument.attributions import PREPARED, Prepared, PreparedName, attribute_stimulus, build_averages, occlude_stimulus
from mine_core.instrument.explain import HeatOf
from mine_core.jobs import Job
from mine_core.ui import faithfulness, resources
from mine_core.ui.exporting import export_curve
from mine_core.ui.state import View
from mine_core.ui.waiting import wait_for

Look = Literal["Take patches away", "Compare methods", "Test this voxel", "Receptive field"]
LOOKS: tuple[Look, ...] = get_args(Look)
SHARE_KEY, FIELD_IMAGES = "explore_share", 1000
PLAIN = {"displayModeBar": False}
OFFERS: Mapping[PreparedName, tuple[str, str, str, str]] = {  # the button, its help, while it is prepared, why it cannot be
    "traced": (
        "Prepare sharper heatmaps",
        "Traces every image back to its patches once, in the background. Minutes on a GPU, hours for a large model without one.",
        "Sharper heatmaps are being prepared; until then you see the exact decomposition",
        "No sharper heatmaps",
    ),
    "occlusion": (
        "Prepare occlusion of all images",
        "Takes every patch from every image once, in the background, so that any voxel's maps are instant. Minutes for the phantom, "
        "hours for a large model without a GPU.",
        "Occlusion of all images is being prepared",
        "No occlusion of all images",
    ),
}


def choose_method(view: View) -> tuple[MethodName, HeatOf | None]:
    """Let the user choose what draws the heatmaps; returns its name and a function of stimuli, None for the stored decomposition."""
    config = view.config()
    ready = isinstance(resources.prepared(config, "traced"), Prepared)
    offered = list(METHODS)
    chosen: MethodName = st.selectbox(
        "Heatmap",
        offered,
        index=offered.index(DEFAULT if ready else STAND_IN),
        format_func=lambda name: METHODS[name].title,
        key=f"explore_method_{'traced' if ready else 'plain'}",
        help="All explain the same prediction. It opens with what points best at known answers, of those made in advance.",
    )
    offer: PreparedName = "occlusion" if chosen == "occlusion" else "traced"
    found = resources.prepared(config, offer)
    if not isinstance(found, Prepared):
        _offer_to_prepare(config, offer, found)
    method = METHODS[chosen]
    instant = chosen == "decomposition" or (chosen in PREPARED and isinstance(found, Prepared))
    st.caption(
        f"{method.title}: {method.assumes} "
        + ("Its parts add up to the prediction." if method.sums else "Its parts do not add up to the prediction.")
        + ("" if instant else " Computed now, image by image.")
    )
    if isinstance(found, Prepared) and chosen == found.method:
        return chosen, partial(_stored_values, found, resources.instrument(config), view.voxel)
    return chosen, None if chosen == "decomposition" else partial(_computed_values, view, chosen)


def _offer_to_prepare(config: InstrumentConfig, method: PreparedName, job: Job | None) -> None:
    """Offer to prepare a method for all images, say how far that is, or why it cannot be."""
    button, help_text, preparing, failed = OFFERS[method]
    if job is not None and job.active:
        _preparing(job, preparing)
    elif job is not None:
        st.caption(f"{failed}: {job.error}")
    elif st.button(button, help=help_text, key=f"explore_prepare_{method}"):
        resources.prepare(config, method)
        st.rerun()


def chosen_method(view: View) -> MethodName:
    """Which method draws the heatmaps at present."""
    ready = isinstance(resources.prepared(view.config(), "traced"), Prepared)
    return st.session_state.get(f"explore_method_{'traced' if ready else 'plain'}", DEFAULT if ready else STAND_IN)


@st.fragment(run_every="2s")
def _preparing(job: Job, what: str) -> None:
    """Say how far the better heatmaps are, and show them when they are there."""
    if not job.active:
        st.rerun(scope="app")
    st.caption(f"{what}: {100 * job.share:.0f} %.")


def _stored_values(
    found: Prepared, instrument: Instrument, voxel: int, stimuli: Int[np.ndarray, " image"]
) -> Float[np.ndarray, "image row col"]:
    return found.values(instrument, stimuli, voxel)


def _computed_values(view: View, method: MethodName, stimuli: Int[np.ndarray, " image"]) -> Float[np.ndarray, "image row col"]:
    with st.spinner(f"{METHODS[method].title}: looking at {len(stimuli)} images again"):
        return np.stack([_one(view.config(), method, int(stimulus), view.voxel) for stimulus in stimuli])


def _one(config: InstrumentConfig, method: MethodName, stimulus: int, voxel: int) -> Float[np.ndarray, "row col"]:
    """One heatmap, computed where it has not been; what occlusion takes from an image serves every voxel."""
    instrument = resources.instrument(config)
    if method == "occlusion":
        return occlusion_values(instrument.model, _occluded(config, instrument.key, stimulus)[None], voxel)[0]
    return _computed(config, instrument.key, method, stimulus, voxel)


# `key` is read by the caches alone: a subject imported anew under its old name is another instrument
@st.cache_data(max_entries=200, show_spinner=False)
def _occluded(config: InstrumentConfig, key: str, stimulus: int) -> Float[np.ndarray, "patch feature"]:  # noqa: ARG001
    return occlude_stimulus(resources.instrument(config), resources.store(), stimulus)


@st.cache_data(max_entries=2000, show_spinner=False)
def _computed(
    config: InstrumentConfig, key: str, method: MethodName, stimulus: int, voxel: int  # noqa: ARG001
) -> Float[np.ndarray, "row col"]:
    return attribute_stimulus(resources.instrument(config), resources.store(), method, stimulus, voxel).values[0]


def closer_look(view: View, instrument: Instrument, method: MethodName) -> None:
    """Offer what can be asked of the selected image and voxel, and answer it."""
    looks = LOOKS if view.image >= 0 else LOOKS[2:]
    chosen = st.segmented_control("Look closer", looks, key=f"explore_look_{len(looks)}")
    if view.image < 0:
        st.caption("Click an image to take patches away from it, or to compare methods on it.")
    if chosen is None:
        return
    try:
        if chosen == "Take patches away":
            _take_away(view, instrument, method)
        elif chosen == "Compare methods":
            _compare(view, instrument)
        elif chosen == "Test this voxel":
            _test_voxel(view, instrument, method)
        else:
            _receptive_field(view, instrument)
    except MineError as refusal:
        st.info(str(refusal))


def _heat(view: View, method: MethodName) -> Float[np.ndarray, "row col"]:
    """One heatmap in SD of the voxel's predictions, from the store where it is there."""
    config = view.config()
    instrument = resources.instrument(config)
    found = resources.prepared(config, method) if method in PREPARED else None
    if isinstance(found, Prepared):
        return found.values(instrument, np.array([view.image]), view.voxel)[0] / instrument.sd(view.voxel)
    return _one(config, method, view.image, view.voxel) / instrument.sd(view.voxel)


@st.cache_data(max_entries=64, show_spinner="Taking patches away")
def _critical(config: InstrumentConfig, key: str, method: MethodName, stimulus: int, voxel: int, share: float) -> CriticalSet:  # noqa: ARG001
    instrument = resources.instrument(config)
    averages, backbone = build_averages(instrument, resources.store()), instrument.backbone.get()
    image = as_seen(np.asarray(instrument.subject.stimuli.images[stimulus]), backbone.image_size)
    view = View(config.subject, config.seed, config.backbone, voxel=voxel, image=stimulus)
    values = _heat(view, method)
    sd = instrument.sd(voxel)
    return critical_set(
        pooled_of(backbone),
        image,
        values if values.shape == backbone.spec.grid else coarse_values(values),
        np.asarray(instrument.model.coef[:, voxel], np.float64) / sd,
        float(instrument.model.intercept[voxel]) / sd - instrument.mean_prediction(voxel),
        replacements(np.asarray(averages.image))["mean"],
        share=share,
        rng=np.random.default_rng(stimulus),
    )


def _take_away(view: View, instrument: Instrument, method: MethodName) -> None:
    """Show the set of patches that carries the response, outlined, and the curve behind it."""
    share = st.select_slider(
        "Share of the response to take away", [0.25, 0.5, 0.75, 0.9], 0.5, format_func="{:.0%}".format, key=SHARE_KEY
    )
    found = _critical(view.config(), instrument.key, method, view.image, view.voxel, float(share))
    left, right = st.columns([2, 5], gap="medium")
    image = np.asarray(instrument.subject.stimuli.images[view.image])
    with left:
        st.image(data_url(outlined(image, found.patches), "webp"), width="stretch")
    with right:
        figure = curve_figure(found)
        st.plotly_chart(figure, width="stretch", theme=None, key="explore_curve", config=PLAIN)
    if found.patches.any():
        st.caption(
            f"Replacing the {int(found.patches.sum())} outlined patches of {found.patches.size} by the average image takes away "
            f"{100 * found.removed:.0f} % of the predicted response above that of the average image."
        )
    else:
        st.caption("This image is not predicted above the average image, or only all patches together carry it: no set to outline.")
    export_curve(instrument, view.voxel, view.image, found)


def _compare(view: View, instrument: Instrument) -> None:
    """All methods side by side on the selected image, each on its own scale."""
    image = np.asarray(instrument.subject.stimuli.images[view.image])
    shown = list(METHODS)
    with st.spinner("Comparing methods"):
        maps: dict[MethodName, Float[np.ndarray, "row col"] | str] = {}
        for name in shown:
            try:
                maps[name] = _heat(view, name)
            except MineError as refusal:
                maps[name] = str(refusal)
    for column, name in zip(st.columns(len(shown)), shown, strict=True):
        with column:
            found = maps[name]
            if isinstance(found, str):
                st.caption(f"{METHODS[name].title}: {found}")
            else:
                st.image(data_url(heat_over(image, found), "webp"), width="stretch", caption=METHODS[name].title)
    st.caption("Each on a scale of its own: red raises the prediction, blue lowers it. Rollout is the same for every voxel.")


def _test_voxel(view: View, instrument: Instrument, method: MethodName) -> None:
    """Show the faithfulness of the voxel's heatmaps with intervals, testing it first where that was not done."""
    key = f"faithful {method} {view.voxel} {instrument.model.provenance['key']}"
    job = resources.worker().find(key)
    if job is None:
        voxel, store = view.voxel, resources.store()
        job = resources.worker().submit(
            key, "Testing heatmaps", lambda on_progress, _: voxel_faithfulness(instrument, store, voxel, method, on_progress)
        )
    if job.state != "done":
        wait_for(job)
        return
    faithfulness.badge(job.outcome)


def _receptive_field(view: View, instrument: Instrument) -> None:
    """Show the average attribution of the voxel as an estimated receptive field."""
    method = DEFAULT if isinstance(resources.prepared(view.config(), "traced"), Prepared) else STAND_IN
    found = field_of(_shares(view.config(), instrument.key, view.voxel, method))
    left, right = st.columns([2, 5], gap="medium")
    with left:
        st.plotly_chart(field_figure(found), width="stretch", theme=None, key="explore_field", config=PLAIN)
    with right:
        right_of, above = 100 * (found.x - 0.5), 100 * (0.5 - found.y)
        st.markdown(
            f"Centre **{abs(right_of):.0f} %** of the image's side to the {'right' if right_of >= 0 else 'left'} of its middle and "
            f"**{abs(above):.0f} %** {'above' if above >= 0 else 'below'} it, radius about **{100 * found.size:.0f} %**."
        )
        st.caption(
            f"How much each patch contributes to what the prediction explains of voxel {view.voxel}'s measured response, over "
            f"{min(FIELD_IMAGES, len(instrument.subject.splits.train)):,} training images, by {METHODS[method].title.lower()}. The "
            "centre is about half a patch off on the phantom's early visual voxels; the radius follows the planted one only weakly (r "
            "about 0.25), so do not lean on it. Category voxels answer wherever their object tends to be."
        )


@st.cache_data(max_entries=64, show_spinner="Averaging over images")
def _shares(config: InstrumentConfig, key: str, voxel: int, method: MethodName) -> Float[np.ndarray, "row col"]:  # noqa: ARG001
    from mine_core.attribution.decomposition import attribute_images

    instrument, traced = resources.instrument(config), resources.prepared(config, "traced")
    stimuli = np.sort(np.random.default_rng(0).permutation(instrument.subject.splits.train)[:FIELD_IMAGES])
    if method == "traced" and isinstance(traced, Prepared):
        values = traced.values(instrument, stimuli, voxel)
    else:
        values = attribute_images(instrument.model, instrument.features, stimuli, voxel, instrument.mean_patches)
    return covariance_shares(values, instrument.measured(voxel)[stimuli])
