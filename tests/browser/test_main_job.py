"""The main job, as a neuroscientist does it: click a face voxel, see why it responds, remove that, watch the prediction fall."""

import re
import time

import numpy as np
import pytest
from playwright.sync_api import Error, Page, expect

from mine_core.config import cache_directory
from mine_core.cortex.flatmap import centre_of_voxel
from mine_core.experiments.start_speed import serving
from mine_core.instrument import Instrument
from mine_core.ui.frame import PAGES

pytestmark = pytest.mark.browser
SIZES = ((1440, 900), (1024, 768))
LONG = 60_000


def visit(page: Page, url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            page.goto(url)
            return
        except Error:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def settle(page: Page) -> None:
    """Wait until Streamlit has stopped running the page; without its server, controls are dead and take no click."""
    page.wait_for_timeout(400)
    still = "[data-testid=stApp][data-test-script-state=notRunning][data-test-connection-state=CONNECTED]"
    expect(page.locator(still)).to_be_visible(timeout=LONG)
    expect(page.get_by_test_id("stSpinner")).to_have_count(0, timeout=LONG)
    page.wait_for_timeout(400)


def face_voxel(instrument: Instrument) -> int:
    """The best predicted voxel whose best standing word is about faces and that the map shows."""
    groups = tuple(dict.fromkeys(instrument.vocabulary.groups))
    preferred = instrument.words.preferred_group(groups)
    shown = np.array([centre_of_voxel(instrument.flatmap, v) is not None for v in range(len(preferred))])
    chosen = np.flatnonzero((preferred == groups.index("faces")) & instrument.reliable & shown)
    assert len(chosen), "no voxel of this phantom is described with a word about faces"
    return int(chosen[np.argmax(instrument.score.r[chosen])])


def shift_shown(page: Page) -> float:
    heading = page.get_by_role("heading", name=re.compile("Predicted shift"))
    expect(heading).to_be_visible(timeout=LONG)
    return float(re.search(r"([+-]\d+\.\d+) SD", heading.inner_text()).group(1))


def test_click_a_face_voxel_remove_what_drives_it_and_reload(address, window, instrument, screenshots):
    page = window.new_page(viewport={"width": 1440, "height": 900})
    visit(page, address)
    expect(page.locator(".flatmap img.map")).to_be_visible(timeout=LONG)
    settle(page)
    voxel = face_voxel(instrument)
    x, y = centre_of_voxel(instrument.flatmap, voxel)
    stage = page.locator(".flatmap .stage").bounding_box()
    scale = stage["width"] / instrument.flatmap.width
    page.mouse.click(stage["x"] + (x + 0.5) * scale, stage["y"] + (y + 0.5) * scale)

    expect(page.get_by_role("heading", name=re.compile(r"Voxel \d+"))).to_be_visible(timeout=LONG)
    settle(page)
    assert f"voxel={voxel}" in page.url, f"clicked voxel {voxel}, the link says {page.url}"
    figures = page.locator("figure")
    expect(figures).to_have_count(12)
    assert page.locator("figure img.heat").count() == 12
    assert all(text.strip() for text in page.locator("figure .caption").all_inner_texts())
    page.screenshot(path=screenshots / "explore-1440.png", full_page=True)

    page.get_by_role("button", name=re.compile("^Remove what drives it")).first.click()
    before_reload = shift_shown(page)
    settle(page)
    assert before_reload < 0
    expect(page.get_by_text(re.compile(r"beyond all \d+ matched controls"))).to_be_visible()
    page.screenshot(path=screenshots / "counterfactual-1440.png", full_page=True)

    link = page.url
    page.reload()
    assert shift_shown(page) == before_reload
    assert page.url == link
    page.close()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", ["explore", "counterfactual", "validation", "data"])
def test_every_page_opens_without_a_traceback_and_fits_the_window(address, window, instrument, screenshots, name, size):
    voxel = face_voxel(instrument)
    image = int(np.argmax(instrument.predicted(voxel)))
    page = window.new_page(viewport={"width": size[0], "height": size[1]})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    query = f"?voxel={voxel}&image={image}" + ("&edit=insert" if name == "counterfactual" else "")
    visit(page, f"{address}/{'' if name == 'explore' else name}{query}")
    expect(page.get_by_test_id("stMain")).to_be_visible(timeout=LONG)
    page.wait_for_timeout(1500)
    settle(page)
    page.screenshot(path=screenshots / f"{name}-{size[0]}.png", full_page=True)
    assert page.get_by_test_id("stException").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page is wider than the window"
    assert problems == []
    page.close()


@pytest.mark.parametrize("name", ["data", "validation"])
def test_the_first_link_of_a_server_may_lead_to_any_page(window, instrument, name):
    with serving(cache_directory()) as (_, fresh):
        page = window.new_page()
        visit(page, f"{fresh}/{name}")
        settle(page)
        expect(page).to_have_title("MINE")
        links = page.get_by_test_id("stTopNavLink")
        assert [link.inner_text() for link in links.all()] == [title for _, title, _ in PAGES]
        assert page.url.split("?")[0] == f"{fresh}/{name}"
        page.close()


def placed(page: Page) -> tuple[int, int]:
    """Row and column that the page says an insertion was put at."""
    expect(page.locator(".placer .where")).to_have_text(re.compile(r"^row \d+, column \d+$"))
    row, col = re.findall(r"\d+", page.locator(".placer .where").inner_text())
    return int(row), int(col)


def take_a_cut_out(page: Page) -> None:
    """Insert by a cut-out, where painting is offered first."""
    settle(page)
    other_way = page.get_by_text("Use a cut-out", exact=True)
    if other_way.count():
        other_way.click()


def test_a_click_and_the_keyboard_choose_where_to_insert(address, window, instrument, screenshots):
    voxel = face_voxel(instrument)
    image = int(np.argmax(instrument.predicted(voxel)))
    side = instrument.subject.stimuli.images.shape[1]
    page = window.new_page(viewport={"width": 1440, "height": 900})
    visit(page, f"{address}/counterfactual?voxel={voxel}&image={image}&edit=insert")
    take_a_cut_out(page)
    shift_shown(page)
    settle(page)
    board = page.locator(".placer .board")
    box = board.bounding_box()
    page.mouse.click(box["x"] + 0.4 * box["width"], box["y"] + 0.5 * box["height"])
    settle(page)
    row, col = placed(page)
    assert abs(row - 0.5 * side) <= 2 and abs(col - 0.4 * side) <= 2
    expect(page.get_by_test_id("stTable").get_by_text(re.compile(r" at \d+, \d+")).first).to_be_visible(timeout=LONG)
    first = page.get_by_test_id("stTable").get_by_text(re.compile(r" at \d+, \d+")).first.inner_text()
    at = [int(part) for part in first.split(" at ")[1].split(", ")]
    assert abs(at[0] - row) <= 2 and abs(at[1] - col) <= 2
    page.screenshot(path=screenshots / "insert-1440.png")
    board.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    settle(page)
    below, right = placed(page)
    assert below > row and right > col and right - col == 2 * (below - row)
    page.close()


def test_the_keyboard_alone_chooses_a_voxel(address, window, instrument):
    page = window.new_page(viewport={"width": 1440, "height": 900})
    visit(page, address)
    expect(page.locator(".flatmap img.map")).to_be_visible(timeout=LONG)
    settle(page)
    x, y = centre_of_voxel(instrument.flatmap, face_voxel(instrument))
    centre = (round(instrument.flatmap.width / 2), round(instrument.flatmap.height / 2))
    page.locator(".flatmap").focus()
    for key, steps in (("ArrowRight", (x - centre[0]) // 4), ("ArrowDown", (y - centre[1]) // 4)):
        opposite = {"ArrowRight": "ArrowLeft", "ArrowDown": "ArrowUp"}[key]
        for _ in range(abs(steps)):
            page.keyboard.press(key if steps > 0 else opposite)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=re.compile(r"Voxel \d+"))).to_be_visible(timeout=LONG)
    page.close()
