"""The Natural Scenes Dataset from a local copy of its published layout, its alignment proved and not guessed."""

from mine_core.subjects.nsd.build import Plan, build_nsd, fingerprint_of, plan_import
from mine_core.subjects.nsd.tree import NsdTree, open_tree

__all__ = ["NsdTree", "Plan", "build_nsd", "fingerprint_of", "open_tree", "plan_import"]
