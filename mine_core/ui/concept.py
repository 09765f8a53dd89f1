"""The part of the Search page that tests a concept: is it the cause, or what comes with it?"""

import numpy as np
import streamlit as st

from mine_core.cortex.flatmap import centre_of_voxel, voxel_at
from mine_core.counterfactual.concept_test import VERDICTS
from mine_core.errors import MineError
from mine_core.figures import data_url, outlined
from mine_core.instrument import Instrument
from mine_core.instrument.concept_stimuli import ConceptStimuli, choose_stimuli
from mine_core.instrument.concept_tables import drivers_of_refused, region_table, verdict_sentence, voxel_table
from mine_core.instrument.concepts import ConceptTest, run_concept
from mine_core.instrument.things import things_of
from mine_core.ui import maps, resources
from mine_core.ui.components import flatmap
from mine_core.ui.search import open_voxel
from mine_core.ui.state import View, set_view
from mine_core.ui.waiting import wait_for

LIMIT = 2.0  # SD at either end of the map's scale
N_SHOWN, N_ROWS = 8, 200
MAPS = ("Causal score", "Verdict")
SHOWN_VERDICTS = ("causal", "activation only", "neither", "not tested")


def ask(view: View, instrument: Instrument) -> ConceptTest | None:
    """Ask for a concept and test it in the worker; None until its test is done."""
    left, right = st.columns([9, 2], vertical_alignment="bottom")
    example = next((words[0] for words in things_of(instrument.vocabulary).values()), "dog")
    concept = left.text_input("A thing, or a phrase that names one", view.find, placeholder=example, key="concept_text")
    asked = right.button("Test", type="primary", width="stretch", key="concept_go")
    if concept != view.find:
        set_view(find=concept, ask="test")
    if not concept.strip():
        st.info(
            "Type a thing. Images that show it are compared with images of related things, and it is taken out of images and put into "
            "others: voxels that only answer its usual company are told from those that answer the thing itself."
        )
        return None
    try:
        chosen = choose_stimuli(instrument, concept)
    except MineError as refusal:
        st.error(str(refusal))
        return None
    return _tested(instrument, chosen, asked)


def _tested(instrument: Instrument, chosen: ConceptStimuli, asked: bool) -> ConceptTest | None:
    """The test of a concept if it is done; else its progress, or what it would take."""
    key, worker = f"concept {instrument.key} {chosen.concept}", resources.worker()
    job = worker.find(key)
    if job is None and not asked:
        st.info(
            f"'{chosen.concept}': {len(chosen.positives)} held-out images show it. Press Test to edit "
            f"{min(len(chosen.apart), 14) + len(chosen.neutral)} images, a minute or two the first time; what was edited is kept."
        )
        return None
    if job is None:
        job = worker.submit(
            key,
            f"Testing '{chosen.concept}'",
            lambda on_progress, cancelled: run_concept(
                instrument, resources.store(), chosen.concept, on_progress=on_progress, cancelled=cancelled
            ),
        )
    if job.state != "done":
        wait_for(job)
        return None
    found: ConceptTest = job.outcome
    return found


def verdict(instrument: Instrument, test: ConceptTest) -> None:
    """Say the outcome, what drives the refused voxels, and what it rests on."""
    scores, concept = test.scores, test.chosen.concept
    st.markdown(f"**{verdict_sentence(instrument, test)}**")
    drivers = drivers_of_refused(test)
    if drivers:
        told = ", ".join(f"{word} ({count:,})" for word, count in list(drivers.items())[:5])
        st.markdown(f"What drives refused voxels at least as much, as measured, and how many of them: {told}.")
    st.caption(
        f"Measured: recorded responses to {scores.n_positive} held-out images that show '{concept}', {scores.n_apart} that show it "
        f"without its usual company ({', '.join(test.chosen.company)}) or with least of it, and {scores.n_negative} that show related "
        f"things without it. Predicted, not measured: {test.n_verified} of "
        f"{test.n_asked} edits that the backbone recognises as done (removals in {scores.n_removed} images, insertions in "
        f"{scores.n_inserted}). q ≤ 0.05 over {int(instrument.reliable.sum()):,} reliable voxels. A refusal says that the evidence "
        "does not reach, not that the concept plays no part: a voxel that answers a whole group of things is refused for each of them."
    )
    if test.failures:
        with st.expander(f"Edits left out ({len(test.failures)})"):
            st.markdown("\n".join(f"- {line}" for line in test.failures))


def cortex(view: View, instrument: Instrument, test: ConceptTest) -> None:
    """Show the causal score, or the verdict, of every voxel; a click opens one."""
    name = st.segmented_control("Map", MAPS, default=MAPS[0], key="concept_map", required=True)
    shown = _score_map(instrument, test) if name == MAPS[0] else _verdict_map(instrument, test)
    centre = centre_of_voxel(instrument.flatmap, view.voxel) if view.voxel >= 0 else None
    selected = None if centre is None else (int(centre[0]), int(centre[1]))
    clicked = flatmap(maps.layer(instrument, shown), selected=selected, table_key=f"{view.subject}-{view.seed}", key="concept_flatmap")
    maps.legend(shown)
    if clicked is not None:
        voxel = voxel_at(instrument.flatmap, *clicked)
        if voxel is not None:
            open_voxel(voxel)


def _score_map(instrument: Instrument, test: ConceptTest) -> maps.CortexMap:
    values = np.where(instrument.reliable, test.scores.s_causal, np.nan)
    caption = (
        f"Mean of two differences, in SD of the voxel: measured, images of '{test.chosen.concept}' less related things; predicted, "
        f"what taking it out loses. {int(np.isfinite(values).sum()):,} reliable voxels, others grey."
    )
    return maps.CortexMap(f"Causal score of {test.chosen.concept}", values, -LIMIT, LIMIT, True, "SD", caption)


def _verdict_map(instrument: Instrument, test: ConceptTest) -> maps.CortexMap:
    codes = np.array([SHOWN_VERDICTS.index(name) for name in VERDICTS])[test.scores.verdict]
    values = np.where(instrument.reliable, codes, np.nan)
    counts = ", ".join(
        f"{name} {int((values == place).sum()):,}" for place, name in enumerate(SHOWN_VERDICTS) if (values == place).any()
    )
    caption = f"Verdict at q ≤ 0.05: {counts} voxels; unreliable ones grey."
    return maps.CortexMap(f"Verdict on {test.chosen.concept}", values, 0, 3, False, "verdict", caption, SHOWN_VERDICTS)


def tables(instrument: Instrument, test: ConceptTest) -> None:
    """List regions, and the voxels that the test refuses with the reason; a chosen row opens its voxel."""
    regions = region_table(instrument, test)
    for column in ("causal", "refused"):
        ends = regions.pop(f"{column}_interval")
        regions[column] = [f"{share:.2f} ({low:.2f}–{high:.2f})" for share, (low, high) in zip(regions[column], ends, strict=True)]
    st.markdown("**Regions**")
    regions = regions[["region", "voxels", "causal", "refused"]]
    st.dataframe(regions, hide_index=True, height=240, key="concept_regions")
    st.caption(
        "Shares of reliable voxels that are causal, and that activation alone would have called; 95 % intervals over these voxels, "
        "whose neighbours are not independent."
    )
    table = voxel_table(instrument, test)
    table["region"] = [maps.region_text(instrument)[voxel] for voxel in table["voxel"]]
    table = table[table["verdict"] == "activation only"].nlargest(N_ROWS, "s_pos")
    st.markdown(
        f"**Refused: activation alone would have called them** ({len(table)} of {len(test.scores.voxels('activation only')):,})"
    )
    if table.empty:
        st.info("The test refuses no voxel.")
        return
    columns = {"voxel": "voxel", "region": "region", "why_refused": "why", "s_pos": "activation", "s_neg": "beyond related"}
    columns |= {"s_edit": "lost by removal", "s_elsewhere": "elsewhere"}
    shown = table[list(columns)].rename(columns=columns).round(2)
    event = st.dataframe(shown, height=260, hide_index=True, on_select="rerun", selection_mode="single-row", key="concept_refused")
    rows = event.selection.rows
    if st.button("Open in Explore", disabled=not rows, key="concept_open"):
        open_voxel(int(table["voxel"].iloc[rows[0]]))


def pictures(instrument: Instrument, test: ConceptTest) -> None:
    """Show what the test rests on: images of the concept, those of the related things beside them, and edits."""
    chosen, images = test.chosen, instrument.subject.stimuli.images
    concept = chosen.concept
    st.markdown(f"**Images of '{concept}' apart from its company**")
    _row([(np.asarray(images[s]), f"image {s}") for s in chosen.apart[:N_SHOWN].tolist()])
    st.markdown("**Related things without it, nearest in what else they show**")
    first = [(np.asarray(images[s]), f"{word}, image {s}") for word, s in zip(chosen.words, chosen.negatives[0].tolist(), strict=True)]
    _row(first[:N_SHOWN])
    st.caption(f"Beside image {chosen.apart[0]}; every image apart has {len(chosen.words)} of its own.")
    for edits, title in ((test.removals, f"'{concept}' taken out"), (test.insertions, f"'{concept}' put in")):
        verified = [one for one in edits if one.verified.any()][:N_SHOWN]
        st.markdown(f"**{title}** (edits are the instrument's, responses to them predicted)")
        if verified:
            _row([(outlined(one.picture, one.edit_mask), f"image {one.stimulus}") for one in verified])
        else:
            st.info("No edit of this kind was verified.")


def _row(pictures: list[tuple[np.ndarray, str]]) -> None:
    for column, (picture, caption) in zip(st.columns(N_SHOWN), pictures, strict=False):
        column.image(data_url(picture, "webp"), width="stretch", caption=caption)
