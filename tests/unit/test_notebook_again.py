"""Findings: their numbers are the core's, they come out the same when made again, and nothing that was typed becomes code."""

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from markdown_it import MarkdownIt

from mine_core.artifacts import ArtifactStore
from mine_core.cli import REFUSED, main
from mine_core.config import PROJECT
from mine_core.errors import Cancelled, NotebookError, SubjectError
from mine_core.instrument.explain import explain_images
from mine_core.instrument.trials import EditRequest, Trial, run_trial
from mine_core.notebook import Finding, Notebook, Number, Pin
from mine_core.notebook.again import (
    edit_settings,
    image_now,
    make_again,
    mask_of,
    open_for,
    opener,
    provenance_of,
    request_from,
    request_to,
    settings_of,
    voxel_now,
)
from mine_core.notebook.findings import accuracy, find_edit, fisher_interval
from mine_core.notebook.maps import AskedMap, map_now
from mine_core.notebook.pictures import edit_picture, image_picture, voxel_picture
from mine_core.notebook.records import differing
from mine_core.notebook.report import as_html, as_markdown, make_entries
from mine_core.notebook.script import write_script

HOSTILE = '<script>alert(1)</script> <img src=x onerror=alert(2)> [a](javascript:alert(3)) ![b](http://x.y/z.png)\n# """ \\ | `x` & {n}'
LOOKED_FOR = "a red ball, face"
IMAGE, VOXEL, WITHHELD = 3, 0, 31


@pytest.fixture(scope="module")
def request_made() -> EditRequest:
    region = np.zeros((96, 96), bool)
    region[20:50, 30:70] = True
    return EditRequest("remove", VOXEL, IMAGE, region=np.packbits(region).tobytes())


@pytest.fixture(scope="module")
def trial(small, request_made) -> Trial:
    return run_trial(small.instrument, request_made)


@pytest.fixture
def book(tmp_path, small, trial, request_made) -> Notebook:
    """A notebook with a pin of each kind, typed over with what might become code."""
    mine, store, kept = small.instrument, small.store, Notebook(tmp_path / "kept")
    view = {"subject": "small", "seed": "0", "backbone": "phantom", "voxel": str(VOXEL), "image": str(IMAGE)}
    found = [
        ("voxel", voxel_now(mine, store, VOXEL, "traced"), settings_of(mine, method="traced")),
        ("image", image_now(mine, store, VOXEL, IMAGE, "traced"), settings_of(mine, method="traced")),
        ("map", map_now(mine, store, AskedMap("accuracy"), VOXEL), settings_of(mine, map="accuracy")),
        ("map", map_now(mine, store, AskedMap("search", find=LOOKED_FOR), -1), settings_of(mine, map="search", find=LOOKED_FOR)),
        ("edit", find_edit(mine, request_made, trial), edit_settings(mine, request_made, trial, None)),
    ]
    for kind, each, settings in found:
        kept.add(
            Finding(
                kind=kind,
                view=view,
                title=each.title if kind == "map" else HOSTILE,
                numbers=each.numbers,
                settings=settings,
                provenance=provenance_of(mine, store),
                withheld=each.withheld,
                note=HOSTILE,
                tags=("<b>bold</b>", "check"),
            )
        )
    return kept


def named(numbers: tuple[Number, ...]) -> dict[str, Number]:
    return {number.name: number for number in numbers}


def test_numbers_of_a_voxel_are_those_of_the_core(small):
    mine = small.instrument
    numbers = named(voxel_now(mine, small.store, VOXEL, "decomposition").numbers)
    test = mine.subject.splits.test
    predicted = mine.features.pooled[test] @ mine.model.coef[:, VOXEL]
    r = np.corrcoef(predicted, mine.subject.responses.values[test, VOXEL])[0, 1]
    assert numbers["accuracy"].value == pytest.approx(r, abs=1e-4)
    low, high = (float(part) for part in re.search(r"95 % (\S+) to (\S+),", numbers["accuracy"].uncertainty).groups())
    assert low < r < high
    assert numbers["FDR q"].value == float(mine.score.q[VOXEL])
    assert numbers["noise ceiling"].value == float(mine.score.noise_ceiling[VOXEL])


def test_the_interval_of_accuracy_holds_the_bootstrap_of_numpy(small):
    """Percentiles of resampled correlations, drawn otherwise, lie about where the basic interval mirrors them to."""
    mine, test, rng = small.instrument, small.instrument.subject.splits.test, np.random.default_rng(1)
    predicted, measured = mine.features.pooled[test] @ mine.model.coef[:, VOXEL], mine.subject.responses.values[test, VOXEL]
    drawn = [rng.integers(0, len(test), len(test)) for _ in range(3000)]
    spread = np.quantile([np.corrcoef(predicted[rows], measured[rows])[0, 1] for rows in drawn], (0.025, 0.975))
    low, high = (float(part) for part in re.search(r"95 % (\S+) to (\S+),", accuracy(mine, VOXEL).uncertainty).groups())
    assert high - low == pytest.approx(spread[1] - spread[0], rel=0.25)


def test_the_interval_of_a_correlation_covers_the_truth(rng):
    hits = 0
    for _ in range(400):
        a = rng.normal(size=60)
        b = 0.5 * a + np.sqrt(0.75) * rng.normal(size=60)
        low, high = fisher_interval(float(np.corrcoef(a, b)[0, 1]), 60)
        hits += low <= 0.5 <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_of_a_voxel_without_signal_no_word_is_pinned_and_the_reason_is(small):
    found = voxel_now(small.instrument, small.store, WITHHELD, "decomposition")
    assert found.withheld.startswith("Withheld") and "withheld" in found.title
    assert not [name for name in named(found.numbers) if "word" in name or name == "wants"]


def test_numbers_of_an_edit_add_up_and_rank_as_its_controls_do(small, trial, request_made):
    numbers, shift = named(find_edit(small.instrument, request_made, trial).numbers), trial.shift
    value, controls = float(shift.shift[VOXEL]), shift.controls[:, VOXEL]
    assert numbers["prediction after"].value - numbers["prediction before"].value == pytest.approx(value, abs=1e-5)
    rank = 1 + int((controls <= value).sum())
    assert numbers["rank among itself and controls"].value == rank
    assert numbers["p, one-sided"].value == pytest.approx(rank / (1 + len(controls)))
    kinds = [number for name, number in numbers.items() if name.startswith("control, ")]
    assert sum(int(number.uncertainty.rsplit("= ", 1)[1]) for number in kinds) == len(controls)
    assert numbers["pixels changed outside the region"].value == 0


def test_every_kind_of_pin_is_made_again_to_the_same_numbers_and_the_same_figure(small, book):
    for pin in book.pins():
        opened = open_for(pin, small.store)
        first, second = make_again(pin, opened, small.store), make_again(pin, opened, small.store)
        assert [each.value for each in first.numbers] == [each.value for each in pin.numbers]
        assert first.draw() == second.draw() and first.draw().startswith(b"\x89PNG")


def test_numbers_that_no_longer_hold_are_told(small, book):
    pin = book.pins(kinds=("voxel",))[0]
    other = replace(small.instrument, score=replace(small.instrument.score, r=small.instrument.score.r * 0.9))
    changed = differing(pin.numbers, make_again(pin, other, small.store).numbers)
    assert {old.name for old, _ in changed if old} == {"accuracy"}
    assert changed[0][1].value == pytest.approx(0.9 * changed[0][0].value)


def test_a_request_survives_being_kept(request_made):
    for request in (request_made, EditRequest("insert", 4, 7, word="a red ball", place=(3, 9), seed=2, editor="phantom")):
        assert request_from(json.loads(json.dumps(request_to(request)))) == request


@pytest.mark.parametrize("broken", [{}, {"kind": "paint"}, {"region": "%%%"}, {"voxel": "none"}, {"place": [1]}])
def test_a_request_that_cannot_be_read_is_refused_in_one_line(request_made, broken):
    values = {**request_to(request_made), **broken} if broken else {}
    with pytest.raises(NotebookError, match="pin the edit anew") as refused:
        request_from(values)
    assert "\n" not in str(refused.value)


def test_the_region_of_a_pinned_edit_is_that_of_the_edit(book, trial):
    pin = book.pins(kinds=("edit",))[0]
    assert np.array_equal(mask_of(pin, 96, 96), trial.edit.edit_mask)
    with pytest.raises(NotebookError, match="region"):
        mask_of(pin, 50, 50)


def test_what_is_not_in_the_cache_is_said_and_not_built(small, book, tmp_path):
    pin, empty, before = book.pins()[0], ArtifactStore(tmp_path / "empty"), list(small.store.made)
    with pytest.raises(SubjectError, match="'small' is not here"):
        open_for(pin, empty)
    phantom = replace(pin, view={**pin.view, "subject": "phantom", "seed": "89"})
    with pytest.raises(NotebookError, match="not in this cache"):
        open_for(phantom, small.store)
    [entry] = make_entries([phantom], small.store, opener(small.store))
    assert entry.figure is None and "not in this cache" in entry.problem and "not in this cache" in as_html([entry])
    assert small.store.made == before


class Seen(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_what_was_typed_stays_text_in_html(small, book):
    pins = book.pins()
    page = as_html(make_entries(pins, small.store, opener(small.store)))
    seen = Seen()
    seen.feed(page)
    assert "script" not in seen.tags and "a" not in seen.tags and "b" in seen.tags
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert seen.text.count(HOSTILE) == len(pins), "notes are not what was typed"
    assert "<b>bold</b>" in seen.text
    sources = [value for name, value in seen.attributes if name == "src"]
    assert len(sources) == len(pins) and all(value.startswith("data:image/png;base64,") for value in sources)
    assert {name for name, _ in seen.attributes} <= {"lang", "charset", "http-equiv", "content", "name", "class", "alt", "src"}
    assert "Predicted by a model, not recorded" in seen.text and "All" in seen.text and "torch" in seen.text


def test_what_was_typed_stays_text_in_markdown(small, book):
    entries = make_entries(book.pins(), small.store, opener(small.store))
    text = as_markdown(entries)
    seen = Seen()
    seen.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    assert not {"script", "a", "em", "code"} & set(seen.tags) and seen.tags.count("h2") == len(entries) == seen.tags.count("table")
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    sources = [value for name, value in seen.attributes if name == "src"]
    assert len(sources) == len(entries) and all(value.startswith("data:image/png;base64,") for value in sources)
    typed = " ".join(HOSTILE.split())
    assert " ".join(seen.text.split()).count(typed) == 8, "titles and notes are not what was typed"
    assert "://" not in re.sub(r"^\[pin-\d+\]: data:\S+$", "", text, flags=re.MULTILINE), "an address that some readers make a link"
    assert "Predicted by a model, not recorded." in seen.text
    # figures come last, so that the text can be read as it is
    assert text.index("[pin-5]: data:") > max(text.index(f"## Pin {pin.id}") for pin in book.pins())


def test_a_report_can_be_stopped(small, book):
    with pytest.raises(Cancelled):
        make_entries(book.pins(), small.store, opener(small.store), cancelled=lambda: True)


def test_images_that_must_not_leave_are_in_no_figure(small, trial):
    """Of a dataset whose terms forbid copies, figures are the same whatever the images show."""
    mine = small.instrument
    noise = np.random.default_rng(3).integers(0, 255, np.shape(mine.subject.stimuli.images), np.uint8)

    def figures(kind: str, images: np.ndarray) -> list[bytes]:
        seen = replace(mine, subject=replace(mine.subject, kind=kind, stimuli=replace(mine.subject.stimuli, images=images)))
        item = explain_images(seen, VOXEL, np.array([IMAGE]))[0]
        edit = replace(trial.edit, original=images[0], edited=images[1])
        shown = map_shown(seen)
        return [
            image_picture(seen, VOXEL, item),
            edit_picture(seen, VOXEL, replace(trial, edit=edit)),
            voxel_picture(seen, shown, VOXEL, (item,)),
        ]

    real = np.asarray(mine.subject.stimuli.images)
    for kind in ("nsd", "algonauts"):
        assert figures(kind, real) == figures(kind, noise)
    assert all(a != b for a, b in zip(figures("custom", real), figures("custom", noise), strict=True))


def map_shown(instrument):
    from mine_core.exports.maps import cortex_map

    return cortex_map(instrument, "accuracy", -1)


def run_script(text: str, folder, cache) -> tuple[int, dict, str]:
    script = folder / "made.py"
    script.write_text(text)
    environment = os.environ | {"MINE_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(folder / "figures")],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stderr == "" or "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads((folder / "figures" / "numbers.json").read_text()), done.stdout


def test_the_script_makes_every_figure_and_exactly_the_pinned_numbers(small, book, tmp_path):
    pins = book.pins()
    text = write_script(pins)
    calls = {node.func.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert {"run_trial", "explain_images", "map_now", "AskedMap", "full_profile"} <= calls and "alert" not in calls
    status, made, said = run_script(text, tmp_path, small.store.root)
    assert status == 0
    for pin in pins:
        assert made[str(pin.id)] == {number.name: number.value for number in pin.numbers}
        picture = (tmp_path / "figures" / f"pin-{pin.id:03d}-{pin.kind}.png").read_bytes()
        assert picture == make_again(pin, small.instrument, small.store).draw()
        assert f"pin {pin.id}: {len(pin.numbers)} of {len(pin.numbers)} numbers as pinned" in said


def test_texts_that_were_looked_for_stay_texts_in_the_script(book):
    pin = next(pin for pin in book.pins() if pin.settings.get("map") == "search")
    hostile = "'); alert(4) #\n" + HOSTILE
    tree = ast.parse(write_script([replace(pin, settings={**pin.settings, "find": hostile, "minus": hostile})]))
    asked = next(node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "AskedMap")
    given = {each.arg: ast.literal_eval(each.value) for each in asked.keywords}
    assert given == {"name": "search", "image": -1, "find": hostile, "minus": hostile}
    assert not any(getattr(getattr(node, "func", None), "id", "") == "alert" for node in ast.walk(tree))


def test_the_script_says_which_number_differs_and_ends_with_1(small, book, tmp_path):
    pin = book.pins(kinds=("map",))[0]
    wrong: Pin = replace(pin, numbers=(replace(pin.numbers[0], value=-1), *pin.numbers[1:]))
    status, _, said = run_script(write_script([wrong]), tmp_path, small.store.root)
    assert status == 1
    assert f"{pin.numbers[0].name}: -1 pinned, {pin.numbers[0].value} now" in said


def test_the_command_line_lists_searches_and_writes(small, book, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINE_NOTEBOOK", str(book.path.parent))
    monkeypatch.setenv("MINE_CACHE", str(small.store.root))
    assert main(["notebook", "list", "--json", str(tmp_path / "list.json")]) == 0
    assert json.loads((tmp_path / "list.json").read_text())["n_pins"] == 5
    assert main(["notebook", "search", "alert", "--kind", "map", "--json", str(tmp_path / "found.json")]) == 0
    assert json.loads((tmp_path / "found.json").read_text())["n_pins"] == 2
    for suffix, begins in ((".html", "<!doctype html>"), (".md", "# MINE notebook")):
        assert main(["notebook", "report", "--kind", "map", "--out", str(tmp_path / f"r{suffix}")]) == 0
        assert (tmp_path / f"r{suffix}").read_text().startswith(begins)
    assert main(["notebook", "script", "--tag", "check", "--out", str(tmp_path / "s.py")]) == 0
    assert (tmp_path / "s.py").read_text() == write_script(book.pins(tags=("check",)))
    assert main(["notebook", "list", "--subject", "phantom 0", "--json", str(tmp_path / "none.json")]) == 0
    assert json.loads((tmp_path / "none.json").read_text()) == {"n_pins": 0}
    capsys.readouterr()
    refused = (
        ["report", "--out", "r.pdf"],
        ["script", "--out", "s.txt"],
        ["list", "--pins", "99"],
        ["report", "--out", "/nowhere/r.md"],
    )
    for arguments in refused:
        assert main(["notebook", *arguments]) == REFUSED
        assert capsys.readouterr().err.count("\n") == 1
