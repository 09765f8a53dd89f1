"""LLaVA as a backbone: the residual stream of its image tokens, and words by its own head."""

import threading
from itertools import takewhile

import numpy as np
import pytest
import torch
from tiny_transformers import IMAGE, LAYERS, SIDE, WIDTH, WORDS, clip_processor, tiny_llava, tiny_llava_model, tiny_tokenizer
from transformers import CLIPImageProcessorPil, LlavaForConditionalGeneration

from mine_core.backbones import llava_adapter
from mine_core.backbones.base import Backbone
from mine_core.backbones.llava_adapter import PROMPT, LlavaBackbone
from mine_core.errors import BackboneError, Cancelled
from mine_core.features import extract_features
from mine_core.types import StimulusSet

N_PATCHES, IMAGE_ID = 16, tiny_tokenizer().convert_tokens_to_ids(IMAGE)
ABOUT = {"name": "tiny", "supervision": "none", "weights_hash": "0" * 20}


@pytest.fixture(scope="module")
def backbone() -> LlavaBackbone:
    return tiny_llava()


@pytest.fixture(scope="module")
def model() -> LlavaForConditionalGeneration:
    return tiny_llava_model()


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (5, 40, 40, 3), dtype=np.uint8)


@torch.no_grad()
def stream_of(model: LlavaForConditionalGeneration, pixels: torch.Tensor, layer: int, after: str = "") -> torch.Tensor:
    """What a layer, counted from 1, hands on at the image tokens of a prompt, caught at the layer itself."""
    tokenizer, caught = tiny_tokenizer(), []
    ids = [tokenizer.bos_token_id, *[IMAGE_ID] * N_PATCHES, *tokenizer(after, add_special_tokens=False).input_ids]
    layer_module = model.model.language_model.layers[layer - 1]
    with_hook = layer_module.register_forward_hook(lambda module, given, output: caught.append(output))
    model(input_ids=torch.tensor([ids] * len(pixels)), pixel_values=pixels)
    with_hook.remove()
    return caught[0][:, 1 : 1 + N_PATCHES]


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("after", ["", "what is this"])
def test_parts_are_the_residual_stream_after_the_layer_whatever_is_asked_later(layer, after, model, images):
    backbone = tiny_llava(layer=layer)
    expected = stream_of(model, backbone.preprocess(images), layer, after).numpy()
    embedding = backbone.embed(images, batch_size=2)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(N_PATCHES * embedding.patches, expected, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(embedding.pooled, expected.mean(axis=1), rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(embedding.remainder + embedding.patches.sum(axis=1), embedding.pooled, rtol=0, atol=1e-5)
    assert not embedding.remainder.any()


def test_it_is_a_backbone_and_says_which(backbone):
    assert isinstance(backbone, Backbone)
    spec = backbone.spec
    assert (spec.name, spec.grid, spec.n_features, spec.has_words) == ("tiny-llava", (4, 4), WIDTH, True)
    assert backbone.image_size == SIDE


def test_the_patches_are_in_reading_order(backbone, images):
    """What a patch shows reaches its own token first: in layer 1 the token that changes most is that of the patch."""
    first = tiny_llava(layer=1)
    scene = np.full((1, SIDE, SIDE, 3), 120, np.uint8)
    before = first.embed(scene).patches[0]
    for row, col in [(0, 0), (1, 2), (3, 1)]:
        changed = scene.copy()
        changed[0, 7 * row : 7 * row + 7, 7 * col : 7 * col + 7] = 255
        moved = np.abs(first.embed(changed).patches[0] - before).sum(axis=1)
        assert moved.argmax() == 4 * row + col


def test_the_differentiable_embedding_equals_the_stored_one_and_has_its_gradient(backbone, images):
    pixels = backbone.preprocess(images[:2]).requires_grad_()
    pooled = backbone.pooled(pixels)
    np.testing.assert_allclose(pooled.detach().numpy(), backbone.embed(images[:2]).pooled, rtol=1e-4, atol=2e-5)
    direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(pooled[:, 3].sum(), pixels)
    with torch.no_grad():
        step = (backbone.pooled(pixels + 3e-3 * direction) - backbone.pooled(pixels - 3e-3 * direction))[:, 3].sum()
    assert (gradient * direction).sum().item() == pytest.approx(step.item() / 6e-3, rel=0.05)


@torch.no_grad()
def test_a_word_scores_a_stream_as_the_models_own_head_does(backbone, model):
    """The logit lens: head(norm(t)) = t @ t_w * |g * U_w| / rms(t) for a word of one token."""
    stream = 3 * torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(1))
    reader = model.model.language_model
    logits = model.lm_head(reader.norm(stream))
    rms = (stream.square().mean(dim=1) + reader.norm.variance_epsilon).sqrt()
    directions = torch.from_numpy(backbone.encode_words(list(WORDS)))
    for place, word in enumerate(WORDS):
        index = tiny_tokenizer().convert_tokens_to_ids(f"▁{word}")
        length = (reader.norm.weight * model.lm_head.weight[index]).norm()
        torch.testing.assert_close(stream @ directions[place] * length / rms, logits[:, index], rtol=1e-4, atol=1e-4)


def test_words_are_read_after_a_space_and_several_tokens_are_averaged(backbone, model):
    index = {piece: tiny_tokenizer().convert_tokens_to_ids(piece) for piece in ("▁red", "▁house", "d", "o", "g", "▁dog")}
    gain, head = model.model.language_model.norm.weight.numpy(force=True), model.lm_head.weight.numpy(force=True)

    def direction(*pieces: str) -> np.ndarray:
        row = gain * head[[index[piece] for piece in pieces]].mean(axis=0)
        return row / np.linalg.norm(row)

    words = backbone.encode_words(["dog", "red house", "  red   house "])
    np.testing.assert_allclose(words[0], direction("▁dog"), atol=1e-6)
    np.testing.assert_allclose(words[1], direction("▁red", "▁house"), atol=1e-6)
    np.testing.assert_array_equal(words[1], words[2])
    np.testing.assert_array_equal(backbone.encode_text(["dog"])[0], words[0])
    assert np.abs(words[0] - direction("d", "o", "g")).max() > 0.05
    # a word that no merge leads to is read by its letters and bytes, without the lone space before it
    ids = [index for index in backbone.tokenizer(["zo"])[0].tolist() if index >= 0]
    assert tiny_tokenizer().convert_ids_to_tokens(ids) == ["<0x7A>", "o"]


def test_ids_of_texts_are_filled_up(backbone):
    ids = backbone.tokenizer(["dog", "red house"])
    assert ids.tolist() == [[*backbone.tokenizer(["dog"])[0].tolist(), -1], backbone.tokenizer(["red house"])[0].tolist()]


@pytest.mark.parametrize(("texts", "said"), [([], "No text"), ([""], "no token for all of ''"), (["dog", "<unk>"], "'<unk>'")])
def test_what_cannot_be_read_is_refused(texts, said, backbone):
    with pytest.raises(BackboneError, match=said):
        backbone.encode_text(texts)


@torch.no_grad()
def written_by_hand(model: LlavaForConditionalGeneration, pixels: torch.Tensor, n_tokens: int) -> list[list[int]]:
    """Greedy decoding by complete forward passes, without a cache; what follows an end token is cut off."""
    tokenizer = tiny_tokenizer()
    asked = [tokenizer.bos_token_id, *tokenizer(PROMPT.format(image=IMAGE * N_PATCHES), add_special_tokens=False).input_ids]
    ids = torch.tensor([asked] * len(pixels))
    for _ in range(n_tokens):
        ids = torch.cat([ids, model(input_ids=ids, pixel_values=pixels).logits[:, -1:].argmax(dim=-1)], dim=1)
    return [[*takewhile(lambda index: index != tokenizer.eos_token_id, row)] for row in ids[:, len(asked) :].tolist()]


def test_captions_equal_greedy_decoding_by_hand(images, monkeypatch):
    monkeypatch.setattr(llava_adapter, "CAPTION_TOKENS", 5)
    lengths, different = set(), set()
    for seed in range(3):
        model, tokenizer = tiny_llava_model(seed), tiny_tokenizer()
        liked = [tokenizer.convert_tokens_to_ids(f"▁{word}") for word in WORDS]
        model.lm_head.weight.data[liked] *= 2
        model.lm_head.weight.data[tokenizer.eos_token_id] *= 2.5  # so that some captions end early
        backbone = LlavaBackbone(model, clip_processor(), tokenizer, layer=2, **ABOUT)
        expected = written_by_hand(model, backbone.preprocess(images[:4]), 5)
        assert backbone.caption(images[:4], batch_size=3) == [
            tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in expected
        ]
        lengths |= {len(ids) for ids in expected}
        different |= {tuple(ids) for ids in expected}
    assert len(lengths) > 1 and len(different) > 3


def test_preprocessing_is_that_of_the_published_image_processor(backbone, rng):
    photographs = rng.integers(64, 192, (3, 96, 80, 3), dtype=np.uint8)
    seen = backbone.preprocess(photographs)
    torch.testing.assert_close(seen, clip_processor()(list(photographs), return_tensors="pt")["pixel_values"], rtol=0, atol=0)
    # the same by PIL, which the first published processor used: both round to whole grey levels
    by_pil = CLIPImageProcessorPil(**clip_processor().to_dict() | {"image_processor_type": None})
    other = torch.from_numpy(np.stack(by_pil(list(photographs))["pixel_values"]))
    assert (seen - other).abs().max() < 1.5 / 255 / 0.26


def test_stored_images_that_are_read_only_are_read(backbone, images):
    images.flags.writeable = False
    np.testing.assert_array_equal(backbone.preprocess(images), backbone.preprocess(images.copy()))


def test_few_images_go_through_the_model_at_once(images, monkeypatch):
    backbone = tiny_llava()
    seen, whole = [], backbone.tokens
    monkeypatch.setattr(backbone, "tokens", lambda pixels: seen.append(len(pixels)) or whole(pixels))
    reports: list[tuple[int, int]] = []
    backbone.embed(np.tile(images, (4, 1, 1, 1)), batch_size=32, on_progress=lambda done, total, _: reports.append((done, total)))
    assert seen == [8, 8, 4] and reports == [(8, 20), (16, 20), (20, 20)]
    with pytest.raises(Cancelled, match="after 8 of 20"):
        stop = iter([False, True])
        backbone.embed(np.tile(images, (4, 1, 1, 1)), cancelled=lambda: next(stop))


def stimuli(images: np.ndarray) -> StimulusSet:
    return StimulusSet(tuple(f"s{i}" for i in range(len(images))), images, ((),) * len(images), "none")


@pytest.mark.parametrize(("size", "kept"), [(1.0, True), (1e5, True), (1e8, False)])
def test_massive_activations_are_kept_in_float16_up_to_its_range_times_the_number_of_tokens(size, kept, images, tmp_path):
    model = tiny_llava_model()
    model.model.multi_modal_projector.linear_2.weight.data *= size
    backbone = LlavaBackbone(model, clip_processor(), tiny_tokenizer(), layer=3, **ABOUT)
    largest = N_PATCHES * np.abs(backbone.embed(images).patches).max()
    if not kept:
        with pytest.raises(BackboneError, match="`patches` of stimuli 0 to 4 reaches"):
            extract_features(stimuli(images), backbone, tmp_path)
        return
    assert (largest > np.finfo(np.float16).max) == (size > 1)
    features = extract_features(stimuli(images), backbone, tmp_path)
    error = np.abs(features.pooled - features.remainder - features.patches.astype(np.float64).sum(axis=1))
    assert error.max() <= 1e-6 * np.abs(features.patches.astype(np.float64)).sum(axis=1).max() + 1e-6


def test_a_model_in_half_precision_gives_float32_parts(images):
    half = LlavaBackbone(tiny_llava_model().to(torch.bfloat16), clip_processor(), tiny_tokenizer(), layer=3, **ABOUT)
    whole, rough = tiny_llava().embed(images), half.embed(images)
    assert rough.patches.dtype == np.float32
    difference = np.abs(rough.pooled - whole.pooled).max()
    assert 0 < difference < 0.1 * np.abs(whole.pooled).max()
    np.testing.assert_allclose(rough.patches.sum(axis=1), rough.pooled, atol=1e-5)
    assert half.encode_words(["dog"]).dtype == np.float32


def test_two_threads_on_one_backbone_do_not_mix(backbone, rng):
    batches = [rng.integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8) for _ in range(2)]
    alone = [backbone.embed(batch).patches for batch in batches]
    together: dict[int, list[np.ndarray]] = {0: [], 1: []}

    def work(index: int) -> None:
        together[index] = [backbone.embed(batches[index]).patches for _ in range(8)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(runs) for runs in together.values()] == [8, 8]
    assert all(np.array_equal(run, alone[index]) for index in (0, 1) for run in together[index])


@pytest.mark.parametrize("layer", [0, LAYERS])
def test_a_layer_that_is_not_there_or_only_normalised_is_refused(layer):
    with pytest.raises(BackboneError, match=f"after layer {layer} were asked for; there are layers 1 to {LAYERS - 1}"):
        tiny_llava(layer=layer)


def test_models_of_other_kinds_are_refused(model):
    given = {"layer": 2, **ABOUT}
    with pytest.raises(BackboneError, match="A CLIPVisionModel was given"):
        LlavaBackbone(model.model.vision_tower, clip_processor(), tiny_tokenizer(), **given)
    with pytest.raises(BackboneError, match="by 'full'; 'default' is needed"):
        full = tiny_llava_model(vision_feature_select_strategy="full")
        LlavaBackbone(full, clip_processor(), tiny_tokenizer(), **given)
    with pytest.raises(BackboneError, match="crops 42 pixels, the image tower sees 28"):
        LlavaBackbone(model, clip_processor(42), tiny_tokenizer(), **given)
    with pytest.raises(BackboneError, match="Patches of 7 pixels do not fill a square of 30"):
        LlavaBackbone(model, clip_processor(30), tiny_tokenizer(), **given)
    uncropped = clip_processor()
    uncropped.do_center_crop = False
    with pytest.raises(BackboneError, match="central square crop is needed"):
        LlavaBackbone(model, uncropped, tiny_tokenizer(), **given)


def test_a_tokenizer_of_another_model_is_refused(images):
    model = tiny_llava_model()
    model.config.image_token_id = len(tiny_tokenizer()) + 1
    with pytest.raises(BackboneError, match="makes 0 image tokens .* of a prompt for 16"):
        LlavaBackbone(model, clip_processor(), tiny_tokenizer(), layer=2, **ABOUT).caption(images)


def test_no_image_is_refused(backbone):
    with pytest.raises(BackboneError, match="No image"):
        backbone.preprocess(np.empty((0, SIDE, SIDE, 3), np.uint8))
