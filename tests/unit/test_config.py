"""Settings: within range, or refused in one line; unknown keys by name."""

import subprocess
import sys
from pathlib import Path

import pytest

from mine_core.config import PROJECT, InstrumentConfig, cache_directory, config_from, notebook_directory
from mine_core.errors import ConfigError


@pytest.mark.parametrize("seed", [0, 89])
@pytest.mark.parametrize("n_permutations", [99, 5000])
def test_settings_within_range_come_back_as_they_were_given(seed: int, n_permutations: int) -> None:
    given = {"subject": "phantom", "seed": seed, "backbone": "ViT-B-16", "n_permutations": n_permutations}
    config = config_from(given)
    assert config.to_dict() == given
    assert hash(config) == hash(InstrumentConfig("phantom", seed, "ViT-B-16", n_permutations))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"seed": 90}, "Seed 90 .* 0 to 89"),
        ({"seed": -1}, "Seed -1 .* 0 to 89"),
        ({"n_permutations": 98}, "98 permutations .* at least 99"),
        ({"subject": "mine", "seed": 3}, "Seed 3 .* 'mine'.* only the phantom"),
        ({"n_permutation": 500, "bckbone": "x"}, "bckbone, n_permutation; known are backbone, n_permutations, seed, subject"),
    ],
)
def test_what_is_out_of_range_or_unknown_is_refused_with_its_name(values: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        config_from(values)
    assert "\n" not in str(refused.value)


def test_the_cache_is_in_the_project_unless_a_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINE_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.setenv("MINE_CACHE", "")
    assert cache_directory() == PROJECT / "cache"
    monkeypatch.delenv("MINE_CACHE")
    assert cache_directory() == PROJECT / "cache"


def test_the_notebook_lies_beside_the_cache_and_is_not_part_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINE_NOTEBOOK", str(tmp_path))
    assert notebook_directory() == tmp_path
    monkeypatch.delenv("MINE_NOTEBOOK")
    assert notebook_directory() == PROJECT / "notebook"
    assert notebook_directory().parent == PROJECT and "/notebook/" in (PROJECT / ".gitignore").read_text().split()


def test_the_command_line_loads_none_of_the_heavy_libraries_before_it_knows_what_to_do() -> None:
    code = "import sys, mine_core.cli; print(sorted({'torch', 'open_clip', 'cortex', 'streamlit', 'sklearn'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
