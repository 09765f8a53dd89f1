"""The Counterfactual page shows what the second encoder predicts, or offers to prepare it."""

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from mine_core.artifacts import ArtifactStore
from mine_core.config import PROJECT, InstrumentConfig, cache_directory
from mine_core.errors import EncodingError
from mine_core.instrument import Instrument, build_instrument
from mine_core.instrument.explain import ranked_images
from mine_core.instrument.second import SecondEncoder, build_second
from mine_core.instrument.trials import EditRequest, run_trial
from mine_core.ui import second as page_part


@pytest.fixture(scope="module")
def instrument() -> Instrument:
    return build_instrument(InstrumentConfig(), ArtifactStore(cache_directory()))


@pytest.fixture(scope="module")
def second() -> SecondEncoder:
    return build_second(InstrumentConfig(), ArtifactStore(cache_directory()))


def opened(voxel: int, image: int) -> AppTest:
    app = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=120)
    app.query_params.update({"voxel": str(voxel), "image": str(image), "edit": "remove"})
    app.run()
    app.switch_page("pages/counterfactual.py").run()
    assert not app.exception
    return app


def captions(app: AppTest) -> str:
    return "\n".join(element.value for element in app.caption)


def test_its_own_shift_is_shown_beside_the_firsts(instrument, second):
    voxel = int(np.where(second.reliable, instrument.score.r, -1).argmax())
    image = int(ranked_images(instrument, voxel, "top", 1)[0])
    check = run_trial(instrument, EditRequest("remove", voxel, image), second).check
    text = captions(opened(voxel, image))
    assert f"Predicted shift {check.shift[voxel]:+.2f} SD" in text
    assert "took no part in choosing the edit" in text and "'phantom-plain'" in text


def test_a_voxel_that_it_does_not_predict_is_neither_confirmed_nor_refuted(instrument, second):
    voxel = int(np.where(second.reliable, -1, instrument.score.r).argmax())
    app = opened(voxel, int(ranked_images(instrument, voxel, "top", 1)[0]))
    assert any("neither confirms nor refutes" in element.value for element in app.warning)


def test_it_is_offered_where_it_is_not_prepared(instrument, monkeypatch):
    monkeypatch.setattr(page_part, "second_is_built", lambda config, store: False)
    app = opened(5, int(ranked_images(instrument, 5, "top", 1)[0]))
    assert [button.label for button in app.button if button.key == "cf_second"] == ["Prepare the second encoder"]


def test_where_there_can_be_none_that_is_said_and_the_edit_is_shown(instrument, monkeypatch):
    def none(config, store):
        raise EncodingError("There is no second encoder: too few images.")

    monkeypatch.setattr(page_part, "second_is_built", none)
    app = opened(5, int(ranked_images(instrument, 5, "top", 1)[0]))
    assert "There is no second encoder" in captions(app)
    assert any("Predicted shift" in element.value for element in app.markdown)
    assert not [button for button in app.button if button.key == "cf_second"]
