"""The learning curve ends at the app's own encoder, rises where there is a signal, and stays at nothing where there is none."""

import numpy as np
import pytest

from mine_core.errors import EncodingError
from mine_core.experiments import learning_curve
from mine_core.experiments.encoder_comparison import compare


@pytest.fixture(scope="module")
def found(small):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning_curve, "SMALLEST", 19)
        patch.setattr(learning_curve, "N_RESAMPLES", 50)
        steps: list[tuple[int, int, str]] = []
        answer = learning_curve.measure(small.config, small.store, lambda *told: steps.append(told))
    return answer | {"steps": [(done, total) for done, total, doing in steps if "training images" in doing]}


def test_sizes_halve_down_to_the_smallest_and_too_few_are_refused():
    assert learning_curve.sizes_of(2000) == (62, 125, 250, 500, 1000, 2000)
    assert learning_curve.sizes_of(9000) == (281, 562, 1125, 2250, 4500, 9000)
    assert learning_curve.sizes_of(60) == (60,)
    with pytest.raises(EncodingError, match="59 training stimuli.*at least 60"):
        learning_curve.sizes_of(59)


def test_the_whole_training_set_gives_the_accuracy_of_the_apps_encoder(small, found):
    last = found["curves"]["ridge"][-1]
    known = compare(small.instrument, small.store)["ridge"]["normalised_accuracy"]
    assert (last["n_train"], last["n_draws"]) == (len(small.instrument.subject.splits.train), 1)
    if known is None:
        known = small.instrument.score.r2.mean()
    assert last["accuracy"] == pytest.approx(known, abs=1e-4)
    assert last["interval"][0] < last["accuracy"] < last["interval"][1]


def test_accuracy_rises_with_images_and_not_without_a_signal(found):
    ridge, shuffled = ([point["accuracy"] for point in found["curves"][name]] for name in ("ridge", "shuffled"))
    assert ridge[-1] > ridge[0] + 0.05
    assert ridge[-1] > max(shuffled) + 0.2
    assert max(shuffled) < 0.05


def test_smaller_parts_lie_within_larger_ones_and_draws_differ(small):
    train = small.instrument.subject.splits.train
    parts = [learning_curve._part(small.instrument, size, 0) for size in (19, 38, len(train))]
    assert [len(part.train) for part in parts] == [19, 38, len(train)]
    assert set(parts[0].train) < set(parts[1].train) < set(parts[2].train)
    assert set(parts[0].train) != set(learning_curve._part(small.instrument, 19, 1).train)
    for part in parts:
        np.testing.assert_array_equal(part.test, small.instrument.subject.splits.test)


def test_draws_are_averaged_and_their_spread_told(found):
    first = found["curves"]["ridge"][0]
    assert first["n_draws"] == learning_curve.DRAWS
    assert first["lowest_draw"] < first["accuracy"] < first["highest_draw"]


def test_progress_never_runs_past_its_end(found):
    done = [step for step, _ in found["steps"]]
    assert done == list(range(7))
    assert {total for _, total in found["steps"]} == {6}
