"""Traced parts: equal to a patient account token by token, exact in sum, and nothing when a patch says nothing."""

import pytest
import torch
from test_decomposition import VARIANTS, some_pixels, tower

from mine_core.backbones import tracing
from mine_core.backbones.tracing import credit, hold, image_tower, mean_input_tokens, pool_tokens, run_blocks, through, trace
from mine_core.errors import BackboneError, Cancelled


def heads_write(block, seen):
    """What each head of a block would write, without biases, if it read `seen` alone."""
    width, per_head = block.attn.embed_dim, block.attn.head_dim
    slices = [slice(head * per_head, (head + 1) * per_head) for head in range(block.attn.num_heads)]
    value_weight = block.attn.in_proj_weight[2 * width :]
    return [block.attn.out_proj.weight[:, rows] @ (value_weight[rows] @ seen) for rows in slices]


def normed(vector, token, norm):
    return (vector - vector.mean()) / (token.var(unbiased=False) + norm.eps).sqrt() * norm.weight


def follow(block, tokens, came):
    """One block: where the content of each token came from afterwards, by torch's own attention weights and activation."""
    read = block.ln_1(tokens)
    _, shares = block.attn(read, read, read, need_weights=True, average_attn_weights=False)
    after = tokens + block.ls_1(block.attention(read))
    grown = dict(came)
    for i, j in came:
        written = torch.zeros_like(came[i, j])
        for k in range(tokens.shape[1]):
            for head, part in enumerate(heads_write(block, normed(came[k, j], tokens[0, k], block.ln_1))):
                written += shares[0, head, i, k] * part
        grown[i, j] = came[i, j] + block.ls_1(written.clone())
    hidden = block.mlp.c_fc(block.ln_2(after))[0]
    for i, j in came:
        gate = block.mlp.gelu(hidden[i]) / hidden[i]
        inside = gate * (block.mlp.c_fc.weight @ normed(grown[i, j], after[0, i], block.ln_2))
        grown[i, j] = grown[i, j] + block.ls_2(block.mlp.c_proj.weight @ inside)
    return block(tokens), grown


def patient(visual, pixels, start):
    """Follow every source through all blocks of one image, one target and head at a time."""
    tokens = visual._embeds(pixels[None])
    n = tokens.shape[1]
    came = {(i, j): (tokens[0, i] - start[i]) * (i == j) for i in range(n) for j in range(n)}
    for block in visual.transformer.resblocks:
        tokens, came = follow(block, tokens, came)
    places = [0] if visual.pool_type == "tok" else list(range(1, n))
    parts = torch.zeros(n, visual.proj.shape[1], dtype=tokens.dtype)
    for i in places:
        token = tokens[0, 1:].mean(dim=0) if visual.final_ln_after_pool else tokens[0, i]
        for j in range(n):
            parts[j] += normed(came[i, j], token, visual.ln_post) @ visual.proj / len(places)
    return parts


def some_start(visual):
    return mean_input_tokens(visual, [some_pixels(3, visual.image_size[0], seed=9)])


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "cls, oblong"])
@torch.no_grad()
def test_traced_parts_equal_a_patient_account(name, monkeypatch):
    monkeypatch.setattr(tracing, "ROWS_AT_ONCE", 30)  # three patches at once, then one
    changes = {"image_size": 12, "width": 16, "heads": 2, "output_dim": 6} | VARIANTS[name]
    visual = tower(3, **changes)
    pixels, start = some_pixels(2, 12), some_start(visual)
    held = hold(visual, pixels)
    expected = patient(visual, pixels[1], start)
    assert (trace(held, start)[1] - expected[1:]).abs().max() < 1e-6
    weights = torch.randn(6, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert (credit(held, start, weights)[1] - (expected @ weights).T).abs().max() < 1e-12
    truth = visual(pixels)
    assert (held.pooled - (truth[0] if isinstance(truth, tuple) else truth)).abs().max() < 1e-12


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_without_biases_the_held_tower_is_the_tower(name):
    """Attention, normalisation and gates at the image's own values leave nothing to explain but biases."""
    visual = tower(5, **VARIANTS[name])
    for key, parameter in visual.named_parameters():
        if key.endswith("bias"):
            parameter.zero_()
    height, width = visual.image_size
    pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    held = hold(visual, pixels)
    assert (through(held, held.tokens[:, None])[:, 0] - held.pooled).abs().max() < 1e-10


def test_all_tokens_share_out_what_lies_between_the_average_and_the_image():
    visual = tower(2, pool_type="avg")
    pixels, start = some_pixels(2, 24), some_start(visual)
    held = hold(visual, pixels)
    between = through(held, (held.tokens - start)[:, None])[:, 0]
    weights = torch.eye(20, dtype=torch.float64)
    assert (credit(held, start, weights).sum(dim=-1) - between).abs().max() < 1e-10


@torch.no_grad()
def test_a_patch_that_is_average_adds_nothing():
    visual = tower(4)
    held = hold(visual, some_pixels(1, 24))
    start = some_start(visual)
    start[3] = held.tokens[0, 3]
    parts = trace(held, start)[0]
    assert parts[2].abs().max() == 0 and (parts.abs().amax(dim=1) > 0).sum() == 15


@torch.no_grad()
def test_where_no_token_reads_another_a_part_stays_at_its_place():
    visual = tower(1, pool_type="avg")
    for block in visual.transformer.resblocks:
        block.attn.in_proj_weight[2 * visual.transformer.width :] = 0  # attention writes its bias alone
    pixels, start = some_pixels(1, 24), some_start(visual)
    other = pixels.clone()
    other[:, :, :6, :6] = 0.3
    held, changed = (trace(hold(visual, shown), start)[0] for shown in (pixels, other))
    assert (held[0] - changed[0]).abs().max() > 1e-3 and (held[1:] - changed[1:]).abs().max() < 1e-7


@torch.no_grad()
def test_quick_numbers_are_near():
    visual = tower(6, pool_type="avg")
    pixels, start = some_pixels(2, 24), some_start(visual)
    exact, quick = (trace(hold(visual, pixels, dtype), start) for dtype in (None, torch.bfloat16))
    assert 0 < (quick - exact).norm() / exact.norm() < 0.02


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
    visual = tower()
    with pytest.raises(Cancelled, match="patch 1 of 16"):
        trace(hold(visual, some_pixels(1, 24)), some_start(visual), lambda: True)
    visual.proj = None
    with pytest.raises(BackboneError, match="no projection"):
        hold(visual, some_pixels(1, 24))

    class Other:
        spec = type("spec", (), {"name": "dino"})

    with pytest.raises(BackboneError, match="'dino'"):
        image_tower.__wrapped__(Other())
