"""A thing is painted into an image by words while one watches: preview and shift move, it can be stopped, seeds stand side by side."""

import re

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from browser.test_main_job import LONG, face_voxel, settle, shift_shown, visit
from mine_core.counterfactual.editor_presets import editor_available

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not editor_available("phantom")[0], reason="the phantom's painter is not in this checkout"),
]
PAINTING = 180_000


def ask_for(page: Page, seeds: str) -> None:
    """Choose painting and the number of seeds."""
    settle(page)
    page.get_by_text("Paint it by words", exact=True).click()
    settle(page)
    page.get_by_test_id("stButtonGroup").get_by_text(seeds, exact=True).click()
    settle(page)


def test_an_insertion_is_painted_live_stopped_and_repeated_with_seeds(address, window, instrument, screenshots) -> None:
    voxel = face_voxel(instrument)
    image = int(np.argmin(instrument.predicted(voxel)))
    page = window.new_page(viewport={"width": 1440, "height": 900})
    visit(page, f"{address}/counterfactual?voxel={voxel}&image={image}&edit=insert")
    ask_for(page, "5")
    expect(page.get_by_role("heading", name=re.compile("Instant estimate"))).to_be_visible(timeout=LONG)
    expect(page.get_by_role("heading", name=re.compile("Predicted shift"))).to_have_count(0)

    page.get_by_role("button", name="Paint 5 seeds").click()
    expect(page.get_by_text(re.compile(r"predicted shift so far [+-]\d+\.\d+ SD"))).to_be_visible(timeout=PAINTING)
    page.screenshot(path=screenshots / "painting-1440.png")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text(re.compile("^Stopped. The image is as it was"))).to_be_visible(timeout=LONG)
    expect(page.get_by_role("button", name="Paint 5 seeds")).to_be_visible(timeout=LONG)

    ask_for(page, "3")
    page.get_by_role("button", name="Paint 3 seeds").click()
    expect(page.get_by_text(re.compile(r"Mean of seeds|All 3 seeds failed"))).to_be_visible(timeout=PAINTING)
    settle(page)
    shift = shift_shown(page)
    of_seeds = [float(found) for found in re.findall(r"([+-]\d+\.\d+) SD\s*Seed", page.get_by_test_id("stMain").inner_text())]
    assert len(of_seeds) == 3 and len(set(of_seeds)) > 1 and of_seeds[0] == shift
    page.screenshot(path=screenshots / "painted-1440.png", full_page=True)
    assert page.get_by_test_id("stException").count() == 0
    page.close()
