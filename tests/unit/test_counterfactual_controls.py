"""Control edits share with the edit what they must and nothing else; planted drivers are told from what merely is there."""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from scipy import ndimage

from mine_core.counterfactual.alterations import DESTROYING, KEEPING, Destroying, Keeping, destroy_content, put_back, rms_change
from mine_core.counterfactual.controls import (
    ELSEWHERE,
    KEPT,
    OTHER_ELSEWHERE,
    OTHER_HERE,
    SCRAMBLED,
    make_controls,
    make_replications,
)
from mine_core.counterfactual.exemplars import WordView, find_exemplars
from mine_core.counterfactual.insertion import Exemplar, ExemplarInserter, blend_in, cut_out, insertion_mask, least_attributed_place
from mine_core.counterfactual.placements import places_elsewhere
from mine_core.counterfactual.removal import InpaintRemover, driving_mask, object_mask
from mine_core.counterfactual.shift import embed_distinct, predict_shift
from mine_core.errors import AlignmentError, Cancelled, EditError
from mine_core.subjects.phantom.scenes import masks, render, sample_scene
from mine_core.types import BackboneSpec, EncodingModel, ImageEdit, VoxelIndex

SIZE = 96
SHAPES: dict[str, Callable[..., None]] = {
    "ball": lambda canvas, x, y, r: cv2.circle(canvas, (x, y), r, 1, -1),
    "box": lambda canvas, x, y, r: cv2.rectangle(canvas, (x - r, y - r), (x + r, y + r), 1, -1),
}


def ground(rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    base = np.array([150, 160, 150]) + 20 * np.linspace(-1, 1, size)[:, None, None]
    return np.clip(base + rng.normal(0, 8, (size, size, 3)), 0, 255).astype(np.uint8)


def silhouette(shape: str, x: int, y: int, radius: int, size: int = SIZE) -> np.ndarray:
    canvas = np.zeros((size, size), np.uint8)
    SHAPES[shape](canvas, x, y, radius)
    return canvas > 0


def painted(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    drawn = image.copy()
    stripes = 25 * ((np.indices(mask.shape).sum(0) // 5) % 2)[mask][:, None]
    drawn[mask] = np.clip(np.array(colour) - stripes + rng.normal(0, 6, (int(mask.sum()), 3)), 0, 255).astype(np.uint8)
    return drawn


def two_objects(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A red ball that drives a voxel, and a blue box that does not."""
    ball, box = silhouette("ball", 28, 60, 13), silhouette("box", 70, 34, 11)
    image = painted(painted(ground(rng), ball, (215, 50, 45), rng), box, (50, 70, 210), rng)
    return image, ball, box


def as_patches(mask: np.ndarray, grid: tuple[int, int] = (8, 8)) -> np.ndarray:
    return cv2.resize(mask.astype(np.float32), grid, interpolation=cv2.INTER_AREA)


def a_removal(image: np.ndarray, mask: np.ndarray) -> ImageEdit:
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    return InpaintRemover().edit(image, grown, "remove it", seed=0)


def shapes_pool(rng: np.random.Generator) -> list[Exemplar]:
    pool = []
    for number, (word, colour) in enumerate((("ball", (215, 50, 45)), ("box", (50, 70, 210)), ("box", (60, 170, 60)))):
        mask = silhouette(word, 48, 48, 16)
        pool.append(cut_out(word, painted(ground(rng), mask, colour, rng), mask, f"stimulus {number}"))
    return pool


def an_insertion(rng: np.random.Generator) -> tuple[ImageEdit, list[Exemplar]]:
    pool = shapes_pool(rng)
    mask = insertion_mask(pool[0], SIZE, SIZE, x=0.7, y=0.6, size=0.3)
    inserter = ExemplarInserter({"ball": pool[:1], "box": pool[1:]})
    return inserter.edit(ground(rng), mask, "insert a ball", seed=0), pool


@pytest.mark.parametrize("radius", [4, 10, 20, 30])
def test_places_elsewhere_never_overlap_and_have_the_size(radius: int, rng: np.random.Generator) -> None:
    for shape in SHAPES:
        for _ in range(3):
            mask = silhouette(shape, int(rng.integers(0, SIZE)), int(rng.integers(0, SIZE)), radius)
            image = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            places = places_elsewhere(image, mask, rng.normal(size=(8, 8)), 8)
            assert places
            for place in places:
                assert not (place.mask & mask).any()
                assert place.mask.sum() == mask.sum() or mask.sum() > 0.8 * (~mask).sum()
                assert place.attribution_share >= 0


def test_a_region_of_half_the_image_still_gets_a_place_beside_it(rng: np.random.Generator) -> None:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[:, :55] = True
    image = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    places = places_elsewhere(image, mask, np.ones((8, 8)), 8)
    assert places
    assert all(place.shape == "equal area" and not (place.mask & mask).any() for place in places)


def test_places_hold_the_other_object_first_and_the_other_driver_last(rng: np.random.Generator) -> None:
    image, ball, box = two_objects(rng)
    innocent = places_elsewhere(image, ball, as_patches(ball), 4)
    assert (innocent[0].mask & box).sum() > 0.5 * box.sum(), "an object is a fairer comparison than empty ground"
    shared = places_elsewhere(image, ball, as_patches(ball) + as_patches(box), 4)
    assert (shared[0].mask & box).sum() < 0.5 * box.sum(), "an object that drives as well is no control"
    assert shared[0].attribution_share <= 0.5


def test_removal_controls_are_what_they_say(rng: np.random.Generator) -> None:
    image, ball, _ = two_objects(rng)
    edit = a_removal(image, ball)
    controls = make_controls(edit, as_patches(ball), InpaintRemover(), direction=-1, seed=5)
    assert [control.name for control in controls] == [ELSEWHERE] * 8 + [KEPT] * 8
    for control in controls:
        assert np.array_equal(control.image[~control.edit_mask], image[~control.edit_mask])
        assert control.change > 0
        assert control.change == pytest.approx(rms_change(image, control.image, control.edit_mask))
    for control in controls[:8]:
        assert not (control.edit_mask & edit.edit_mask).any()
        assert np.array_equal(control.image, InpaintRemover().edit(image, control.edit_mask, "", seed=5).edited)
    for control in controls[8:]:
        assert control.edit_mask[edit.edit_mask].all()
    assert len({control.image.tobytes() for control in controls}) == 16


def test_controls_follow_the_seed(rng: np.random.Generator) -> None:
    image, ball, _ = two_objects(rng)
    insertion, pool = an_insertion(rng)
    for edit, direction in ((a_removal(image, ball), -1), (insertion, 1)):
        first, again, other = (
            make_controls(edit, as_patches(ball), InpaintRemover(), pool, direction=direction, seed=seed) for seed in (3, 3, 4)
        )
        assert all(np.array_equal(one.image, two.image) for one, two in zip(first, again, strict=True))
        assert any(not np.array_equal(one.image, two.image) for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize("how", KEEPING)
def test_put_back_keeps_the_object_and_really_changes_the_region(how: Keeping, rng: np.random.Generator) -> None:
    image, ball, _ = two_objects(rng)
    edit = a_removal(image, ball)
    removal = rms_change(image, edit.edited, edit.edit_mask)
    altered, mask = put_back(image, edit.edited, edit.edit_mask, how, removal, rng)
    core = ndimage.binary_erosion(ball, iterations=4)

    def redness(pixels: np.ndarray) -> float:
        return float((pixels[core][:, 0].astype(float) - pixels[core][:, 1:].mean(1)).mean())

    assert redness(altered) > 0.6 * redness(image)
    assert redness(edit.edited) < 0.2 * redness(image)
    assert 3 < rms_change(image, altered, edit.edit_mask) <= 60
    assert np.array_equal(altered[~mask], image[~mask])


def test_light_is_changed_as_much_as_the_edit_changed_pixels_up_to_its_limit(rng: np.random.Generator) -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    mask = silhouette("ball", 32, 32, 20, 64)
    inner = ndimage.binary_erosion(mask, iterations=3)
    for asked, light, grain in ((12.0, 12.0, 12.0), (30.0, 30.0, 20.0), (90.0, 40.0, 20.0)):
        for how, expected in (("lighter", light), ("darker", light), ("uneven light", light), ("grain", grain)):
            altered, _ = put_back(image, image, mask, how, asked, rng)
            assert rms_change(image, altered, inner) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("how", DESTROYING)
def test_destroyed_content_keeps_its_colours_and_loses_its_order(how: Destroying, rng: np.random.Generator) -> None:
    image, ball, _ = two_objects(rng)
    base = ground(rng)
    destroyed = destroy_content(image, base, ball, how, rng)
    inner = ndimage.binary_erosion(ball, iterations=2)
    assert np.array_equal(destroyed[~ball], base[~ball])
    np.testing.assert_allclose(destroyed[inner].mean(0), image[inner].mean(0), atol=6)
    if how != "mean colour":
        np.testing.assert_allclose(destroyed[inner].std(0), image[inner].std(0), rtol=0.35)
        order = np.corrcoef(destroyed[inner][:, 0].astype(float), image[inner][:, 0])[0, 1]
        assert abs(order) < 0.5


def test_pixels_in_random_order_are_the_same_pixels(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    mask = np.ones((40, 40), bool)
    mask[0] = False
    scrambled = destroy_content(image, image, mask, "pixels scrambled", rng)
    opaque = slice(4, None)
    originals = {tuple(pixel) for pixel in image[mask]}
    assert all(tuple(pixel) in originals for pixel in scrambled[opaque].reshape(-1, 3))


def test_insertion_controls_are_what_they_say(rng: np.random.Generator) -> None:
    edit, pool = an_insertion(rng)
    controls = make_controls(edit, np.ones((8, 8)), ExemplarInserter(), pool, direction=1, seed=2)
    names = [control.name for control in controls]
    assert names == [OTHER_ELSEWHERE] * 8 + [OTHER_HERE] * 4 + [SCRAMBLED] * 4
    covered = (edit.edited != edit.original).any(-1)
    for control in controls:
        assert np.array_equal(control.image[~control.edit_mask], edit.original[~control.edit_mask])
        assert control.detail != "ball", "the inserted concept is no control to its own insertion"
        overlap = (control.edit_mask & covered).sum() / covered.sum()
        assert overlap < 0.3 if control.name == OTHER_ELSEWHERE else overlap > 0.6
        assert control.edit_mask.sum() == pytest.approx(covered.sum(), rel=0.3)


def test_replications_repeat_the_edit_another_way(rng: np.random.Generator) -> None:
    image, ball, _ = two_objects(rng)
    pool = shapes_pool(rng)
    removal = a_removal(image, ball)
    repeated = make_replications(removal, pool[1:], direction=-1, seed=0)
    assert [item.detail for item in repeated] == [*DESTROYING, "box", "box"]
    insertion, pool = an_insertion(rng)
    other = dataclasses.replace(pool[0], source="stimulus 9")
    assert [item.detail for item in make_replications(insertion, [*pool, other], direction=1, seed=0)] == ["ball"]
    assert np.array_equal(make_replications(insertion, [other], direction=1, seed=0)[0].image, insertion.edited)


def test_controls_that_cannot_be_made_are_refused(rng: np.random.Generator) -> None:
    image, ball, _ = two_objects(rng)
    removal = a_removal(image, ball)
    insertion, pool = an_insertion(rng)
    with pytest.raises(EditError, match="Direction 0"):
        make_controls(removal, as_patches(ball), InpaintRemover(), direction=0, seed=0)
    with pytest.raises(EditError, match="None of the 1 exemplars"):
        make_controls(insertion, as_patches(ball), InpaintRemover(), pool[:1], direction=1, seed=0)
    with pytest.raises(Cancelled):
        make_controls(removal, as_patches(ball), InpaintRemover(), direction=-1, seed=0, cancelled=lambda: True)


def test_insertion_changes_nothing_outside_and_shows_the_exemplar_inside(rng: np.random.Generator) -> None:
    edit, pool = an_insertion(rng)
    assert np.array_equal(edit.edited[~edit.edit_mask], edit.original[~edit.edit_mask])
    core = ndimage.binary_erosion(edit.edit_mask, iterations=4)
    assert edit.edited[core][:, 0].mean() > edit.edited[core][:, 2].mean() + 80
    assert edit.provenance == {"word": "ball", "exemplar": "stimulus 0"}
    for _ in range(10):
        image = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)
        mask = silhouette("ball", int(rng.integers(0, 90)), int(rng.integers(0, 70)), int(rng.integers(5, 25)), 90)[:70]
        blended = blend_in(image, pool[1], mask)
        assert np.array_equal(blended[~mask], image[~mask])


def test_inserted_at_its_own_size_an_exemplar_keeps_its_pixels(rng: np.random.Generator) -> None:
    exemplar = shapes_pool(rng)[1]
    size = max(exemplar.cutout.shape) / SIZE
    mask = insertion_mask(exemplar, SIZE, SIZE, x=0.5, y=0.5, size=size)
    assert mask.sum() == exemplar.cutout.sum()
    around = np.full((SIZE, SIZE, 3), exemplar.image[exemplar.cutout].mean(0).astype(np.uint8))
    core = ndimage.binary_erosion(mask, iterations=3)
    inserted = blend_in(around, exemplar, mask)[core]
    kept = exemplar.image[ndimage.binary_erosion(np.pad(exemplar.cutout, 1), iterations=3)[1:-1, 1:-1]]
    assert np.abs(inserted.astype(float) - kept).mean() < 3, "only the light is matched a little"


def test_an_instruction_chooses_word_and_seed_the_exemplar(rng: np.random.Generator) -> None:
    pool = shapes_pool(rng)
    inserter = ExemplarInserter({"ball": pool[:1], "box": pool[1:], "dog": ()})
    mask = silhouette("ball", 40, 40, 20)
    assert inserter.edit(ground(rng), mask, "Insert a box", seed=1).provenance["exemplar"] == "stimulus 2"
    assert inserter.edit(ground(rng), mask, "insert a box", seed=2).provenance["exemplar"] == "stimulus 1"
    for unknown in ("insert a boxer", "insert a dog"):
        with pytest.raises(EditError, match="names nothing that can be inserted"):
            inserter.edit(ground(rng), mask, unknown, seed=0)
    with pytest.raises(EditError, match="too thin"):
        thin = np.zeros((SIZE, SIZE), bool)
        thin[5, 5:25:5] = True
        ExemplarInserter({"ball": [dataclasses.replace(pool[0], cutout=~pool[0].cutout)]}).edit(ground(rng), thin, "ball", seed=0)


def test_an_exemplar_goes_where_least_is_attributed(rng: np.random.Generator) -> None:
    exemplar = shapes_pool(rng)[0]
    attribution = np.ones((8, 8))
    attribution[1:4, 4:7] = 0
    x, y = least_attributed_place(attribution, exemplar, size=0.35)
    assert x == pytest.approx(5.5 / 8, abs=0.06)
    assert y == pytest.approx(2.5 / 8, abs=0.06)
    covered = np.zeros((SIZE, SIZE), bool)
    covered[:, 40:] = True
    assert least_attributed_place(attribution, exemplar, size=0.35, avoid=covered)[0] < 0.3
    with pytest.raises(EditError, match="fits nowhere"):
        least_attributed_place(attribution, exemplar, size=0.35, avoid=np.ones((SIZE, SIZE), bool))
    with pytest.raises(EditError, match="size=1.5"):
        insertion_mask(exemplar, SIZE, SIZE, x=0.5, y=0.5, size=1.5)


def test_the_clearest_image_of_a_word_is_found_and_cut_out(rng: np.random.Generator) -> None:
    """Images of a ball, a box or both; patches of the ball agree with its word."""
    text = np.eye(6)[0]
    images, patches, truths = [], [], []
    for number in range(24):
        with_ball = number % 2 == 0
        ball = silhouette("ball", int(rng.integers(26, 70)), int(rng.integers(26, 70)), 14)
        image = painted(ground(rng), ball, (215, 50, 45) if with_ball else (50, 70, 210), rng)
        images.append(image)
        truths.append(ball)
        agreement = np.outer(as_patches(ball).ravel(), text if with_ball else np.eye(6)[1])
        patches.append(agreement + 0.02 * rng.normal(size=(64, 6)))
    patches = np.stack(patches)
    view = WordView(tuple(f"image {i}" for i in range(24)), np.stack(images), patches.sum(1))

    def heat(rows):
        return ((patches[rows] - patches.mean(0)) @ text).reshape(-1, 8, 8)

    found = find_exemplars("ball", text, view, heat, n=4, candidates=12)
    assert [exemplar.score for exemplar in found] == sorted((exemplar.score for exemplar in found), reverse=True)
    for exemplar in found:
        number = int(exemplar.source.split()[1])
        assert number % 2 == 0
        assert exemplar.cutout.sum() == pytest.approx(truths[number].sum(), rel=0.35)
    with pytest.raises(EditError, match="None of the 12 images"):
        find_exemplars("nothing", text, view, lambda rows: np.ones((len(rows), 8, 8)), candidates=12)
    with pytest.raises(AlignmentError, match=r"\[23, 24\]"):
        dataclasses.replace(view, stimulus_ids=view.stimulus_ids[1:])


def colour_model(n_voxels: int) -> EncodingModel:
    spec = BackboneSpec("colours", (8, 8), 2, "0", "none")
    voxels = VoxelIndex("simulated", np.full(n_voxels, -1), (), (), np.zeros((0, n_voxels), bool))
    ones = np.ones(n_voxels)
    return EncodingModel("ridge", np.eye(2)[:, :n_voxels] * 1.0, 0 * ones, ones, ones, voxels, spec)


def embed_colours(images: np.ndarray) -> np.ndarray:
    """How much red and how much blue there is, saturating per pixel: an embedding whose drivers are known."""
    pixels = images.astype(float)
    red = np.tanh(np.maximum(pixels[..., 0] - pixels[..., 1:].mean(-1) - 30, 0) / 40)
    blue = np.tanh(np.maximum(pixels[..., 2] - pixels[..., :2].mean(-1) - 30, 0) / 40)
    return np.stack([red.mean((1, 2)), blue.mean((1, 2))], axis=1)


def test_the_object_that_drives_is_found_under_a_broad_attribution(rng: np.random.Generator) -> None:
    image, ball, box = two_objects(rng)
    broad = cv2.GaussianBlur(as_patches(ball), (0, 0), 1.2) + 0.02 * rng.random((8, 8)) - 0.05 * as_patches(box)
    found = driving_mask(image, broad.astype(float))
    assert found.method == "grabcut"
    assert found.mask[ball].mean() > 0.95
    assert found.mask[box].mean() < 0.05
    assert found.mask.sum() < 2 * ball.sum()
    with pytest.raises(EditError, match="No patch raises"):
        driving_mask(image, -np.ones((8, 8)))


def test_removing_the_planted_driver_exceeds_all_controls_and_removing_another_object_does_not(rng: np.random.Generator) -> None:
    """Voxel 0 wants red, voxel 1 blue; the red ball is removed, and the attribution knows it."""
    beyond_all, other_beyond_all, repeats = 0, 0, 4
    for _ in range(repeats):
        image, ball, _ = two_objects(rng)
        editor = InpaintRemover()
        edit = editor.edit(image, object_mask(image, ball).mask, "remove the ball", seed=0)
        controls = make_controls(edit, as_patches(ball), editor, direction=-1, seed=1)
        pooled = embed_distinct(embed_colours, [edit.original, edit.edited, *(control.image for control in controls)])
        names = [control.name for control in controls]
        found = predict_shift(colour_model(2), pooled[0], pooled[1], pooled[2:], names, direction=-1, guided_by="colours")
        beyond_all += found.rank[0] == 1
        other_beyond_all += found.rank[1] == 1
        replications = make_replications(edit, direction=-1, seed=1)
        assert len(replications) == 4
    assert beyond_all == repeats
    assert other_beyond_all == 0


def test_inserting_the_planted_driver_exceeds_all_controls(rng: np.random.Generator) -> None:
    edit, pool = an_insertion(rng)
    controls = [
        control
        for control in make_controls(edit, np.ones((8, 8)), ExemplarInserter(), pool, direction=1, seed=0)
        if control.name != SCRAMBLED  # a read-out of colour alone cannot tell a ball from its scattered pixels
    ]
    pooled = embed_distinct(embed_colours, [edit.original, edit.edited, *(control.image for control in controls)])
    names = [control.name for control in controls]
    found = predict_shift(colour_model(2), pooled[0], pooled[1], pooled[2:], names, direction=1, guided_by="colours")
    assert found.rank[0] == 1
    assert found.shift[0] > 0 >= found.shift[1]


def test_removal_comes_closer_to_the_rendered_background_than_the_object_or_the_mean_colour() -> None:
    """The phantom's scenes can be drawn without the object, which is the truth that a removal should come near."""
    errors = []
    for seed in range(8000, 8024):
        scene = sample_scene(seed)
        rendered = render(scene, 128)
        mask = masks(rendered)[-1]  # the front object hides nothing but background and other objects
        if not 0.02 < mask.mean() < 0.3:
            continue
        truth = render(dataclasses.replace(scene, objects=scene.objects[:-1]), 128).image.astype(float)
        edit = a_removal(rendered.image, mask)
        inside, outside = edit.edit_mask, ~edit.edit_mask
        mean = rendered.image[outside].mean(0)
        errors.append([np.abs(pixels - truth[inside]).mean() for pixels in (edit.edited[inside], rendered.image[inside], mean[None])])
    filled, left, mean_colour = np.median(errors, axis=0)
    assert len(errors) >= 12
    assert filled < 0.6 * left
    assert filled < 0.7 * mean_colour
