"""The Layers page in a browser: make a dictionary where there is none, open a voxel, a unit and an image, and take the unit out."""

import re

import numpy as np
import pytest
from playwright.sync_api import expect
from unit.conftest import Small, small  # noqa: F401

from browser.test_main_job import LONG, settle, visit
from mine_core.experiments.start_speed import serving
from mine_core.instrument.dictionary import build_dictionary, open_dictionary

pytestmark = pytest.mark.browser


def test_a_dictionary_is_made_and_leads_from_voxel_to_unit_to_image(window, small: Small, screenshots):  # noqa: F811
    with serving(small.store.root) as (_, url):
        page = window.new_page(viewport={"width": 1440, "height": 900})
        visit(page, f"{url}/layers?subject=small")
        expect(page.get_by_text("This subject has no dictionary yet.")).to_be_visible(timeout=LONG)
        page.get_by_role("button", name="Make the dictionary").click()
        expect(page.get_by_role("heading", name="How good the autoencoders are")).to_be_visible(timeout=4 * LONG)
        dictionary = open_dictionary(build_dictionary(small.config, small.store, whole=False))
        voxel = int(np.argmax(dictionary.matches.r_held_out[:, 0]))
        page.get_by_label("Voxel number").fill(str(voxel))
        page.get_by_label("Voxel number").press("Enter")
        expect(page.get_by_role("heading", name=f"Voxel {voxel}")).to_be_visible(timeout=LONG)
        settle(page)
        # rows of the table are drawn on a canvas: its first box to tick lies left below the header
        table = page.locator("[data-testid=stDataFrame]").first
        table.scroll_into_view_if_needed()
        table.click(position={"x": 18, "y": 52})
        expect(page).to_have_url(re.compile("unit="), timeout=LONG)
        layer, unit = (int(part[voxel, 0]) for part in (dictionary.matches.layer, dictionary.matches.unit))
        expect(page.get_by_role("heading", name=f"Unit {unit} of layer {layer + 1}", exact=True)).to_be_visible(timeout=LONG)
        settle(page)
        page.get_by_role("button", name="Through the layers").first.click()
        expect(page).to_have_url(re.compile("image="), timeout=LONG)
        settle(page)
        expect(page.locator(".flatmap img.map")).to_have_count(1 + len(dictionary.tokens), timeout=LONG)
        page.screenshot(path=screenshots / "layers-small-1440.png")
        assert "Traceback" not in page.content()
        page.close()
