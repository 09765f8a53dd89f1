"""The parts of the Explore page: the map, the ways to a voxel, its card, its images, and one's own photograph."""

import numpy as np
import pandas as pd
import streamlit as st

from mine_core.attribution.base import METHODS, MethodName
from mine_core.cortex.flatmap import centre_of_voxel, voxel_at
from mine_core.errors import MineError
from mine_core.figures import data_url, heat_gradient, heat_rgba, limit_of
from mine_core.instrument import Instrument
from mine_core.instrument.explain import ImageExplanation, Order, explain_images, explain_voxel
from mine_core.instrument.photograph import Photograph, open_photograph
from mine_core.ui import attribution, maps
from mine_core.ui.captions import caption_source, shown_caption
from mine_core.ui.components import GalleryItem, flatmap, gallery
from mine_core.ui.state import MAPS, View, set_view
from mine_core.ui.words import labelled, profile_of, reliability_line, tell

ORDERS: dict[Order, str] = {"top": "Strongest", "middle": "Middling", "bottom": "Weakest"}
LOOKALIKES = "lookalikes"
N_IMAGES = 12
# A photograph farther out than this percentage of held-out images is called unlike them.
UNLIKE = 95.0
# Methods whose values are weights, not parts of a response.
UNITLESS: tuple[MethodName, ...] = ("gradient_attention", "rollout")


def map_and_click(view: View, instrument: Instrument) -> View:
    """Show the chosen map of the cortex; a click on it chooses a voxel."""
    offered = maps.offered(instrument, view.image)
    shown_map = view.map if view.map in offered else offered[0]
    chosen = st.selectbox("Map", offered, format_func=lambda name: MAPS[name], index=offered.index(shown_map), key="explore_map")
    if chosen != view.map:
        view = set_view(map=chosen)
    shown = maps.cortex_map(instrument, view.map, view.image)
    centre = centre_of_voxel(instrument.flatmap, view.voxel) if view.voxel >= 0 else None
    selected = None if centre is None else (int(centre[0]), int(centre[1]))
    table_key = f"{view.subject}-{view.seed}"
    clicked = flatmap(maps.layer(instrument, shown), selected=selected, table_key=table_key, key="explore_flatmap")
    maps.legend(shown)
    if clicked is not None:
        voxel = voxel_at(instrument.flatmap, *clicked)
        if voxel is not None and voxel != view.voxel:
            set_view(voxel=voxel, image=-1)
            st.rerun()
    return view


def voxel_routes(view: View, instrument: Instrument) -> None:
    """Offer the ways to a voxel that need no map: region, number, table. They also reach voxels that the map hides."""
    voxels = instrument.subject.responses.voxels
    left, right = st.columns(2)
    with left:
        names = ["all regions", *voxels.regions]
        region = st.selectbox("Region", names, key="explore_region")
    members = np.arange(len(voxels)) if region == names[0] else voxels.in_region(region)
    with right:
        number = st.number_input(
            "Voxel number", 0, len(voxels) - 1, value=view.voxel if view.voxel >= 0 else None, key=f"explore_voxel_{view.voxel}"
        )
    if number is not None and number != view.voxel:
        set_view(voxel=int(number), image=-1)
        st.rerun()
    with st.expander(f"Table of voxels ({len(members):,})"):
        table = voxel_table(instrument, members)
        event = st.dataframe(
            table, height=220, hide_index=True, on_select="rerun", selection_mode="single-row", key=f"explore_table_{region}"
        )
        rows = event.selection.rows
        if rows and int(table["voxel"].iloc[rows[0]]) != st.session_state.get("explore_table_last"):
            picked = int(table["voxel"].iloc[rows[0]])
            st.session_state["explore_table_last"] = picked
            set_view(voxel=picked, image=-1)
            st.rerun()


def voxel_table(instrument: Instrument, members: np.ndarray) -> pd.DataFrame:
    """Voxels with their scores, best first."""
    score, regions = instrument.score, maps.region_text(instrument)
    hidden = ~np.isin(members, np.unique(instrument.flatmap.pixel_voxel))
    table = pd.DataFrame(
        {
            "voxel": members,
            "region": [regions[voxel] for voxel in members],
            "r": score.r[members].round(3),
            "ceiling": score.noise_ceiling[members].round(3),
            "q": score.q[members].round(4),
            "hidden by the map": hidden,
        }
    )
    return table.sort_values("r", ascending=False, ignore_index=True)


def voxel_card(view: View, instrument: Instrument) -> None:
    """Say what is known of the chosen voxel, and how surely."""
    if view.voxel < 0:
        st.info("Click a voxel on the map. Bright places are predicted well; region names are drawn on it.")
        return
    profile = profile_of(instrument, view.voxel)
    place = " / ".join(profile.regions) or "outside the named regions"
    st.subheader(f"Voxel {view.voxel}", anchor=False)
    st.caption(place)
    first, second, third = st.columns(3)
    first.metric("Accuracy r", f"{profile.r:.2f}", help="Pearson correlation of prediction and measurement, held-out images")
    second.metric(
        "Noise ceiling",
        f"{profile.noise_ceiling:.2f}" if profile.noise_ceiling >= 0 else "unknown",
        help="Share of the variance that repeats could explain",
    )
    third.metric("FDR q", f"{profile.q:.3f}", help="Permutation test over held-out images, corrected over all voxels")
    st.markdown(f"**{profile.reliability.capitalize()}.** {reliability_line(instrument, view.voxel)}")
    if profile.withheld:
        st.warning(profile.withheld)
        return
    tell(instrument, profile)


def images_of_voxel(view: View, instrument: Instrument) -> None:
    """Show the images at one end of the voxel's predicted response, with heatmaps, captions and words."""
    if view.voxel < 0:
        return
    st.divider()
    order = st.segmented_control(
        f"Images by the predicted response of voxel {view.voxel}",
        [*ORDERS, LOOKALIKES],
        format_func=lambda name: ORDERS.get(name, "Alike, not wanted"),
        default="top",
        key="explore_order",
    )
    method, heat = attribution.choose_method(view)
    counter = profile_of(instrument, view.voxel).counter_exemplars if order == LOOKALIKES else ()
    if order == LOOKALIKES and not counter:
        st.info("Nothing is said of this voxel, so nothing is known to look like what it wants.")
        return
    if counter:
        title, shown = "Counter-exemplars", explain_images(instrument, view.voxel, np.array(counter), heat)
    else:
        end: Order = next((name for name in ORDERS if name == order), "top")
        title, shown = f"{ORDERS[end]} images", explain_voxel(instrument, view.voxel, order=end, n=N_IMAGES, heat=heat)
    limit = limit_of([item.values for item in shown])
    items = [_item(instrument, item, limit, item.stimulus == view.image) for item in shown]
    acted = gallery(
        items,
        actions={"remove": "Remove what drives it", "insert": "Insert…"},
        legend=_legend(method, limit),
        label=f"{title} of voxel {view.voxel}",
        key="explore_gallery",
    )
    held = sum(item.held_out for item in shown)
    share = "each patch's share of the predicted response, counted from the average image"
    drawn = share if METHODS[method].sums else METHODS[method].title.lower()
    st.caption(
        f"{len(shown)} of {len(instrument.subject.stimuli):,} images, {held} of them held out from fitting. Heatmap: "
        f"{drawn}. {caption_source(instrument)}"
    )
    if counter:
        st.caption(
            "Counter-exemplars: of the tenth of images that show most of its first word (without one, that are most like its strongest "
            "images), those that predicted and measured responses together put lowest."
        )
    attribution.closer_look(view, instrument, method)
    if acted is not None:
        _act(acted)


def _legend(method: MethodName, limit: float) -> tuple[str, str, str]:
    if method in UNITLESS:
        return "", heat_gradient(), f"weight up to {limit:.2g}"
    cell = "quarter patch" if method == "traced" else "patch"
    return f"−{limit:.2f} lowers", heat_gradient(), f"raises +{limit:.2f} SD a {cell}"


def _item(instrument: Instrument, item: ImageExplanation, limit: float, chosen: bool) -> GalleryItem:
    caption = shown_caption(instrument, item.stimulus)
    what = caption or instrument.subject.stimuli.ids[item.stimulus]
    return GalleryItem(
        stimulus=item.stimulus,
        image=np.asarray(instrument.subject.stimuli.images[item.stimulus]),
        heat=heat_rgba(item.values, limit),
        numbers=f"predicted {item.predicted:+.1f} · measured {item.measured:+.1f} SD" + ("\nheld out" if item.held_out else ""),
        caption=caption,
        words=[labelled(instrument, word) for word in item.words],
        alt=f"image {item.stimulus}: {what}",
        chosen=chosen,
    )


def _act(acted: tuple[str, int]) -> None:
    action, stimulus = acted
    if action == "select":
        set_view(image=stimulus, map="image")
        st.session_state.pop("explore_map", None)
        st.rerun()
    view = set_view(image=stimulus)
    st.switch_page("pages/counterfactual.py", query_params={**st.query_params.to_dict(), "image": str(view.image), "edit": action})


def own_photograph(view: View, instrument: Instrument) -> None:
    """Let the user bring a photograph and see the predicted response to it over the cortex."""
    st.divider()
    with st.expander("Your own photograph"):
        upload = st.file_uploader("JPEG, PNG or WebP, up to 20 MB", type=["jpg", "jpeg", "png", "webp"], key="explore_upload")
        if upload is None:
            st.caption("It is read in memory, cropped to a square, and stays on this machine.")
            return
        try:
            photograph = open_photograph(instrument, upload.getvalue())
        except MineError as refusal:
            st.error(str(refusal))
            return
        left, right = st.columns([2, 5], gap="medium")
        with left:
            st.image(data_url(photograph.image, "webp"), width="stretch", caption=photograph.caption or "Your photograph")
            _say_how_unlike(photograph)
        with right:
            shown = maps.response_map(instrument, photograph.pooled, "your photograph")
            flatmap(maps.layer(instrument, shown), selected=None, table_key=f"{view.subject}-{view.seed}", key="explore_photo_map")
            maps.legend(shown)


def _say_how_unlike(photograph: Photograph) -> None:
    farther = f"farther from the fitted images than {photograph.unlikeness:.0f} % of held-out ones"
    if photograph.unlikeness >= UNLIKE:
        st.warning(f"This photograph is unlike what the model was fit on: {farther}. Do not lean on its prediction.")
    else:
        st.caption(f"It lies {farther}.")
