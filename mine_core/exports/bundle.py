"""Exports as bytes, for a page to hand to the browser: one picture, or a BIDS derivative as a zip."""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mine_core.artifacts import ArtifactStore
from mine_core.exports.derivative import Draw, write_map
from mine_core.exports.edits import packed
from mine_core.exports.files import DataFormat
from mine_core.exports.pictures import flatmap_figure, picture_bytes
from mine_core.exports.records import MapRecord
from mine_core.exports.space import Space
from mine_core.instrument import Instrument


def flatmap_bytes(instrument: Instrument, record: MapRecord, kind: str) -> bytes:
    """A map's flatmap as the bytes of a `png`, `svg` or `pdf` file."""
    whose = f"Subject {instrument.subject.name}, backbone {instrument.config.backbone}."
    return picture_bytes(flatmap_figure(instrument.flatmap, record.shown, whose, record.nature), kind)


def pictures_of(instrument: Instrument, record: MapRecord, kinds: Sequence[str]) -> dict[str, Draw]:
    """What draws a map into files, by ending."""
    return {f".{kind}": partial(_draw, instrument, record, kind) for kind in kinds}


def _draw(instrument: Instrument, record: MapRecord, kind: str, target: Path) -> None:
    target.write_bytes(flatmap_bytes(instrument, record, kind))


def map_zip(instrument: Instrument, store: ArtifactStore, space: Space, record: MapRecord, formats: Sequence[DataFormat]) -> bytes:
    """One map in the given formats as the bytes of a zip that holds a whole BIDS derivative."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "export"
        write_map(instrument, store, space, record, folder, formats)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return packed({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})
