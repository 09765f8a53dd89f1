"""A finding is kept with the keyboard, looked for, and opened where it was."""

import re

import pytest
from playwright.sync_api import expect

from browser.test_main_job import LONG, SIZES, face_voxel, settle, visit
from mine_core.artifacts import ArtifactStore
from mine_core.config import cache_directory
from mine_core.instrument.trials import EditRequest, run_trial
from mine_core.notebook import Finding, Notebook
from mine_core.notebook.again import edit_settings, provenance_of, settings_of
from mine_core.notebook.findings import find_edit
from mine_core.notebook.maps import AskedMap, map_now

pytestmark = pytest.mark.browser


def test_a_voxel_is_pinned_with_the_keyboard_found_and_opened_again(address, window, instrument, kept):
    voxel, page = face_voxel(instrument), window.new_page(viewport={"width": 1440, "height": 900})
    visit(page, f"{address}/?voxel={voxel}&map=accuracy")
    expect(page.locator(".flatmap img.map")).to_be_visible(timeout=LONG)
    settle(page)
    page.get_by_role("button", name="Pin to the notebook").focus()
    page.keyboard.press("Enter")
    note = page.get_by_role("textbox", name="Note")
    expect(note).to_be_visible()
    note.focus()
    page.keyboard.type("quokka <b>smile</b>")
    page.get_by_role("button", name="Pin", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Pinned as number")).to_be_visible(timeout=LONG)

    page.get_by_role("link", name="Open the notebook").click()
    search = page.get_by_role("textbox", name=re.compile("Search notes"))
    expect(search).to_be_visible(timeout=LONG)
    settle(page)
    search.fill("quok")
    search.press("Enter")
    expect(page.get_by_text("1 pin, newest first")).to_be_visible(timeout=LONG)
    expect(page.get_by_text("quokka <b>smile</b>")).to_be_visible()
    expect(page.get_by_text(re.compile(r"all \d+ numbers are the same now"))).to_be_visible(timeout=LONG)

    page.get_by_role("link", name="Open on Explore").click()
    expect(page.get_by_role("heading", name=f"Voxel {voxel}", exact=True)).to_be_visible(timeout=LONG)
    settle(page)
    assert f"voxel={voxel}" in page.url and "map=accuracy" in page.url
    page.close()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_notebook_fits_the_window_alone_and_side_by_side(address, window, instrument, screenshots, kept, size):
    book, voxel, store = Notebook(kept), face_voxel(instrument), ArtifactStore(cache_directory())
    request = EditRequest("insert", voxel, 7, word="ball")
    trial = run_trial(instrument, request)
    shared = {"provenance": provenance_of(instrument, store), "note": "A note of some words. " * 12, "tags": ("check", "faces")}
    found = (
        ("map", map_now(instrument, store, AskedMap("group"), voxel), settings_of(instrument, map="group")),
        ("edit", find_edit(instrument, request, trial), edit_settings(instrument, request, trial, None)),
    )
    view = {"subject": "phantom", "seed": "0", "backbone": "phantom", "voxel": str(voxel), "image": "7", "edit": "insert"}
    for kind, each, settings in found:
        book.add(Finding(kind=kind, view=view, title=each.title, numbers=each.numbers, settings=settings, **shared))
    page = window.new_page(viewport={"width": size[0], "height": size[1]})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    visit(page, f"{address}/notebook")
    expect(page.get_by_text("newest first")).to_be_visible(timeout=LONG)
    settle(page)
    page.screenshot(path=screenshots / f"notebook-{size[0]}.png", full_page=True)
    for position in (0, 1):
        page.get_by_text("Choose", exact=True).nth(position).click()
        expect(page.get_by_role("checkbox", name="Choose").nth(position)).to_be_checked()
        expect(page.get_by_text(f"{position + 1} chosen.")).to_be_visible(timeout=LONG)
        settle(page)
    expect(page.get_by_text("Side by side")).to_be_visible(timeout=LONG)
    page.screenshot(path=screenshots / f"notebook-beside-{size[0]}.png", full_page=True)
    assert page.get_by_test_id("stException").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page is wider than the window"
    assert problems == []
    page.close()
