"""What a user found and wants to keep: pins with notes, made again when asked for, and written out as reports and scripts."""

from mine_core.notebook.records import KINDS, Finding, Kind, Number, Pin
from mine_core.notebook.store import Notebook

__all__ = ["KINDS", "Finding", "Kind", "Notebook", "Number", "Pin"]
