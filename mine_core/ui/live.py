"""The part of the Counterfactual page that paints: what is foreseen, the painting as it goes, and its seeds beside each other."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import streamlit as st

from mine_core.artifacts import hash_text
from mine_core.errors import MineError
from mine_core.figures import data_url, outlined
from mine_core.figures_live import seeds_figure, steps_figure
from mine_core.instrument import Instrument
from mine_core.instrument.live import Board, Foreseen, SeedRun, foresee, run_live, summarise
from mine_core.instrument.second import SecondEncoder
from mine_core.instrument.trials import EditRequest, Trial
from mine_core.jobs import Job
from mine_core.ui import counterfactual, resources
from mine_core.ui.state import View
from mine_core.ui.waiting import doing, show_ended

SEEDS = (1, 3, 5)
KEPT = 12  # paintings that are found again without being made again
STOPPED = "Stopped. The image is as it was, and nothing of what was being painted is kept."
# pictures that are replaced several times a second must not fade whenever the page is a little late
STEADY = "<style>.st-key-cf_live [data-stale=true] {opacity: 1; transition: none;}</style>"
PLAIN = {"displayModeBar": False}


def made(
    view: View, instrument: Instrument, request: EditRequest | None, second: SecondEncoder | None
) -> tuple[EditRequest | None, Trial | None]:
    """Make the edit, or show how it is painted and then the seeds; returns the request and the trial of the seed to look at."""
    if request is None or not request.painted:
        return request, counterfactual.run(instrument, request, second)
    try:
        foreseen = foresee(instrument, request)
    except MineError as refusal:
        st.error(str(refusal))
        return request, None
    about = _about(instrument, request, second)
    jobs = [job for n in SEEDS if (job := resources.worker().find(f"{about} {n}")) is not None]
    # asked before what is done: a job that ends in between is watched, and the page runs again
    active = next((job for job in jobs if job.active), None)
    known: tuple[SeedRun, ...] = max((job.outcome for job in jobs if job.state == "done"), key=len, default=())
    pinned = view.pin >= 0
    n_seeds = 1 if pinned else _ask_seeds(active is not None)
    start = partial(_start, instrument, request, second, about, n_seeds, known)
    if pinned and not jobs:
        active = start()
    if active is not None:
        st.html(STEADY)
        with st.container(key="cf_live"):
            _watch(active, foreseen, request, np.asarray(instrument.subject.stimuli.images[request.stimulus]))
        return request, None
    if len(known) < n_seeds:
        _offer(foreseen, instrument, request, jobs, start, n_seeds, len(known))
        return request, None
    return _seeds(known[:n_seeds], foreseen, request)


def _about(instrument: Instrument, request: EditRequest, second: SecondEncoder | None) -> str:
    """Name of a painting, whatever the number of its seeds."""
    keys = (str(instrument.config), instrument.model.provenance["key"], second.key if second else "", repr(request))
    return f"painting {hash_text(*keys)[:16]}"


def _what(request: EditRequest) -> str:
    """What is painted, in words."""
    if request.kind == "insert":
        return f"'{request.word}'"
    return f"what is behind {request.word or 'what drives the voxel'}"


def _ask_seeds(busy: bool) -> int:
    told = "The editor starts from noise: another seed paints another picture in the same place, asked for in the same words."
    return st.segmented_control("Seeds", SEEDS, default=SEEDS[0], key="cf_seeds", required=True, disabled=busy, help=told) or SEEDS[0]


def _start(
    instrument: Instrument, request: EditRequest, second: SecondEncoder | None, about: str, n_seeds: int, known: tuple[SeedRun, ...]
) -> Job:
    """Begin to paint, and stop what this session had painted before if it is not done: nobody looks at it any more."""
    worker, board = resources.worker(), Board()
    before: Job | None = st.session_state.get("cf_painting")
    if before is not None and before.active:
        before.cancel()
    ended = [job.key for job in worker.jobs() if job.key.startswith("painting ") and not job.active]
    for key in ended[:-KEPT]:
        worker.forget(key)
    key = f"{about} {n_seeds}"
    last = worker.find(key)
    if last is not None and last.state != "done":
        worker.forget(key)
    job = worker.submit(
        key,
        f"Painting {_what(request)}",
        lambda on_progress, cancelled: run_live(
            instrument, request, second, n_seeds=n_seeds, known=known, board=board, on_progress=on_progress, cancelled=cancelled
        ),
        board,
    )
    st.session_state["cf_painting"] = job
    return job


def _offer(
    foreseen: Foreseen, instrument: Instrument, request: EditRequest, jobs: Sequence[Job], start: partial, n_seeds: int, n_known: int
) -> None:
    """Show what is foreseen, say what became of an earlier try, and offer to paint."""
    left, right = st.columns([2, 3], gap="small")
    with left:
        picture = outlined(np.asarray(instrument.subject.stimuli.images[request.stimulus]), foreseen.region)
        alt = f"Image {request.stimulus}: {instrument.captions[request.stimulus]}. The region to paint is outlined."
        st.image(data_url(picture, "webp"), width="stretch", caption="Before, region outlined", alt=alt)
    with right:
        st.markdown(f"#### Instant estimate {foreseen.instant:+.2f} SD")
        st.caption(
            "From the masked patches alone: what they give to the prediction now is lost. What will be painted there it cannot know; "
            "the predicted shift of the painted image is what counts."
        )
        for job in jobs:
            if job.state != "done":
                show_ended(job, stopped=STOPPED, again=False)
        more = n_seeds - n_known
        label = f"Paint {more} more seeds" if n_known else "Paint it" if n_seeds == 1 else f"Paint {n_seeds} seeds"
        st.button(label, type="primary", key="cf_paint", on_click=start)


@st.fragment(run_every="0.5s")
def _watch(job: Job, foreseen: Foreseen, request: EditRequest, image: np.ndarray) -> None:
    """Show the preview and the shift as they move, and a way to stop; the page runs again when the job has ended."""
    if not job.active:
        st.rerun(scope="app")
    runs: tuple[SeedRun, ...] = job.watched.runs
    at = next((run.steps[-1] for run in runs[-1:] if run.steps), None)
    left, right = st.columns([2, 3], gap="small")
    with left:
        said = "Not painted yet" if at is None else f"Preview, step {at.step} of {at.n_steps}"
        alt = f"{said}: image {request.stimulus} with {_what(request)} in the outlined region."
        picture = outlined(image if at is None else at.preview, foreseen.region)
        st.image(data_url(picture, "webp"), width="stretch", caption=f"{said}, region outlined", alt=alt)
    with right:
        shift = "Not painted yet" if at is None else f"Step {at.step} of {at.n_steps}: predicted shift so far {at.shift:+.2f} SD"
        st.markdown(f"**{shift}**  \nInstant estimate from the masked patches: {foreseen.instant:+.2f} SD (dotted)")
        alt = f"Predicted shift of voxel {request.voxel} in SD after each denoising step. {shift}."
        st.plotly_chart(steps_figure(runs, foreseen.instant), width="stretch", theme=None, key="cf_steps", config=PLAIN, alt=alt)
    st.progress(job.share, doing(job))
    st.button("Stop", key=f"stop_{job.key}", on_click=job.cancel, disabled=job.stopping)
    complete = [run for run in runs if run.trial is not None]
    if complete:
        _multiples(complete, request.voxel, len(SEEDS) + 2)


def _seeds(runs: Sequence[SeedRun], foreseen: Foreseen, request: EditRequest) -> tuple[EditRequest, Trial | None]:
    """Show several seeds beside each other with what they say together; returns the one to look at closer."""
    shown = runs[0]
    if len(runs) > 1:
        _multiples(runs, request.voxel, len(runs))
        _together(runs, foreseen, request.voxel)
        names = {run.seed: run for run in runs}
        chosen = st.segmented_control(
            "Seed shown below", list(names), default=shown.seed, key=f"cf_seed_{len(runs)}", required=True, format_func=lambda n: f"{n}"
        )
        shown = names.get(chosen, shown)
    with st.expander("How the prediction moved while it was painted"):
        last = shown.steps[-1] if shown.steps else None
        if last is not None:
            order = [*(run for run in runs if run is not shown), shown]
            alt = (
                f"Predicted shift of voxel {request.voxel} in SD after each of {last.n_steps} denoising steps, seed {shown.seed} dark."
            )
            st.plotly_chart(
                steps_figure(order, foreseen.instant), width="stretch", theme=None, key="cf_steps_done", config=PLAIN, alt=alt
            )
            st.caption(
                f"Each step's shift is predicted from the picture that the editor then expects (dotted: instant estimate). Seed "
                f"{shown.seed}: {last.n_steps} steps in {last.seconds:.1f} s, {last.reading:.1f} s of it for reading the previews."
            )
    return replace(request, seed=shown.seed), shown.trial


def _multiples(runs: Sequence[SeedRun], voxel: int, n_columns: int) -> None:
    """One small picture a seed, with its shift, its rank among its own controls, and whether it did what was asked."""
    for run, column in zip(runs, st.columns(n_columns, gap="small"), strict=False):
        if run.trial is None:
            continue
        edit, shift = run.trial.edit, run.trial.shift
        value, rank, n = float(shift.shift[voxel]), int(shift.rank[voxel]), len(shift.control_names)
        state = "failed" if run.failed else "verified" if edit.verified else "not checked"
        with column:
            picture = data_url(outlined(edit.edited, np.zeros_like(edit.edit_mask)), "webp")
            st.image(picture, width="stretch", alt=f"Seed {run.seed}, {edit.instruction}: {value:+.2f} SD, {state}.")
            st.caption(f"**{value:+.2f} SD**  \nSeed {run.seed} · rank {rank} of {n + 1} · {'**failed**' if run.failed else state}")


def _together(runs: Sequence[SeedRun], foreseen: Foreseen, voxel: int) -> None:
    """Mean and interval over the seeds that did not fail, the instant estimate beside them."""
    found = summarise(runs, voxel)
    if found.mean is None:
        st.warning(f"All {found.n_failed} seeds failed: the backbone does not find done what was asked, so there is no mean.")
    else:
        spread = f"95 % interval {found.interval[0]:+.2f} to {found.interval[1]:+.2f}" if found.interval else "no interval of one seed"
        left_out = f"; {found.n_failed} failed and left out" if found.n_failed else ""
        st.markdown(
            f"**Mean of seeds {found.mean:+.2f} SD** ({spread}, n = {found.n}{left_out}); {found.n_beyond} of {found.n} beyond all "
            f"their controls. **Instant estimate** {foreseen.instant:+.2f} SD."
        )
    alt = f"Predicted shift of voxel {voxel} in SD: each of {len(runs)} seeds, their mean, and the instant estimate."
    figure = seeds_figure(runs, found, foreseen.instant, voxel)
    st.plotly_chart(figure, width="stretch", theme=None, key="cf_seeds_figure", config=PLAIN, alt=alt)
    st.caption(
        "Seeds differ in the noise that the editor starts from, and in nothing else: the interval (Student's t) is about that chance, "
        "not about other images. Each has its own controls, made after its painting. Crosses: failed, by what the backbone reads."
    )
