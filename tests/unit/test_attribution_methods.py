"""Every method behind one interface: parts sum where they claim to, captum agrees, threads do not mix, nothing is left behind."""

import threading

import numpy as np
import pytest
import torch
from attribution_case import N_VOXELS, SIDE, query_encoder, read_out, scene_of, setting_of, small_backbone, some_images
from captum.attr import IntegratedGradients, Occlusion

from mine_core.attribution import integrated_gradients, occlusion
from mine_core.attribution.base import DEFAULT, METHOD_NAMES, METHODS, STAND_IN, Setting, attribute_image
from mine_core.attribution.gradient_attention import attention_relevance
from mine_core.attribution.occlusion import occlusion_change, without_each_patch
from mine_core.attribution.rollout import roll_out
from mine_core.attribution.seeing import as_seen
from mine_core.attribution.traced import COPIES, coarse_values, fine_values, trace_images, traced_values
from mine_core.backbones import tracing
from mine_core.errors import AlignmentError, BackboneError, Cancelled, EncodingError

VOXELS = np.array([0, 3, 4])
PAIRS = [(name, encoder) for name in METHOD_NAMES for encoder in METHODS[name].encoders]


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(7)
    backbone, images = small_backbone(), some_images(rng, 8)
    encoders = {"ridge": read_out(rng, backbone), "query_attention": query_encoder(rng, backbone)}
    settings = {kind: setting_of(encoder, backbone, images[:6]) for kind, encoder in encoders.items()}
    return settings, backbone, [scene_of(backbone, image) for image in images]


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_every_method_answers_in_one_form(case, name, kind):
    settings, _, scenes = case
    found = attribute_image(name, settings[kind], scenes[6], VOXELS)
    factor = 2 if name == "traced" else 1
    assert found.values.shape == (3, 4 * factor, 4 * factor) and np.isfinite(found.values).all()
    assert found.method == name and found.values.std() > 0
    encoder = settings[kind].encoder
    if kind == "ridge":
        expected = encoder.predict(scenes[6].pooled[None])[0, VOXELS]
    else:
        expected = encoder.predict_tokens(scenes[6].patches[None], scenes[6].pooled[None], VOXELS)[0]
    assert np.abs(found.prediction - expected).max() < 1e-4
    same = np.abs(found.values - found.values[:1]).max() == 0
    assert same != METHODS[name].reads_voxel
    alone = attribute_image(name, settings[kind], scenes[6], VOXELS[1:2])
    assert np.abs(alone.values[0] - found.values[1]).max() < 1e-5 * np.abs(found.values).max()


@pytest.mark.parametrize(("name", "kind"), [pair for pair in PAIRS if METHODS[pair[0]].sums])
def test_parts_sum_to_the_prediction_where_a_method_says_so(case, name, kind):
    settings, _, scenes = case
    found = attribute_image(name, settings[kind], scenes[7], VOXELS)
    short = np.abs(found.baseline + found.remainder + found.values.sum(axis=(1, 2)) - found.prediction)
    exact = name != "integrated_gradients"
    assert short.max() < (1e-6 if exact else 0.3)
    assert found.completeness_error == pytest.approx(short.max(), abs=1e-6)


@pytest.mark.parametrize(("name", "kind"), [pair for pair in PAIRS if not METHODS[pair[0]].sums])
def test_a_method_without_the_property_claims_no_completeness(case, name, kind):
    settings, _, scenes = case
    assert attribute_image(name, settings[kind], scenes[7], VOXELS).completeness_error is None


def test_occlusion_equals_captums(case):
    settings, backbone, scenes = case
    model, image, fill = settings["ridge"].encoder, scenes[6].image, settings["ridge"].averages().image
    found = attribute_image("occlusion", settings["ridge"], scenes[6], VOXELS)
    pixels, empty = backbone.preprocess(np.stack([image, fill]))
    weights = torch.tensor(np.array(model.coef), dtype=torch.float32)
    window = SIDE // 4
    for number, voxel in enumerate(VOXELS):
        maps = Occlusion(lambda x, v=voxel: backbone.pooled(x) @ weights[:, v]).attribute(
            pixels[None], (3, window, window), strides=(3, window, window), baselines=empty[None]
        )
        assert np.abs(found.values[number] - maps[0, 0, ::window, ::window].numpy()).max() < 1e-4
    change = occlusion_change(backbone, image, fill)
    by_product = (change @ model.coef[:, VOXELS]).T.reshape(3, 4, 4)
    assert np.abs(by_product - found.values).max() < 1e-4


def test_occlusion_of_query_attention_is_the_fall_of_its_prediction(case):
    settings, backbone, scenes = case
    setting, scene = settings["query_attention"], scenes[6]
    found = attribute_image("occlusion", setting, scene, VOXELS)
    altered = scene.image.copy()
    altered[6:12, 18:24] = setting.averages().image[6:12, 18:24]
    after = scene_of(backbone, altered)
    fall = found.prediction - setting.encoder.predict_tokens(after.patches[None], after.pooled[None], VOXELS)[0]
    assert np.abs(found.values[:, 1, 3] - fall).max() < 1e-5


def test_a_patch_like_the_average_image_matters_to_no_voxel(case):
    settings, backbone, scenes = case
    fill = settings["ridge"].averages().image
    image = scenes[6].image.copy()
    image[:6, :6] = fill[:6, :6]
    assert np.abs(occlusion_change(backbone, image, fill)[0]).max() < 1e-5
    assert (without_each_patch(image, fill, (4, 4))[0] == image).all()


def test_integrated_gradients_of_query_attention_are_captums_from_the_mean_token(case):
    settings, _, scenes = case
    encoder, scene = settings["query_attention"].encoder, scenes[6]
    found = attribute_image("integrated_gradients", settings["query_attention"], scene, VOXELS)
    tokens = torch.from_numpy(np.concatenate([scene.patches, scene.remainder[None]]))[None]
    start = torch.from_numpy(np.concatenate([encoder.mean_patches, encoder.mean_remainder[None]]))[None]
    by_token = IntegratedGradients(lambda x: encoder.forward_tokens(x, np.array([3]))[:, 0]).attribute(tokens, start, n_steps=16)
    assert np.abs(found.values[1].ravel() - by_token[0, :-1].sum(dim=-1).numpy()).max() < 1e-5
    nothing = type(scene)(scene.image, scene.pooled, encoder.mean_patches, encoder.mean_remainder)
    assert np.abs(attribute_image("integrated_gradients", settings["query_attention"], nothing, VOXELS).values).max() == 0


def test_more_steps_close_the_path(case, monkeypatch):
    settings, _, scenes = case
    errors = []
    for steps in (2, 200):
        monkeypatch.setattr(integrated_gradients, "N_STEPS", steps)
        found = (attribute_image("integrated_gradients", settings[kind], scenes[6], VOXELS) for kind in ("ridge", "query_attention"))
        errors.append([item.completeness_error for item in found])
    assert all(many < 0.02 * max(few, 0.05) for few, many in zip(*errors, strict=True))


def test_relevance_and_rollout_by_hand():
    first = torch.tensor([[[0.75, 0.25], [0.5, 0.5]], [[0.75, 0.25], [0.5, 0.5]]])
    second = torch.tensor([[[0.5, 0.5], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    slopes = [torch.tensor([[[2.0, -4.0], [4.0, 0.0]], [[0.0, -9.0], [0.0, 0.0]]]), torch.ones(2, 2, 2)]
    one = torch.tensor([[1.75, 0.0], [1.0, 1.0]])  # identity + max(A * slope, 0)
    two = one + torch.tensor([[0.75, 0.25], [0.5, 0.5]]) @ one
    assert (attention_relevance([first, second], slopes) - (two - torch.eye(2))).abs().max() < 1e-6
    mixed = torch.tensor([[0.875, 0.125], [0.25, 0.75]]) @ torch.tensor([[0.875, 0.125], [0.25, 0.75]])
    assert (roll_out([first, second]) - mixed).abs().max() < 1e-6


# --- traced ----------------------------------------------------------------------------------------------------------


def test_stored_traced_parts_give_what_the_method_gives(case, monkeypatch):
    settings, backbone, scenes = case
    setting = settings["ridge"]
    images, start = np.stack([scenes[5].image, scenes[6].image]), setting.averages().tokens
    exact = attribute_image("traced", setting, scenes[6], VOXELS).values[1]
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        monkeypatch.setattr(tracing, "quick_dtype", lambda _, dtype=dtype: dtype)
        quick = traced_values(setting.encoder, trace_images(backbone, images, start, batch_size=1), 3)
        assert np.abs(quick[1] - exact).max() < tolerance * np.abs(exact).max()


def test_the_second_copy_is_the_image_moved_by_half_a_patch(case, monkeypatch):
    settings, backbone, scenes = case
    monkeypatch.setattr(tracing, "quick_dtype", lambda _: torch.float32)
    image = scenes[6].image
    moved = np.pad(image, ((0, 3), (0, 3), (0, 0)), mode="reflect")[3:, 3:]
    found = trace_images(backbone, np.stack([image, moved]), settings["ridge"].averages().tokens)
    assert np.abs(found[0, 1] - found[1, 0]).max() < 1e-5 * np.abs(found).max()


def test_a_fine_map_keeps_sums_and_puts_a_point_where_both_copies_see_it():
    flat = np.ones((COPIES, 4, 5))
    assert fine_values(flat).sum() == pytest.approx(20) and np.ptp(fine_values(flat)) == 0
    rng = np.random.default_rng(2)
    values = rng.normal(size=(3, COPIES, 4, 5))
    values[:, 1, -1], values[:, 1, :, -1] = 0, 0  # what the moved copy sees beyond the border
    values[:, 1, 0], values[:, 1, :, 0] = 0, 0
    assert np.allclose(fine_values(values).sum(axis=(1, 2)), values.sum(axis=(1, 2, 3)) / COPIES)
    assert np.allclose(coarse_values(fine_values(values)).sum(axis=(1, 2)), fine_values(values).sum(axis=(1, 2)))
    point = np.zeros((COPIES, 4, 4))
    point[0, 2, 2], point[1, 1, 1] = 1, 1  # half patches 4-5 of the image and 3-4 of the moved copy
    assert np.unravel_index(fine_values(point).argmax(), (8, 8)) == (4, 4)


# --- threads, hooks, refusals ----------------------------------------------------------------------------------------


def hooks(module: torch.nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(part, kind)) for part in module.modules() for kind in kinds)


def test_twenty_threads_get_what_each_gets_alone(case):
    settings, backbone, scenes = case
    tasks = [(*PAIRS[i % len(PAIRS)], np.array([i % N_VOXELS]), scenes[i % len(scenes)]) for i in range(20)]
    alone = [attribute_image(name, settings[kind], scene, voxel).values for name, kind, voxel, scene in tasks]
    together: list = [None] * len(tasks)
    start = threading.Barrier(len(tasks))

    def work(i: int) -> None:
        name, kind, voxel, scene = tasks[i]
        start.wait()
        for _ in range(3):
            together[i] = attribute_image(name, settings[kind], scene, voxel).values

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, found in zip(alone, together, strict=True):
        assert (found == expected).all()
    assert hooks(backbone._visual) == 0
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in backbone._visual.parameters())


def test_no_hook_is_left_after_success_failure_or_cancel(case, monkeypatch):
    settings, backbone, scenes = case
    visual = backbone._visual
    for name, kind in PAIRS:
        attribute_image(name, settings[kind], scenes[6], VOXELS)
        assert hooks(visual) == 0
    with pytest.raises(Cancelled):
        images, start = np.stack([scene.image for scene in scenes]), settings["ridge"].averages().tokens
        trace_images(backbone, images, start, batch_size=2, cancelled=iter([False, False, True]).__next__)
    with pytest.raises(Cancelled):
        occlusion_change(backbone, scenes[6].image, scenes[5].image, cancelled=lambda: True)
    assert hooks(visual) == 0

    def fails(*_: object) -> None:
        raise RuntimeError("broken")

    before = attribute_image("gradient_attention", settings["ridge"], scenes[6], VOXELS).values
    with monkeypatch.context() as broken:
        broken.setattr(visual.transformer.resblocks[1].mlp, "forward", fails)
        for name, kind in PAIRS:
            if name not in ("decomposition",) and (name, kind) != ("integrated_gradients", "query_attention"):
                with pytest.raises(RuntimeError, match="broken"):
                    attribute_image(name, settings[kind], scenes[6], VOXELS)
    assert hooks(visual) == 0
    assert (attribute_image("gradient_attention", settings["ridge"], scenes[6], VOXELS).values == before).all()


def test_what_does_not_hold_is_refused(case):
    settings, backbone, scenes = case
    ridge = settings["ridge"]
    with pytest.raises(EncodingError, match="no attribution method 'lime'"):
        attribute_image.__wrapped__("lime", ridge, scenes[0], VOXELS)
    with pytest.raises(EncodingError, match="use one of integrated_gradients, occlusion, rollout"):
        attribute_image("decomposition", settings["query_attention"], scenes[0], VOXELS)
    with pytest.raises(AlignmentError, match="Voxel 5"):
        attribute_image("decomposition", ridge, scenes[0], np.array([5]))
    other = small_backbone(1)
    strange = Setting(ridge.encoder, ridge.mean_patches, ridge.averages, lambda: other)
    for name in METHOD_NAMES:
        if name != "decomposition":
            with pytest.raises(BackboneError, match="load that one"):
                attribute_image(name, strange, scenes[0], VOXELS)
    with pytest.raises(BackboneError, match="does not divide"):
        occlusion.patch_masks((5, 5), SIDE)


def test_an_image_is_seen_as_the_backbone_shows_it(rng):
    image = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    backbone = small_backbone()
    assert torch.equal(backbone.preprocess(image[None]), backbone.preprocess(as_seen(image, SIDE)[None]))


def test_heatmaps_open_with_a_method_that_is_stored_and_whose_parts_sum():
    assert all(METHODS[name].sums and METHODS[name].reads_voxel for name in (DEFAULT, STAND_IN))
