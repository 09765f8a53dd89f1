"""Matching: a planted unit is found, noise is matched as rarely as is claimed, and what is reported is what was measured."""

import numpy as np
import pytest
from scipy import stats

from mine_core.dictionary.activations import Columns
from mine_core.dictionary.consistency import region_consistency, sharing
from mine_core.dictionary.matching import Halves, Matcher, Matches, assign_one_to_one, r_intervals, split_halves
from mine_core.dictionary.persist import UsedColumns, load_columns, load_matches, save_columns, save_matches
from mine_core.errors import EncodingError

N_IMAGES, N_UNITS, N_PLACES, N_TUNED, N_NULL = 400, 30, 3, 20, 300


def sparse(rng: np.random.Generator, n_columns: int, n_images: int = N_IMAGES) -> np.ndarray:
    return (np.maximum(rng.normal(size=(n_images, n_columns)) - 0.8, 0)).astype(np.float32)


@pytest.fixture(scope="module")
def layers() -> list[Columns]:
    rng = np.random.default_rng(2)
    return [Columns(sparse(rng, N_UNITS * N_PLACES), N_UNITS) for _ in range(2)]


@pytest.fixture(scope="module")
def responses(layers) -> np.ndarray:
    """Voxel v < 20 answers to unit v of layer v % 2 at place v % 3; the others to nothing."""
    rng = np.random.default_rng(3)
    answers = rng.normal(size=(N_IMAGES, N_TUNED + N_NULL))
    for voxel in range(N_TUNED):
        column = layers[voxel % 2].values[:, (voxel % 3) * N_UNITS + voxel]
        answers[:, voxel] += 1.5 * (column - column.mean()) / column.std()
    return answers.astype(np.float32)


@pytest.fixture(scope="module")
def halves() -> Halves:
    return split_halves(np.arange(N_IMAGES), np.random.default_rng(4))


def matched(layers, responses, halves, n_permutations=999) -> Matches:
    matcher = Matcher(responses, halves, np.random.default_rng(5))
    for number, columns in enumerate(layers):
        matcher.add(number, columns)
    return matcher.finish(n_permutations)


@pytest.fixture(scope="module")
def found(layers, responses, halves) -> Matches:
    return matched(layers, responses, halves)


def test_a_planted_unit_is_found_at_its_layer_and_place(found):
    for voxel in range(N_TUNED):
        assert (found.layer[voxel, 0], found.unit[voxel, 0], found.place[voxel, 0]) == (voxel % 2, voxel, voxel % 3)
    assert (found.q[:N_TUNED] <= 0.05).all()
    assert (found.low[:N_TUNED] > 0).all()


def test_similarities_are_correlations_on_the_two_halves(found, layers, responses, halves):
    for voxel in (0, 7, N_TUNED + 3):
        for rank in range(found.layer.shape[1]):
            column = found.place[voxel, rank] * N_UNITS + found.unit[voxel, rank]
            values = layers[found.layer[voxel, rank]].values[:, column]
            for half, reported in ((halves.choose, found.r_chosen), (halves.measure, found.r_held_out)):
                assert reported[voxel, rank] == pytest.approx(stats.pearsonr(values[half], responses[half, voxel])[0], abs=1e-5)
        everything = np.concatenate([columns.values[halves.choose] for columns in layers], axis=1)
        largest = max(stats.pearsonr(column, responses[halves.choose, voxel])[0] for column in everything.T)
        assert found.r_chosen[voxel, 0] == pytest.approx(largest, abs=1e-5)
        whole = np.concatenate([columns.values[halves.choose, :N_UNITS] for columns in layers], axis=1)
        cosine = whole.T @ responses[halves.choose, voxel] / np.linalg.norm(whole, axis=0)
        cosine = cosine / np.linalg.norm(responses[halves.choose, voxel])
        assert found.cosine_chosen[voxel] == pytest.approx(cosine.max(), abs=1e-5)
        other = np.concatenate([columns.values[halves.measure, :N_UNITS] for columns in layers], axis=1)[:, cosine.argmax()]
        answers = responses[halves.measure, voxel]
        assert found.cosine_held_out[voxel] == pytest.approx(
            other @ answers / np.linalg.norm(other) / np.linalg.norm(answers), abs=1e-5
        )


def test_choosing_inflates_and_held_out_images_do_not(found):
    null = slice(N_TUNED, None)
    assert found.r_chosen[null, 0].min() > 0.1
    assert abs(found.r_held_out[null, 0].mean()) < 0.02
    # shuffled images reach as much by choosing as voxels without signal do
    assert np.median(found.shuffled) == pytest.approx(np.median(found.r_chosen[null, 0]), abs=0.02)


def test_p_of_noise_is_uniform_and_few_null_voxels_are_matched(found):
    null = found.p[N_TUNED:]
    assert stats.kstest(null, "uniform").pvalue > 0.01
    assert (found.q[N_TUNED:] <= 0.05).mean() <= 0.02


def test_selection_is_never_measured_on_its_own_images(layers, responses, halves):
    """Were units measured where they were chosen, noise would be matched: the test above would see it."""
    same = Halves(halves.choose, halves.choose)
    circular = matched(layers, responses[:, N_TUNED:], same)
    assert (circular.p < 0.05).mean() > 0.5


def test_a_unit_that_few_images_show_is_not_offered(layers, responses, halves):
    rare = layers[0].values.copy()
    rare[:] = 0
    rare[halves.choose[:3], 0] = 1.0
    loud = responses[:, :5].copy()
    loud[halves.choose[:3]] = 50.0
    found = matched([Columns(rare, N_UNITS)], loud, halves)
    assert (found.r_chosen == 0).all() and (found.p == 1).all()


def test_intervals_cover_the_correlation_they_are_of():
    rng = np.random.default_rng(8)
    a = rng.normal(size=(200, 300))
    b = 0.4 * a + np.sqrt(1 - 0.16) * rng.normal(size=a.shape)
    low, high = r_intervals(a, b, rng)
    assert 0.90 < ((low < 0.4) & (high > 0.4)).mean() < 0.99


def test_one_to_one_gives_no_unit_twice_and_the_best_sum():
    rng = np.random.default_rng(6)
    chosen, held_out = rng.normal(size=(2, 9, 4))
    units, voxels, ours, theirs = assign_one_to_one(chosen, held_out)
    assert len(set(units.tolist())) == len(units) == 4 and sorted(voxels.tolist()) == [0, 1, 2, 3]
    from itertools import permutations

    best = max(sum(chosen[unit, voxel] for voxel, unit in enumerate(order)) for order in permutations(range(9), 4))
    assert ours.sum() == pytest.approx(best)
    assert np.allclose(theirs, held_out[units, voxels])


def test_halves_share_no_image_and_too_few_are_refused():
    halves = split_halves(np.arange(100, 161), np.random.default_rng(0))
    assert not np.intersect1d(halves.choose, halves.measure).size
    assert np.array_equal(np.sort(np.concatenate([halves.choose, halves.measure])), np.arange(100, 161))
    with pytest.raises(EncodingError, match="39 training images"):
        split_halves(np.arange(39), np.random.default_rng(0))


def test_matches_are_read_as_they_were_written(found, halves, layers, tmp_path):
    save_matches(tmp_path, found, halves)
    again, same = load_matches(tmp_path)
    assert np.array_equal(again.r_held_out, found.r_held_out) and np.array_equal(same.measure, halves.measure)
    assert not again.unit.flags.writeable
    used = np.array([3, 40, 77])
    save_columns(tmp_path, 1, UsedColumns(used, layers[1].values[:, used].T, N_UNITS), layers[1].values[:, :N_UNITS])
    columns, whole = load_columns(tmp_path, 1)
    assert whole.shape == (N_IMAGES, N_UNITS)
    assert np.allclose(columns.of(10, 1), layers[1].values[:, 40], atol=2e-3)
    with pytest.raises(KeyError):
        columns.of(11, 1)


def test_sharing_is_the_chance_that_two_are_alike():
    unit = np.array([1, 1, 1, 2, 2, 5])
    pairs = [(a, b) for a in range(6) for b in range(6) if a != b]
    assert sharing(unit) == pytest.approx(np.mean([unit[a] == unit[b] for a, b in pairs]))


def test_regions_that_share_units_are_seen_and_dealt_labels_are_chance():
    rng = np.random.default_rng(9)
    regions = {name: np.arange(400) // 100 == place for place, name in enumerate("abcd")}
    alike = rng.integers(0, 5, 400) + 5 * (np.arange(400) // 100)
    everyone = np.ones(400, bool)
    found = region_consistency(alike, everyone, regions, rng, 200)
    assert found.mean == pytest.approx(0.2, abs=0.03) and found.exchanged == pytest.approx(0.05, abs=0.01)
    assert found.p_exchanged < 0.01
    members = [alike[inside] for inside in regions.values()]
    assert list(found.shared.values()) == pytest.approx([sharing(part) for part in members])
    assert found.mean == pytest.approx(np.mean([sharing(part) for part in members]))
    mixed = region_consistency(rng.permutation(alike), everyone, regions, rng, 200)
    assert max(found.q.values()) < 0.05 < min(mixed.q.values())
    assert list(mixed.chance.values()) == pytest.approx([0.05] * 4, abs=0.01)
    p = [region_consistency(rng.integers(0, 20, 400), everyone, regions, rng, 99).p_exchanged for _ in range(60)]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    with pytest.raises(EncodingError, match="10 matched voxels"):
        region_consistency(alike, np.arange(400) < 5, regions, rng, 9)
