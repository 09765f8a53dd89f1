"""A recording of few images is opened: predictions and heatmaps stand, words are withheld with the reason."""

import io

import numpy as np
import pytest

from mine_core.artifacts import ArtifactStore
from mine_core.backbones.presets import backbone_available
from mine_core.config import InstrumentConfig
from mine_core.instrument import Instrument, build_instrument
from mine_core.instrument.explain import explain_voxel
from mine_core.instrument.subjects import import_into
from mine_core.profiles import profile_voxel
from mine_core.subjects.phantom.scenes import render, sample_scene

N_IMAGES, N_VOXELS = 60, 6


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Instrument:
    if not backbone_available("phantom").ready:
        pytest.skip("the weights of the phantom's backbone are not in assets/backbones")
    rng = np.random.default_rng(60)
    images = np.stack([render(sample_scene(9000 + i), 96).image for i in range(N_IMAGES)])
    # the redness of an image, which a linear read-out finds with few images, and noise
    red = images[..., 0].mean(axis=(1, 2)) - images[..., 2].mean(axis=(1, 2))
    responses = np.stack([(red - red.mean()) / red.std()] * N_VOXELS, axis=1) + 0.1 * rng.normal(size=(N_IMAGES, N_VOXELS))
    store = ArtifactStore(tmp_path_factory.mktemp("cache"))
    ids = "\n".join(f"s{i:03d}" for i in range(N_IMAGES)).encode()
    parts = ["train"] * 41 + ["validation"] * 5 + ["test"] * 14
    import_into(
        store,
        name="few",
        images=npy(images),
        responses=npy(responses),
        response_axes=("stimulus", "voxel"),
        stimulus_ids=ids,
        splits="\n".join(["stimulus,split", *(f"s{i:03d},{part}" for i, part in enumerate(parts))]).encode(),
    )
    return build_instrument(InstrumentConfig("few", n_permutations=999), store)


def test_it_is_built_and_predicts(few):
    assert few.score.r.mean() > 0.3
    shown = explain_voxel(few, 0, n=3)
    assert [item.values.shape for item in shown] == [few.features.backbone.grid] * 3


def test_its_words_are_withheld_with_the_numbers(few):
    voxel = int(few.score.r.argmax())
    score = few.score if few.reliable[voxel] else pytest.fail("no voxel is reliable, so the reason could be another")
    profile = profile_voxel(
        voxel,
        subject=few.subject,
        features=few.features,
        model=few.model,
        score=score,
        vocabulary=few.vocabulary,
        words=few.words,
    )
    n_held_out = len(few.subject.splits.validation) + len(few.subject.splits.test)
    assert n_held_out < 20
    assert profile.withheld == f"Withheld: words are scored on held-out images; there are {n_held_out}, and 20 are needed."
    assert profile.description is None
    assert not few.words.passes.any()
