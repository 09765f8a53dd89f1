"""Makes the artifact of features, batch by batch, so that a killed run goes on with the batches that are done."""

import shutil
from pathlib import Path
from typing import Any

from mine_core.backbones.kept import KeptEmbeddings
from mine_core.backbones.presets import load_backbone
from mine_core.config import InstrumentConfig
from mine_core.errors import Cancelled
from mine_core.features import extract_features
from mine_core.instrument.makers import Work
from mine_core.instrument.subjects import subject_of

BATCH = 32  # images that are embedded, and kept, at a time


def kept_features(given: tuple[InstrumentConfig, Path]) -> Any:
    """Embed every stimulus and keep the additive parts; batches wait in the scratch folder until all are there."""
    config, scratch = given

    def make(work: Work) -> None:
        stimuli = subject_of(work.made["subject"]).stimuli
        backbone = KeptEmbeddings(load_backbone(config.backbone), scratch)

        def tell(done: int, total: int, _: str) -> None:
            before = f", {backbone.reused:,} of them before" if backbone.reused else ""
            work.on_progress(done, total, f"{done:,} of {total:,} images{before}")

        try:
            extract_features(stimuli, backbone, work.directory, tell, work.cancelled, batch_size=BATCH)
        except Cancelled as stop:
            raise Cancelled("Stopped while images were embedded; those that are done are kept, and the next run goes on.") from stop
        shutil.rmtree(scratch, ignore_errors=True)

    return make
