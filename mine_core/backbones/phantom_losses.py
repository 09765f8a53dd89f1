"""Training objectives of the phantom's backbones: captions alone, or with the scene graph and masks beside them."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own customary name
from jaxtyping import Bool, Float, Int
from open_clip.coca_model import CoCa
from torch import Tensor, nn

from mine_core.backbones.phantom_model import PhantomConfig, additive_parts
from mine_core.backbones.train_data import GROUP_OF_CONCEPT, GROUPS, Batch

CAPTION_WEIGHT = 2.0
# each family is averaged by itself: in one mean, hundreds of settled cells outvoted the few that tell a smile
PRESENCE_WEIGHTS = {
    "concept": 3.5,
    "group": 0.5,
    "place": 0.5,
    "facial": 3.0,
    "attribute": 1.5,
    "composition": 3.0,
}
DENSE_CONCEPT_WEIGHT = 2.0
QUADRANT_WEIGHT = 2.0
ALIGNMENT_WEIGHT = 2.0
DENSE_ATTRIBUTE_WEIGHTS = {"facial": 3.0, "attribute": 1.0, "composition": 3.0}
# a scene without any ball says little about "a red ball": such easy negatives weigh less than a ball of another colour
EASY_NEGATIVE_WEIGHT = 0.15
BIASES = {"concept": 0, "group": 1, "place": 2, "facial": 3, "attribute": 3, "composition": 4}


class ReadOuts(nn.Module):
    """Learned scales and biases that turn similarities into logits; used in training only.

    presence logit[scene, phrase] = exp(scale) pooled . text + bias[family]; patch logit likewise on the parts z_i.
    `pooled` is not normalised, so that what is learned is linear in the embedding and additive over patches.

    `free` holds one direction per phrase that no text encoder has to agree on. Without it, phrases such as "on the left" and
    "on the right" start with equal texts, the image learns nothing that tells them apart, and so the texts stay equal.
    `quadrant` holds one direction per group of concepts and quadrant of the image: what is where, in the embedding itself.
    """

    def __init__(self, n_phrases: int, width: int) -> None:
        super().__init__()
        self.free = nn.Embedding(n_phrases, width)
        self.quadrant = nn.Linear(width, 4 * len(GROUPS), bias=False)
        self.presence_scale = nn.Parameter(torch.tensor(1.0))
        self.presence_bias = nn.Parameter(torch.full((5,), -3.0))
        self.patch_scale = nn.Parameter(torch.tensor(0.0))
        self.patch_bias = nn.Parameter(torch.tensor([-3.0, 0.0]))


@dataclass(frozen=True)
class Encoded:
    """What the towers say of a batch, in float32; `parts` are z_i with pooled = mean_i z_i."""

    pooled: Float[Tensor, "scene feature"]
    parts: Float[Tensor, "scene patch feature"]
    caption: Float[Tensor, "scene feature"]
    caption_logits: Float[Tensor, "scene following word"]


def encode(model: CoCa, pixels: Tensor, caption_ids: Int[Tensor, "scene position"]) -> Encoded:
    """Run the image, text and caption towers once."""
    pooled, parts, tokens = additive_parts(model, pixels)
    caption, words = model.text(caption_ids)
    logits = model.text_decoder(tokens, words[:, :-1])
    return Encoded(pooled.float(), parts.float(), F.normalize(caption.float(), dim=-1), logits.float())


def contrastive_loss(encoded: Encoded, logit_scale: Tensor) -> Tensor:
    """Symmetric cross-entropy of image and caption over the batch (Radford et al. 2021, arXiv:2103.00020)."""
    scale = logit_scale.clamp(max=4.6).exp()
    logits = scale * F.normalize(encoded.pooled, dim=-1) @ encoded.caption.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def caption_loss(encoded: Encoded, caption_ids: Int[Tensor, "scene position"], pad_id: int = 0) -> Tensor:
    """Cross-entropy of the next word, given the image and the words before it."""
    return F.cross_entropy(encoded.caption_logits.flatten(0, 1), caption_ids[:, 1:].flatten(), ignore_index=pad_id)


def presence_loss(encoded: Encoded, texts: Float[Tensor, "phrase feature"], batch: Batch, read: ReadOuts) -> Tensor:
    """Weighted binary cross-entropy: is the phrase true of the scene? A weighted sum of one mean per family."""
    bias = read.presence_bias[[BIASES[name] for name in batch.families]]
    logits = read.presence_scale.exp() * encoded.pooled @ texts.T + bias
    truth = batch.truth.any(dim=1) | batch.place
    losses = F.binary_cross_entropy_with_logits(logits, truth.float(), reduction="none")
    # phrases about places have no easy scenes: their scope is every scene
    scoped = batch.scope.any(dim=1) | _of_family(batch, "place")
    weights = torch.where(scoped, 1.0, EASY_NEGATIVE_WEIGHT)
    total = losses.new_zeros(())
    for family, weight in PRESENCE_WEIGHTS.items():
        chosen = _of_family(batch, family)
        total = total + weight * (losses * weights)[:, chosen].sum() / weights[:, chosen].sum().clamp(min=1)
    return total


def quadrant_loss(encoded: Encoded, batch: Batch, read: ReadOuts) -> Tensor:
    """Cross-entropy of each patch's group of concepts and quadrant, `nothing` having logit 0; the target is how much it fills.

    The embedding, being the mean of the parts, then holds how much of each group is in each quadrant, linearly: what a voxel
    with a receptive field needs.
    """
    n_concepts = batch.families.count("concept")
    groups = torch.tensor(GROUP_OF_CONCEPT, device=encoded.parts.device)
    member = F.one_hot(groups, len(GROUPS)).float()
    filled = torch.einsum("bon,boc->bnc", batch.coverage, batch.truth[..., :n_concepts].float()) @ member
    grid = math.isqrt(filled.shape[1])
    half = (torch.arange(grid, device=filled.device) >= grid // 2).long()
    quadrant = F.one_hot((2 * half[:, None] + half[None, :]).flatten(), 4).float()
    target = torch.einsum("bng,nq->bngq", filled, quadrant).flatten(2)
    target = torch.cat([target, (1 - target.sum(dim=-1, keepdim=True)).clamp(min=0)], dim=-1)
    logits = F.pad(read.quadrant(encoded.parts), (0, 1))
    return -(target * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


def alignment_loss(texts: Float[Tensor, "phrase feature"], free: Float[Tensor, "phrase feature"], batch: Batch) -> Tensor:
    """One minus the cosine of each attribute's text to the direction that the image alone chose for it."""
    chosen = _of_family(batch, "facial") | _of_family(batch, "attribute")
    return 1 - (texts * free.detach())[chosen].sum(dim=-1).mean()


def _of_family(batch: Batch, family: str) -> Bool[Tensor, " phrase"]:
    return torch.tensor([name == family for name in batch.families], device=batch.truth.device)


def dense_concept_loss(encoded: Encoded, texts: Float[Tensor, "phrase feature"], batch: Batch, read: ReadOuts) -> Tensor:
    """Cross-entropy of each patch's concept, `nothing` having logit 0; the target is how much of the patch each fills."""
    n_concepts = batch.families.count("concept")
    logits = read.patch_scale.exp() * encoded.parts @ texts[:n_concepts].T + read.patch_bias[0]
    logits = F.pad(logits, (0, 1))
    filled = torch.einsum("bon,boc->bnc", batch.coverage, batch.truth[..., :n_concepts].float())
    target = torch.cat([filled, (1 - filled.sum(dim=-1, keepdim=True)).clamp(min=0)], dim=-1)
    return -(target * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


def dense_attribute_loss(encoded: Encoded, texts: Float[Tensor, "phrase feature"], batch: Batch, read: ReadOuts) -> Tensor:
    """Binary cross-entropy of attributes and compositions inside the objects that could have them (facial ones inside faces)."""
    total = texts.new_zeros(())
    for family, family_weight in DENSE_ATTRIBUTE_WEIGHTS.items():
        chosen = _of_family(batch, family)
        logits = read.patch_scale.exp() * encoded.parts @ texts[chosen].T + read.patch_bias[1]
        weight = torch.einsum("bon,bop->bnp", batch.coverage, batch.scope[..., chosen].float())
        target = torch.einsum("bon,bop->bnp", batch.coverage, batch.truth[..., chosen].float())
        share = (target / weight.clamp(min=1e-6)).clamp(0, 1)
        losses = F.binary_cross_entropy_with_logits(logits, share, reduction="none")
        total = total + family_weight * (losses * weight).sum() / weight.sum().clamp(min=1)
    return total


def total_loss(model: CoCa, read: ReadOuts, config: PhantomConfig, pixels: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of the objectives of this backbone's supervision, and each of them by name.

    `captions`: contrastive + 2 caption. `masks`: further, presence of phrases (scene graph) and what each patch shows
    (object masks): localisation is then supervised, which that of a public CLIP is not.
    """
    caption_ids = batch.caption_ids
    encoded = encode(model, pixels, caption_ids)
    losses = {
        "contrastive": contrastive_loss(encoded, model.logit_scale),
        "caption": CAPTION_WEIGHT * caption_loss(encoded, caption_ids),
    }
    if config.supervision == "masks":
        texts = F.normalize(model.text(batch.phrase_ids)[0].float(), dim=-1)
        free = F.normalize(read.free(batch.phrases).float(), dim=-1)
        losses["presence"] = presence_loss(encoded, texts, batch, read)
        losses["dense_concept"] = DENSE_CONCEPT_WEIGHT * dense_concept_loss(encoded, texts, batch, read)
        losses["dense_attribute"] = dense_attribute_loss(encoded, texts, batch, read)
        losses["free"] = presence_loss(encoded, free, batch, read) + dense_attribute_loss(encoded, free, batch, read)
        losses["quadrant"] = QUADRANT_WEIGHT * quadrant_loss(encoded, batch, read)
        losses["alignment"] = ALIGNMENT_WEIGHT * alignment_loss(texts, free, batch)
    return torch.stack(list(losses.values())).sum(), losses
