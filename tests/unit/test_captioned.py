"""The part that drives a voxel is cut out where the heat is, and captions go out in the form that an import reads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mine_core.cli import REFUSED, main
from mine_core.description.captioning import Captioner
from mine_core.errors import ConfigError, DescriptionError
from mine_core.instrument.captioned import CAPTIONERS, caption_part, captioner_of, dataset_captions, driving_part, write_captions
from mine_core.subjects.custom.tables import read_captions


def heat(*places: tuple[int, int]) -> np.ndarray:
    values = np.full((8, 8), -0.1)
    for row, col in places:
        values[row, col] = 1.0
    return values


def test_the_part_holds_what_drives(rng):
    image = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    part = driving_part(image, heat((2, 5)))
    assert part.side == 32 and np.array_equal(part.image, image[part.row : part.row + 32, part.col : part.col + 32])
    assert part.row == 30 - 16 and part.col == 66 - 16  # around the middle of the patch
    wide = driving_part(image, heat((0, 0), (0, 7), (4, 0), (4, 7)))
    assert wide.side == 96 and (wide.row, wide.col) == (0, 0)
    corner = driving_part(image, heat((7, 7)))
    assert (corner.row, corner.col, corner.side) == (64, 64, 32)
    oblong = driving_part(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8), heat((0, 0), (0, 7), (7, 0), (7, 7)))
    assert oblong.side == 60 and oblong.image.shape == (60, 60, 3)
    with pytest.raises(DescriptionError, match="no part to caption"):
        driving_part(image, np.full((8, 8), -1.0))


def test_the_backbone_captions_a_part_by_both_searches(small: Any) -> None:
    instrument = small.instrument
    image = np.asarray(instrument.subject.stimuli.images[3])
    found = caption_part(instrument, image)
    assert set(found) == {"greedy", "beam"} and found["greedy"] == instrument.captions[3]
    part = driving_part(image, heat((1, 1)))
    assert all(caption_part(instrument, part.image).values())
    for name in ("greedy", "beam"):
        assert isinstance(captioner_of(instrument, name), Captioner)
    assert dataset_captions(instrument, 3) == ()


@pytest.mark.parametrize(("name", "weights", "said"), [("blip", "", "there are greedy, beam"), ("florence2", "", "needs weights")])
def test_a_captioner_that_is_not_there_is_refused(small: Any, name: str, weights: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        captioner_of(small.instrument, name, weights)
    assert name not in CAPTIONERS or said == "needs weights"


def test_captions_are_written_in_the_form_that_an_import_reads(small: Any, tmp_path: Path) -> None:
    class Quoting:
        def caption(self, images: np.ndarray) -> list[str]:
            return [f'a "red", thing {i}' for i in range(len(images))]

    path = tmp_path / "captions.csv"
    written = write_captions(small.instrument, Quoting(), path)
    read = read_captions(path)
    ids = small.instrument.subject.stimuli.ids
    assert [read[name][0] for name in ids] == list(written) and written[5] == 'a "red", thing 5'
    for wrong in ("captions.txt", "nowhere/captions.csv"):
        with pytest.raises(ConfigError, match="cannot be written"):
            write_captions(small.instrument, Quoting(), tmp_path / wrong)


def test_the_command_line_writes_captions(apart: Any, small: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "c.csv"
    assert main(["caption", "--subject", "small", "--by", "greedy", "--out", str(out)]) == 0
    read = read_captions(out)
    assert [read[name][0] for name in small.instrument.subject.stimuli.ids] == list(small.instrument.captions)
    assert main(["caption", "--subject", "small", "--by", "florence2", "--weights", str(tmp_path / "no"), "--out", str(out)]) == REFUSED
    assert "cannot be loaded" in capsys.readouterr().err
