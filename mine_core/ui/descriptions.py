"""The part of the Validation page about words: are they right where the answer is known, and do texts predict responses?"""

from typing import Any

import pandas as pd
import streamlit as st

from mine_core.instrument import Instrument
from mine_core.ui.validation import measured

RATES = {
    "group_accuracy": "group of the first word right",
    "concept_top1": "first word right",
    "concept_top5": "one of five words right",
    "attribute_accuracy": "attribute right, where one is planted",
    "null_withheld_rate": "nothing told of null voxels",
    "confounded_flagged_rate": "company told from the driver",
}


def of_words(instrument: Instrument) -> None:
    """Measure descriptions once in the background, then show rates beside shuffled ones."""
    if not len(instrument.vocabulary):
        st.info(f"Backbone '{instrument.config.backbone}' has no words.")
        return
    found = measured(instrument, "description", "Describe every voxel and score the descriptions (some minutes)")
    if found is not None:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    rows = [(said, found[name]) for name, said in RATES.items() if name in found and "rate" in found[name]]
    if rows:
        table = pd.DataFrame(
            {
                "what": [said for said, _ in rows],
                "rate": [f"{entry['rate']:.3f} [{entry['interval'][0]:.3f}, {entry['interval'][1]:.3f}]" for _, entry in rows],
                "shuffled": [f"{entry['shuffled']:.3f}" for _, entry in rows],
                "voxels": [entry["n"] for _, entry in rows],
            }
        )
        st.dataframe(table, hide_index=True, key="validation_description_rates")
    texts = found["texts"].get("by_the_text_tower")
    if texts:
        low, high = texts["difference_interval_over_images"]
        st.markdown(
            f"Texts of profiles predict responses to held-out images with a mean Spearman correlation of **{texts['profiles']:.3f}**, "
            f"captions in the manner of BrainSCUBA with {texts['brainscuba']:.3f} (difference {texts['difference']:.3f}, 95 % interval "
            f"over images {low:.3f} to {high:.3f}), shuffled texts with {texts['shuffled_texts']:.3f}. Captions: "
            f"{found['texts']['captions']}."
        )
