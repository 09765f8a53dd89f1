"""pycortex is put right without touching what is the user's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mine_core.cortex import filestore
from mine_core.errors import SubjectError

OPENS = """
import sys
from pathlib import Path
from mine_core.cortex.filestore import open_pycortex
cortex = open_pycortex(Path(sys.argv[1]))
import os
print(os.environ.get("XDG_CONFIG_HOME"), os.environ.get("MPLCONFIGDIR"))
print(cortex.db.filestore)
print(cortex.db.get_cache("S1"))
print(len(cortex.db.get_surf("S1", "flat", "lh")[0]))
"""


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _open_in_new_process(home: Path, cache: Path) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("XDG_CONFIG_HOME", "MPLCONFIGDIR")}
    environment |= {"HOME": str(home), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", OPENS, str(cache)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=cache.parent)
    return done.stdout.splitlines()


def test_the_users_configuration_is_left_as_it_was_and_nothing_is_written_to_the_home(tmp_path: Path) -> None:
    home, cache = tmp_path / "home", tmp_path / "cache"
    options = home / ".config" / "pycortex" / "options.cfg"
    options.parent.mkdir(parents=True)
    options.write_bytes(b"[basic]\nfilestore = /nowhere/at/all\ncache = /nowhere/else\n")
    before = options.read_bytes()
    environment, store, flat_cache, n_vertices = _open_in_new_process(home, cache)
    assert options.read_bytes() == before
    assert _files(home) == {".config/pycortex/options.cfg"}
    assert environment == "None None"
    assert (Path(store) / "S1" / "overlays.svg").is_file()
    assert Path(flat_cache).is_relative_to(cache)
    assert int(n_vertices) == 152_893


def test_a_user_without_a_configuration_gets_none(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    lines = _open_in_new_process(home, tmp_path / "cache")
    assert len(lines) == 4  # what pycortex prints of its own accord is not among them
    assert _files(home) == set()


def test_opening_again_moves_the_caches_and_keeps_the_module(tmp_path: Path) -> None:
    first = filestore.open_pycortex(tmp_path / "one")
    second = filestore.open_pycortex(tmp_path / "two % percent")
    assert first is second
    assert Path(second.db.get_cache("S1")).is_relative_to(tmp_path / "two % percent")


def test_a_missing_s1_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filestore, "_recorded", list)
    monkeypatch.setattr(filestore.sys, "prefix", str(tmp_path / "prefix"))
    with pytest.raises(SubjectError, match=r"S1/overlays.svg.*prefix/share/pycortex/db.*reinstall") as refusal:
        filestore._shipped_share(tmp_path / "a" / "b" / "c" / "d" / "e" / "f" / "cortex" / "__init__.py")
    assert "\n" not in str(refusal.value)


def test_caches_that_were_cut_off_are_emptied_before_they_are_trusted(tmp_path: Path) -> None:
    cortex = filestore.open_pycortex(tmp_path)
    folder = Path(cortex.db.get_cache("S1"))
    with filestore.whole_caches(cortex, "S1"):
        (folder / "flatmask_8.npz").write_bytes(b"whole")
    with filestore.whole_caches(cortex, "S1"):
        assert (folder / "flatmask_8.npz").is_file()
    with pytest.raises(KeyboardInterrupt), filestore.whole_caches(cortex, "S1"):
        (folder / "flatmask_9.npz").write_bytes(b"cut o")
        raise KeyboardInterrupt
    with filestore.whole_caches(cortex, "S1"):
        assert not list(folder.glob("*.npz"))
