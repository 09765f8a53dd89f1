"""The Layers page: an offer where there is none, and a voxel, a unit and an image where there is one."""

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest
from test_pages import opened, texts
from unit.conftest import Small, small  # noqa: F401

from mine_core.errors import ConfigError
from mine_core.exports import layers
from mine_core.instrument import dictionary_regions
from mine_core.instrument.dictionary import Dictionary, build_dictionary, open_dictionary
from mine_core.notebook import Notebook
from mine_core.notebook.again import make_again
from mine_core.ui import dictionary as page
from mine_core.ui import dictionary_trust as trust
from mine_core.ui import resources

PAGE = "pages/layers.py"


@pytest.fixture(scope="module")
def made(small: Small) -> Dictionary:  # noqa: F811
    return open_dictionary(build_dictionary(small.config, small.store, whole=False))


@pytest.fixture(autouse=True)
def store_of_the_small_subject(small: Small, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setattr(resources, "store", lambda: small.store)


def shown_page(**query: str) -> AppTest:
    return opened(PAGE, subject="small", **query)


def test_without_a_dictionary_the_page_offers_to_make_one(monkeypatch):
    monkeypatch.setattr(page, "dictionary_is_built", lambda *_: False)
    app = shown_page()
    assert not app.exception
    assert "no dictionary yet" in texts(app)
    assert app.button("dictionary_make").label == "Make the dictionary"


def test_a_voxel_has_layers_and_units(made):
    voxel = int(np.argmax(made.matches.r_held_out[:, 0]))
    app = shown_page(voxel=str(voxel))
    assert not app.exception
    assert f"Voxel {voxel}" in [element.value for element in app.subheader]
    table = app.dataframe[0].value
    assert table["held-out r"].iloc[0] == pytest.approx(made.matches.r_held_out[voxel, 0], abs=6e-4)
    assert len(table) == made.matches.layer.shape[1]


def test_the_map_of_layers_is_pinned_and_made_again(made, small, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr(resources, "notebook", lambda: Notebook(tmp_path / "kept"))
    app = shown_page()
    next(each for each in app.button if each.label == "Pin").click()
    app.run()
    assert not app.exception and not app.error
    [pin] = Notebook(tmp_path / "kept").pins()
    numbers = {number.name: number.value for number in pin.numbers}
    assert pin.settings["map"] == "layer" and numbers["voxels shown"] == int(made.placed.sum()) > 0
    assert numbers["mean over voxels"] == pytest.approx((made.preference.best + 1.0)[made.placed].mean())
    assert make_again(pin, small.instrument, small.store).numbers == pin.numbers
    monkeypatch.setattr(layers, "dictionary_is_built", lambda *_: False)
    with pytest.raises(ConfigError, match="needs the dictionary, which is not made yet"):
        make_again(pin, small.instrument, small.store)


def test_a_voxel_without_a_unit_is_withheld_visibly(made):
    voxel = int(np.argmax(np.asarray(made.matches.q) + made.preference_q))
    assert not made.matched[voxel] and not made.placed[voxel]
    app = shown_page(voxel=str(voxel))
    assert not app.exception
    warnings = [warning.value for warning in app.warning]
    assert len(warnings) == 2 and all(warning.startswith("Withheld") for warning in warnings)


def test_a_unit_of_the_link_is_shown_and_an_image_goes_through_the_layers(made):
    voxel = int(np.argmax(made.matches.r_held_out[:, 0]))
    layer, unit, place = (int(part[voxel, 0]) for part in (made.matches.layer, made.matches.unit, made.matches.place))
    app = shown_page(voxel=str(voxel), unit=f"{layer + 1}-{unit}-{place}", image="7")
    assert not app.exception
    assert f"Unit {unit} of layer {layer + 1}" in [element.value for element in app.subheader]
    shown = texts(app)
    assert "**Layer 4**" in shown and "most active" in shown
    app.selectbox("dictionary_map").select("unit").run()
    assert not app.exception


@pytest.mark.parametrize("unit", ["9-1-0", "one", "1-99999-0", "1-2"])
def test_a_unit_that_is_none_is_refused_in_one_line(made, unit):
    app = shown_page(unit=unit)
    assert not app.exception
    assert len(app.error) == 1 and "\n" not in app.error[0].value


def test_regions_stand_beside_their_layers_and_a_path_that_is_none_is_not_tested(made):
    shown = texts(shown_page())
    assert "mean best layer, 95 % interval" in shown
    assert "is not tested: 0 regions of 0 stages are known" in shown


def test_autoencoders_are_shown_with_what_shuffled_tokens_give(made):
    app = shown_page()
    table = app.dataframe[-1].value
    assert list(table["layer"]) == [1, 2, 3, 4]
    assert list(table["variance kept"]) == pytest.approx([part.explained for part in made.quality], abs=6e-4)
    assert (table["variance kept"] > table["of shuffled tokens"]).all()


def test_a_region_gives_its_units_each_its_own_or_one_to_a_voxel(made, small, monkeypatch):  # noqa: F811
    voxels = small.instrument.subject.responses.voxels
    regions = {"FFA": np.arange(len(voxels)) < 40}
    monkeypatch.setattr(trust, "regions_of", lambda _: regions)
    monkeypatch.setattr(dictionary_regions, "regions_of", lambda _: regions)
    n = int((made.matched & regions["FFA"]).sum())
    app = shown_page()
    assert not app.exception
    own = next(frame.value for frame in app.dataframe if list(frame.value.columns)[0] == "voxel")
    app.radio("dictionary_given").set_value(trust.ALONE).run()
    alone = next(frame.value for frame in app.dataframe if list(frame.value.columns)[0] == "voxel")
    assert len(own) == n and not alone.duplicated(["layer", "unit"]).any()
    assert "a voxel loses" in texts(app)
