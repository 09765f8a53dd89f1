"""The part of the Validation page that tests the paper's claims: a figure and plain sentences each, the planted truth beside."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from mine_core.experiments.claim_sentences import ASKED, NOT_SHOWN, TITLES
from mine_core.experiments.claims import find_claims
from mine_core.figures import contrasts_figure
from mine_core.instrument import Instrument
from mine_core.ui import resources
from mine_core.ui.validation import measured

START = "Test the claims (5 to 20 minutes; it can be stopped and goes on from there)"
CAUSE_COLUMNS = {
    "correlational": "by correlation",
    "insertion_alone": "by insertion",
    "measured_alone": "by held-out responses",
    "causal": "by both: the causal test",
}


def tested(instrument: Instrument) -> None:
    """Show what the tests of the claims found, or run them in the background; results are kept in the store."""
    if not len(instrument.vocabulary):
        st.info(f"Backbone '{instrument.config.backbone}' has no words: nothing can be described, so these claims cannot be tested.")
        return
    found = find_claims(instrument.config, resources.store()) or measured(instrument, "claims", START)
    if found is None:
        st.caption(
            "Random reliable voxels whose description names a thing; images that no encoder was fit on. Every voxel and claim is a "
            "small task of its own, kept when it is done."
        )
        return
    second = found["second_encoder"]
    st.caption(
        "Random reliable voxels whose description names a thing; images that no encoder was fit on. Marks and bars: fixed effects and "
        "95 % intervals of mixed models with voxel and image as crossed random effects. ● the guiding encoder; "
        + (f"◇ the second encoder, which guides nothing and {second}; " if second else "there is no second encoder here; ")
        + "grey: 95 % of differences where conditions are exchanged at random."
    )
    for claim, title in TITLES.items():
        _claim(found, claim, title)
    if "planted" in found:
        _planted(found["planted"])
        _causes(found["causes"])


def _claim(found: Mapping[str, Any], claim: str, title: str) -> None:
    entries = [entry for entry in found["contrasts"] if entry["claim"] == claim]
    with st.container(border=True):
        st.markdown(f"**{title}.** {ASKED[claim]}")
        left, right = st.columns(2, gap="large")
        with left:
            for unit in dict.fromkeys(entry["unit"] for entry in entries):
                shown = [entry for entry in entries if entry["unit"] == unit]
                figure = contrasts_figure(shown, f"difference, {unit}")
                key = f"validation_claim_{claim}_{unit.replace(' ', '_')}"
                st.plotly_chart(figure, width="stretch", theme=None, key=key, config={"displayModeBar": False})
        with right:
            st.markdown("\n".join(f"- {entry['sentence']}" for entry in entries))
            st.caption(" ".join([_aside(found, claim), NOT_SHOWN[claim]]).strip())


def _aside(found: Mapping[str, Any], claim: str) -> str:
    """Numbers that belong beside a claim's comparisons."""
    if claim == "reconstruction":
        drawn = ", ".join(f"{name} {mean:.1f}" for name, mean in found["things_drawn"].items())
        return f"Images are made by {found['maker']}; things in them: {drawn}."
    if claim == "edits":
        rates = found["verified_rate"]
        kinds = [
            f"{100 * rates[kind]['rate']:.0f} % of {rates[kind]['n']} {name}"
            for kind, name in (("remove", "removals"), ("insert", "insertions"))
            if rates[kind]["n"]
        ]
        return f"Recognised by the backbone: {', '.join(kinds)}; the others are left out." if kinds else ""
    if claim == "faithfulness":
        kept = [(name, entry) for name, entry in found["ratios"].items() if entry["median"] is not None]
        said = "; ".join(
            f"{name} {entry['median']:.2f} ({entry['median_interval'][0]:.2f} to {entry['median_interval'][1]:.2f}), trimmed mean "
            f"{entry['trimmed_mean']:.2f}"
            for name, entry in kept
        )
        return f"Median share of the way: {said}." if said else ""
    return ""


def _planted(planted: Mapping[str, Any]) -> None:
    """Predicted shifts beside those of the planted brain."""
    with st.container(border=True):
        st.markdown("**The planted brain.** Does it move as predicted, when the scene is what the edit makes of it?")
        rows = [
            {
                "edits": name,
                "n": entry["n"],
                "predicted": _with_interval(entry["predicted"]),
                "true": _with_interval(entry["true"]),
                "predicted less true": _with_interval(entry["predicted_less_true"]),
                "r": "" if entry["r"] is None else f"{entry['r']:.2f} (chance {entry['null_r'][0]:.2f} to {entry['null_r'][1]:.2f})",
                "no true shift": entry["n_without_a_true_shift"],
            }
            for name, entry in planted.items()
            if "true" in entry
        ]
        if not rows:
            st.caption("No scene describes enough of the edits to compare.")
            return
        st.dataframe(pd.DataFrame(rows), hide_index=True, key="validation_claims_planted")
        st.caption(
            "Mean shifts in SD of each voxel's signal, with 95 % intervals over voxels. Edits that no scene describes (a part of an "
            "object, a word for a group) have no true shift and are left out here alone."
        )


def _with_interval(entry: Mapping[str, Any]) -> str:
    if entry["interval"] is None:
        return f"{entry['mean']:+.2f}"
    return f"{entry['mean']:+.2f} ({entry['interval'][0]:+.2f} to {entry['interval'][1]:+.2f})"


def _causes(causes: Mapping[str, Any]) -> None:
    """False positives with the causal test and without."""
    with st.container(border=True):
        st.markdown("**False positives.** Is less said wrongly of voxels whose answer is known, once insertions have tested it?")
        whats: Sequence[str] = list(causes["correlational"])
        rows = [
            {"called": what, "voxels": causes["correlational"][what]["n"]}
            | {column: _rate(causes[how][what]) for how, column in CAUSE_COLUMNS.items()}
            for what in whats
        ]
        st.dataframe(pd.DataFrame(rows), hide_index=True, key="validation_claims_causes")
        shown = causes["null voxels shown"]
        st.caption(
            "Company goes with a confounded voxel's driver and does not drive it: calling it is wrong, calling the driver right. Share "
            "of voxels, 95 % intervals of Clopper and Pearson. "
            f"{'Of the null voxels the app shows ' + _rate(shown) + '; the others it withholds.' if shown['n'] else ''}"
        )


def _rate(entry: Mapping[str, Any]) -> str:
    if entry["rate"] is None:
        return "none tested"
    return f"{entry['rate']:.2f} ({entry['interval'][0]:.2f} to {entry['interval'][1]:.2f})"
