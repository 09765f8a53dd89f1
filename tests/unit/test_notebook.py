"""The notebook on disk: what goes in comes out, any text can be looked for, many write at once, damage is left alone."""

import sqlite3
import subprocess
import sys
import threading

import pytest

from mine_core.config import PROJECT
from mine_core.errors import NotebookError
from mine_core.notebook import Finding, Notebook, Number
from mine_core.notebook.records import MOST_NOTE, MOST_TAG, MOST_TAGS, MOST_TITLE, compared, differing
from mine_core.notebook.store import FILE, VERSION, has_full_text

NUMBERS = (
    Number("accuracy", 0.1 + 0.2, "Pearson r", "95 % 0.2 to 0.4", "0; q = 0.01"),
    Number("noise ceiling", None, "share of variance"),
    Number("wants", "face, smile"),
    Number("rank", 3, "of 27"),
)
HOSTILE = (
    '"',
    "'",
    "a OR b",
    "NEAR(",
    "face*",
    "-face",
    "title:",
    "(",
    "%",
    "_",
    "\\",
    "; DROP TABLE pins; --",
    "^qz",
    "{}",
    "\x00",
    "é",
    "名",
)


def finding(**changes) -> Finding:
    given = {
        "kind": "voxel",
        "view": {"subject": "phantom", "seed": "2", "backbone": "phantom", "voxel": "17"},
        "title": "Voxel 17",
        "numbers": NUMBERS,
        "settings": {"own_words": ["lighthouse"]},
        "provenance": {"artifacts": {"encoding": "abc"}},
    }
    return Finding(**{**given, **changes})


@pytest.fixture(params=[True, False], ids=["full text", "no full text"])
def book(request, tmp_path) -> Notebook:
    if request.param and not has_full_text():
        pytest.skip("this SQLite has no FTS5")
    return Notebook(tmp_path / "kept", full_text=request.param)


def test_a_pin_comes_back_as_it_was_put_in(book):
    pin = book.add(finding(note="two\nlines", tags=("FFA", "check"), withheld="Withheld: why."))
    again = Notebook(book.path.parent).get(pin.id)
    assert again == pin
    assert again.numbers == NUMBERS and again.numbers[0].value == 0.1 + 0.2
    assert (again.note, again.tags, again.withheld, again.voxel, again.subject) == (
        "two\nlines",
        ("FFA", "check"),
        "Withheld: why.",
        17,
        "phantom 2",
    )


def test_the_file_is_in_wal_mode_and_versioned(book):
    book.add(finding())
    with sqlite3.connect(book.path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)


def test_a_notebook_that_is_not_there_is_empty_and_looking_makes_none(book):
    assert (book.pins(), book.tags(), book.subjects()) == ([], {}, {})
    assert not book.path.parent.exists()


def test_search_finds_beginnings_parts_of_words_notes_tags_and_what_voxels_want(book):
    face = book.add(finding(note="answers to unmasked people", tags=("Fusiform",)))
    place = book.add(finding(title="A house", numbers=(Number("wants", "building"),), view={"subject": "mine", "voxel": "4"}))
    found = {
        text: [pin.id for pin in book.pins(text)] for text in ("FAC", "smile people", "mask", "fusi", "build", "mine", "nothing", "")
    }
    assert found == {
        "FAC": [face.id],
        "smile people": [face.id],
        "mask": [face.id],
        "fusi": [face.id],
        "build": [place.id],
        "mine": [place.id],
        "nothing": [],
        "": [place.id, face.id],
    }


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_breaks_the_search_or_finds_what_does_not_hold_it(book, text):
    book.add(finding(title="plain", numbers=()))
    odd = book.add(finding(title=f"odd {text.replace(chr(0), 'NUL')} end", numbers=()))
    found = [pin.id for pin in book.pins(text)]
    assert odd.id in found or text in ("\x00", "NEAR(", "a OR b")
    if any(letter.isalnum() for letter in text.replace("title:", "")) or text in ("%", "\\", '"'):
        assert len(found) < 2, f"{text!r} found what does not hold it"
    assert len(book.pins()) == 2


def test_tags_kinds_and_subjects_narrow_the_list(book):
    first = book.add(finding(tags=("FFA", "face")))
    second = book.add(finding(kind="map", tags=("ffa",), view={"subject": "mine"}))
    assert [pin.id for pin in book.pins(tags=("fFa",))] == [second.id, first.id]
    assert [pin.id for pin in book.pins(tags=("FFA", "face"))] == [first.id]
    assert [pin.id for pin in book.pins(kinds=("map", "edit"))] == [second.id]
    assert [pin.id for pin in book.pins("ffa", subjects=("phantom 2",))] == [first.id]
    assert list(book.tags().values()) == [2, 1] and book.subjects() == {"mine": 1, "phantom 2": 1}


def test_an_edit_changes_texts_and_not_numbers_and_is_found_by_the_new_ones(book):
    pin = book.add(finding(note="before", tags=("old",)))
    new = book.edit(pin, title="Named", note="afterwards", tags=("new",))
    assert (new.title, new.note, new.tags, new.version) == ("Named", "afterwards", ("new",), 2)
    assert new.numbers == pin.numbers and new.created == pin.created
    assert [found.id for found in book.pins("afterw")] == [pin.id] and book.pins("before") == [] and list(book.tags()) == ["new"]


def test_what_was_changed_elsewhere_is_not_overwritten(book):
    pin = book.add(finding())
    book.edit(pin, title="Mine", note="", tags=())
    with pytest.raises(NotebookError, match="changed elsewhere"):
        book.edit(pin, title="Theirs", note="", tags=())
    assert book.get(pin.id).title == "Mine"


def test_a_deleted_pin_comes_back_until_it_is_purged(book):
    kept, pin = book.add(finding()), book.add(finding(tags=("gone",)))
    book.delete(pin.id)
    assert [found.id for found in book.pins()] == [kept.id] and book.tags() == {}
    assert [found.id for found in book.pins(deleted=True)] == [pin.id]
    book.restore(pin.id)
    assert book.pins("gone")[0] == pin
    book.delete(pin.id)
    assert book.purge() == 1 and book.purge() == 0
    with pytest.raises(NotebookError, match="no pin"):
        book.get(pin.id)
    assert book.add(finding()).id == pin.id + 1, "a purged number was given again"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"title": "x" * (MOST_TITLE + 1)}, "title has 201"),
        ({"title": " \n "}, "title is empty"),
        ({"note": "x" * (MOST_NOTE + 1)}, "note has 10,001"),
        ({"note": "a\x07b"}, r"U\+0007"),
        ({"note": "\ud800"}, r"U\+D800"),
        ({"tags": ("x" * (MOST_TAG + 1),)}, "tag has 41"),
        ({"tags": tuple(str(i) for i in range(MOST_TAGS + 1))}, "13 tags"),
        ({"tags": ("a,b",)}, "comma"),
        ({"settings": {"own_words": ["x" * 1_000_001]}}, "at most 1,000,000"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(book, changes, said):
    with pytest.raises(NotebookError, match=said) as refused:
        book.add(finding(**changes))
    assert "\n" not in str(refused.value)
    assert book.pins() == []


def test_threads_lose_no_pins(book):
    def write(name: str) -> None:
        for i in range(12):
            book.add(finding(title=f"{name} {i}", tags=(name,)))

    threads = [threading.Thread(target=write, args=(f"thread{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({pin.title for pin in book.pins()}) == 72
    assert book.tags() == {f"thread{i}": 12 for i in range(6)}
    assert len(book.pins("thread3")) == 12


WRITER = """
import sys
from pathlib import Path
from mine_core.notebook import Finding, Notebook
for i in range(25):
    view, title = {"subject": "phantom", "voxel": str(i)}, f"{sys.argv[2]} {i}"
    Notebook(Path(sys.argv[1])).add(Finding(kind="voxel", view=view, title=title, numbers=(), settings={}, provenance={}))
"""


def test_two_processes_that_begin_the_notebook_together_lose_no_pins(tmp_path):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "kept"), name], cwd=PROJECT, stderr=subprocess.PIPE, text=True)
        for name in ("first", "second")
    ]
    said = [writer.communicate(timeout=120)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], said
    pins = Notebook(tmp_path / "kept").pins()
    assert {pin.title for pin in pins} == {f"{name} {i}" for name in ("first", "second") for i in range(25)}
    assert len(pins) == 50


def test_a_newer_schema_is_refused_in_one_line_and_left_as_it_is(book):
    book.add(finding())
    with sqlite3.connect(book.path) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    before = book.path.read_bytes()
    with pytest.raises(NotebookError, match="schema version 2, this program knows 1") as refused:
        Notebook(book.path.parent).add(finding())
    assert "\n" not in str(refused.value) and book.path.read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "empty", "overwritten", "one page", "another program"])
def test_a_damaged_notebook_is_refused_and_left_as_it_is(book, damage):
    for i in range(40):
        book.add(finding(title=f"pin {i}", note="long " * 200))
    content = book.path.read_bytes()
    if damage == "cut":
        book.path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        book.path.write_bytes(b"")
    elif damage == "overwritten":
        book.path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    elif damage == "one page":
        book.path.write_bytes(content[:-4096] + b"\xff" * 4096)
    else:
        book.path.unlink()
        with sqlite3.connect(book.path) as connection:
            connection.execute("CREATE TABLE other (x)")
        connection.close()
    before = book.path.read_bytes()
    for use in (lambda other: other.pins(), lambda other: other.add(finding()), lambda other: other.tags()):
        with pytest.raises(NotebookError, match="damaged|another program") as refused:
            use(Notebook(book.path.parent))
        assert "\n" not in str(refused.value) and "MINE_NOTEBOOK" in str(refused.value)
    assert book.path.read_bytes() == before


def test_writes_that_lost_their_file_are_not_written_over(book):
    book.path.parent.mkdir()
    leftover = book.path.with_name(f"{FILE}-wal")
    leftover.write_bytes(b"unfinished writes")
    with pytest.raises(NotebookError, match="missing"):
        book.pins()
    with pytest.raises(NotebookError, match="missing"):
        book.add(finding())
    assert leftover.read_bytes() == b"unfinished writes" and not book.path.exists()


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotebookError, match="MINE_NOTEBOOK") as refused:
        Notebook(tmp_path / "file" / "kept").add(finding())
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(not has_full_text(), reason="this SQLite has no FTS5")
def test_pins_that_a_program_without_full_text_search_wrote_are_found(tmp_path):
    with_index, without = Notebook(tmp_path), Notebook(tmp_path, full_text=False)
    first = with_index.add(finding(title="first elephant"))
    second = without.add(finding(title="second elephant"))
    assert [pin.id for pin in with_index.pins("eleph")] == [second.id, first.id]
    assert [pin.id for pin in Notebook(tmp_path).pins("eleph")] == [second.id, first.id]


def test_numbers_are_the_same_to_rounding_and_words_exactly():
    assert Number("r", 0.5).same(Number("r", 0.5 * (1 + 1e-7))) and not Number("r", 0.5).same(Number("r", 0.501))
    assert Number("r", None).same(Number("r", None)) and not Number("r", None).same(Number("r", 0.0))
    assert not Number("w", "face").same(Number("w", "Face")) and not Number("w", "1").same(Number("w", 1))
    before, now = (Number("a", 1.0), Number("b", 2.0), Number("c", 3)), (Number("a", 1.0), Number("b", 2.5), Number("d", 4))
    assert [(old and old.name, new and new.name) for old, new in differing(before, now)] == [("b", "b"), ("c", None), (None, "d")]


def test_pins_are_compared_by_name_with_units_and_shared_numbers_first():
    first = finding(
        numbers=(Number("alone", 1.0), Number("r", 0.5, "Pearson r"), Number("place", 2.0, "row 1"), Number("word", "face"))
    )
    second = finding(numbers=(Number("word", "face"), Number("r", 0.6, "Pearson r"), Number("place", 2.0, "row 2")))
    rows = compared((first, second))
    told = [(row.name, row.unit, row.differs) for row in rows]
    assert told == [("r", "Pearson r", True), ("place", "", False), ("word", "", False), ("alone", "", False)]
    assert rows[-1].cells == (first.numbers[0], None)
