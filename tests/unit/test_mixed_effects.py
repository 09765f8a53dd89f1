"""Mixed models of a condition with voxels and images as crossed random effects: planted effects, nulls, what ignoring them does."""

import numpy as np
import pytest
from scipy import stats

from mine_core.errors import MineError
from mine_core.experiments import mixed_effects
from mine_core.experiments.mixed_effects import Rows, condition_effect, exchanged


def simulated(
    rng: np.random.Generator,
    *,
    effect: float,
    voxel=0.8,
    image=0.5,
    slope=0.4,
    pair=0.0,
    left=0.5,
    n_voxels=14,
    n_images=20,
    each=3,
    paired=True,
) -> Rows:
    """Voxels that each saw a few images under both conditions, or others under each, with SDs of the random effects that are known."""
    voxels = np.repeat(np.arange(n_voxels), each)
    drawn = [np.concatenate([rng.choice(n_images, each, replace=False) for _ in range(n_voxels)]) for _ in range(2)]
    images = np.concatenate([drawn[0], drawn[0] if paired else drawn[1]])
    voxels, treated = np.tile(voxels, 2), np.repeat([False, True], len(voxels))
    x = np.where(treated, 0.5, -0.5)
    own = voxel * rng.normal(size=n_voxels)[voxels] + image * rng.normal(size=n_images)[images]
    own += pair * np.tile(rng.normal(size=n_voxels * each), 2)
    change = (effect + slope * rng.normal(size=n_voxels)[voxels]) * x
    return Rows(own + change + left * rng.normal(size=len(x)), treated, voxels + 100, images + 7)


def covered(low: float, effect: float, high: float) -> bool:
    return low <= effect <= high


def test_planted_effects_and_components_are_recovered(rng) -> None:
    found = [condition_effect(simulated(rng, effect=0.5, n_voxels=40, n_images=40, paired=False), rng) for _ in range(8)]
    assert {each.method for each in found} == {"mixed model"} and all(each.converged for each in found)
    assert np.mean([each.estimate for each in found]) == pytest.approx(0.5, abs=0.1)
    planted = {"voxel": 0.8, "image": 0.5, "voxel by condition": 0.4, "residual": 0.5}
    for name, sd in planted.items():
        assert np.mean([each.sd[name] for each in found]) == pytest.approx(sd, abs=0.1), name
    assert (found[0].n, found[0].n_voxels) == (240, 40) and 30 < found[0].n_images <= 40
    assert found[0].as_dict()["interval"] == [found[0].low, found[0].high]


def test_what_a_pair_of_voxel_and_image_shares_does_not_widen_the_interval(rng) -> None:
    """Both conditions of a pair move together; the interval is that of their difference."""
    found = [condition_effect(simulated(rng, effect=0.5, pair=pair, n_voxels=40, n_images=40), rng) for pair in (0, 0, 0, 5, 5, 5)]
    widths = [each.high - each.low for each in found]
    assert np.mean(widths[3:]) == pytest.approx(np.mean(widths[:3]), rel=0.2) and max(widths) < 0.5
    assert np.mean([each.estimate for each in found]) == pytest.approx(0.5, abs=0.12)
    planted = {"voxel by condition": 0.4, "image by condition": 0.0, "residual of differences": 0.5 * np.sqrt(2)}
    for name, sd in planted.items():
        assert np.mean([each.sd[name] for each in found]) == pytest.approx(sd, abs=0.13), name


def test_intervals_hold_what_they_say_and_those_that_ignore_the_voxels_do_not(rng) -> None:
    """Where voxels change differently, rows of one voxel repeat each other: counted as independent, intervals are too narrow."""
    mixed, naive = [], []
    for draw in range(100):
        rows = simulated(rng, effect=0.0, voxel=0.2, image=0.2, slope=1.0, left=0.3, paired=draw % 2 == 0)
        effect = condition_effect(rows, rng)
        mixed.append(covered(effect.low, 0.0, effect.high))
        plain = stats.ttest_ind(rows.value[rows.treated], rows.value[~rows.treated]).confidence_interval(0.95)
        naive.append(covered(plain.low, 0.0, plain.high))
    # the nominal 0.95 within three binomial SDs of 100 draws
    assert np.mean(mixed) == pytest.approx(0.95, abs=0.065)
    assert np.mean(naive) < 0.8


def test_the_scale_of_the_values_does_not_matter(rng) -> None:
    rows = simulated(rng, effect=0.5)
    small, large = condition_effect(rows, rng), condition_effect(rows._replace(value=1e4 * rows.value), rng)
    assert large.estimate == pytest.approx(1e4 * small.estimate, rel=1e-6)
    assert large.high - large.low == pytest.approx(1e4 * (small.high - small.low), rel=1e-3)


def test_a_fit_that_does_not_converge_is_said_and_bootstrapped(rng, monkeypatch) -> None:
    monkeypatch.setattr(mixed_effects, "_mixed_model", lambda _: None)
    found = condition_effect(simulated(rng, effect=1.0), rng)
    assert found.method == "two-way cluster bootstrap" and not found.converged and found.sd == {}
    assert found.low < found.estimate < found.high and found.clear
    hits = [condition_effect(simulated(rng, effect=0.0, slope=1.0, left=0.3), rng) for _ in range(40)]
    assert np.mean([covered(each.low, 0.0, each.high) for each in hits]) >= 0.85


def test_exchanged_names_give_the_null_and_a_uniform_p(rng) -> None:
    rows = simulated(rng, effect=1.0)
    pair = rows.voxel * 1000 + rows.image
    null = exchanged(rows, pair, rng)
    assert null.low < 0 < null.high < 1.0 and null.p < 0.01
    p = [exchanged(rows := simulated(rng, effect=0.0, slope=0.0), rows.voxel * 1000 + rows.image, rng).p for _ in range(40)]
    assert 0.3 < np.mean(p) < 0.7 and min(p) > 0.001
    # by hand: two pairs of one difference each, four ways to deal the names out
    hand = Rows(np.array([0.0, 1.0, 0.0, 3.0]), np.array([False, True, False, True]), np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]))
    null = exchanged(hand, hand.voxel, rng)
    assert (null.low, null.high) == (-2.0, 2.0) and null.p == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("wrong", ["few", "nan", "one condition"])
def test_too_little_is_refused_with_numbers(rng, wrong) -> None:
    rows = simulated(rng, effect=0.0)
    if wrong == "few":
        rows = Rows(*(part[:6] for part in rows))
    elif wrong == "nan":
        rows.value[3] = np.nan
    else:
        rows = rows._replace(treated=np.ones(len(rows.value), bool))
    with pytest.raises(MineError, match=r"\d+ values of \d+ voxels were given"):
        condition_effect(rows, rng)
