"""The Notebook page and the forms that pin, in every state a user can bring them into."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from mine_core.artifacts import ArtifactStore
from mine_core.config import PROJECT, InstrumentConfig, cache_directory, notebook_directory
from mine_core.description.search import parse_query
from mine_core.instrument import Instrument, build_instrument
from mine_core.instrument.search import search_text
from mine_core.instrument.trials import EditRequest, run_trial
from mine_core.notebook import Finding, Notebook, Number, Pin
from mine_core.notebook.again import edit_settings, provenance_of, settings_of, voxel_now
from mine_core.notebook.findings import find_edit
from mine_core.notebook.maps import AskedMap, map_now
from mine_core.notebook.script import write_script
from mine_core.ui import counterfactual, notebook_export, resources

EXPLORE, COUNTERFACTUAL, NOTEBOOK = "pages/explore.py", "pages/counterfactual.py", "pages/notebook.py"
TYPED = "<script>alert(1)</script> **bold** ![x](http://x.y/z.png)"


@pytest.fixture(scope="module")
def mine() -> Instrument:
    return build_instrument(InstrumentConfig(), ArtifactStore(cache_directory()))


@pytest.fixture
def book() -> Notebook:
    return Notebook(notebook_directory())


def opened(page: str, **query: str) -> AppTest:
    app = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=240)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    return app if page == EXPLORE else app.switch_page(page).run()


def shown(app: AppTest) -> str:
    elements = [*app.markdown, *app.caption, *app.info, *app.warning, *app.error, *app.success, *app.subheader]
    return "\n".join([*(element.value for element in elements), *(element.proto.body for element in app.get("html"))])


def view(**more: int | str) -> dict[str, str]:
    return {"subject": "phantom", "seed": "0", "backbone": "phantom", "map": "normalised"} | {a: str(b) for a, b in more.items()}


def best(mine: Instrument) -> int:
    return int(mine.score.r.argmax())


def pin_voxel(book: Notebook, mine: Instrument, voxel: int, **texts) -> Pin:
    store = ArtifactStore(cache_directory())
    found = voxel_now(mine, store, voxel, "decomposition")
    given = {"title": found.title, "note": "", "tags": ()} | texts
    settings, provenance = settings_of(mine, method="decomposition"), provenance_of(mine, store)
    return book.add(
        Finding(
            kind="voxel",
            view=view(voxel=voxel),
            numbers=found.numbers,
            withheld=found.withheld,
            settings=settings,
            provenance=provenance,
            **given,
        )
    )


def pin_edit(book: Notebook, mine: Instrument, request: EditRequest) -> Pin:
    trial, store = run_trial(mine, request), ArtifactStore(cache_directory())
    found, seen = find_edit(mine, request, trial), view(voxel=request.voxel, image=request.stimulus, edit=request.kind)
    settings, provenance = edit_settings(mine, request, trial, None), provenance_of(mine, store)
    made = {"title": found.title, "numbers": found.numbers, "withheld": found.withheld}
    return book.add(Finding(kind="edit", view=seen, settings=settings, provenance=provenance, **made))


def button(app: AppTest, label: str):
    return next(each for each in app.button if each.label == label)


def test_an_empty_notebook_says_how_to_fill_it(mine, book):
    app = opened(NOTEBOOK)
    assert not app.exception and [each.value for each in app.subheader] == ["Nothing is pinned yet"]
    assert "Pin to the notebook" in shown(app) and str(book.path) in shown(app)
    assert not book.path.exists(), "looking made a notebook"


def test_a_voxel_is_pinned_on_explore_with_note_and_tags(mine, book):
    voxel = best(mine)
    app = opened(EXPLORE, voxel=str(voxel))
    app.text_area("explore_pin_note").set_value("answers to signs")
    app.multiselect("explore_pin_tags").set_value(["Signs"])
    button(app, "Pin").click()
    app.run()
    assert not app.exception and "Pinned as number 1" in shown(app)
    [pin] = book.pins()
    assert (pin.kind, pin.voxel, pin.note, pin.tags) == ("voxel", voxel, "answers to signs", ("Signs",))
    assert pin.view == view(voxel=voxel)
    assert {number.name: number.value for number in pin.numbers}["accuracy"] == float(mine.score.r[voxel])


@pytest.mark.parametrize(("choice", "kind"), [("Image 3 for this voxel", "image"), ("The map: Normalised accuracy", "map")])
def test_an_image_and_a_map_are_pinned_on_explore(mine, book, choice, kind):
    app = opened(EXPLORE, voxel=str(best(mine)), image="3")
    app.radio("explore_pin_what").set_value(choice)
    button(app, "Pin").click()
    app.run()
    assert not app.exception and not app.error
    [pin] = book.pins()
    assert (pin.kind, pin.image, pin.voxel) == (kind, 3, best(mine))


def test_the_map_of_a_text_is_pinned_on_search_and_checked_in_the_notebook(mine, book):
    app = opened("pages/search.py", find="face", minus="house")
    button(app, "Pin").click()
    app.run()
    assert not app.exception and not app.error and "Pinned as number 1" in shown(app)
    [pin] = book.pins()
    assert pin.kind == "map" and pin.settings["map"] == "search" and (pin.settings["find"], pin.settings["minus"]) == ("face", "house")
    found, numbers = search_text(mine, parse_query("face", "house")), {number.name: number.value for number in pin.numbers}
    assert numbers["voxels shown"] == int((found.calls & mine.reliable).sum()) > 0
    assert numbers["voxels that shuffled responses reach"] == np.mean(found.shuffled_calls)
    app = opened(NOTEBOOK)
    assert f"all {len(pin.numbers)} numbers are the same now" in shown(app)
    link = next(each for each in app.get("page_link") if each.proto.label == "Open on Search")
    assert "find=face" in link.proto.query_string and "minus=house" in link.proto.query_string


def test_a_withheld_voxel_is_pinned_as_withheld(mine, book):
    voxel = int(mine.score.r.argmin())
    app = opened(EXPLORE, voxel=str(voxel))
    button(app, "Pin").click()
    app.run()
    [pin] = book.pins()
    assert pin.withheld.startswith("Withheld") and not [number for number in pin.numbers if "word" in number.name]
    app = opened(NOTEBOOK)
    assert any(warning.value.startswith("Withheld") for warning in app.warning)


def test_an_edit_is_pinned_and_its_link_brings_exactly_that_edit_back(mine, book, monkeypatch):
    asked = []

    def seen(instrument, request, second):
        asked.append(request)
        return run_trial(instrument, request, second)

    monkeypatch.setattr(counterfactual, "run_trial", seen)
    monkeypatch.setattr(counterfactual, "painting_editors", lambda instrument: ())
    monkeypatch.setattr(counterfactual, "placer", lambda *_, **__: (70, 80))
    query = {"voxel": str(best(mine)), "image": "7", "edit": "insert"}
    app = opened(COUNTERFACTUAL, **query)
    button(app, "Pin").click()
    app.run()
    assert not app.exception and "Pinned as number 1" in shown(app)
    [pin] = book.pins()
    heading = next(each.value for each in app.markdown if each.value.startswith("### Predicted shift"))
    assert f"{pin.numbers[0].value:+.2f}" in heading
    asked.clear()
    counterfactual._trial.clear()
    monkeypatch.setattr(counterfactual, "placer", lambda *_, **__: None)
    app = opened(COUNTERFACTUAL, **pin.view, pin="1")
    assert not app.exception and not app.error
    assert [request.place for request in asked] == [(70, 80)], "the place that was chosen is lost"
    assert heading in [each.value for each in app.markdown]
    button(app, "Ask for another edit").click()
    app.run()
    assert "pin" not in app.query_params and asked[-1].place is None


@pytest.mark.parametrize("query", [{"pin": "99"}, {"pin": "1", "image": "8"}, {"pin": "1", "voxel": "5"}])
def test_a_link_to_a_pin_that_is_not_there_or_of_another_view_is_refused_in_one_line(mine, book, query):
    pin_edit(book, mine, EditRequest("insert", best(mine), 7, word="ball"))
    app = opened(COUNTERFACTUAL, **{"voxel": str(best(mine)), "image": "7", "edit": "insert", **query})
    assert not app.exception and len(app.error) == 1 and "\n" not in app.error[0].value and "pin" in app.error[0].value


def test_cards_are_searched_and_checked_and_what_was_typed_stays_text(mine, book):
    pin_voxel(book, mine, best(mine), note=TYPED, tags=("check",))
    pin_voxel(book, mine, int(mine.score.r.argmin()), title="Another <b>one</b>")
    app = opened(NOTEBOOK)
    assert not app.exception
    assert shown(app).count("numbers are the same now") == 2
    page = shown(app)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; **bold**" in page and "Another &lt;b&gt;one&lt;/b&gt;" in page
    assert "<script>" not in page and "<b>one" not in page
    app.text_input("notebook_find").set_value("aler").run()
    assert "1 pin, newest first" in shown(app) and "Another" not in shown(app)
    app.text_input("notebook_find").set_value('nothing "like this').run()
    assert "No pin has all of this" in shown(app) and not app.exception


def test_numbers_that_differ_now_are_told(mine, book):
    pin = pin_voxel(book, mine, best(mine))
    numbers = (Number("accuracy", 0.125, "Pearson r"), *pin.numbers[1:])
    book.add(Finding(kind="voxel", view=pin.view, title="old", numbers=numbers, settings=pin.settings, provenance={}))
    [told] = [each.value for each in opened(NOTEBOOK).warning if "different now" in each.value]
    assert re.search(r"1 of \d+ numbers", told) and "0\\.125 pinned" in told


def test_an_edit_is_made_again_when_asked(mine, book):
    pin_edit(book, mine, EditRequest("insert", best(mine), 7, word="ball"))
    app = opened(NOTEBOOK)
    assert "same now" not in shown(app)
    app.button("notebook_again_1").click().run()
    assert not app.exception and "numbers are the same now" in shown(app)


def test_a_pin_of_a_subject_that_is_not_here_is_shown_without_picture(mine, book):
    book.add(Finding(kind="map", view={"subject": "gone"}, title="Gone", numbers=(), settings={"map": "accuracy"}, provenance={}))
    unbuilt = {"subject": "phantom", "seed": "89"}
    book.add(Finding(kind="map", view=unbuilt, title="Unbuilt", numbers=(), settings={"map": "accuracy"}, provenance={}))
    app = opened(NOTEBOOK)
    assert not app.exception and not app.error
    assert shown(app).count("No picture: ") == 2 and "is not in this cache" in shown(app).replace("\\", "")


def test_texts_are_edited_and_a_stale_form_overwrites_nothing_unseen(mine, book):
    pin = pin_voxel(book, mine, best(mine), note="before", tags=("kept",))
    app, other = opened(NOTEBOOK), opened(NOTEBOOK)
    for session, words in ((app, "after"), (other, "theirs")):
        session.text_area(f"notebook_edit_{pin.id}_note").set_value(words)
        button(session, "Save").click()
        session.run()
    assert (book.get(pin.id).note, book.get(pin.id).tags) == ("after", ("kept",))
    assert not other.exception and "changed elsewhere" in other.error[0].value
    assert other.text_area(f"notebook_edit_{pin.id}_note").value == "theirs"
    button(other, "Save").click()
    other.run()
    assert not other.error and book.get(pin.id).note == "theirs"


def test_a_deletion_is_undone_taken_back_or_final(mine, book):
    pin = pin_voxel(book, mine, best(mine))
    app = opened(NOTEBOOK)
    app.button(f"notebook_delete_{pin.id}").click().run()
    assert book.pins() == [] and not app.exception
    app.button("notebook_undo").click().run()
    assert [each.id for each in book.pins()] == [pin.id]
    app.button(f"notebook_delete_{pin.id}").click().run()
    app.button(f"notebook_restore_{pin.id}").click().run()
    assert [each.id for each in book.pins()] == [pin.id]
    app.button(f"notebook_delete_{pin.id}").click().run()
    app.button("notebook_purge").click().run()
    assert not app.exception and book.pins() == book.pins(deleted=True) == []
    assert "Nothing is pinned yet" in shown(app)


def test_two_pins_stand_side_by_side_with_what_differs(mine, book):
    first, second = pin_voxel(book, mine, best(mine)), pin_voxel(book, mine, int(mine.score.r.argmin()))
    app = opened(NOTEBOOK)
    for pin in (first, second):
        app.checkbox(f"notebook_choose_{pin.id}").check()
    app.run()
    assert not app.exception and "2 chosen" in shown(app)
    table = app.table[0].value
    row = table[table["number"] == "accuracy"].iloc[0]
    assert row["unit"] == "Pearson r" and row["differs"] == "differs"
    assert row[f"pin {first.id}"] == f"{mine.score.r[best(mine)]:.3f}".replace(".", "\\.")
    alike = table[table["number"] == "region"].iloc[0]
    same = len({number.value for pin in (first, second) for number in pin.numbers if number.name == "region"}) == 1
    assert (alike["differs"] == "") == same


def test_a_report_is_made_off_the_page_and_a_script_at_once(mine, book, monkeypatch):
    pin_voxel(book, mine, best(mine))
    offered = []

    def offer(label, data=None, file_name="", *_, **__):
        # other pages offer files too: Explore runs before this page is switched to
        if file_name.startswith("mine_notebook"):
            offered.append((file_name, data))

    monkeypatch.setattr(notebook_export.st, "download_button", offer)
    app = opened(NOTEBOOK)
    app.radio("notebook_form").set_value("script").run()
    assert offered == [("mine_notebook.py", write_script(book.pins()))]
    app.radio("notebook_form").set_value("html").run()
    app.button("notebook_report").click().run()
    job = next(job for job in resources.worker().jobs() if job.key.startswith("report html"))
    for _ in range(600):
        if not job.active:
            break
        job.stop.wait(0.1)
    app.run()
    assert not app.exception and offered[-1][0] == "mine_notebook.html"
    assert offered[-1][1].startswith("<!doctype html>") and "data:image/png" in offered[-1][1]


@pytest.mark.parametrize("page", [EXPLORE, NOTEBOOK])
def test_a_damaged_notebook_is_said_on_the_page_and_left_alone(mine, book, page):
    book.path.parent.mkdir(parents=True)
    book.path.write_bytes(b"this was a notebook" * 100)
    app = opened(page)
    assert not app.exception and len(app.error) == 1 and "damaged" in app.error[0].value
    assert book.path.read_bytes() == b"this was a notebook" * 100


def test_the_exported_script_recreates_the_phantoms_numbers_exactly(mine, book, tmp_path):
    """The script runs in a process of its own on the same cache."""
    store = ArtifactStore(cache_directory())
    pins = [pin_voxel(book, mine, best(mine)), pin_edit(book, mine, EditRequest("insert", best(mine), 7, word="ball"))]
    for settings in ({"map": "group"}, {"map": "search", "find": "face", "minus": "house"}):
        found = map_now(mine, store, AskedMap(settings["map"], find=settings.get("find", ""), minus=settings.get("minus", "")), -1)
        given = {"title": found.title, "numbers": found.numbers, "provenance": provenance_of(mine, store)}
        pins.append(book.add(Finding(kind="map", view=view(), settings=settings_of(mine, **settings), **given)))
    script = tmp_path / "again.py"
    script.write_text(write_script(pins))
    environment = os.environ | {"MINE_CACHE": str(cache_directory().resolve()), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(script), str(tmp_path / "figures")]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    made = json.loads(Path(tmp_path / "figures" / "numbers.json").read_text())
    assert made == {str(pin.id): {number.name: number.value for number in pin.numbers} for pin in pins}
    assert sorted(path.name for path in (tmp_path / "figures").glob("*.png")) == sorted(f"pin-{p.id:03d}-{p.kind}.png" for p in pins)
