"""Your own images and responses, from files that are trusted with nothing: judged by content, refused in one line."""

from mine_core.subjects.custom.build import check_subject_name, import_subject
from mine_core.subjects.custom.images import ReadImages, read_images
from mine_core.subjects.custom.pictures import read_photograph, square
from mine_core.subjects.custom.report import describe_import
from mine_core.subjects.custom.responses import ResponseTable, read_responses
from mine_core.subjects.custom.sources import Source, fingerprint

__all__ = [
    "ReadImages",
    "ResponseTable",
    "Source",
    "check_subject_name",
    "describe_import",
    "fingerprint",
    "import_subject",
    "read_images",
    "read_photograph",
    "read_responses",
    "square",
]
