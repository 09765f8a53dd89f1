"""Beam search equals a search by complete forward passes, and other captioners go through their own processors."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_backbones import MEAN, SD, WORDS, small_coca, written_by_hand
from tiny_transformers import randomise
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BartConfig,
    BartTokenizer,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Florence2VisionConfig,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from mine_core.backbones.beam_captioning import BeamCaptioner, beam_captions
from mine_core.backbones.captioners import MOST_TOKENS, TransformersCaptioner, load_captioner
from mine_core.backbones.open_clip_adapter import OpenClipBackbone, area_transform
from mine_core.backbones.tokenizer import WordTokenizer
from mine_core.description.captioning import Captioner
from mine_core.errors import BackboneError


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
    return (images * np.linspace(0.2, 1, 3)[:, None, None, None]).astype(np.uint8)


def coca(seed: int, tokenizer: WordTokenizer) -> OpenClipBackbone:
    model = small_coca(seed).eval()
    model.text_decoder.text_projection.data[:, tokenizer.end_id] *= 3
    return OpenClipBackbone(model, tokenizer, area_transform(24, MEAN, SD), name="small", supervision="none")


def beams_by_hand(model, pixels: torch.Tensor, tokenizer: WordTokenizer, n_beams: int, power: float) -> str:
    """Beam search of one image with a list of captions and a complete forward pass for each."""
    kept = [([tokenizer.start_id], 0.0)]
    done = lambda ids: ids[-1] == tokenizer.end_id and len(ids) > 1  # noqa: E731
    while not all(done(ids) for ids, _ in kept) and len(kept[0][0]) < tokenizer.context_length:
        longer = []
        for ids, total in kept:
            if done(ids):
                longer.append((ids, total))
                continue
            logits = model(pixels, torch.tensor([ids]), output_labels=False)["logits"][0, -1].clone()
            logits[[tokenizer.pad_id, tokenizer.start_id]] = float("-inf")
            steps = torch.log_softmax(logits, dim=0)
            longer += [([*ids, token], total + float(step)) for token, step in enumerate(steps) if torch.isfinite(step)]
        kept = sorted(longer, key=lambda entry: -entry[1])[:n_beams]
        width = max(len(ids) for ids, _ in kept)
        kept = [(ids + [tokenizer.end_id] * (width - len(ids)) if done(ids) else ids, total) for ids, total in kept]

    def length(ids: list[int]) -> int:
        return ids.index(tokenizer.end_id) if tokenizer.end_id in ids else len(ids) - 1

    best, _ = max(kept, key=lambda entry: entry[1] / max(length(entry[0]), 1) ** power)
    return tokenizer.decode([token for token in best if token not in (tokenizer.start_id, tokenizer.end_id)])


@torch.no_grad()
@pytest.mark.parametrize(("n_beams", "power"), [(2, 0.0), (3, 0.7), (4, 1.0)])
def test_beams_equal_a_search_by_hand(pictures, n_beams, power):
    tokenizer = WordTokenizer(WORDS, context_length=12)
    for seed in (0, 3):
        backbone = coca(seed, tokenizer)
        pixels = backbone.preprocess(pictures)
        found = beam_captions(backbone._model, pixels, tokenizer, n_beams, power)
        assert found == [beams_by_hand(backbone._model, pixels[i : i + 1], tokenizer, n_beams, power) for i in range(3)]


@torch.no_grad()
def test_one_beam_is_greedy(pictures):
    tokenizer = WordTokenizer(WORDS, context_length=12)
    backbone = coca(1, tokenizer)
    captioner = BeamCaptioner(backbone, n_beams=1)
    assert isinstance(captioner, Captioner)
    expected = [written_by_hand(backbone._model, backbone.preprocess(image[None]), tokenizer) for image in pictures]
    assert captioner.caption(pictures) == expected
    with pytest.raises(BackboneError, match="between 1 and 16"):
        BeamCaptioner(backbone, n_beams=0).caption(pictures)


# --- models of transformers ------------------------------------------------------------------------------------------

# 64 pixels: patches of 4, halved three times, 2 x 2 tokens and their mean
N_FLORENCE = 5
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<|endoftext|>")
CHAT = (
    "{% for message in messages %}<|im_start|>{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
)


@pytest.fixture(scope="module")
def qwen() -> TransformersCaptioner:
    """A Qwen2-VL of the public class with random weights, its tokenizer reading letters."""
    vocabulary = {letter: place for place, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL), "pad_token": "<|endoftext|>"})
    tokenizer.padding_side = "left"
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
        },
        vision_config={"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 7, "mlp_ratio": 2},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(config).eval()
    images = Qwen2VLImageProcessorPil(patch_size=7, min_pixels=28 * 28, max_pixels=28 * 28)
    video = Qwen2VLVideoProcessor(patch_size=7)
    return TransformersCaptioner(model, Qwen2VLProcessor(images, tokenizer, video, chat_template=CHAT), "qwen-vl", batch_size=2)


def test_a_vision_language_model_writes_one_caption_an_image(qwen, pictures):
    assert isinstance(qwen, Captioner)
    captions = qwen.caption(pictures)
    assert len(captions) == 3 and all("Describe" not in caption for caption in captions)
    assert qwen.caption(pictures[1:2]) == captions[1:2]  # whatever shares its batch


def test_a_captioner_comes_back_from_its_files(qwen, pictures, tmp_path):
    qwen.model.save_pretrained(tmp_path)
    qwen.processor.save_pretrained(tmp_path)
    assert load_captioner("qwen-vl", tmp_path).caption(pictures) == qwen.caption(pictures)
    with pytest.raises(BackboneError, match="cannot be loaded"):
        load_captioner("florence2", tmp_path / "nothing")
    with pytest.raises(BackboneError, match="no captioner of kind"):
        load_captioner("other", tmp_path)


@pytest.fixture(scope="module")
def florence() -> TransformersCaptioner:
    """A Florence-2 of the public class with random weights, biases and norms included, its tokenizer reading letters."""
    letters = ["<s>", "<pad>", "</s>", "<unk>", *sorted(set(ByteLevel.alphabet())), "<mask>", "<image>"]
    tokenizer = BartTokenizer(
        vocab={letter: place for place, letter in enumerate(dict.fromkeys(letters))},
        merges=[],
        extra_special_tokens={"image_token": "<image>"},
    )
    text = BartConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=128,
    )
    vision = Florence2VisionConfig(
        depths=(1, 1, 1, 1), embed_dim=(8, 8, 16, 16), num_heads=(1, 1, 2, 2), num_groups=(1, 1, 2, 2), window_size=4, projection_dim=32
    )
    model = Florence2ForConditionalGeneration(
        Florence2Config(text_config=text, vision_config=vision, image_token_id=tokenizer.image_token_id)
    )
    randomise(model, 3)
    images = CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False, resample=3)
    images.image_seq_length = N_FLORENCE
    return TransformersCaptioner(model, Florence2Processor(images, tokenizer), "florence2", batch_size=2)


@torch.no_grad()
def florence_by_hand(captioner: TransformersCaptioner, image: np.ndarray) -> tuple[str, torch.Tensor]:
    """Greedy text of one image with a complete forward pass for each token, and the logits of the first."""
    given = captioner._given([Image.fromarray(image)])
    written, first = [captioner.model.config.text_config.decoder_start_token_id], None
    for _ in range(MOST_TOKENS - 1):
        logits = captioner.model(**given, decoder_input_ids=torch.tensor([written])).logits[0, -1]
        first = logits if first is None else first
        written.append(int(logits.argmax()))
        if written[-1] == captioner.processor.tokenizer.eos_token_id:
            break
    return " ".join(captioner.processor.decode(written, skip_special_tokens=True).split()), first


def test_florence_writes_from_its_caption_task_and_comes_back_from_its_files(florence, pictures, tmp_path):
    assert isinstance(florence, Captioner)
    captions = florence.caption(pictures)
    hand = [florence_by_hand(florence, image) for image in pictures]
    assert captions == [text for text, _ in hand] and all(captions)
    assert (hand[0][1] - hand[2][1]).abs().max() > 1e-3  # the image reaches the text
    given = florence._given([Image.fromarray(pictures[0])])
    asked = florence.processor.tokenizer.decode(given["input_ids"][0], skip_special_tokens=True)
    assert asked.strip() == "What does the image describe?"  # what the model was taught to caption from
    florence.model.save_pretrained(tmp_path)
    florence.processor.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin")) and not list(tmp_path.glob("*.py"))
    assert load_captioner("florence2", tmp_path).caption(pictures) == captions
