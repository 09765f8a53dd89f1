"""Editors keep their promise: exactly nothing changes outside the mask, and what is taken out is really gone."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mine_core.counterfactual.compositing import feather, match_light, paste
from mine_core.counterfactual.editors import EDITORS, Editor, check_edit, check_mask, create_editor, finish_edit
from mine_core.counterfactual.filling import fill_hole
from mine_core.counterfactual.removal import InpaintRemover, object_mask
from mine_core.errors import Cancelled, EditError
from mine_core.types import ImageEdit

REMOVERS = [name for name, entry in EDITORS.items() if entry.kind == "remove"]
SIZE = 96


def textured(rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """Sky over grass, with noise: something that a fill can continue."""
    rows = np.linspace(0, 1, size)[:, None, None]
    sky, grass = np.array([120, 170, 230.0]), np.array([70, 130, 50.0])
    image = np.where(rows < 0.55, sky + 40 * rows, grass + 30 * rows) + rng.normal(0, 9, (size, size, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def blob(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    height, width = shape
    mask = np.zeros(shape, np.uint8)
    for _ in range(int(rng.integers(1, 4))):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        axes = (int(rng.integers(2, width // 5)), int(rng.integers(2, height // 5)))
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    return mask > 0


def photographs(real: Path, n: int, size: int = 160) -> list[np.ndarray]:
    paths = sorted((real / "coco_val128" / "images").glob("*.jpg"))[:n]
    if len(paths) < n:
        pytest.skip("the photographs of shared/real/coco_val128 are not on this machine")
    return [cv2.resize(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), (size, size - 20)) for path in paths]


def an_edit(rng: np.random.Generator, edited_change: tuple[int, int] | None = None) -> ImageEdit:
    original = textured(rng)
    mask = np.zeros((SIZE, SIZE), bool)
    mask[20:50, 30:60] = True
    edited = original.copy()
    edited[25:45, 35:55] ^= 1
    if edited_change is not None:
        edited[edited_change] ^= 1
    return ImageEdit(original, edited, mask, "remove it", "by hand", 0, 0, None)


@pytest.mark.parametrize("name", REMOVERS)
def test_removers_change_nothing_outside_random_masks(name: str, rng: np.random.Generator) -> None:
    editor = create_editor(name)
    assert isinstance(editor, Editor)
    for _ in range(12):
        image = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)
        mask = blob(rng, (70, 90))
        if not 4 <= mask.sum() <= 0.6 * mask.size:
            continue
        edit = editor.edit(image, mask, "remove it", seed=3)
        assert np.array_equal(edit.edited[~mask], image[~mask])
        assert (edit.edited[mask] != image[mask]).any()
        assert (edit.changed_outside_mask, edit.editor, edit.seed) == (0, name, 3)


@pytest.mark.parametrize("name", REMOVERS)
def test_removers_change_nothing_outside_on_photographs(name: str, rng: np.random.Generator, real: Path) -> None:
    for image in photographs(real, 6):
        mask = blob(rng, image.shape[:2])
        before = image.copy()
        edit = create_editor(name).edit(image, mask, "remove it", seed=0)
        assert np.array_equal(edit.edited[~mask], before[~mask])
        assert np.array_equal(image, before), "the caller's image was written to"


@pytest.mark.parametrize("name", REMOVERS)
def test_removers_repeat_themselves(name: str, rng: np.random.Generator) -> None:
    image, mask = textured(rng), blob(rng, (SIZE, SIZE))
    first, second = (create_editor(name).edit(image, mask, "", seed=1).edited for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("name", REMOVERS)
def test_removal_comes_closer_to_the_true_background_than_the_object_or_a_mean(name: str, rng: np.random.Generator) -> None:
    editor = create_editor(name)
    for _ in range(4):
        background = textured(rng)
        mask = np.zeros((SIZE, SIZE), np.uint8)
        cv2.circle(mask, (int(rng.integers(30, 66)), int(rng.integers(40, 66))), 15, 1, -1)
        mask = mask > 0
        with_object = np.where(mask[..., None], np.array([200, 30, 40], np.uint8), background)
        mean = with_object[~mask].mean(0)
        edit = editor.edit(with_object, mask, "remove the ball", seed=0)
        error = np.abs(edit.edited[mask].astype(float) - background[mask]).mean()
        assert error < 0.5 * np.abs(mean - background[mask]).mean()
        assert error < 0.35 * np.abs(with_object[mask].astype(float) - background[mask]).mean()


def test_patches_continue_a_texture_that_smooth_filling_blurs(rng: np.random.Generator) -> None:
    stripes = np.where((np.arange(SIZE) // 4 % 2)[None, :, None], 220, 40) + np.zeros((SIZE, SIZE, 3))
    image = stripes.astype(np.uint8)
    mask = np.zeros((SIZE, SIZE), bool)
    mask[30:66, 28:70] = True
    errors = {
        method: np.abs(InpaintRemover(method).edit(image, mask, "", seed=0).edited[mask].astype(float) - image[mask]).mean()
        for method in ("patches", "navier-stokes")
    }
    assert errors["patches"] < 25 < 50 < errors["navier-stokes"]


def test_fill_takes_colours_only_from_outside_the_hole(rng: np.random.Generator) -> None:
    image, mask = textured(rng), blob(rng, (SIZE, SIZE))
    other = image.copy()
    other[mask] = rng.integers(0, 256, (int(mask.sum()), 3), dtype=np.uint8)
    assert np.array_equal(fill_hole(image, mask), fill_hole(other, mask))


def test_fill_makes_up_no_colour_that_is_not_there(rng: np.random.Generator) -> None:
    image = rng.integers(180, 221, (SIZE, SIZE, 3), dtype=np.uint8)
    mask = blob(rng, (SIZE, SIZE))
    filled = fill_hole(image, mask)[mask]
    assert 178 <= filled.min() <= filled.max() <= 222


def test_fill_of_nothing_is_the_image_and_of_all_but_a_rim_is_refused(rng: np.random.Generator) -> None:
    image = textured(rng)
    assert np.array_equal(fill_hole(image, np.zeros((SIZE, SIZE), bool)), image)
    rim = np.zeros((SIZE, SIZE), bool)
    rim[2:-2, 2:-2] = True
    with pytest.raises(EditError, match="no whole 5 x 5 patch"):
        fill_hole(image, rim)


@pytest.mark.parametrize("shape", [(24, 40), (31, 200), (97, 61), (425, 425)])
def test_fill_works_at_odd_sizes_and_at_the_border(shape: tuple[int, int], rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    mask = np.zeros(shape, bool)
    mask[: shape[0] // 2, : shape[1] // 3] = True
    edited = InpaintRemover().edit(image, mask, "", seed=0).edited
    assert edited.shape == image.shape
    assert np.array_equal(edited[~mask], image[~mask])


def test_steps_are_reported_and_a_cancelled_edit_leaves_nothing(rng: np.random.Generator) -> None:
    image = textured(rng, 192)
    mask = np.zeros((192, 192), bool)
    mask[60:120, 60:120] = True
    kept, steps = image.copy(), []
    InpaintRemover().edit(image, mask, "", seed=0, on_step=lambda done, total, so_far: steps.append((done, total, so_far)))
    assert [done for done, _, _ in steps] == list(range(1, steps[0][1] + 1))
    assert len(steps) > 1
    assert all(np.array_equal(so_far[~mask], image[~mask]) for _, _, so_far in steps)
    asked = iter((False, False, True))
    with pytest.raises(Cancelled):
        InpaintRemover().edit(image, mask, "", seed=0, cancelled=lambda: next(asked))
    assert np.array_equal(image, kept)


def test_an_edit_that_strays_by_one_bit_is_refused(rng: np.random.Generator) -> None:
    check_edit(an_edit(rng))
    with pytest.raises(EditError, match="changed 1 pixels outside"):
        check_edit(an_edit(rng, (0, 95)))


def test_masks_that_no_edit_can_be_made_under_are_refused(rng: np.random.Generator) -> None:
    image = textured(rng)
    with pytest.raises(EditError, match="marks 0 pixels"):
        check_mask(image, np.zeros((SIZE, SIZE), bool))
    with pytest.raises(EditError, match="95 x 96, the image 96 x 96"):
        check_mask(image, np.ones((95, 96), bool))
    large = np.zeros((SIZE, SIZE), bool)
    large[:60] = True
    with pytest.raises(EditError, match="covers 62%"):
        InpaintRemover().edit(image, large, "", seed=0)
    with pytest.raises(EditError, match="no editor 'magic'"):
        create_editor("magic")
    with pytest.raises(EditError, match="no fill 'magic'"):
        InpaintRemover("magic")


def test_a_finished_edit_cannot_be_written_to_and_does_not_follow_its_source(rng: np.random.Generator) -> None:
    image, mask = textured(rng), np.zeros((SIZE, SIZE), bool)
    mask[:10, :10] = True
    edit = finish_edit(image, image, mask, "nothing", editor="none", seed=0, provenance={})
    image[:] = 0
    assert edit.original.any()
    with pytest.raises(ValueError, match="read-only"):
        edit.edited[0, 0] = 1


def test_object_mask_follows_the_borders_of_what_the_seed_lies_on(rng: np.random.Generator) -> None:
    image = textured(rng, 192)
    truth = np.zeros((192, 192), np.uint8)
    cv2.ellipse(truth, (90, 100), (34, 50), 20, 0, 360, 1, -1)
    image[truth > 0] = np.clip(np.array([210, 60, 50]) + rng.normal(0, 9, (int(truth.sum()), 3)), 0, 255).astype(np.uint8)
    patches = cv2.resize(truth.astype(np.float32), (12, 12), interpolation=cv2.INTER_AREA) > 0.7
    seed = cv2.resize(patches.astype(np.uint8), (192, 192), interpolation=cv2.INTER_NEAREST) > 0
    found = object_mask(image, seed)
    assert found.method == "grabcut"
    assert found.mask[truth > 0].mean() > 0.98
    assert found.mask.sum() < 1.35 * truth.sum()
    assert seed[truth > 0].mean() < 0.9


def test_object_mask_falls_back_to_the_grown_seed_and_says_why(rng: np.random.Generator) -> None:
    flat = np.full((120, 120, 3), 128, np.uint8)
    seed = np.zeros((120, 120), bool)
    seed[40:70, 40:70] = True
    found = object_mask(flat, seed)
    assert found.method == "dilated"
    assert found.reason
    assert found.mask[seed].all()
    assert seed.sum() < found.mask.sum() < 2 * seed.sum()


def test_object_mask_does_not_depend_on_what_ran_before(rng: np.random.Generator, real: Path) -> None:
    """GrabCut starts its clusters from a generator of the thread, which other calls move on."""
    for image in photographs(real, 12):
        seed = cv2.ellipse(np.zeros(image.shape[:2], np.uint8), (70, 80), (30, 40), 0, 0, 360, 1, -1) > 0
        masks = []
        for state in rng.integers(1, 2**31, 2):
            cv2.setRNGSeed(int(state))
            masks.append(object_mask(image, seed).mask)
        assert np.array_equal(*masks)


def test_feather_is_nothing_outside_and_everything_deep_inside(rng: np.random.Generator) -> None:
    mask = np.zeros((50, 50), bool)
    mask[10:40, 0:40] = True
    opacity = feather(mask, 4.0)
    assert (opacity[~mask] == 0).all()
    assert (opacity[mask] > 0).all()
    assert opacity[25, 20] == 1
    assert opacity[25, 0] == 1, "the border of the image is no border of the mask"
    assert opacity[25, 39] < 0.5


def test_paste_mixes_by_opacity_and_keeps_bytes_where_it_is_zero() -> None:
    image = np.full((2, 2, 3), 100, np.uint8)
    overlay = np.full((2, 2, 3), 200, np.uint8)
    pasted = paste(image, overlay, np.array([[0, 0.25], [0.5, 1]], np.float32))
    assert pasted[..., 0].tolist() == [[100, 125], [150, 200]]


def test_match_light_moves_lightness_and_keeps_hue() -> None:
    overlay = np.full((8, 8, 3), (150, 60, 60), np.uint8)
    inside = np.ones((8, 8), bool)
    lighter = match_light(overlay, inside, np.array([240.0, 240.0, 240.0]), 0.4)
    unmoved = match_light(overlay, inside, np.array([240.0, 240.0, 240.0]), 0.0)
    assert np.abs(unmoved.astype(int) - overlay).max() <= 2, "only the rounding of CIELAB remains"
    assert lighter.mean() > overlay.mean() + 20
    assert lighter[0, 0, 0] > lighter[0, 0, 1] + 40
