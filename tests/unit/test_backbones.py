"""An open_clip model as a backbone: its parts, its preprocessing, its texts and its captions."""

import threading

import numpy as np
import open_clip
import pytest
import torch
from open_clip.coca_model import CoCa
from torch import nn

from mine_core.backbones.base import image_batches
from mine_core.backbones.captioning import _Writer, greedy_captions
from mine_core.backbones.open_clip_adapter import OpenClipBackbone, area_transform, hash_weights, open_clip_transform
from mine_core.backbones.tokenizer import WordTokenizer
from mine_core.errors import BackboneError, Cancelled

NOUNS = ("dog", "cat", "house", "tree", "ball")
WORDS = ("a", "the", "red", "blue", "small", "large", "on", "in", "with", "left", "right", *NOUNS)
MEAN, SD = (0.48, 0.45, 0.40), (0.26, 0.25, 0.27)


def small_coca(seed: int = 0, *, text_cls: bool = True, layer_scale: float | None = None) -> CoCa:
    tokenizer = WordTokenizer(WORDS, context_length=12)
    text = {"context_length": 12, "vocab_size": tokenizer.vocab_size, "width": 32, "heads": 2, "layers": 2}
    text["ls_init_value"] = layer_scale
    vision = {"image_size": 24, "patch_size": 6, "width": 32, "head_width": 16, "layers": 2, "pool_type": "avg"}
    torch.manual_seed(seed)
    model = CoCa(
        embed_dim=24,
        multimodal_cfg=text,
        text_cfg=text | {"embed_cls": text_cls, "output_tokens": True},
        vision_cfg=vision | {"output_tokens": True},
    )
    # open_clip cuts the causal mask to a text's length only beside a padding mask
    model.text.use_pad_mask = not text_cls
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 0.5 * noise + 1 if parameter.ndim < 2 else noise * parameter.shape[-1] ** -0.5
    return model


@pytest.fixture(scope="module")
def backbone() -> OpenClipBackbone:
    transform = area_transform(24, MEAN, SD)
    tokenizer = WordTokenizer(WORDS, context_length=12)
    return OpenClipBackbone(small_coca(), tokenizer, transform, name="small", supervision="none")


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (7, 48, 48, 3), dtype=np.uint8)


def test_parts_sum_to_what_the_model_itself_computes(backbone, images):
    embedding = backbone.embed(images, batch_size=3)
    with torch.no_grad():
        truth = small_coca().eval().encode_image(backbone.preprocess(images), normalize=False).numpy()
    np.testing.assert_allclose(embedding.pooled, truth, rtol=0, atol=2e-5)
    np.testing.assert_allclose(embedding.remainder + embedding.patches.sum(1), embedding.pooled, rtol=0, atol=2e-5)
    assert embedding.patches.shape == (7, 16, 24)
    assert not np.allclose(np.linalg.norm(embedding.pooled, axis=1), 1, atol=0.1)  # not L2-normalised


def test_the_differentiable_embedding_equals_the_stored_one_and_has_its_gradient(backbone, images):
    pixels = backbone.preprocess(images[:2]).requires_grad_()
    pooled = backbone.pooled(pixels)
    np.testing.assert_allclose(pooled.detach().numpy(), backbone.embed(images[:2]).pooled, rtol=0, atol=2e-5)
    direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(pooled[:, 3].sum(), pixels)
    with torch.no_grad():
        step = (backbone.pooled(pixels + 1e-2 * direction) - backbone.pooled(pixels - 1e-2 * direction))[:, 3].sum()
    assert (gradient * direction).sum().item() == pytest.approx(step.item() / 2e-2, rel=0.02)


def test_the_batch_size_does_not_matter(backbone, images):
    whole, single = backbone.embed(images, batch_size=7), backbone.embed(images, batch_size=1)
    for one, other in zip(whole, single, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_the_spec_says_which_model_it_is(backbone):
    assert (backbone.spec.name, backbone.spec.grid, backbone.spec.n_features) == ("small", (4, 4), 24)
    model = small_coca()
    assert backbone.spec.weights_hash == hash_weights(model)
    model.visual.ln_post.bias.data[3] += 1e-6
    assert backbone.spec.weights_hash != hash_weights(model)


def test_progress_is_reported_and_cancel_stops(backbone, images):
    reports: list[tuple[int, int]] = []
    backbone.embed(images, batch_size=3, on_progress=lambda done, total, _: reports.append((done, total)))
    assert reports == [(3, 7), (6, 7), (7, 7)]
    with pytest.raises(Cancelled, match="after 3 of 7"):
        stop = iter([False, True])
        backbone.embed(images, batch_size=3, cancelled=lambda: next(stop))


def test_batches_cover_every_image_once():
    covered = [index for rows in image_batches(10, 4) for index in range(10)[rows]]
    assert covered == list(range(10))


def test_texts_are_normalised_and_in_order(backbone):
    texts = ["a red dog", "the house on the left", "a cat"]
    latents = backbone.encode_text(texts)
    np.testing.assert_allclose(np.linalg.norm(latents, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(backbone.encode_text(texts[1:2])[0], latents[1], atol=1e-5)
    assert np.abs(latents[0] - latents[1]).max() > 1e-2
    with pytest.raises(BackboneError, match="never read"):
        backbone.encode_text(["a giraffe"])
    with pytest.raises(BackboneError, match="No text"):
        backbone.encode_text([])


def written_by_hand(model: CoCa, pixels: torch.Tensor, tokenizer: WordTokenizer) -> str:
    """Greedy decoding of one image by complete forward passes, without a cache or a batch."""
    ids = [tokenizer.start_id]
    while ids[-1] != tokenizer.end_id and len(ids) < tokenizer.context_length:
        logits = model(pixels, torch.tensor([ids]), output_labels=False)["logits"][0, -1]
        allowed = [index for index in range(len(logits)) if index not in (tokenizer.pad_id, tokenizer.start_id)]
        ids.append(max(allowed, key=lambda index: logits[index].item()))
    return tokenizer.decode(ids)


@torch.no_grad()
@pytest.mark.parametrize(("text_cls", "layer_scale"), [(True, None), (False, None), (False, 0.5)])
def test_captions_equal_greedy_decoding_by_hand(text_cls, layer_scale):
    tokenizer = WordTokenizer(WORDS, context_length=12)
    images = np.random.default_rng(0).integers(0, 256, (12, 24, 24, 3), dtype=np.uint8)
    images = (images * np.linspace(0, 1, 12)[:, None, None, None]).astype(np.uint8)
    lengths, different = set(), set()
    for seed in range(6):
        model = small_coca(seed, text_cls=text_cls, layer_scale=layer_scale).eval()
        model.text_decoder.text_projection.data[:, tokenizer.end_id] *= 3  # so that some captions end early
        backbone = OpenClipBackbone(model, tokenizer, area_transform(24, MEAN, SD), name="small", supervision="none")
        expected = [written_by_hand(model, backbone.preprocess(image[None]), tokenizer) for image in images[::4]]
        assert backbone.caption(images[::4], batch_size=2) == expected
        lengths |= {len(caption.split()) for caption in expected}
        different |= set(expected)
    assert len(lengths) > 1 and len(different) > 3


@torch.no_grad()
def test_each_step_scores_the_next_word_as_a_complete_forward_pass_does():
    model = small_coca(3).eval()
    pixels = torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(1, 10, (4, 9), generator=torch.Generator().manual_seed(1))
    whole = model(pixels, ids, output_labels=False)["logits"]
    writer = _Writer(model, model._encode_image(pixels)[1])
    steps = torch.stack([writer.next_logits(ids[:, place]) for place in range(9)], dim=1)
    torch.testing.assert_close(steps, whole, rtol=1e-4, atol=1e-4)


def test_a_text_tower_that_is_not_causal_is_refused(images):
    model = small_coca()
    model.text.attn_mask = None
    with pytest.raises(BackboneError, match="without a causal mask"):
        greedy_captions(model, torch.zeros(1, 3, 24, 24), WordTokenizer(WORDS, 12))


def test_a_model_without_a_decoder_refuses_captions(images):
    backbone = clip_backbone()
    with pytest.raises(BackboneError, match="CLIP has no text decoder"):
        backbone.caption(images)


def clip_backbone() -> OpenClipBackbone:
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
    text = {"context_length": 12, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    torch.manual_seed(0)
    model = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)
    open_clip.set_model_preprocess_cfg(model, {"mean": MEAN, "std": SD, "interpolation": "bicubic"})
    tokenizer = WordTokenizer(WORDS, context_length=12)
    return OpenClipBackbone(model, tokenizer, open_clip_transform(model.visual), name="clip", supervision="captions")


def test_public_preprocessing_is_antialiased_bicubic(rng):
    images = rng.integers(64, 192, (3, 80, 80, 3), dtype=np.uint8)  # mid greys: PIL clips overshoot between its passes
    shrunk = clip_backbone().preprocess(images)
    wide = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    reference = nn.functional.interpolate(wide, size=(32, 32), mode="bicubic", antialias=True).clamp(0, 255) / 255
    restored = shrunk * torch.tensor(SD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    assert (restored - reference).abs().max() < 1.5 / 255  # PIL rounds to whole grey levels


def test_area_preprocessing_averages_blocks_and_crops_the_centre(rng):
    image = rng.integers(0, 256, (48, 80, 3), dtype=np.uint8)
    seen = area_transform(24, MEAN, SD)(image).numpy()
    blocks = image.reshape(24, 2, 40, 2, 3).mean(axis=(1, 3))[:, 8:32]
    expected = (blocks / 255 - MEAN) / SD
    np.testing.assert_allclose(seen.transpose(1, 2, 0), expected, rtol=0, atol=0.51 / 255 / min(SD))


def test_an_image_of_the_right_size_is_only_normalised(rng):
    image = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    seen = area_transform(24, MEAN, SD)(image).numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(seen, (image / 255 - MEAN) / SD, atol=1e-6)


def test_two_threads_on_one_backbone_do_not_mix(backbone, rng):
    batches = [rng.integers(0, 256, (3, 24, 24, 3), dtype=np.uint8) for _ in range(2)]
    alone = [backbone.embed(batch).patches for batch in batches]
    together: dict[int, list[np.ndarray]] = {0: [], 1: []}

    def work(index: int) -> None:
        together[index] = [backbone.embed(batches[index]).patches for _ in range(15)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(runs) for runs in together.values()] == [15, 15]
    assert all(np.array_equal(run, alone[index]) for index in (0, 1) for run in together[index])


def test_a_tower_without_exact_parts_is_refused(images):
    model = small_coca()
    model.visual = open_clip.modified_resnet.ModifiedResNet((1, 1, 1, 1), 16, heads=4, image_size=64, width=8)
    with pytest.raises(BackboneError, match="ModifiedResNet"):
        OpenClipBackbone(model, WordTokenizer(WORDS, 12), area_transform(24, MEAN, SD), name="x", supervision="none")


def test_no_image_is_refused(backbone):
    with pytest.raises(BackboneError, match="No image"):
        backbone.preprocess(np.empty((0, 24, 24, 3), np.uint8))
