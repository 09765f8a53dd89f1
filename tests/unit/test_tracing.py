"""Traced parts: equal to a patient account token by token, exact in sum, and nothing when a patch says nothing."""

import pytest
import torch
from test_decomposition import VARIANTS, some_pixels, tower

from mine_core.backbones.tracing import image_tower, mean_input_tokens, pool_tokens, run_blocks, trace
from mine_core.errors import BackboneError


def heads_write(block, seen):
    """What each head of a block would write, without biases, if it read `seen` alone."""
    width, per_head = block.attn.embed_dim, block.attn.head_dim
    slices = [slice(head * per_head, (head + 1) * per_head) for head in range(block.attn.num_heads)]
    value_weight = block.attn.in_proj_weight[2 * width :]
    return [block.attn.out_proj.weight[:, rows] @ (value_weight[rows] @ seen) for rows in slices]


def normed(vector, token, norm):
    return (vector - vector.mean()) / (token.var(unbiased=False) + norm.eps).sqrt() * norm.weight


def follow(block, tokens, came):
    """One block: where the content of each token came from afterwards, by torch's own attention weights."""
    read = block.ln_1(tokens)
    _, shares = block.attn(read, read, read, need_weights=True, average_attn_weights=False)
    after = tokens + block.ls_1(block.attention(read))
    mlp = block.ls_2(block.mlp(block.ln_2(after)))
    added = {place: torch.zeros_like(vector) for place, vector in came.items()}
    for i, j in came:
        for k in range(tokens.shape[1]):
            for head, written in enumerate(heads_write(block, normed(came[k, j], tokens[0, k], block.ln_1))):
                added[i, j] += shares[0, head, i, k] * written
    grown = {(i, j): came[i, j] + block.ls_1(added[i, j].clone()) + (mlp[0, i] if i == j else 0) for i, j in came}
    return after + mlp, grown


def patient(visual, pixels):
    """Follow every source through the last two blocks of one image, one target and head at a time."""
    tokens = visual._embeds(pixels[None])
    blocks = list(visual.transformer.resblocks)
    for block in blocks[:-2]:
        tokens = block(tokens)
    n = tokens.shape[1]
    came = {(i, j): tokens[0, i] * (i == j) for i in range(n) for j in range(n)}
    for block in blocks[-2:]:
        tokens, came = follow(block, tokens, came)
    places = [0] if visual.pool_type == "tok" else list(range(1, n))
    parts = torch.zeros(n, visual.proj.shape[1], dtype=tokens.dtype)
    for i in places:
        token = tokens[0, 1:].mean(dim=0) if visual.final_ln_after_pool else tokens[0, i]
        for j in range(n):
            parts[j] += normed(came[i, j], token, visual.ln_post) @ visual.proj / len(places)
    return parts[1:]


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "cls, oblong"])
@torch.no_grad()
def test_traced_parts_equal_a_patient_account(name):
    changes = {"image_size": 12, "width": 16, "heads": 2, "output_dim": 6} | VARIANTS[name]
    visual = tower(3, **changes)
    pixels = some_pixels(2, 12)
    pooled, patches, remainder = trace(visual, pixels)
    assert patches.shape == (2, 4, 6)
    assert (patches[1] - patient(visual, pixels[1])).abs().max() < 1e-12
    truth = visual(pixels)
    truth = truth[0] if isinstance(truth, tuple) else truth
    assert (pooled - truth).abs().max() < 1e-12
    assert (remainder + patches.sum(dim=1) - truth).abs().max() < 1e-12


@torch.no_grad()
def test_attention_that_reads_itself_alone_leaves_a_part_where_it_is():
    """Where no token reads another, the source of everything is its own place: tracing is the decomposition."""
    from mine_core.backbones.decomposition import decompose

    visual = tower(1, pool_type="avg", layers=2)
    for block in visual.transformer.resblocks:
        block.attn.in_proj_weight[2 * visual.transformer.width :] = 0  # attention writes its bias alone
        block.attn.out_proj.bias.zero_()
        block.attn.in_proj_bias[2 * visual.transformer.width :] = 0
        for norm in (block.ln_1, visual.ln_post):
            norm.bias.zero_()
    pixels = some_pixels(2, 24)
    assert (trace(visual, pixels)[1] - decompose(visual, pixels)[1]).abs().max() < 1e-12


@torch.no_grad()
def test_blocks_written_out_are_the_tower():
    visual = tower(2, pool_type="avg")
    pixels = some_pixels(2, 24)
    blocks = run_blocks(visual, visual._embeds(pixels))
    assert (pool_tokens(visual, blocks[-1].attended + blocks[-1].mlp) - visual(pixels)).abs().max() < 1e-12
    assert (blocks[0].attention.sum(dim=-1) - 1).abs().max() < 1e-12


def test_mean_input_tokens_are_the_mean_over_all_images():
    visual = tower(2)
    pixels = some_pixels(5, 24)
    found = mean_input_tokens(visual, [pixels[:2], pixels[2:]])
    with torch.no_grad():
        assert (found - visual._embeds(pixels).mean(dim=0)).abs().max() < 1e-12


def test_what_cannot_be_traced_is_refused():
    with pytest.raises(BackboneError, match="has 1 block"):
        trace(tower(layers=1), some_pixels(1, 24))

    class Other:
        spec = type("spec", (), {"name": "dino"})

    with pytest.raises(BackboneError, match="'dino'"):
        image_tower.__wrapped__(Other())
