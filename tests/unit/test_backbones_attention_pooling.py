"""Embeddings that are pooled by attention are sums over patches too: CoCa's, and SigLIP's with an MLP behind the pooling."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.coca_model import CoCa
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from PIL import Image
from randomised import randomise
from safetensors.torch import save_file
from test_backbones import MEAN, SD, WORDS, written_by_hand
from test_decomposition import identity_error, some_pixels
from tiny_siglip import NAME, WIDTH, add_configuration, save_tokenizer, tiny_tower
from torch import nn
from torch.nn import functional

from mine_core.backbones import presets
from mine_core.backbones.decomposition import decompose, require_additive
from mine_core.backbones.open_clip_adapter import OpenClipBackbone, area_transform
from mine_core.backbones.presets import Preset, backbone_available, load_backbone
from mine_core.backbones.tokenizer import WordTokenizer
from mine_core.backbones.tracing import image_tower
from mine_core.errors import BackboneError

COCA = {"attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 6}


def coca_tower(seed: int = 0, **changes: object) -> VisionTransformer:
    settings: dict = {"image_size": 24, "patch_size": 6, "width": 32, "layers": 2, "heads": 4, "mlp_ratio": 2.0, "output_dim": 20}
    return randomise(VisionTransformer(**settings | COCA | changes).double(), seed)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("changes", [{}, {"output_dim": 32}, {"output_tokens": True}], ids=["three matrices", "one matrix", "tokens"])
def test_parts_of_coca_sum_to_its_embedding(changes, seed):
    assert identity_error(coca_tower(seed, **changes), some_pixels(3, 24, seed)) < 1e-10


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"act_layer": nn.GELU}, {"act_layer": nn.SiLU}], ids=["as it is", "gelu", "silu"])
@pytest.mark.parametrize("seed", [0, 1])
def test_parts_of_siglip_sum_to_its_embedding(changes, seed):
    tower, pixels = tiny_tower(seed, **changes), some_pixels(3, 24, seed)
    pooled, patches, remainder = decompose(tower, pixels)
    truth = tower(pixels)
    assert patches.shape == (3, 16, WIDTH) and patches.abs().max() > 1e-2
    assert (remainder + patches.sum(dim=1) - truth).abs().max() < 1e-10
    assert (pooled - truth).abs().max() < 1e-10


@torch.no_grad()
def test_parts_of_coca_equal_a_head_by_head_account():
    """From the attention that torch itself reports, one head and token at a time."""
    visual, pixels = coca_tower(), some_pixels(2, 24)
    pooler, norm = visual.attn_pool, visual.ln_post
    final = pooler.ln_k(visual.transformer(visual._embeds(pixels)))
    queries = pooler.ln_q(pooler.query)[None].expand(2, -1, -1)
    out, shares = pooler.attn(queries, final, final, average_attn_weights=False)
    per_head = 20 // 4
    expected = torch.zeros(2, 17, 20, dtype=torch.float64)
    for token in range(17):
        for head in range(4):
            rows = slice(head * per_head, (head + 1) * per_head)
            value = shares[:, head, 0, token, None] * (final[:, token] @ pooler.attn.v_proj_weight[rows].T)
            term = value @ pooler.attn.out_proj.weight[:, rows].T
            centred = term - term.mean(dim=1, keepdim=True)
            sd = (out[:, 0].var(dim=1, unbiased=False) + norm.eps).sqrt()[:, None]
            expected[:, token] += (centred / sd * norm.weight) @ visual.proj
    _, patches, remainder = decompose(visual, pixels)
    assert (patches - expected[:, 1:]).abs().max() < 1e-12 and patches.abs().max() > 1e-2
    bias = pooler.attn.out_proj(pooler.attn.in_proj_bias[40:])
    no_token = ((bias - bias.mean()) / sd * norm.weight + norm.bias) @ visual.proj
    assert (remainder - expected[:, 0] - no_token).abs().max() < 1e-12


def held_pooling(tower: TimmModel, final: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """SigLIP's pooling of tokens `final`, its attention, its norm's SD and its gates detached at what they are for `at`."""
    pool = tower.trunk.attn_pool
    heads, width = pool.num_heads, at.shape[2]

    def split(rows: torch.Tensor) -> torch.Tensor:
        return rows.reshape(*rows.shape[:-1], heads, -1).transpose(-3, -2)

    def attend(shares_of: torch.Tensor, values_of: torch.Tensor) -> torch.Tensor:
        key = split(functional.linear(shares_of, pool.kv.weight[:width], pool.kv.bias[:width]))
        value = split(functional.linear(values_of, pool.kv.weight[width:], pool.kv.bias[width:]))
        shares = (split(pool.q(pool.latent)) @ key.transpose(-1, -2) / key.shape[-1] ** 0.5).softmax(-1)
        return pool.proj((shares.detach() @ value).transpose(-3, -2).reshape(len(at), width))

    pooled, there = attend(at, final), attend(at, at)
    sd = (there.var(dim=1, unbiased=False, keepdim=True) + pool.norm.eps).sqrt().detach()
    hidden_there = pool.mlp.fc1(pool.norm(there))
    gates = (pool.mlp.act(hidden_there) / hidden_there).detach()
    normed = (pooled - pooled.mean(dim=1, keepdim=True)) / sd * pool.norm.weight + pool.norm.bias
    return pooled + pool.mlp.fc2(gates * pool.mlp.fc1(normed))


def test_a_part_of_siglip_is_what_the_held_pooling_loses_without_its_token():
    tower, pixels = tiny_tower(3), some_pixels(2, 24)
    with torch.no_grad():
        final = tower.trunk.forward_features(pixels)
        assert (held_pooling(tower, final, final) - tower(pixels)).abs().max() < 1e-10
        _, patches, _ = decompose(tower, pixels)
        for place in (0, 7, 15):
            without = final.clone()
            without[:, place] = 0  # a token of nothing still has the bias of values, which is no token's part
            lost = held_pooling(tower, final, final) - held_pooling(tower, without, final)
            assert (patches[:, place] - lost).abs().max() < 1e-10


REFUSED = {
    "pools twice": lambda: coca_tower(attentional_pool="cascade"),
    "pool_type 'avg'": lambda: coca_tower(pool_type="avg"),
    "global_pool 'avg'": lambda: tiny_tower(global_pool="avg"),
    "global_pool 'map'": lambda: tiny_tower(class_token=True),
    "timm's VGG": lambda: TimmModel("vgg11", 16, pool="avg", proj="linear"),
    "A Linear follows the pooling": lambda: with_head(),
    "in training mode": lambda: tiny_tower().train(),
}


def with_head() -> TimmModel:
    tower = tiny_tower()
    tower.head.add_module("proj", nn.Linear(WIDTH, 4))
    return tower


@pytest.mark.parametrize("words", REFUSED)
def test_other_poolings_are_refused_by_name(words):
    with pytest.raises(BackboneError, match=words):
        require_additive(REFUSED[words]())


def coca_that_pools_by_attention(tokenizer: WordTokenizer) -> CoCa:
    """All widths one, as in coca_ViT-L-14."""
    text = {"context_length": 12, "vocab_size": tokenizer.vocab_size, "width": 32, "heads": 2, "layers": 2}
    vision = {"image_size": 24, "patch_size": 6, "width": 48, "head_width": 16, "layers": 2, "output_tokens": True}
    pooling = {"attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 6}
    model = CoCa(32, multimodal_cfg=text, text_cfg=text | {"embed_cls": True, "output_tokens": True}, vision_cfg=vision | pooling)
    model.text.use_pad_mask = False
    randomise(model, 2)
    model.text_decoder.text_projection.data[:, tokenizer.end_id] *= 3
    return model


def test_a_coca_that_pools_by_attention_is_a_backbone_with_captions(rng):
    tokenizer = WordTokenizer(WORDS, context_length=12)
    model = coca_that_pools_by_attention(tokenizer)
    backbone = OpenClipBackbone(model, tokenizer, area_transform(24, MEAN, SD), name="small", supervision="captions")
    images = rng.integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    embedding = backbone.embed(images)
    assert (backbone.spec.grid, backbone.spec.n_features) == ((4, 4), 32)
    with torch.no_grad():
        truth = model.encode_image(backbone.preprocess(images), normalize=False).numpy()
        by_hand = [written_by_hand(model, backbone.preprocess(image[None]), tokenizer) for image in images]
    np.testing.assert_allclose(embedding.remainder + embedding.patches.sum(1), truth, atol=2e-5)
    assert backbone.caption(images) == by_hand
    with pytest.raises(BackboneError, match="cannot be traced; use the decomposition"):
        image_tower(backbone)


# --- a preset of SigLIP, from files to embeddings --------------------------------------------------------------------


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Preset:
    """A preset of a tiny SigLIP whose repository is in an otherwise empty hub cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    published = presets.find_preset("ViT-B-16-SigLIP")
    described = {"name": NAME, "source": "open_clip", "size_mb": 1, "licence": "MIT", "about": "tiny"}
    taught = {"vocabulary": "general", "supervision": "captions", "architecture": add_configuration(tmp_path), "pretrained": "webli"}
    tiny = Preset(**described, **taught, repository="tests/tiny-siglip", files=published.files)
    monkeypatch.setattr(presets, "find_preset", lambda name: tiny)
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: open_clip.pretrained.get_pretrained_cfg("ViT-B-16-SigLIP", "webli"))
    return tiny


def put_in_cache(hub: Path, preset: Preset, model: nn.Module) -> Path:
    repository = hub / f"models--{preset.repository.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_tokenizer(snapshot)
    (snapshot / "special_tokens_map.json").write_text("{}")
    (snapshot / "open_clip_config.json").write_text(json.dumps({"model_cfg": open_clip.get_model_config(NAME)}))
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, snapshot / preset.files.split()[0])
    return snapshot


def test_a_siglip_in_the_cache_is_loaded_offline_with_its_own_tokenizer(preset, tmp_path, rng):
    assert not backbone_available(NAME).ready
    with pytest.raises(BackboneError, match="open_clip_config.json tokenizer.json tokenizer_config.json"):
        load_backbone(NAME, device="cpu")
    model = randomise(open_clip.create_model(NAME, pretrained=None), 4)
    snapshot = put_in_cache(tmp_path / "hub", preset, model)
    assert backbone_available(NAME).ready

    backbone = load_backbone(NAME, device="cpu")
    assert (backbone.spec.grid, backbone.spec.n_features, backbone.image_size) == ((4, 4), WIDTH, 24)
    square = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    half = (0.5,) * 3
    published = open_clip.transform.PreprocessCfg(24, mean=half, std=half, interpolation="bicubic", resize_mode="squash")
    pixels = open_clip.transform.image_transform_v2(published, is_train=False)(Image.fromarray(square))[None]
    torch.testing.assert_close(backbone.preprocess(square[None]), pixels)
    embedding = backbone.embed(square[None])
    ids = torch.tensor([[4, 5] + [1] * 10])
    with torch.no_grad():
        truth = model.encode_image(pixels).numpy()
        words = functional.normalize(model.encode_text(ids), dim=-1).numpy()
    np.testing.assert_allclose(embedding.remainder + embedding.patches.sum(1), truth, atol=1e-5 * np.abs(truth).max())
    np.testing.assert_allclose(backbone.encode_text(["A dog!"]), words, atol=1e-5)
    with pytest.raises(BackboneError, match="no text decoder"):
        backbone.caption(square[None])

    (snapshot / "tokenizer.json").unlink()
    assert not backbone_available(NAME).ready


@pytest.mark.parametrize("name", [name for name, preset in presets.load_presets().items() if preset.source == "open_clip"])
def test_a_preset_names_a_tokenizer_where_open_clip_brings_none(name):
    files = presets.find_preset(name).files.split()
    text = open_clip.get_model_config(presets.find_preset(name).architecture)["text_cfg"]
    assert files[0].endswith(".safetensors") and all(file.endswith(".json") for file in files[1:])
    assert ("tokenizer.json" in files) == bool(text.get("hf_tokenizer_name"))
    assert text.get("hf_tokenizer_name") in (None, presets.find_preset(name).repository)
