"""Backbones of transformers carry the whole instrument; where one has no words, everything says so and nothing else is lost."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest
from tiny_transformers import bit_processor, clip_processor, put_in_cache, tiny_dinov2_model, tiny_llava_model, tiny_tokenizer

from mine_core.backbones import presets
from mine_core.config import PROJECT, InstrumentConfig
from mine_core.errors import BackboneError, EditError
from mine_core.instrument import Instrument, build_instrument, open_instrument, trials
from mine_core.instrument.build import summary
from mine_core.instrument.explain import explain_voxel
from mine_core.instrument.photograph import open_photograph
from mine_core.instrument.things import insertable_words
from mine_core.instrument.trials import EditRequest, run_trial
from mine_core.profiles import profile_voxel, sentence, withheld_text
from mine_core.ui import maps

ENTRY = (
    '[{name}]\nsource = "transformers"\narchitecture = "{kind}"\nrepository = "made/{name}"\nlayer = 3\nsize_mb = 1\n'
    'licence = "none"\nvocabulary = "{vocabulary}"\nsupervision = "images"\nabout = "x"\n'
)


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A hub cache and a list of models: `seer` has no words, `reader` has its own."""
    folder = tmp_path_factory.mktemp("models")
    seer = ENTRY.format(name="seer", kind="dinov2", vocabulary="none")
    (folder / "models.toml").write_text(
        presets.MODELS.read_text() + seer + ENTRY.format(name="reader", kind="llava", vocabulary="general")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presets, "MODELS", folder / "models.toml")
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        put_in_cache(folder / "hub", "made/seer", tiny_dinov2_model(), bit_processor())
        put_in_cache(folder / "hub", "made/reader", tiny_llava_model(), clip_processor(), tiny_tokenizer())
        yield folder


@pytest.fixture(scope="module")
def store(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("wordless") / "cache"
    shutil.copytree(small.store.root, root)
    return type(small.store)(root)


@pytest.fixture(scope="module")
def seer(listed: Path, store: Any) -> Instrument:
    return build_instrument(InstrumentConfig("small", backbone="seer"), store)


@pytest.fixture(scope="module")
def reader(listed: Path, store: Any) -> Instrument:
    return build_instrument(InstrumentConfig("small", backbone="reader", n_permutations=199), store)


@pytest.fixture(scope="module")
def voxel(seer: Instrument) -> int:
    """The voxel that is predicted best."""
    return int(seer.score.r.argmax())


def profiled(instrument: Instrument, voxel: int) -> Any:
    return profile_voxel(
        voxel,
        subject=instrument.subject,
        features=instrument.features,
        model=instrument.model,
        score=instrument.score,
        vocabulary=instrument.vocabulary,
        words=instrument.words,
    )


def test_a_backbone_without_words_predicts_and_attributes_as_any_other(seer, voxel, store):
    """Random tokens of colours predict colours; parts of a prediction add up to it."""
    assert not seer.features.backbone.has_words and seer.reliable.sum() >= 4
    again = open_instrument(seer.config, store)
    assert again.features.backbone == seer.features.backbone == seer.model.backbone
    for item in explain_voxel(seer, voxel, n=5):
        assert item.words == () and item.caption == ""
        assert item.values.sum() == pytest.approx(item.predicted, abs=0.02)
    assert seer.captions == ("",) * len(seer.subject.stimuli)


def test_its_words_are_none_and_none_passes(seer):
    n_voxels = len(seer.score.r)
    assert len(seer.vocabulary) == 0 and seer.vocabulary.embedded().shape == (0, seer.features.backbone.n_features)
    assert seer.words.candidates.shape == seer.words.passes.shape == (n_voxels, 0)
    assert seer.words.q.tolist() == [1.0] * n_voxels
    assert seer.words.preferred_group(()).tolist() == [-1] * n_voxels
    assert seer.words.description(0).words == seer.words.description(0).phrases == ()
    assert summary(seer)["n_described"] == 0 and summary(seer)["n_reliable"] == seer.reliable.sum()


def test_profiles_are_withheld_and_say_why(seer, voxel):
    found = profiled(seer, voxel)
    assert found.withheld == sentence(found) and found.withheld.startswith("Withheld: seer has no words")
    assert found.description is None and found.reliability in ("weak", "reliable") and "\n" not in found.withheld
    # of a voxel that cannot be predicted, that is said instead
    worst = int(seer.score.r.argmin())
    assert profiled(seer, worst).withheld == withheld_text(seer.score.r[worst], seer.score.q[worst], seer.score.n_test)


def test_nothing_can_be_inserted_by_name_and_a_removal_needs_no_words(seer, voxel, monkeypatch):
    assert insertable_words(seer, voxel) == []
    with pytest.raises(EditError, match="seer has no words.*Nothing can be inserted by name"):
        run_trial(seer, EditRequest("insert", voxel, 3, word="dog"))
    monkeypatch.setattr(trials, "N_ELSEWHERE", 2)
    monkeypatch.setattr(trials, "N_CONTENT", 2)
    region = np.zeros((96, 96), bool)
    region[20:50, 30:60] = True
    trial = run_trial(seer, EditRequest("remove", voxel, 3, region=np.packbits(region).tobytes()))
    assert trial.edit.verified is None and trial.edit.changed_outside_mask == 0
    pooled = seer.backbone.get().embed(np.stack([trial.edit.original, trial.edit.edited])).pooled
    by_hand = np.diff(seer.model.predict(pooled.astype(np.float64)), axis=0)[0] / seer.model.prediction_sd
    np.testing.assert_allclose(trial.shift.shift, by_hand, atol=2e-4)


def test_no_map_of_words_is_offered(seer, reader):
    assert "group" not in maps.offered(seer, -1) and "accuracy" in maps.offered(seer, -1)
    assert "group" in maps.offered(reader, -1)


def test_a_photograph_is_embedded_without_a_caption(seer):
    from io import BytesIO

    from PIL import Image

    stream = BytesIO()
    Image.fromarray(np.asarray(seer.subject.stimuli.images[5])).save(stream, "PNG")
    found = open_photograph(seer, stream.getvalue())
    assert found.caption == ""
    np.testing.assert_allclose(found.pooled, seer.features.pooled[5], atol=1e-4)


@pytest.fixture
def opened(seer: Instrument, store: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import streamlit as st

    monkeypatch.setenv("MINE_CACHE", str(store.root))
    st.cache_resource.clear()
    st.cache_data.clear()

    def open_page(page: str, **query: str) -> AppTest:
        app = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=120)
        for name, value in {"subject": "small", "backbone": "seer", **query}.items():
            app.query_params[name] = value
        app.run()
        return app if page == "explore" else app.switch_page(f"pages/{page}.py").run()

    yield open_page
    st.cache_resource.clear()
    st.cache_data.clear()


def said(app: AppTest) -> str:
    assert not app.exception and not app.error
    return "\n".join(element.value for element in [*app.markdown, *app.caption, *app.info, *app.warning])


def test_explore_says_that_the_backbone_has_no_words(opened, voxel):
    text = said(opened("explore", voxel=str(voxel)))
    assert "Withheld: seer has no words" in text
    assert "counted from the average image. seer has no words" in text


def test_a_link_to_the_map_of_words_shows_another_map(opened, voxel):
    app = opened("explore", map="group")
    assert "group" not in said(app) and "Preferred group" not in app.selectbox(key="explore_map").options


def test_counterfactual_offers_nothing_to_insert_with_a_sentence(opened, voxel):
    app = opened("counterfactual", voxel=str(voxel), image="3", edit="insert")
    assert "seer has no words" in said(app) and "Nothing can be inserted by name" in said(app)
    assert not [box for box in app.selectbox if box.label == "Insert"]


def test_a_model_of_image_tokens_with_words_goes_all_the_way(reader):
    """The general vocabulary is read bare, by the model's own head."""
    words, backbone = reader.vocabulary, reader.backbone.get()
    assert reader.features.backbone.has_words and 3000 <= len(words) <= 4000
    place = words.words.index("dog")
    np.testing.assert_allclose(words.embedded()[place], backbone.encode_words(["dog"])[0], atol=1e-6)
    assert words.phrases[place][0] == "a photo of a dog"
    assert reader.words.candidates.shape == (len(reader.score.r), 10)
    found = explain_voxel(reader, 5, n=3)
    assert all(set(item.words) <= set(words.words) for item in found)
    assert all(item.values.sum() == pytest.approx(item.predicted, abs=0.02) for item in found)
    assert len(reader.captions) == len(reader.subject.stimuli)


def test_features_of_one_backbone_are_refused_for_another(seer, reader):
    from mine_core.attribution.decomposition import attribute_images

    with pytest.raises(BackboneError, match="'reader'.*'seer'"):
        attribute_images(seer.model, reader.features, np.array([0]), 0, reader.mean_patches)
