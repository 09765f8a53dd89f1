"""The parts of an embedding sum to the embedding that the model itself computes."""

import threading

import open_clip
import pytest
import torch
from open_clip.transformer import VisionTransformer
from randomised import randomise
from torch import nn

from mine_core.backbones.decomposition import decompose, require_additive
from mine_core.errors import BackboneError


def tower(seed: int = 0, **changes: object) -> VisionTransformer:
    settings: dict = {"image_size": 24, "patch_size": 6, "width": 32, "layers": 3, "heads": 4, "mlp_ratio": 2.0}
    settings.update({"output_dim": 20, "output_tokens": False} | changes)
    return randomise(VisionTransformer(**settings).double(), seed).eval()


def some_pixels(n: int, size: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def identity_error(visual: VisionTransformer, pixels: torch.Tensor) -> float:
    pooled, patches, remainder = decompose(visual, pixels)
    truth = visual(pixels)
    truth = truth[0] if isinstance(truth, tuple) else truth
    assert patches.shape[1] == visual.grid_size[0] * visual.grid_size[1]
    parts = remainder + patches.sum(dim=1)
    return max((parts - truth).abs().max().item(), (pooled - truth).abs().max().item())


VARIANTS = {
    "cls": {},
    "cls, layer scale": {"ls_init_value": 0.5},
    "cls, no first norm": {"no_ln_pre": True},
    "average": {"pool_type": "avg"},
    "average, norm after": {"pool_type": "avg", "final_ln_after_pool": True},
    "average, tokens out": {"pool_type": "avg", "output_tokens": True},
    "cls, quick gelu": {"act_layer": open_clip.transformer.QuickGELU},
    "cls, oblong": {"image_size": (24, 36)},
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_parts_sum_to_the_embedding(changes, seed):
    visual = tower(seed, **changes)
    height, width = visual.image_size
    pixels = torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert identity_error(visual, pixels) < 1e-10


@torch.no_grad()
def test_average_pooling_leaves_no_remainder():
    _, _, remainder = decompose(tower(pool_type="avg"), some_pixels(2, 24))
    assert remainder.abs().max() == 0


def head_by_head(visual: VisionTransformer, pixels: torch.Tensor) -> torch.Tensor:
    """Direct effects from the attention weights that torch itself reports, one block, head and patch at a time."""
    tokens = visual._embeds(pixels)
    final = visual.transformer(tokens)[:, 0]
    sd = (final.var(dim=-1, unbiased=False) + visual.ln_post.eps).sqrt()[:, None]
    direct = torch.zeros(len(pixels), tokens.shape[1] - 1, visual.output_dim, dtype=pixels.dtype)
    for block in visual.transformer.resblocks:
        normed = block.ln_1(tokens)
        _, shares = block.attn(normed, normed, normed, need_weights=True, average_attn_weights=False)
        value_weight = block.attn.in_proj_weight[2 * visual.transformer.width :]
        for head in range(block.attn.num_heads):
            rows = slice(head * block.attn.head_dim, (head + 1) * block.attn.head_dim)
            for patch in range(1, tokens.shape[1]):
                value = normed[:, patch] @ value_weight[rows].T
                term = block.ls_1(shares[:, head, 0, patch, None] * value @ block.attn.out_proj.weight[:, rows].T)
                centred = term - term.mean(dim=-1, keepdim=True)
                direct[:, patch - 1] += (centred / sd * visual.ln_post.weight) @ visual.proj
        tokens = block(tokens)
    return direct


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"ls_init_value": 0.5}], ids=["plain", "layer scale"])
def test_cls_parts_equal_a_head_by_head_account(changes):
    visual, pixels = tower(**changes), some_pixels(2, 24)
    _, patches, _ = decompose(visual, pixels)
    assert (patches - head_by_head(visual, pixels)).abs().max() < 1e-12
    assert patches.abs().max() > 1e-3


@torch.no_grad()
def test_average_parts_follow_the_final_tokens():
    visual, pixels = tower(pool_type="avg", output_tokens=True), some_pixels(2, 24)
    _, patches, _ = decompose(visual, pixels)
    _, tokens = visual(pixels)
    assert (patches - torch.einsum("npw,wd->npd", tokens, visual.proj) / tokens.shape[1]).abs().max() < 1e-12


REFUSED = {
    "ModifiedResNet": lambda: open_clip.modified_resnet.ModifiedResNet((1, 1, 1, 1), 16, heads=4, image_size=64, width=8),
    "CustomResidualAttentionBlock": lambda: tower(scale_fc=True),
    "global_pool 'token'": lambda: open_clip.timm_model.TimmModel("vit_tiny_patch16_224", 16, pool="token", proj="linear"),
    "pool_type 'none'": lambda: tower(pool_type="none"),
    "no projection": lambda: without_projection(tower()),
    "training mode": lambda: tower(patch_dropout=0.5).train(),
}


def without_projection(visual: VisionTransformer) -> VisionTransformer:
    visual.proj = None
    return visual


@pytest.mark.parametrize("words", REFUSED)
def test_a_tower_it_does_not_hold_for_is_refused_by_name(words):
    with pytest.raises(BackboneError, match=words):
        require_additive(REFUSED[words]())


def hooks_of(module: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(part, kind)) for part in module.modules() for kind in kinds)


@torch.no_grad()
def test_nothing_is_left_on_the_model_after_success_and_after_an_error():
    visual = tower()
    before = {name: value.clone() for name, value in visual.state_dict().items()}
    attributes = set(vars(visual))
    decompose(visual, some_pixels(1, 24))
    with pytest.raises(RuntimeError):
        decompose(visual, some_pixels(1, 30))  # the wrong number of patches breaks the forward pass midway
    assert hooks_of(visual) == 0
    assert set(vars(visual)) == attributes
    assert all(torch.equal(value, before[name]) for name, value in visual.state_dict().items())


def test_two_threads_on_one_model_do_not_mix():
    visual = tower(layers=4)
    batches = [some_pixels(2, 24, seed) for seed in range(2)]
    with torch.no_grad():
        alone = [decompose(visual, batch)[1] for batch in batches]
    together: dict[int, list[torch.Tensor]] = {0: [], 1: []}

    def work(index: int) -> None:
        with torch.no_grad():
            together[index] = [decompose(visual, batches[index])[1] for _ in range(20)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(part, alone[index]) for index in (0, 1) for part in together[index])
    assert len(together[0]) == len(together[1]) == 20
    assert not torch.equal(alone[0], alone[1])
