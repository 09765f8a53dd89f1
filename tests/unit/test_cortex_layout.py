"""Units without a cortex: each has its place, and similar ones are near."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

from mine_core.cortex.layout import similarity_layout
from mine_core.errors import SubjectError


@pytest.mark.parametrize("n_units", [1, 2, 3, 8, 57, 1500, 5000])
def test_every_unit_is_reached_by_a_pixel(rng: np.random.Generator, n_units: int) -> None:
    flatmap = similarity_layout(rng.normal(size=(n_units, 12)), subject="v4")
    pixels = np.bincount(flatmap.pixel_voxel[flatmap.pixel_voxel >= 0], minlength=n_units)
    assert len(pixels) == n_units
    assert pixels.min() >= 40
    assert pixels.max() <= 1.5 * pixels.min()
    x, y = flatmap.centres.T
    np.testing.assert_array_equal(flatmap.pixel_voxel[y, x], np.arange(n_units))
    assert max(flatmap.height, flatmap.width) <= 730
    assert flatmap.outlines == ()
    assert np.isnan(flatmap.curvature).all()
    np.testing.assert_array_equal(flatmap.drawn_mask, flatmap.pixel_voxel >= 0)


@pytest.mark.parametrize("n_units", [300, 1500])
def test_units_of_a_planted_plane_keep_their_neighbours(rng: np.random.Generator, n_units: int) -> None:
    angle, depth = rng.uniform(0, 2 * np.pi, n_units), rng.uniform(0, 1, n_units)
    plane = np.stack([depth * np.cos(angle), depth * np.sin(angle)], 1)
    waves = np.stack([np.ones(80), np.sin(np.arange(80) / 3), np.cos(np.arange(80) / 3)])
    vectors = np.column_stack([np.zeros(n_units), plane]) @ waves + 0.01 * rng.normal(size=(n_units, 80))
    flatmap = similarity_layout(vectors, subject="planted")
    place = flatmap.centres.astype(float)
    # The correlation distance of these vectors is that of their directions in the plane.
    directions = np.stack([np.cos(angle), np.sin(angle)], 1)
    assert np.corrcoef(pdist(place), pdist(directions))[0, 1] > 0.75
    nearest = np.argsort(cdist(place, place), axis=1)[:, 1]
    shuffled = rng.permutation(n_units)
    turn = np.linalg.norm(directions - directions[nearest], axis=1)
    assert np.median(turn) < 0.2 * np.median(np.linalg.norm(directions - directions[shuffled], axis=1))


def test_the_same_vectors_give_the_same_map_and_units_follow_their_rows(rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(90, 20))
    first, second = (similarity_layout(vectors, subject="a") for _ in range(2))
    np.testing.assert_array_equal(first.pixel_voxel, second.pixel_voxel)
    order = rng.permutation(90)
    moved = similarity_layout(vectors[order], subject="a")
    # The principal axes may turn by half; distances between units may not change with the order of the rows.
    np.testing.assert_allclose(pdist(moved.centres.astype(float)), pdist(first.centres[order].astype(float)), atol=60)
    assert np.corrcoef(pdist(moved.centres), pdist(first.centres[order]))[0, 1] > 0.99


def test_scale_and_offset_of_a_unit_do_not_move_it(rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(40, 15))
    gain, offset = rng.uniform(0.5, 5, (40, 1)), rng.normal(size=(40, 1))
    plain, changed = similarity_layout(vectors, subject="a"), similarity_layout(vectors * gain + offset, subject="a")
    np.testing.assert_array_equal(plain.pixel_voxel, changed.pixel_voxel)


def test_units_that_are_all_alike_or_constant_still_have_places() -> None:
    alike = similarity_layout(np.tile(np.arange(6.0), (20, 1)), subject="a")
    constant = similarity_layout(np.full((20, 6), 0.1), subject="a")
    for flatmap in (alike, constant):
        assert len(flatmap.hidden_voxels) == 0


def test_what_cannot_be_laid_out_is_refused() -> None:
    with pytest.raises(SubjectError, match="5001 units"):
        similarity_layout(np.zeros((5001, 2)), subject="a")
    with pytest.raises(SubjectError, match="0 units"):
        similarity_layout(np.zeros((0, 4)), subject="a")
    with pytest.raises(SubjectError, match="1 values"):
        similarity_layout(np.zeros((4, 1)), subject="a")
    broken = np.ones((5, 3))
    broken[2, 1] = np.nan
    with pytest.raises(SubjectError, match=r"1 of 5 units .*first: 2"):
        similarity_layout(broken, subject="a")
