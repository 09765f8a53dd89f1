"""The judge of faces finds what was planted, nothing in shuffled answers, and looks at the middle of the mask alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mine_core.counterfactual import face_judge
from mine_core.counterfactual.asked import QUESTIONS, answers_of
from mine_core.counterfactual.editor_judge import CELL, GREY, JUDGED_SIZE, Views, close_up, rendered_views, softened
from mine_core.counterfactual.face_judge import (
    CLOSE_SIZE,
    FACE_QUESTIONS,
    RECIPE,
    FaceBatches,
    FaceReader,
    faces_among,
    fit_face_judge,
    trained_face_judge,
)
from mine_core.counterfactual.train_run import Run
from mine_core.subjects.phantom import scenes

GRID = JUDGED_SIZE // CELL
BRIEF = replace(RECIPE, steps=40)


def a_face(**said: str) -> scenes.SceneObject:
    values = {name: str(QUESTIONS[name][0]) for name in FACE_QUESTIONS} | said
    return scenes.SceneObject("man", 0.5, 0.5, 0.5, tuple(values.items()), 0)


def striped(expression: str, rng: np.random.Generator) -> np.ndarray:
    """A view whose middle says an expression by where a stripe lies."""
    image = rng.integers(100, 140, (JUDGED_SIZE, JUDGED_SIZE, 3), dtype=np.uint8)
    top = 30 + 12 * QUESTIONS["expression"].index(expression)
    image[top : top + 8, 30:66] = (220, 40, 40)
    return image


def planted(n: int, rng: np.random.Generator) -> tuple[Views, list[scenes.SceneObject]]:
    said = [str(rng.choice(QUESTIONS["expression"])) for _ in range(n)]
    cells = np.zeros((n, GRID, GRID), bool)
    cells[:, 5:19, 5:19] = True
    return Views(np.stack([striped(one, rng) for one in said]), cells), [a_face(expression=one) for one in said]


def test_judge_finds_what_was_planted_and_nothing_in_shuffled_answers(rng) -> None:
    views, items = planted(96, rng)
    new, shown = planted(48, rng)
    truth = answers_of(shown)["expression"]
    right = (fit_face_judge(views, items, BRIEF)(new)["expression"] == truth).mean()
    shuffled = [items[row] for row in rng.permutation(len(items))]
    chance = (fit_face_judge(views, shuffled, BRIEF)(new)["expression"] == truth).mean()
    assert right > 0.95
    assert chance < 0.6


def test_close_up_is_the_middle_square_of_the_mask_and_grey_outside_it(rng) -> None:
    image = rng.integers(0, 256, (JUDGED_SIZE, JUDGED_SIZE, 3), dtype=np.uint8)
    cells = np.zeros((GRID, GRID), bool)
    cells[2:22, 4:20] = True  # 80 pixels high and 64 wide: the square is 64 wide and begins 8 pixels below its top
    assert np.array_equal(close_up(image, cells, CLOSE_SIZE), image[16:80, 16:80])
    holed = cells.copy()
    holed[4:6, 4:8] = False
    seen = close_up(image, holed, CLOSE_SIZE)
    assert (seen[:8, :16] == GREY).all() and np.array_equal(seen[8:], image[24:80, 16:80])


@pytest.mark.parametrize("place", [(0, 3, 0, 24), (20, 24, 20, 24), (0, 24, 0, 24), (7, 8, 9, 10)])
def test_close_up_of_any_mask_lies_in_the_view(place, rng) -> None:
    cells = np.zeros((GRID, GRID), bool)
    cells[place[0] : place[1], place[2] : place[3]] = True
    image = np.full((JUDGED_SIZE, JUDGED_SIZE, 3), 200, np.uint8)
    for given in (None, rng, rng, rng):
        assert close_up(image, cells, CLOSE_SIZE, given).shape == (CLOSE_SIZE, CLOSE_SIZE, 3)


def test_softening_by_nothing_changes_nothing_and_more_leaves_less(rng) -> None:
    views, _ = planted(3, rng)
    assert np.array_equal(softened(views, 0.0).images, views.images)
    spread = [softened(views, sd).images.astype(float).std() for sd in (0.0, 0.7, 1.6)]
    assert spread[0] > spread[1] > spread[2]
    each = softened(views, np.array([0, 1.6, 0])).images
    assert np.array_equal(each[0], views.images[0]) and not np.array_equal(each[1], views.images[1])


def test_a_mirrored_face_looks_the_other_way(rng) -> None:
    image = np.zeros((JUDGED_SIZE, JUDGED_SIZE, 3), np.uint8)
    image[:, : JUDGED_SIZE // 2] = 255  # bright on the side that it looks to
    views = Views(np.stack([image] * 8), np.ones((8, GRID, GRID), bool))
    run = Run(BRIEF, torch.nn.ModuleDict({"reader": FaceReader()}), torch.device("cpu"))
    given = FaceBatches(views, [a_face(view="left")] * 8, run).loss_at(0).keywords
    bright_left = given["shown"][..., :16].mean((1, 2, 3)) > given["shown"][..., -16:].mean((1, 2, 3))
    looks = [QUESTIONS["view"][answer] for answer in given["answers"]["view"]]
    assert set(looks) == {"left", "right"}
    assert [look == "left" for look in looks] == bright_left.tolist()


def test_kept_judge_answers_as_before(tmp_path, monkeypatch, rng) -> None:
    fitted = trained_face_judge(tmp_path, 60, replace(RECIPE, steps=2))
    views, _ = planted(12, rng)
    monkeypatch.setattr(face_judge, "fit_face_judge", None)  # whoever fits again fails
    kept = trained_face_judge(tmp_path, 60, replace(RECIPE, steps=2))
    scores = [judge(views) for judge in (fitted, kept)]
    for name in FACE_QUESTIONS:
        assert np.array_equal(scores[0][name], scores[1][name]) and scores[0][name].max() < len(QUESTIONS[name])


def test_faces_are_told_from_other_things() -> None:
    views, items = rendered_views(60, 900_000_000)
    faces, shown = faces_among(views, items)
    assert {item.concept for item in shown} <= {"man", "woman", "child", "clown"}
    assert len(shown) == len(faces.images) == sum(item.concept in ("man", "woman", "child", "clown") for item in items) > 3
