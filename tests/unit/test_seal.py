"""The planted truth is read by evaluation and tests alone: no other module imports it, by whatever spelling."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PHANTOM = "mine_core.subjects.phantom"
# `build` writes the truth and hands none of it back; `scenes` draws stimuli and knows no voxel.
OPEN = {f"{PHANTOM}.build", f"{PHANTOM}.build.PhantomCortex", f"{PHANTOM}.build.build_phantom", f"{PHANTOM}.scenes"}
MAY_READ = ("mine_core/subjects/phantom/", "mine_core/experiments/")


def modules_imported(source: str, module: str) -> Iterator[str]:
    """Full dotted names of everything a file imports, relative imports resolved against `module`, `a.b` for `from a import b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(f"{PHANTOM}."):
            yield node.value  # importlib.import_module("mine_core.subjects.phantom.truth")


def breaks_seal(name: str) -> bool:
    return name.startswith(f"{PHANTOM}.") and name not in OPEN and not name.startswith(f"{PHANTOM}.scenes.")


def sealed_imports(path: Path) -> list[str]:
    relative = path.relative_to(ROOT)
    module = ".".join(relative.with_suffix("").parts)
    return [name for name in modules_imported(path.read_text(), module) if breaks_seal(name)]


def outsiders() -> list[Path]:
    files = [*(ROOT / "mine_core").rglob("*.py"), *(ROOT / "pages").rglob("*.py"), ROOT / "app.py"]
    return [file for file in files if file.is_file() and not file.relative_to(ROOT).as_posix().startswith(MAY_READ)]


def test_no_module_outside_reads_the_truth() -> None:
    found = {file.relative_to(ROOT).as_posix(): names for file in outsiders() if (names := sealed_imports(file))}
    assert not found, f"the planted truth is imported by {found}"


def test_open_modules_hand_no_truth_on() -> None:
    """`build` may import the truth but exports only the two names that others need; `scenes` imports none of it."""
    build = ast.parse((ROOT / "mine_core/subjects/phantom/build.py").read_text())
    exported = next(
        ast.literal_eval(node.value)
        for node in build.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    )
    assert set(exported) == {"PhantomCortex", "build_phantom"}
    for file in (ROOT / "mine_core/subjects/phantom/scenes").glob("*.py"):
        assert not sealed_imports(file)


@pytest.mark.parametrize(
    "line",
    [
        "import mine_core.subjects.phantom.truth",
        "import mine_core.subjects.phantom.truth as harmless",
        "from mine_core.subjects.phantom import truth",
        "from mine_core.subjects.phantom.truth import load_truth",
        "from mine_core.subjects.phantom.tuning import KINDS",
        "from mine_core.subjects.phantom.build import PlantedTruth",
        "from .phantom import truth",
        "def later():\n    from mine_core.subjects.phantom.responses import raw_drive",
        "importlib.import_module('mine_core.subjects.phantom.truth')",
    ],
)
def test_every_spelling_of_the_import_is_caught(line: str) -> None:
    assert any(breaks_seal(name) for name in modules_imported(line, "mine_core.subjects.store"))


@pytest.mark.parametrize(
    "line",
    [
        "from mine_core.subjects.phantom.scenes import render",
        "from mine_core.subjects.phantom.build import PhantomCortex, build_phantom",
        "from mine_core.subjects.phantom import scenes",
        "from mine_core.subjects.store import load_subject",
    ],
)
def test_open_imports_are_allowed(line: str) -> None:
    assert not any(breaks_seal(name) for name in modules_imported(line, "mine_core.instrument"))
