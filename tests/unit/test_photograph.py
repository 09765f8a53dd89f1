"""A photograph of the user's own: embedded as stimuli are, and refused before any model is loaded where it is none."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mine_core.errors import SubjectError
from mine_core.instrument import Instrument
from mine_core.instrument.instrument import Lazy
from mine_core.instrument.photograph import open_photograph


@pytest.fixture
def instrument(small: Any) -> Instrument:
    return small.instrument


def photograph(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_a_stimulus_given_as_a_photograph_is_embedded_as_the_stimulus_was(instrument: Instrument) -> None:
    image = np.asarray(instrument.subject.stimuli.images[100])
    found = open_photograph(instrument, photograph(image))
    np.testing.assert_array_equal(found.image, image)
    np.testing.assert_allclose(found.pooled, instrument.features.pooled[100], atol=2e-4)
    assert found.caption == instrument.captions[100]
    assert 0 <= found.unlikeness <= 100


def test_a_photograph_is_cut_to_a_square_and_noise_is_unlike_every_stimulus(instrument: Instrument) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (60, 200, 3), dtype=np.uint8)
    found = open_photograph(instrument, photograph(noise))
    assert found.image.shape == (96, 96, 3)
    assert found.unlikeness == 100
    assert len(found.features.stimulus_ids) == 1


def test_what_is_no_photograph_is_refused_before_the_backbone_is_asked(instrument: Instrument) -> None:
    def never() -> Any:
        raise AssertionError("the backbone was loaded")

    closed = replace(instrument, backbone=Lazy(never))
    for content in (b"", b"<svg/>", photograph(np.zeros((40, 40, 3), np.uint8))[:60]):
        with pytest.raises(SubjectError):
            open_photograph(closed, content)
