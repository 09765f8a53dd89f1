"""What a user has given to an import so far, kept while steps come and go, and the widgets that take it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st

from mine_core.instrument.looking import Recordings
from mine_core.subjects.custom.limits import amount
from mine_core.subjects.custom.sources import Source, SourceKind, kind_of
from mine_core.subjects.custom.study import FIELDS, axes_of

DRAFT = "import_draft"
SEVERAL = frozenset(one.name for one in FIELDS if one.kind == "paths")
PATHS = frozenset(one.name for one in FIELDS if one.kind in ("path", "paths"))


@dataclass(frozen=True)
class Given:
    """Files of one field: their names, what they are read from, and a mark that changes with them."""

    names: tuple[str, ...]
    sources: tuple[Source, ...]
    mark: str


@dataclass
class Draft:
    """One session's import in the making: files and other values by the names of their fields, and the step in view."""

    files: dict[str, Given] = field(default_factory=dict)
    typed: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    recordings: Recordings | None = None

    def study(self) -> dict[str, Any]:
        """Return what was given, as the import takes it."""
        found: dict[str, Any] = {}
        for name, given in self.files.items():
            found[name] = given.sources if len(given.sources) > 1 else given.sources[0]
        found |= self.values
        return found | ({"response_axes": axes_of(found["response_axes"])} if "response_axes" in found else {})

    def saved(self) -> dict[str, Any]:
        """Return what was given as a file can say it: an upload by its name."""
        found = self.study()
        for name, given in self.files.items():
            paths = tuple(
                source if isinstance(source, Path) else Path(title) for source, title in zip(given.sources, given.names, strict=True)
            )
            found[name] = paths if len(paths) > 1 else paths[0]
        return found

    def mark(self, names: Sequence[str]) -> str:
        """Return a text that is the same as long as these fields are."""
        parts = [f"{name}={self.files[name].mark}" for name in names if name in self.files]
        parts += [f"{name}={self.values[name]!r}" for name in names if name in self.values]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def kind(self, name: str) -> SourceKind | None:
        """Kind of the first file of a field, by its content; raises SubjectError if it cannot be opened."""
        return kind_of(self.files[name].sources[0]) if name in self.files else None


def draft() -> Draft:
    """Return this session's draft."""
    if DRAFT not in st.session_state:
        st.session_state[DRAFT] = Draft()
    return st.session_state[DRAFT]


def take_files(name: str, label: str, *, types: Sequence[str] | None = None) -> None:
    """Take one field's files, uploaded or by their paths on this machine; a path that is typed counts before an upload."""
    several = name in SEVERAL
    left, right = st.columns([3, 2], gap="medium", vertical_alignment="top")
    with left:
        st.file_uploader(
            label,
            type=list(types) if types else None,
            accept_multiple_files=several,
            key=f"import_{name}_upload",
            on_change=_take_upload,
            args=(name,),
        )
    key = f"import_{name}_path"
    if key not in st.session_state:
        st.session_state[key] = draft().typed.get(name, "")
    with right:
        if several:
            st.text_area("or paths on this machine, one a line", height=90, key=key, on_change=_take_path, args=(name,))
        else:
            st.text_input("or its path on this machine", key=key, on_change=_take_path, args=(name,))
        given = draft().files.get(name)
        if given is not None and not draft().typed.get(name) and not st.session_state.get(f"import_{name}_upload"):
            # The uploader forgets what it held when its step was left; the draft does not.
            st.caption(f"Given: {', '.join(given.names)}")
            st.button("Take away", key=f"import_{name}_forget", on_click=drop_files, args=(name,))


def _take_upload(name: str) -> None:
    found = st.session_state[f"import_{name}_upload"]
    uploads = found if isinstance(found, list) else [found] if found is not None else []
    if draft().typed.get(name):
        return
    _put(name, tuple(upload.name for upload in uploads), tuple(upload.getvalue() for upload in uploads))


def _take_path(name: str) -> None:
    text = str(st.session_state[f"import_{name}_path"])
    draft().typed[name] = text
    paths = tuple(Path(line.strip()).expanduser() for line in text.splitlines() if line.strip())
    if paths:
        _put(name, tuple(path.name for path in paths), paths)
    else:
        draft().files.pop(name, None)
        draft().typed.pop(name)
        _take_upload(name)


def _put(name: str, names: tuple[str, ...], sources: tuple[Source, ...]) -> None:
    if not sources:
        draft().files.pop(name, None)
        return
    draft().files[name] = Given(names, sources, "|".join(_mark(source) for source in sources))


def _mark(source: Source) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    try:
        found = source.stat()
        return f"{source} {found.st_size} {found.st_mtime_ns}"
    except OSError:
        return f"{source} is not there"


def _keep(name: str, value: Any) -> None:
    if value in (None, "", False):
        draft().values.pop(name, None)
    else:
        draft().values[name] = value


def take_text(name: str, label: str, **options: Any) -> None:
    """Take a word or a line."""
    _prefill(name, "")
    _keep(name, st.text_input(label, key=f"import_{name}", **options).strip())


def take_number(name: str, label: str, low: int, high: int) -> None:
    """Take a whole number, or none."""
    _prefill(name, None)
    value = st.number_input(label, low, high, value=None, key=f"import_{name}")
    _keep(name, None if value is None else int(value))


def take_choice(name: str, label: str, choices: dict[str, str], **options: Any) -> None:
    """Take one of several; `choices` are what is kept (empty: nothing) and what is shown."""
    _prefill(name, next(iter(choices)))
    if st.session_state[f"import_{name}"] not in choices:
        st.session_state[f"import_{name}"] = next(iter(choices))
    _keep(name, st.selectbox(label, list(choices), format_func=lambda one: choices[one], key=f"import_{name}", **options))


def take_tick(name: str, label: str) -> None:
    """Take a yes or no."""
    _prefill(name, False)
    _keep(name, st.checkbox(label, key=f"import_{name}"))


def drop_values(*names: str) -> None:
    """Forget values whose widgets the step no longer shows, so that nothing is given that no one sees."""
    for name in names:
        draft().values.pop(name, None)


def drop_files(*names: str) -> None:
    """Forget files whose widgets the step no longer shows."""
    for name in names:
        draft().files.pop(name, None)
        draft().typed.pop(name, None)


def _prefill(name: str, empty: Any) -> None:
    key = f"import_{name}"
    if key not in st.session_state:
        st.session_state[key] = draft().values.get(name, empty)


def describe(given: Given) -> str:
    """Name the files of a field, with the sizes of uploads."""
    sizes = (f" ({amount(len(source))})" if isinstance(source, bytes) else "" for source in given.sources)
    return ", ".join(f"{name}{size}" for name, size in zip(given.names, sizes, strict=True))
