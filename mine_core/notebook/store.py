"""The notebook on disk: one SQLite file in WAL mode that many threads and processes may write at once.

It is not in the cache, for nothing rebuilds it. Every operation opens the file, does one transaction and closes it. A file
that is damaged, of another program or of a newer version is refused and left as it is. What is deleted is kept until it is
purged. Where SQLite has full-text search (FTS5) it is used; words that it does not find are looked for as parts of words.
"""

import json
import re
import sqlite3
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from mine_core.artifacts import canonical_json, sync
from mine_core.errors import NotebookError
from mine_core.notebook.records import KINDS, MOST_NOTE, MOST_TITLE, Finding, Number, Pin, checked_tags, checked_text, numbers_to

FILE = "notebook.sqlite"
APPLICATION, VERSION = 0x4D494E45, 1
MAGIC = b"SQLite format 3\x00"
WAIT = 60.0  # seconds for others to finish writing
MOST_RECORD = 1_000_000  # characters of a pin's numbers and settings

SCHEMA = """
CREATE TABLE pins (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, subject TEXT NOT NULL, title TEXT NOT NULL, note TEXT NOT NULL,
    view TEXT NOT NULL, numbers TEXT NOT NULL, settings TEXT NOT NULL, provenance TEXT NOT NULL, withheld TEXT NOT NULL,
    created TEXT NOT NULL, version INTEGER NOT NULL, deleted TEXT NOT NULL, folded TEXT NOT NULL
);
CREATE TABLE tags (
    pin INTEGER NOT NULL REFERENCES pins (id) ON DELETE CASCADE, position INTEGER NOT NULL, tag TEXT NOT NULL, folded TEXT NOT NULL,
    PRIMARY KEY (pin, folded)
);
CREATE INDEX tags_folded ON tags (folded);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO facts VALUES ('indexed', 'no');
"""
INDEX = 'CREATE VIRTUAL TABLE IF NOT EXISTS pins_text USING fts5 (folded, tokenize = "unicode61 remove_diacritics 2")'


@cache
def has_full_text() -> bool:
    """Whether this SQLite has FTS5."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute(INDEX)
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()
    return True


class Notebook:
    """The pins in one folder.

    Parameters
    ----------
    directory : made with its first pin; a notebook that is not there yet is empty.
    full_text : whether to use FTS5; None: where SQLite has it.
    """

    def __init__(self, directory: Path, *, full_text: bool | None = None) -> None:
        self.path = Path(directory) / FILE
        self._full_text = has_full_text() if full_text is None else full_text
        self._sound = False

    def add(self, finding: Finding) -> Pin:
        """Keep a finding; returns its pin.

        Raises NotebookError if a text is too long, the kind is unknown, or the notebook cannot be written.
        """
        if finding.kind not in KINDS:
            raise NotebookError(f"A pin of kind '{finding.kind}' was given; there are {', '.join(KINDS)}.")
        title, note, tags = _checked(finding.title, finding.note, finding.tags)
        record = {
            "kind": finding.kind,
            "subject": finding.subject,
            "title": title,
            "note": note,
            "view": canonical_json(dict(finding.view)),
            "numbers": canonical_json(numbers_to(finding.numbers)),
            "settings": canonical_json(dict(finding.settings)),
            "provenance": canonical_json(dict(finding.provenance)),
            "withheld": finding.withheld,
            "created": _now(),
            "version": 1,
            "deleted": "",
        }
        size = sum(len(str(value)) for value in record.values())
        if size > MOST_RECORD:
            raise NotebookError(f"The pin has {size:,} characters; at most {MOST_RECORD:,} are kept.")
        with self._writing() as connection:
            names = ", ".join(record)
            values = ", ".join(f":{name}" for name in record)
            made = connection.execute(f"INSERT INTO pins ({names}, folded) VALUES ({values}, '')", record)
            number = int(made.lastrowid or 0)
            self._write_tags(connection, number, tags)
            return self._indexed(connection, number)

    def get(self, number: int) -> Pin:
        """Find a pin, deleted ones too; raises NotebookError if there is none of that number."""
        with self._reading() as connection:
            return _one(connection, number)

    def pins(
        self,
        text: str = "",
        *,
        tags: Sequence[str] = (),
        kinds: Sequence[str] = (),
        subjects: Sequence[str] = (),
        deleted: bool = False,
    ) -> list[Pin]:
        """Pins that hold all words of `text` (their beginnings are enough), all `tags`, one of `kinds`, one of `subjects`.

        Newest first. Any text may be given: nothing in it is a command. `deleted` asks for those that were deleted instead.
        """
        if not self.path.is_file() and not self._leftover():
            return []
        where, values = ["deleted <> ''" if deleted else "deleted = ''"], []
        for column, chosen in (("kind", kinds), ("subject", subjects)):
            if chosen:
                where.append(f"{column} IN ({', '.join('?' * len(chosen))})")
                values += list(chosen)
        for tag in tags:
            where.append("id IN (SELECT pin FROM tags WHERE folded = ?)")
            values.append(_folded(tag))
        with self._reading() as connection:
            for clause, more in self._clauses(connection, text):
                query = f"SELECT * FROM pins WHERE {' AND '.join([*where, *clause])} ORDER BY id DESC"
                rows = connection.execute(query, [*values, *more]).fetchall()
                if rows:
                    return [_pin(connection, row) for row in rows]
        return []

    def tags(self) -> dict[str, int]:
        """Tags in use and on how many pins, most used first."""
        return self._counted(
            "SELECT min(tag), count(*) FROM tags JOIN pins ON pins.id = tags.pin WHERE deleted = '' GROUP BY tags.folded "
            "ORDER BY count(*) DESC, tags.folded"
        )

    def subjects(self) -> dict[str, int]:
        """Subjects of pins and how many each has, by name."""
        return self._counted("SELECT subject, count(*) FROM pins WHERE deleted = '' GROUP BY subject ORDER BY subject")

    def edit(self, pin: Pin, *, title: str, note: str, tags: Sequence[str]) -> Pin:
        """Change title, note and tags of a pin as it was read; its numbers stay as they were pinned.

        Raises NotebookError if it was changed or deleted elsewhere since it was read: nothing is overwritten unseen.
        """
        title, note, kept = _checked(title, note, tags)
        with self._writing() as connection:
            found = _one(connection, pin.id)
            if found.version != pin.version or found.deleted:
                what = "deleted" if found.deleted else "changed"
                raise NotebookError(f"Pin {pin.id} was {what} elsewhere since it was opened here; open it again.")
            values = (title, note, pin.version + 1, pin.id)
            connection.execute("UPDATE pins SET title = ?, note = ?, version = ? WHERE id = ?", values)
            self._write_tags(connection, pin.id, kept)
            return self._indexed(connection, pin.id)

    def delete(self, number: int) -> None:
        """Put a pin aside; `restore` takes it back until it is purged."""
        self._set_deleted(number, _now())

    def restore(self, number: int) -> None:
        """Take a deleted pin back."""
        self._set_deleted(number, "")

    def purge(self) -> int:
        """Remove all deleted pins for ever; returns how many."""
        with self._writing() as connection:
            gone = [row["id"] for row in connection.execute("SELECT id FROM pins WHERE deleted <> ''")]
            connection.executemany("DELETE FROM pins WHERE id = ?", [(number,) for number in gone])
            if self._full_text and _is_indexed(connection):
                connection.executemany("DELETE FROM pins_text WHERE rowid = ?", [(number,) for number in gone])
            return len(gone)

    def _counted(self, query: str) -> dict[str, int]:
        if not self.path.is_file() and not self._leftover():
            return {}
        with self._reading() as connection:
            return {row[0]: int(row[1]) for row in connection.execute(query)}

    def _set_deleted(self, number: int, when: str) -> None:
        with self._writing() as connection:
            _one(connection, number)
            connection.execute("UPDATE pins SET deleted = ? WHERE id = ?", (when, number))

    def _write_tags(self, connection: sqlite3.Connection, number: int, tags: Sequence[str]) -> None:
        connection.execute("DELETE FROM tags WHERE pin = ?", (number,))
        rows = [(number, position, tag, _folded(tag)) for position, tag in enumerate(tags)]
        connection.executemany("INSERT INTO tags VALUES (?, ?, ?, ?)", rows)

    def _indexed(self, connection: sqlite3.Connection, number: int) -> Pin:
        """Write what a pin is found by, and return it as it is now."""
        pin = _one(connection, number)
        folded = _searched(pin)
        connection.execute("UPDATE pins SET folded = ? WHERE id = ?", (folded, number))
        if self._full_text and _is_indexed(connection):
            connection.execute("DELETE FROM pins_text WHERE rowid = ?", (number,))
            connection.execute("INSERT INTO pins_text (rowid, folded) VALUES (?, ?)", (number, folded))
        else:
            # whoever opens it next with full-text search makes the index anew
            connection.execute("UPDATE facts SET value = 'no' WHERE name = 'indexed'")
        return pin

    def _clauses(self, connection: sqlite3.Connection, text: str) -> Iterator[tuple[list[str], list[str]]]:
        """Conditions to try in turn: words by their beginnings, then parts of words."""
        if not text.strip():
            yield [], []
            return
        words = re.findall(r"[^\W_]+", _folded(text))
        if words and self._full_text and _is_indexed(connection):
            yield ["id IN (SELECT rowid FROM pins_text WHERE pins_text MATCH ?)"], [" ".join(f'"{word}"*' for word in words)]
        parts = words or [_folded(text).strip()]
        yield ["instr(folded, ?) > 0"] * len(parts), parts

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        self._prepare()
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        self._prepare()
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        connection = None
        try:
            # mode=rw: a file that went away is not made anew, empty, under our hands
            connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=rw", uri=True, timeout=WAIT, isolation_level=None)
            connection.row_factory = sqlite3.Row
            connection.executescript("PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL;")
            connection.execute(begin)
            yield connection
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._refusal(error) from error
        finally:
            if connection is not None:
                connection.close()

    def _refusal(self, error: sqlite3.Error) -> NotebookError:
        said = " ".join(str(error).replace("*", "").split())
        if isinstance(error, sqlite3.OperationalError):
            return NotebookError(
                f"The notebook {self.path} cannot be read or written ({said}); see that the folder is there and not full, and that "
                "nothing else holds it. Nothing was changed."
            )
        return NotebookError(
            f"The notebook {self.path} is damaged ({said}). It is left as it is: move it away or restore a copy, or set MINE_NOTEBOOK "
            "to another folder."
        )

    def _prepare(self) -> None:
        """Make the notebook if there is none, and see once that what is there is one, sound and of a version that is known."""
        if not self.path.is_file():
            self._sound = False
            self._create()
        if self._sound:
            return
        with self.path.open("rb") as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                raise self._refusal(sqlite3.DatabaseError("it does not begin as a database"))
        with self._transaction("BEGIN") as connection:
            application, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
            if application != APPLICATION:
                raise NotebookError(f"{self.path} is a database of another program; set MINE_NOTEBOOK to another folder.")
            if version > VERSION:
                raise NotebookError(
                    f"The notebook {self.path} has schema version {version}, this program knows {VERSION}; update the program, or set "
                    "MINE_NOTEBOOK to another folder."
                )
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            indexed = _is_indexed(connection)
        if self._full_text and not indexed:
            self._index_all()
        self._sound = True

    def _index_all(self) -> None:
        with self._transaction("BEGIN IMMEDIATE") as connection:
            connection.execute(INDEX)
            connection.execute("DELETE FROM pins_text")
            connection.execute("INSERT INTO pins_text (rowid, folded) SELECT id, folded FROM pins")
            connection.execute("UPDATE facts SET value = 'yes' WHERE name = 'indexed'")

    def _leftover(self) -> bool:
        return self.path.with_name(f"{FILE}-wal").exists()

    def _create(self) -> None:
        """Make an empty notebook under another name and rename it, so that a cut-off start leaves nothing that looks like one."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_name(f"{FILE}.lock")):
                if self.path.is_file():
                    return
                if self._leftover():
                    raise NotebookError(
                        f"{self.path} is missing, but its unfinished writes ({FILE}-wal) are there; put it back, or move those away."
                    )
                self._write_empty()
        except OSError as error:
            raise NotebookError(
                f"The notebook cannot be made in {self.path.parent} ({error.strerror or error}); set MINE_NOTEBOOK to another folder."
            ) from error

    def _write_empty(self) -> None:
        temporary = self.path.with_name(f".{FILE}.new")
        for leftover in temporary.parent.glob(f"{temporary.name}*"):
            leftover.unlink()
        connection = sqlite3.connect(temporary, isolation_level=None)
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise NotebookError(f"{self.path.parent} cannot hold a notebook (journal mode '{mode}'); use a folder of a local disk.")
            connection.executescript(f"BEGIN; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; {SCHEMA} COMMIT;")
        except sqlite3.Error as error:
            raise self._refusal(error) from error
        finally:
            connection.close()
        temporary.replace(self.path)
        sync(self.path.parent)


def _checked(title: str, note: str, tags: Sequence[str]) -> tuple[str, str, tuple[str, ...]]:
    text = checked_text(title, "title", MOST_TITLE)
    if not text:
        raise NotebookError("The title is empty; give the pin a name.")
    return text, checked_text(note, "note", MOST_NOTE, lines=True), checked_tags(tags)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _folded(text: str) -> str:
    """Text as it is compared: without capitals, composed."""
    return unicodedata.normalize("NFKC", text).encode("utf-8", "replace").decode().casefold()


def _searched(pin: Pin) -> str:
    """All that a pin is found by: its texts, what it is of, and the words among its numbers."""
    words = [number.name for number in pin.numbers] + [number.value for number in pin.numbers if isinstance(number.value, str)]
    place = [f"voxel {pin.voxel}"] * (pin.voxel >= 0) + [f"image {pin.image}"] * (pin.image >= 0)
    return _folded(" \n".join([pin.title, pin.note, *pin.tags, pin.kind, pin.subject, *place, pin.withheld, *words]))


def _is_indexed(connection: sqlite3.Connection) -> bool:
    """Whether every pin is in the index; a program without full-text search leaves it behind."""
    return bool(connection.execute("SELECT value = 'yes' FROM facts WHERE name = 'indexed'").fetchone()[0])


def _one(connection: sqlite3.Connection, number: int) -> Pin:
    row = connection.execute("SELECT * FROM pins WHERE id = ?", (number,)).fetchone()
    if row is None:
        raise NotebookError(f"There is no pin {number} in this notebook.")
    return _pin(connection, row)


def _pin(connection: sqlite3.Connection, row: sqlite3.Row) -> Pin:
    tags = connection.execute("SELECT tag FROM tags WHERE pin = ? ORDER BY position", (row["id"],))
    read: dict[str, Any] = {name: json.loads(row[name]) for name in ("view", "numbers", "settings", "provenance")}
    return Pin(
        id=row["id"],
        kind=row["kind"],
        view=read["view"],
        title=row["title"],
        note=row["note"],
        tags=tuple(entry["tag"] for entry in tags),
        numbers=tuple(Number(**number) for number in read["numbers"]),
        settings=read["settings"],
        provenance=read["provenance"],
        withheld=row["withheld"],
        created=row["created"],
        version=row["version"],
        deleted=row["deleted"],
    )
