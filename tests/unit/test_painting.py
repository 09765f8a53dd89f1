"""Trials with a generative editor: what is asked in words, where it goes, what verifies it, and when it is offered."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mine_core.counterfactual.editors import EDITORS, create_editor, finish_edit
from mine_core.errors import EditError
from mine_core.instrument import Instrument, trials
from mine_core.instrument.trials import EditRequest, painting_editors, run_trial, word_region
from mine_core.instrument.where import heat_of

SIDE, VOXEL, STIMULUS = 96, 5, 3


class Painter:
    """Paints every region in one colour and remembers what it was asked."""

    name = "painter"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def edit(self, image, edit_mask, instruction, *, seed, on_step=None, cancelled=None):
        self.asked.append(instruction)
        edited = np.where(edit_mask[..., None], np.array([200, 30, 40], np.uint8), image)
        record = {"word": instruction.partition(" ")[2]}
        return finish_edit(image, edited, edit_mask, instruction, editor=self.name, seed=seed, provenance=record)


@pytest.fixture
def painter(monkeypatch) -> Iterator[Painter]:
    made = Painter()

    def create(name: str, **settings: Any) -> Painter:
        assert (name, settings) == ("diffusion", {"preset": "phantom"})
        return made

    monkeypatch.setattr(trials, "create_editor", create)
    monkeypatch.setattr(trials, "N_ELSEWHERE", 2)
    monkeypatch.setattr(trials, "N_CONTENT", 2)
    yield made


@pytest.fixture(scope="module")
def instrument(small: Any) -> Instrument:
    return small.instrument


def test_a_phrase_is_painted_at_its_place_and_verified(instrument, painter) -> None:
    request = EditRequest("insert", VOXEL, STIMULUS, word="a red ball", place=(40, 50), editor="phantom")
    found = run_trial(instrument, request)
    assert painter.asked == ["insert a red ball"]
    mask = found.edit.edit_mask
    rows, cols = np.nonzero(mask)
    assert (rows.mean(), cols.mean()) == pytest.approx((40, 50), abs=1)
    assert mask.sum() == pytest.approx(np.pi * (trials.PAINTED_SIZE * SIDE / 2) ** 2, rel=0.05)
    record = found.edit.provenance
    assert record["word"] == "ball" and record["verification"]["concept"] == "a red ball"
    assert record["place"]["given"] == [40, 50] and found.edit.editor == "painter"
    assert len(found.shift.control_names) == 4


def test_without_a_place_it_goes_where_the_image_drives_the_voxel_least(instrument, painter) -> None:
    found = run_trial(instrument, EditRequest("insert", VOXEL, STIMULUS, word="dog", editor="phantom")).edit
    heat = np.maximum(heat_of(instrument, VOXEL, STIMULUS), 0)
    cells = found.edit_mask.reshape(16, 6, 16, 6).mean((1, 3))
    everywhere = [np.roll(cells, (dy, dx), (0, 1)) for dy in range(16) for dx in range(16)]
    covered = [float((heat * cell).sum()) for cell in everywhere]
    assert (heat * cells).sum() <= np.quantile(covered, 0.3)
    assert found.provenance["place"]["chosen_by"] == "least attributed"


def test_a_word_is_removed_from_where_it_is_seen(instrument, painter, small) -> None:
    """The region of a word lies on its object: nearer to it than to the image's other objects."""
    hits = []
    for stimulus, scene in enumerate(small.scenes[:40]):
        names = [item.concept for item in scene.objects]
        for item in scene.objects:
            if item.concept in ("castle", "clock", "pizza", "bus", "clown", "banana") and len(names) > 1:
                try:
                    region = word_region(instrument, stimulus, item.concept)
                except EditError:
                    continue
                rows, cols = np.nonzero(region)
                apart = [np.hypot(rows.mean() / SIDE - other.y, cols.mean() / SIDE - other.x) for other in scene.objects]
                hits.append(names[int(np.argmin(apart))] == item.concept)
    assert len(hits) >= 8 and np.mean(hits) > 0.7
    found = run_trial(instrument, EditRequest("remove", VOXEL, STIMULUS, word="dog", editor="phantom"))
    assert painter.asked[0] == "remove the dog"
    assert np.array_equal(found.edit.edit_mask, word_region(instrument, STIMULUS, "dog"))
    assert found.edit.provenance["verification"]["concept"] == "dog"


def test_a_removal_is_filled_by_the_fill_that_is_asked_for_or_painted(instrument, monkeypatch) -> None:
    monkeypatch.setattr(trials, "N_ELSEWHERE", 2)
    monkeypatch.setattr(trials, "N_CONTENT", 2)
    image = np.asarray(instrument.subject.stimuli.images[STIMULUS])
    for asked, name in (("", "patch-fill"), ("patch-fill", "patch-fill"), ("smooth-fill", "smooth-fill")):
        request = EditRequest("remove", VOXEL, STIMULUS, editor=asked)
        edit = run_trial(instrument, request).edit
        alone = create_editor(name).edit(image, edit.edit_mask, "", seed=0)
        assert np.array_equal(edit.edited, alone.edited) and edit.editor == name and not request.painted
    assert EditRequest("remove", VOXEL, STIMULUS, editor="phantom").painted
    with pytest.raises(EditError, match="no generative editor 'smooth-fill'"):
        run_trial(instrument, EditRequest("insert", VOXEL, STIMULUS, word="dog", editor="smooth-fill"))


def test_what_no_word_stands_for_is_refused(instrument, painter) -> None:
    for word in ("a zebra", "quickly"):
        with pytest.raises(EditError, match="names nothing of the vocabulary"):
            run_trial(instrument, EditRequest("insert", VOXEL, STIMULUS, word=word, editor="phantom"))
    with pytest.raises(EditError, match="not in the vocabulary"):
        run_trial(instrument, EditRequest("insert", VOXEL, STIMULUS, word="a red ball"))
    assert painter.asked == []


def test_each_painter_is_offered_for_its_own_world_alone(instrument, monkeypatch) -> None:
    own = replace(instrument, subject=replace(instrument.subject, kind="phantom"))
    public = ("sd15-inpaint-lcm", "sdxl-inpaint", "flux2-klein-4b")  # the editor that knows no mask is left out
    for here in (True, False):
        monkeypatch.setattr(trials, "editor_available", lambda name, here=here: (here, ""))
        assert painting_editors(own) == (("phantom",) if here else ())
        assert painting_editors(instrument) == (public if here else ()), "a subject of other images"
    monkeypatch.setattr(trials, "editor_available", lambda name: (name == "sdxl-inpaint", ""))
    assert painting_editors(instrument) == ("sdxl-inpaint",)


def test_the_table_of_editors_names_it() -> None:
    entry = EDITORS["diffusion"]
    assert entry.kind == "both" and entry.settings == {"preset": "phantom"}
