"""An insertion at a chosen place: its middle lies there, or as near as it fits, and nothing else of the image changes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mine_core.errors import EditError
from mine_core.instrument import Instrument, trials
from mine_core.instrument.things import exemplars_of
from mine_core.instrument.trials import EditRequest, run_trial

SIDE, VOXEL, STIMULUS, WORD = 96, 5, 3, "dog"


@pytest.fixture(scope="module", autouse=True)
def few_controls() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "N_ELSEWHERE", 2)
        patch.setattr(trials, "N_CONTENT", 2)
        yield


@pytest.fixture(scope="module")
def instrument(small: Any) -> Instrument:
    return small.instrument


def inserted(instrument: Instrument, place: tuple[int, int] | None, **more: Any) -> Any:
    return run_trial(instrument, EditRequest("insert", VOXEL, STIMULUS, word=WORD, place=place, **more)).edit


def half_sides(instrument: Instrument) -> tuple[float, float]:
    """Half the height and width, in pixels, at which the exemplar is laid into the image."""
    tall, wide = exemplars_of(instrument, WORD)[0].cutout.shape
    scale = trials.INSERT_SIZE * SIDE / max(tall, wide) / 2
    return tall * scale, wide * scale


def middle(changed: np.ndarray) -> tuple[float, float]:
    rows, cols = np.nonzero(changed)
    return (rows.min() + rows.max()) / 2, (cols.min() + cols.max()) / 2


@pytest.mark.parametrize("place", [(48, 48), (30, 60), (66, 33), (0, 0), (95, 95), (10, 50), (50, 95)])
def test_the_middle_of_what_is_inserted_lies_at_the_place_or_as_near_as_it_fits(instrument: Instrument, place: Any) -> None:
    edit = inserted(instrument, place)
    halves = half_sides(instrument)
    nearest = [min(max(at + 0.5, half), SIDE - half) - 0.5 for at, half in zip(place, halves, strict=True)]
    assert middle(edit.edit_mask) == pytest.approx(nearest, abs=1.5)
    changed = (edit.edited != edit.original).any(axis=-1)
    assert middle(changed) == pytest.approx(nearest, abs=3)
    assert not changed[~edit.edit_mask].any() and edit.changed_outside_mask == 0
    assert changed[edit.edit_mask].mean() > 0.5
    kept = edit.provenance["place"]
    assert (kept["row"], kept["col"]) == pytest.approx(nearest, abs=2)
    assert (kept["given"], kept["chosen_by"]) == (list(place), "given")


def test_without_a_place_the_instrument_says_which_it_chose(instrument: Instrument) -> None:
    edit = inserted(instrument, None)
    kept = edit.provenance["place"]
    assert (kept["given"], kept["chosen_by"]) == (None, "least attributed")
    assert (kept["row"], kept["col"]) == pytest.approx(middle(edit.edit_mask), abs=0.5)


def test_controls_are_made_for_the_chosen_place(instrument: Instrument) -> None:
    """What changes with the place is the shift of the edit and of its controls, not only the picture."""
    here, there = (run_trial(instrument, EditRequest("insert", VOXEL, STIMULUS, word=WORD, place=at)) for at in ((25, 25), (70, 70)))
    assert np.abs(here.shift.shift - there.shift.shift).max() > 1e-3
    assert np.abs(here.shift.controls - there.shift.controls).max() > 1e-3


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (EditRequest("insert", 5, 3, word=WORD, place=(96, 0)), "Row 96, column 0 is outside .* rows 0 to 95 and columns 0 to 95"),
        (EditRequest("insert", 5, 3, word=WORD, place=(0, 96)), "Row 0, column 96 is outside"),
        (EditRequest("insert", 5, 3, word=WORD, place=(-1, 5)), "Row -1, column 5 is outside"),
        (EditRequest("remove", 5, 3, place=(4, 5)), "for a removal"),
        (EditRequest("insert", 5, 3, word=WORD, place=(4, 5), region=bytes(1152)), "into a drawn region"),
    ],
)
def test_a_place_that_makes_no_sense_is_refused(instrument: Instrument, request_: EditRequest, said: str) -> None:
    with pytest.raises(EditError, match=said):
        run_trial(instrument, request_)
