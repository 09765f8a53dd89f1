"""Explore and Regions: own words come and go by the worker, a language model is asked only when told, captions say who wrote them."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_pages import ended, instrument, opened, texts  # noqa: F401

from mine_core.description.own_words import OWN
from mine_core.errors import ConfigError
from mine_core.instrument import Instrument
from mine_core.jobs import Worker
from mine_core.ui import own_words, patches, resources, words

PAGE = "pages/explore.py"


@pytest.fixture
def voxel(instrument: Instrument) -> str:  # noqa: F811
    return str(int(instrument.score.r.argmax()))


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Own words that are kept nowhere but here, and a worker of this test's own."""
    state: dict[str, Any] = {"words": (), "asked": []}
    worker = Worker()

    def add(_stock: Any, _store: Any, content: bytes | str, **_: Any) -> tuple[str, ...]:
        state["asked"].append(content)
        if content == "refused":
            raise ConfigError("1 of 1 words are among the 85 there already (first: 'refused'); leave them out.")
        state["words"] = (*state["words"], *str(content).split("\n"))
        return state["words"]

    def remove(_stock: Any, _store: Any, gone: tuple[str, ...], **_: Any) -> tuple[str, ...]:
        state["words"] = tuple(word for word in state["words"] if word not in gone)
        return state["words"]

    monkeypatch.setattr(resources, "worker", lambda: worker)
    monkeypatch.setattr(own_words, "kept_words", lambda *_: state["words"])
    monkeypatch.setattr(own_words, "add_words", add)
    monkeypatch.setattr(own_words, "remove_words", remove)
    return state


def sent(app: Any, button: str) -> tuple[Any, list[str]]:
    """Press a button and wait for its job; what is said at the end is said once, in this run or the next."""
    app = app.button(button).click().run()
    said = [element.value for element in (*app.success, *app.error)]
    for job in resources.worker().jobs():
        ended(job)
    app = app.run()
    return app, said + [element.value for element in (*app.success, *app.error)]


def test_own_words_are_added_listed_and_taken_away(voxel: str, kept: dict[str, Any]) -> None:
    app = opened(PAGE, voxel=voxel)
    app.text_area("own_words_text").set_value("red house\ngreen tree")
    app, said = sent(app, "own_words_add")
    assert not app.exception and kept["asked"] == ["red house\ngreen tree"]
    assert any("Your words are scored" in line for line in said)
    assert "Kept: red house, green tree" in texts(app)
    app.multiselect("own_words_kept").set_value(["red house"]).run()
    app, _ = sent(app, "own_words_remove")
    assert not app.exception and kept["words"] == ("green tree",)


def test_a_refused_word_is_refused_in_one_line_and_nothing_is_kept(voxel: str, kept: dict[str, Any]) -> None:
    app = opened(PAGE, voxel=voxel)
    app.text_area("own_words_text").set_value("refused")
    app, said = sent(app, "own_words_add")
    assert not app.exception and kept["words"] == ()
    assert said == ["1 of 1 words are among the 85 there already (first: 'refused'); leave them out."]


def test_own_words_are_marked_wherever_they_are_told(instrument: Instrument) -> None:  # noqa: F811
    seen = replace(instrument, own_words=("red house",))
    assert words.labelled(seen, "red house") == f"red house {OWN}" and words.labelled(seen, "dog") == "dog"


@pytest.fixture
def model() -> Iterator[tuple[str, list[str]]]:
    """An endpoint that answers, and what it was sent."""
    sent: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][1]["content"])
            said = {"primary_content": "Written things.", "scene_context": "any", "confidence_note": "fair"}
            said |= {"visual_attributes": ["flat"], "semantic_categories": ["text"]}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": json.dumps(said)}}]}).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", sent
    server.shutdown()
    server.server_close()


def test_a_language_model_is_asked_only_when_told_and_its_text_is_labelled(
    voxel: str, model: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("mine_core.instrument.written", "mine_core.ui.writer"):
        monkeypatch.setattr(f"{module}.answers_folder", lambda _: tmp_path / "written")
    address, sent = model
    app = opened(PAGE, voxel=voxel)
    app.text_input("writer_address").set_value(address)
    app.text_input("writer_model").set_value("tiny").run()
    app.number_input("writer_price_out").set_value(8.0).run()
    assert not app.exception and not sent
    assert "1 calls, about" in texts(app) and "at 0 and 8 a million tokens" in texts(app)
    [shown] = app.code
    app.button("writer_one").click().run()
    assert not app.exception and sent == [shown.value]  # what was shown is what was sent
    assert f"Voxel {voxel}, written by tiny from the table of words alone" in texts(app)
    app.run()
    assert len(sent) == 1  # kept, not asked for again
    app.text_input("writer_address").set_value("ftp://x").run()
    assert not app.exception and any("http(s)" in element.value for element in app.error)


def test_captions_say_who_wrote_them(voxel: str, instrument: Instrument) -> None:  # noqa: F811
    image = int((instrument.features.pooled @ instrument.model.coef[:, int(voxel)]).argmax())
    app = opened(PAGE, voxel=voxel, image=str(image))
    assert "Captions are the dataset's own (phantom scene captions)." in texts(app)
    app.toggle("captions_part").set_value(True).run()
    assert not app.exception
    [table] = [element.value for element in app.dataframe if "written by" in element.value]
    assert set(table["of"]) == {"whole image", "the part"}
    assert {"the dataset", "phantom, greedy", "phantom, beam"} == set(table["written by"])
    assert (table["caption"].str.len() > 0).all()


def test_counter_exemplars_are_shown_where_the_voxel_earned_words(voxel: str, instrument: Instrument) -> None:  # noqa: F811
    app = opened(PAGE, voxel=voxel)
    app.button_group("explore_order").set_value("lookalikes").run()
    assert not app.exception and "Counter-exemplars: of the tenth" in texts(app)
    withheld = opened(PAGE, voxel=str(int(instrument.score.r.argmin())))
    withheld.button_group("explore_order").set_value("lookalikes").run()
    assert not withheld.exception and "Nothing is said of this voxel" in texts(withheld)


def test_a_region_and_its_voxels_can_be_taken_away(instrument: Instrument) -> None:  # noqa: F811
    app = opened("pages/regions.py", region="FFA")
    assert not app.exception and "What each voxel has of its own" in texts(app)
    assert len(app.get("download_button")) == 2
    [table] = [element.value for element in app.dataframe if "more than the rest" in element.value]
    members = instrument.subject.responses.voxels.in_region("FFA")
    assert set(table["voxel"]) == set(members[instrument.reliable[members]].tolist())
    assert np.isin(table["part"], range(1, 7)).all()


def test_a_clicked_patch_shows_its_words(voxel: str, instrument: Instrument, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    image, size = 7, instrument.subject.stimuli.images.shape[1]
    rows, cols = instrument.features.backbone.grid
    row, col = rows - 2, 1
    at = (int((row + 0.5) * size / rows), int((col + 0.5) * size / cols))
    monkeypatch.setattr(patches, "placer", lambda *_, **__: at)
    app = opened(PAGE, voxel=voxel, image=str(image))
    assert not app.exception and f"Patch in row {row + 1} of {rows}, column {col + 1} of {cols}" in texts(app)
    [table] = [element.value for element in app.dataframe if element.value.columns.tolist() == ["Rank", "Word", "Score"]]
    beyond = np.asarray(instrument.features.patches[image], np.float64)[row * cols + col] - instrument.mean_patches[row * cols + col]
    score = np.asarray(instrument.vocabulary.embedded(), np.float64) @ beyond / instrument.vocabulary.calibrated()
    best = np.argsort(-score)[: len(table)]
    np.testing.assert_allclose(table["Score"], score[best], atol=0.011)
    assert table["Word"].iloc[0] == instrument.vocabulary.words[best[0]]
    driving = next(element.value for element in app.dataframe if element.value.columns.tolist() == ["Rank", "Word", "Score", "Count"])
    assert driving["Score"].is_monotonic_decreasing and driving["Count"].max() > 0


def test_a_search_says_which_words_are_the_users(instrument: Instrument, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    first, second = instrument.vocabulary.words[:2]
    monkeypatch.setattr(resources, "instrument", lambda _: replace(instrument, own_words=(second,)))
    assert f"Words of your own: {second}." in texts(opened("pages/search.py", find=f"{first}, {second}"))
    assert "Words of your own" not in texts(opened("pages/search.py", find=first))
