"""Exports on pages: what is handed over is what is shown, and images of a guarded dataset wait for its agreement."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from mine_core.artifacts import ArtifactStore
from mine_core.config import PROJECT, InstrumentConfig, cache_directory
from mine_core.exports.derivative import check_folder
from mine_core.exports.edits import read_edit
from mine_core.instrument import Instrument, build_instrument
from mine_core.ui import exporting


@pytest.fixture(scope="module")
def instrument() -> Instrument:
    return build_instrument(InstrumentConfig(), ArtifactStore(cache_directory()))


@pytest.fixture
def offered(monkeypatch):
    """Choices that pages offered, by their titles, and the subject they are of."""
    found = {}
    original = exporting._offer

    def watch(title, choices, instrument, key):
        found[title] = choices
        original(title, choices, instrument, key)

    monkeypatch.setattr(exporting, "_offer", watch)
    return found


def opened(page: str = "", **query: str) -> AppTest:
    app = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=120)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    return app.switch_page(page).run() if page else app


def test_explore_hands_over_the_map_that_it_shows(instrument, offered, tmp_path):
    app = opened(map="accuracy")
    assert not app.exception
    choices = offered["Export this map"]
    assert [choice.file.split(".")[-1] for choice in choices] == ["png", "svg", "pdf", "zip", "zip", "zip", "zip", "zip"]
    assert not any(choice.images for choice in choices)
    with zipfile.ZipFile(io.BytesIO(choices[-1].make())) as archive:
        archive.extractall(tmp_path)
    checked = check_folder(tmp_path, instrument.subject.responses.voxels)
    assert list(checked) == ["sub-phantom0_space-S1fullhead_desc-accuracy"] and next(iter(checked.values()))["files"] == 4
    assert choices[0].make().startswith(b"\x89PNG") and b"<svg" in choices[1].make() and choices[2].make().startswith(b"%PDF")


def test_search_hands_over_the_map_of_its_text(instrument, offered, tmp_path):
    app = opened("pages/search.py", find="face")
    assert not app.exception
    with zipfile.ZipFile(io.BytesIO(offered["Export this map"][-1].make())) as archive:
        archive.extractall(tmp_path)
    (name,) = check_folder(tmp_path, instrument.subject.responses.voxels)
    assert "_desc-searchFacex" in name


def test_a_button_downloads_what_was_chosen(instrument, offered):
    app = opened(map="accuracy")
    labels = app.selectbox(key="explore_export_as").options
    app.selectbox(key="explore_export_as").set_value(labels[-1]).run()
    assert not app.exception
    assert any("SHA-256" in caption.value for caption in app.caption)
    assert app.get("download_button")[0].label == "Download" and not app.get("download_button")[0].disabled


def test_counterfactual_hands_over_its_edit(instrument, offered):
    voxel = int(instrument.score.r.argmax())
    image = int(np.argmax(instrument.predicted(voxel)))
    app = opened("pages/counterfactual.py", voxel=str(voxel), image=str(image), edit="remove")
    assert not app.exception
    choices = offered["Export this edit"]
    assert [choice.label for choice in choices if choice.images] == ["Edit: images, mask, all shifts, controls (zip)"]
    read = read_edit(choices[0].make())
    np.testing.assert_array_equal(read.original, instrument.subject.stimuli.images[image])
    assert len(read.shift) == len(instrument.score.r) and read.provenance["request"]["voxel"] == voxel
    assert f"{read.shift[voxel]:+.2f}" in "".join(text.value for text in app.markdown)


def test_guarded_images_wait_for_the_agreement(instrument, offered, monkeypatch):
    """The phantom stands in for a subject of NSD: the button is off until the box is ticked, and other choices need none."""
    voxel = int(instrument.score.r.argmax())
    image = int(np.argmax(instrument.predicted(voxel)))
    export = exporting.export_edit

    def guarded(instrument, request, trial):
        subject = replace(instrument.subject, kind="nsd", provenance={"import": {"affine": np.eye(4).tolist()}})
        export(replace(instrument, subject=subject), request, trial)

    monkeypatch.setattr(exporting, "export_edit", guarded)
    app = opened("pages/counterfactual.py", voxel=str(voxel), image=str(image), edit="remove")
    assert not app.exception
    assert app.get("download_button")[0].disabled
    app.checkbox(key="cf_export_agreed").check().run()
    assert not app.get("download_button")[0].disabled
    app.checkbox(key="cf_export_agreed").uncheck().run()
    assert app.get("download_button")[0].disabled
    app.selectbox(key="cf_export_as").set_value(app.selectbox(key="cf_export_as").options[1]).run()
    assert not app.get("download_button")[0].disabled and not app.exception
