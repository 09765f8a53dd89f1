"""The parts of the Notebook page: what is looked for, the pins as cards, pins beside each other, what was deleted."""

import html
from dataclasses import replace

import pandas as pd
import streamlit as st

from mine_core.errors import MineError
from mine_core.figures import data_url
from mine_core.notebook import KINDS, Notebook, Pin
from mine_core.notebook.records import MOST_NOTE, MOST_TAGS, MOST_TITLE, Number, compared, differing
from mine_core.notebook.report import change_line
from mine_core.ui import notebook_again, resources
from mine_core.ui.notebook_export import export

PER_PAGE = 12
WIDEST = 340  # of a picture, in pixels of the screen
HEADLINES = (
    "predicted shift",
    "second encoder: predicted shift",
    "predicted response",
    "measured response",
    "wants",
    "mean over voxels",
    "voxels shown",
    "accuracy",
)
N_HEADLINES = 2
NAMES = {"voxel": "Voxel", "image": "Image", "edit": "Edit", "map": "Map"}
OPEN = {
    "edit": ("pages/counterfactual.py", "Open on Counterfactual"),
    "search": ("pages/search.py", "Open on Search"),
    "layer": ("pages/layers.py", "Open on Layers"),
}
EXPLORE = ("pages/explore.py", "Open on Explore")
STYLE = (
    "<style>.mine-pin h3 {font-size: 1.05rem; padding: 0; margin: 0 0 .2rem 0} .mine-pin p {margin: 0 0 .35rem 0}"
    ".mine-pin .small {font-size: .82rem; opacity: .8} .mine-pin .note {white-space: pre-wrap; border-left: 3px solid #0b5c8a;"
    "padding-left: .7rem} .mine-pin .tag {background: #eaf1f5; border-radius: .3rem; padding: .05rem .45rem; margin-right: .3rem;"
    "font-size: .82rem}</style>"
)


def asked_for(book: Notebook) -> list[Pin]:
    """Ask what to look for, and return those pins; of an empty notebook, say how to fill it."""
    if not book.pins():
        st.subheader("Nothing is pinned yet", anchor=False)
        st.markdown(
            "What you pin is kept here with the numbers on screen, their uncertainty and null, your note and tags. Pin a voxel, an "
            "image or a map on Explore, an edit on Counterfactual, and a map on Search or Layers, with *Pin to the notebook*."
        )
        st.page_link("pages/explore.py", label="Go to Explore")
        return []
    left, middle, right = st.columns([5, 3, 3])
    text = left.text_input("Search notes, tags, words and titles", key="notebook_find", placeholder="FFA, or voxel 17")
    tags = middle.multiselect("Tags", list(book.tags()), key="notebook_tags", placeholder="any")
    kinds = right.multiselect("Kind", KINDS, format_func=NAMES.__getitem__, key="notebook_kinds", placeholder="any")
    subjects = list(book.subjects())
    several = st.multiselect("Subject", subjects, key="notebook_subjects", placeholder="any") if len(subjects) > 1 else []
    pins = book.pins(text, tags=tags, kinds=kinds, subjects=several)
    if not pins:
        st.info("No pin has all of this. Words are found by their beginnings and parts; take one away, or a tag.")
    return pins


def chosen_of(pins: list[Pin]) -> list[Pin]:
    """Pins whose box is ticked; offers what can be done with them, or with all that are shown."""
    chosen = [pin for pin in pins if st.session_state.get(f"notebook_choose_{pin.id}")]
    if pins:
        left, right = st.columns([7, 3], vertical_alignment="center")
        count = f"{len(pins)} pin{'s' * (len(pins) > 1)}, newest first."
        told = f" {len(chosen)} chosen." if chosen else " Tick pins to export them alone; tick two or more to compare them."
        left.caption(count + told)
        with right:
            export(chosen or pins, f"{len(chosen)} chosen" if chosen else f"all {len(pins)}")
    return chosen


def beside(pins: list[Pin]) -> None:
    """Show pins beside each other, their numbers in one table."""
    st.markdown("**Side by side**")
    for column, pin in zip(st.columns(len(pins)), pins, strict=True):
        with column:
            _picture(pin)
            st.html(STYLE + f'<div class="mine-pin"><p class="small"><b>Pin {pin.id}</b> {html.escape(pin.title)}</p></div>')
    told = st.toggle("With uncertainty and null", key="notebook_beside_all")
    rows = [{"number": "withheld", "unit": "", **{f"pin {pin.id}": "yes" if pin.withheld else "no" for pin in pins}}]
    rows[0]["differs"] = "differs" if len({bool(pin.withheld) for pin in pins}) > 1 else ""
    for row in compared(pins):
        cells = {f"pin {pin.id}": _cell(number, row.unit, told) for pin, number in zip(pins, row.cells, strict=True)}
        rows.append({"number": row.name, "unit": row.unit, **cells, "differs": "differs" if row.differs else ""})
    _table(pd.DataFrame(rows))
    st.caption("Numbers as they were pinned; a dash where a pin has no such number. Those that differ do so within five digits.")
    st.divider()


def _cell(number: Number | None, unit: str, told: bool) -> str:
    if number is None:
        return "–"
    parts = [number.shown + (f" {number.unit}" if number.unit and not unit else "")]
    if told:
        parts += [number.uncertainty] * bool(number.uncertainty) + [f"null {number.null}"] * bool(number.null)
    return "; ".join(parts)


def cards(book: Notebook, pins: list[Pin]) -> None:
    """Show pins as cards, a page of them at a time."""
    n_pages = -(-len(pins) // PER_PAGE)
    page = st.pagination(n_pages, key=f"notebook_page_{n_pages}") if n_pages > 1 else 1
    shown = pins[(page - 1) * PER_PAGE : page * PER_PAGE]
    gone = st.session_state.get("notebook_deleted", -1)
    # the offer to undo stands where the pin was
    place = sum(pin.id > gone for pin in shown) if gone >= 0 else -1
    for position, pin in enumerate(shown):
        if position == place:
            _undo(book, gone)
        _card(book, pin)
    if place == len(shown):
        _undo(book, gone)


def _card(book: Notebook, pin: Pin) -> None:
    with st.container(border=True):
        left, middle, right = st.columns([3, 7, 3], gap="medium")
        with left:
            _picture(pin)
        with middle:
            _texts(pin)
            _numbers(pin)
        with right:
            _actions(book, pin)


def _picture(pin: Pin) -> None:
    """Show a small picture made from what is in the cache, or why there is none."""
    picture, alt = notebook_again.preview(pin)
    if picture is None:
        st.caption(alt)
    else:
        source, told = data_url(picture, "webp"), html.escape(alt, quote=True)
        st.html(f'<img alt="{told}" src="{source}" style="width:100%;max-width:{WIDEST}px;border-radius:.3rem">')
        st.caption(as_text(alt))


def _texts(pin: Pin) -> None:
    """Title, place, tags, note: as text, whatever was typed."""
    when = pin.created[:16].replace("T", " ")
    facts = f"Pin {pin.id} · {NAMES[pin.kind]} · subject {pin.subject}, backbone {pin.config.backbone} · {when} UTC"
    tags = "".join(f'<span class="tag">{html.escape(tag)}</span>' for tag in pin.tags)
    note = f'<p class="note">{html.escape(pin.note)}</p>' if pin.note else ""
    body = f"<h3>{html.escape(pin.title)}</h3><p class='small'>{html.escape(facts)}</p>" + (f"<p>{tags}</p>" if tags else "") + note
    st.html(f'{STYLE}<div class="mine-pin">{body}</div>')
    if pin.withheld:
        st.warning(as_text(pin.withheld))


def _numbers(pin: Pin) -> None:
    """The first numbers in a line each, all in a table, and whether they are the same now."""
    there = {number.name: number for number in pin.numbers}
    for name in [name for name in HEADLINES if name in there][:N_HEADLINES]:
        number = there[name]
        sure = "; ".join(part for part in (number.uncertainty, f"null: {number.null}" * bool(number.null)) if part)
        st.markdown(
            f"{as_text(name)} **{as_text(number.shown)}** {as_text(number.unit)}" + (f"  \n:small[{as_text(sure)}]" if sure else "")
        )
    _holds(pin)
    with st.expander(f"All {len(pin.numbers)} numbers"):
        _table(
            pd.DataFrame(
                [
                    {"number": each.name, "value": each.shown, "unit": each.unit, "uncertainty": each.uncertainty, "null": each.null}
                    for each in pin.numbers
                ]
            )
        )


def _holds(pin: Pin) -> None:
    """Say whether the numbers are the same when they are made again from the present cache."""
    try:
        found = notebook_again.numbers_now(pin)
    except MineError as refusal:
        st.caption(as_text(f"Not checked: {refusal}"))
        return
    if found is None:
        if st.button("Make it again", key=f"notebook_again_{pin.id}", help="Runs the edit with its controls, which takes seconds"):
            notebook_again.ask_for(pin)
            st.rerun()
        return
    changed = differing(pin.numbers, found)
    if not changed:
        st.caption(f"Checked: all {len(pin.numbers)} numbers are the same now.")
        return
    lines = "\n".join(f"- {as_text(change_line(old, new))}" for old, new in changed)
    st.warning(f"{len(changed)} of {len(pin.numbers)} numbers are different now, made from the present cache:\n{lines}")


def _actions(book: Notebook, pin: Pin) -> None:
    page, label = OPEN.get(pin.settings.get("map", "") if pin.kind == "map" else pin.kind, EXPLORE)
    view = dict(pin.view) | ({"pin": str(pin.id)} if pin.kind == "edit" else {})
    st.page_link(page, label=label, query_params=view)
    st.checkbox("Choose", key=f"notebook_choose_{pin.id}", persist_state="session")
    _edit(book, pin)
    if st.button("Delete", key=f"notebook_delete_{pin.id}", width="stretch"):
        book.delete(pin.id)
        st.session_state["notebook_deleted"] = pin.id
        st.rerun()


def _edit(book: Notebook, pin: Pin) -> None:
    """Let the user change title, note and tags; what another session saved meanwhile is not overwritten unseen."""
    at, seen = f"notebook_edit_{pin.id}", f"notebook_seen_{pin.id}"
    st.session_state.setdefault(seen, pin.version)
    with st.popover("Edit", width="stretch"), st.form(at, border=False):
        title = st.text_input("Title", pin.title, max_chars=MOST_TITLE, key=f"{at}_title")
        note = st.text_area("Note", pin.note, max_chars=MOST_NOTE, height=120, key=f"{at}_note")
        known = list(dict.fromkeys([*pin.tags, *book.tags()]))
        tags = st.multiselect(
            "Tags", known, list(pin.tags), accept_new_options=True, max_selections=MOST_TAGS, key=f"{at}_tags", placeholder="none"
        )
        sent = st.form_submit_button("Save", type="primary")
    if not sent:
        return
    try:
        st.session_state[seen] = book.edit(replace(pin, version=st.session_state[seen]), title=title, note=note, tags=tags).version
    except MineError as refusal:
        if st.session_state[seen] == pin.version:
            raise
        st.session_state[seen] = pin.version
        st.error(as_text(f"{refusal} What you typed is still in the form; saving again keeps it in place of what is here now."))
        return
    st.rerun()


def _undo(book: Notebook, last: int) -> None:
    """Offer to take the last deletion back."""
    left, right = st.columns([8, 2], vertical_alignment="center")
    left.info(f"Pin {last} was deleted. It is kept below until it is deleted for ever.")
    if right.button("Undo", key="notebook_undo", width="stretch"):
        del st.session_state["notebook_deleted"]
        book.restore(last)
        st.rerun()


def deleted(book: Notebook) -> None:
    """List what was deleted, to be taken back or removed for ever; say where the notebook is."""
    gone = book.pins(deleted=True)
    if gone:
        with st.expander(f"Deleted ({len(gone)})"):
            for pin in gone:
                left, right = st.columns([8, 2], vertical_alignment="center")
                left.markdown(f"Pin {pin.id}: {as_text(pin.title)}")
                if right.button("Take back", key=f"notebook_restore_{pin.id}", width="stretch"):
                    book.restore(pin.id)
                    st.session_state.pop("notebook_deleted", None)
                    st.rerun()
            if st.button(f"Delete {'it' if len(gone) == 1 else f'all {len(gone)}'} for ever", key="notebook_purge"):
                book.purge()
                st.session_state.pop("notebook_deleted", None)
                st.rerun()
    st.caption(f"The notebook is one file on this machine, `{book.path}`. Copy it to keep a second one; nothing can rebuild it.")


def as_text(text: str) -> str:
    """Escape a text for Streamlit's Markdown."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]()#+-.!|~>$<:&=" else letter for letter in text)


def _table(table: pd.DataFrame) -> None:
    shown = table.loc[:, (table != "").any()]
    st.table(shown.map(lambda cell: as_text(str(cell))), hide_index=True, border="horizontal")


def opened() -> Notebook:
    """Return the notebook."""
    return resources.notebook()
