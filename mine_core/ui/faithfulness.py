"""How far heatmaps can be trusted, on the page: of one voxel, and of every region and the whole subject."""


import pandas as pd
import streamlit as st

from mine_core.attribution.base import DEFAULT, METHODS, STAND_IN
from mine_core.experiments.voxel_faithfulness import WHOLE, Faithfulness, region_faithfulness, verdict
from mine_core.instrument import Instrument
from mine_core.instrument.attributions import Prepared
from mine_core.ui import resources
from mine_core.ui.state import View
from mine_core.ui.waiting import wait_for


def badge(found: Faithfulness) -> None:
    """Say how faithful a voxel's heatmaps are: one sentence, and the numbers with their intervals."""
    (st.success if found.faithful else st.warning)(verdict(found))
    rows = [
        ("put back, highest first", found.insertion, found.random, found.insertion_gain, found.insertion_interval),
        ("taken away, highest first", found.deletion, found.random, found.deletion_gain, found.deletion_interval),
    ]
    table = pd.DataFrame(
        [
            {
                "patches": what,
                "area under the curve": f"{own:.2f}",
                "random order": f"{random:.2f}",
                "better than random by (95 % interval)": f"{gain:+.2f} ({low:+.2f} to {high:+.2f})",
            }
            for what, own, random, gain, (low, high) in rows
        ]
    )
    st.table(table, hide_index=True, border="horizontal")
    st.caption(
        f"{METHODS[found.method].title}, {found.n_images} held-out images of strongest predicted response; of the model, not the brain."
    )


def regions(view: View, instrument: Instrument) -> None:
    """Say of every region and of the subject whether its heatmaps name what the model responds to, once the user asks for the test."""
    method = DEFAULT if isinstance(resources.prepared(view.config(), "traced"), Prepared) else STAND_IN
    key, store = f"faithful regions {method} {instrument.model.provenance['key']}", resources.store()
    job = resources.worker().find(key)
    if job is None:
        st.caption(
            "Patches are taken away and put back in the order of the heatmaps and at random, in images that voxels of each region are "
            "predicted to answer. Up to a minute for the phantom."
        )
        if st.button("Test the heatmaps", key="regions_faithful"):
            resources.worker().submit(
                key, "Testing heatmaps", lambda on_progress, _: region_faithfulness(instrument, store, method, on_progress)
            )
            st.rerun()
        return
    if job.state != "done":
        wait_for(job)
        return
    found: dict[str, Faithfulness] = job.outcome
    if WHOLE in found:
        whole = found[WHOLE]
        (st.success if whole.faithful else st.warning)(verdict(whole))
    rows = [
        {
            "region": name,
            "voxels": each.n_voxels,
            "images": each.n_images,
            "put back: above random by": _told(each.insertion_gain, each.insertion_interval),
            "taken away: below random by": _told(each.deletion_gain, each.deletion_interval),
            "faithful": "yes" if each.faithful else "not beyond doubt",
        }
        for name, each in found.items()
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True, key="regions_faithfulness")
    st.caption(
        f"{METHODS[method].title}. Areas under the curves of predicted response, 1 the whole response above the average image; 95 % "
        "intervals over images, each region on its own and not corrected for their number. Of the model, not the brain."
    )


def _told(gain: float, interval: tuple[float, float]) -> str:
    return f"{gain:+.2f} ({interval[0]:+.2f} to {interval[1]:+.2f})"
