"""How well a phantom backbone sees: measured on held-out scenes, zero-shot by text, with intervals.

python -m mine_core.backbones.phantom_quality --name phantom --json quality.json
"""

import argparse
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own customary name
from jaxtyping import Bool, Float, Int
from open_clip.coca_model import CoCa
from scipy.stats import rankdata

from mine_core.backbones.phantom_model import PhantomConfig, additive_parts, load_phantom, normalise_pixels
from mine_core.backbones.tokenizer import WordTokenizer
from mine_core.backbones.train_data import FACIAL, STORED_SIZE, HeldOut, held_out, place_of, scenes, with_article

CHUNK = 50
SMALL_AREA = 0.2  # the pointing game is played on objects under a fifth of the image
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """What a backbone makes of the held-out scenes: embeddings, additive parts before averaging, greedy captions."""

    pooled: Float[np.ndarray, "scene feature"]
    parts: Float[np.ndarray, "scene patch feature"]
    captions: tuple[str, ...]
    images_per_second: float
    captions_per_second: float


@torch.no_grad()
def greedy_captions(model: CoCa, tokenizer: WordTokenizer, tokens: torch.Tensor) -> list[str]:
    """The likeliest next word, again and again, from image tokens that were computed once."""
    ids = torch.full((len(tokens), 1), tokenizer.start_id, device=tokens.device)
    ended = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    while ids.shape[1] < tokenizer.context_length and not ended.all():
        _, words = model.text(ids)
        following = model.text_decoder(tokens, words)[:, -1].argmax(dim=-1)
        ids = torch.cat([ids, torch.where(ended, tokenizer.end_id, following)[:, None]], dim=1)
        ended |= following == tokenizer.end_id
    return [tokenizer.decode(row) for row in ids]


@torch.no_grad()
def see(model: CoCa, config: PhantomConfig, images: np.ndarray) -> Seen:
    """Embed and caption images of the backbone's size."""
    device = next(model.parameters()).device
    tokenizer = config.tokenizer()
    pooled, parts, texts = [], [], []
    looking = telling = 0.0
    for start in range(0, len(images), CHUNK):
        began = time.perf_counter()
        pixels = normalise_pixels(torch.from_numpy(images[start : start + CHUNK]).to(device), config)
        embedding, split, tokens = additive_parts(model, pixels)
        pooled.append(embedding.cpu().numpy())
        parts.append(split.cpu().numpy())
        looked = time.perf_counter()
        texts += greedy_captions(model, tokenizer, tokens)
        looking += looked - began
        telling += time.perf_counter() - looked
    return Seen(np.concatenate(pooled), np.concatenate(parts), tuple(texts), len(images) / looking, len(images) / telling)


@torch.no_grad()
def embed_texts(model: CoCa, config: PhantomConfig, texts: Sequence[str]) -> Float[np.ndarray, "text feature"]:
    """Unit-length embeddings of texts."""
    device = next(model.parameters()).device
    return F.normalize(model.text(config.tokenizer()(list(texts)).to(device))[0], dim=-1).cpu().numpy()


def auc(scores: Float[np.ndarray, " scene"], truth: Bool[np.ndarray, " scene"]) -> float:
    """Probability that a scene with it scores above one without (ties half); NaN if all or none have it."""
    n_true = int(truth.sum())
    n_false = len(truth) - n_true
    if not n_true or not n_false:
        return float("nan")
    return float((rankdata(scores)[truth].sum() - n_true * (n_true + 1) / 2) / (n_true * n_false))


def with_interval(
    statistic: Callable[[Int[np.ndarray, " scene"]], float], n: int, n_bootstrap: int, rng: np.random.Generator
) -> dict[str, float]:
    """A statistic of n scenes and its 95 % percentile interval over resampled scenes (none for n_bootstrap 0)."""
    entry: dict[str, float] = {"value": statistic(np.arange(n)), "n": n}
    if n_bootstrap:
        drawn = [statistic(rng.integers(0, n, n)) for _ in range(n_bootstrap)]
        entry["low"], entry["high"] = (float(value) for value in np.nanpercentile(drawn, [2.5, 97.5]))
    return entry


class Quality:
    """The measures, on one set of held-out scenes."""

    def __init__(self, model: CoCa, config: PhantomConfig, shown: HeldOut, n_bootstrap: int, seed: int = 0) -> None:
        self.model, self.config, self.shown = model, config, shown
        self.seen = see(model, config, shown.images)
        self.unit = self.seen.pooled / np.linalg.norm(self.seen.pooled, axis=1, keepdims=True)
        self.n_bootstrap = n_bootstrap
        self.rng = np.random.default_rng(seed)
        self.names = tuple(concept.name for concept in scenes.CONCEPTS)
        self.present = np.stack([scenes.scene_labels(scene).present for scene in shown.scenes])

    def _interval(self, statistic: Callable[[Int[np.ndarray, " scene"]], float], n: int) -> dict[str, float]:
        return with_interval(statistic, n, self.n_bootstrap, self.rng)

    def _scores(self, texts: Sequence[str]) -> Float[np.ndarray, "scene text"]:
        return self.unit @ embed_texts(self.model, self.config, texts).T

    def concepts(self) -> dict[str, Any]:
        """AUC per concept, cosine with "a photo of a ..."; and its mean over concepts."""
        scores = self._scores([scenes.concept_prompt(name) for name in self.names])

        def mean_auc(rows: Int[np.ndarray, " scene"]) -> float:
            each = [auc(scores[rows, column], self.present[rows, column]) for column in range(len(self.names))]
            return float(np.nanmean(each))

        each = {name: auc(scores[:, column], self.present[:, column]) for column, name in enumerate(self.names)}
        return {"concept_auc": self._interval(mean_auc, len(scores)), "concept_auc_each": each}

    def backgrounds(self) -> dict[str, Any]:
        """Share of scenes whose nearest background prompt is the right one (chance 1/8)."""
        names = [place.name for place in scenes.BACKGROUNDS]
        chosen = self._scores([scenes.background_prompt(name) for name in names]).argmax(axis=1)
        right = chosen == np.array([names.index(scene.background) for scene in self.shown.scenes])
        return {"background_accuracy": self._interval(lambda rows: float(right[rows].mean()), len(right))}

    def caption_nouns(self) -> dict[str, Any]:
        """Recall and precision of object nouns in greedy captions, over all nouns of all scenes."""
        said = np.array([[name in text.split() for name in self.names] for text in self.seen.captions])
        both = (said & self.present).sum(axis=1)

        def share(of: Int[np.ndarray, " scene"]) -> dict[str, float]:
            return self._interval(lambda rows: float(both[rows].sum() / max(1, of[rows].sum())), len(both))

        return {"noun_recall": share(self.present.sum(axis=1)), "noun_precision": share(said.sum(axis=1))}

    def _nearest_value(self, name: str, chosen: Sequence[tuple[int, str]], texts: Sequence[str]) -> dict[str, float]:
        values = scenes.ATTRIBUTES[name]
        rows = np.array([row for row, _ in chosen])
        truth = np.array([values.index(value) for _, value in chosen])
        guess = self._scores(texts)[rows].argmax(axis=1)
        entry = self._interval(lambda take: _balanced(truth[take], guess[take]), len(truth))
        return entry | {"chance": 1 / len(values)}

    def attributes(self) -> dict[str, Any]:
        """Balanced accuracy of each attribute by its prompts, on scenes where exactly one object has that attribute."""
        prompts = scenes.attribute_prompts()
        found = {}
        for name in (*FACIAL, "pose", "colour"):
            chosen = [(row, value) for row, value in enumerate(self._only_value(name)) if value]
            texts = [prompts[name, value] for value in scenes.ATTRIBUTES[name]]
            found[name] = self._nearest_value(name, chosen, texts)
        facial = [found[name]["value"] for name in FACIAL]
        return {"attributes": found, "facial_attributes_mean": float(np.mean(facial))}

    def _only_value(self, name: str) -> list[str | None]:
        held = [[dict(item.attributes).get(name) for item in scene.objects] for scene in self.shown.scenes]
        kept = [[value for value in values if value is not None] for values in held]
        return [values[0] if len(values) == 1 else None for values in kept]

    def positions(self) -> dict[str, Any]:
        """Accuracy of "a dog on the left" and the like: the nearest of five places for each object present (chance 1/5)."""
        places = scenes.ATTRIBUTES["position"]
        texts = [f"{with_article(name)} {place_of(place)}" for name in self.names for place in places]
        scores = self._scores(texts).reshape(len(self.unit), len(self.names), len(places))
        right = []
        for row, scene in enumerate(self.shown.scenes):
            for item in scene.objects:
                guess = scores[row, self.names.index(item.concept)].argmax()
                right.append(places[guess] == item.labels["position"])
        correct = np.array(right, dtype=float)
        return {"position_accuracy": self._interval(lambda take: float(correct[take].mean()), len(correct))}

    def written_text(self) -> dict[str, Any]:
        """AUC of "text" between scenes with a sign, book or poster and scenes without."""
        words = {concept.name for concept in scenes.CONCEPTS if concept.group == "words"}
        truth = np.asarray(self.present[:, [name in words for name in self.names]].any(axis=1))
        scores = self._scores(["text"])[:, 0]
        return {"written_text_auc": self._interval(lambda rows: auc(scores[rows], truth[rows]), len(truth))}

    def pointing(self) -> dict[str, Any]:
        """Whether the centre of the patch with the largest additive part lies in the object, and the chance that any does.

        Text is "a photo of a ..."; objects that show less than a fifth of the image; `touch`: whether the object fills at
        least a quarter of that patch.
        """
        texts = embed_texts(self.model, self.config, [scenes.concept_prompt(name) for name in self.names])
        hits: list[bool] = []
        chances: list[float] = []
        touches: list[bool] = []
        for row, scene in enumerate(self.shown.scenes):
            for index, item in enumerate(scene.objects):
                visible = self.shown.object_maps[row] == index
                if not 0 < visible.mean() < SMALL_AREA:
                    continue
                centres, share = _by_patch(visible, self.config.grid)
                peak = int((self.seen.parts[row] @ texts[self.names.index(item.concept)]).argmax())
                hits.append(bool(centres[peak]))
                chances.append(float(centres.mean()))
                touches.append(bool(share[peak] >= 0.25))
        hit, touch = np.array(hits), np.array(touches)
        return {
            "pointing": self._interval(lambda take: float(hit[take].mean()), len(hit)),
            "pointing_touch": self._interval(lambda take: float(touch[take].mean()), len(touch)),
            "pointing_chance": float(np.mean(chances)),
        }

    def all(self) -> dict[str, Any]:
        """Every measure, and the speed on this machine."""
        found: dict[str, Any] = {}
        for measure_one in (
            self.concepts,
            self.backgrounds,
            self.caption_nouns,
            self.attributes,
            self.positions,
            self.written_text,
            self.pointing,
        ):
            found |= measure_one()
        return found | {
            "images_per_second": self.seen.images_per_second,
            "captions_per_second": self.seen.captions_per_second,
        }


def _balanced(truth: Int[np.ndarray, " scene"], guess: Int[np.ndarray, " scene"]) -> float:
    """Mean over the values that occur of the share guessed right; NaN without scenes."""
    values = np.unique(truth)
    return float(np.mean([(guess[truth == value] == value).mean() for value in values])) if len(values) else float("nan")


def _by_patch(visible: Bool[np.ndarray, "row col"], grid: int) -> tuple[Bool[np.ndarray, " patch"], Float[np.ndarray, " patch"]]:
    """Whether an object covers each patch's centre, and what share of the patch it fills."""
    cell = STORED_SIZE // grid
    centres = visible[cell // 2 :: cell, cell // 2 :: cell].reshape(-1)
    return centres, visible.reshape(grid, cell, grid, cell).mean(axis=(1, 3)).reshape(-1)


def measure(model: CoCa, config: PhantomConfig, n_scenes: int, n_bootstrap: int = 200, shown: HeldOut | None = None) -> dict[str, Any]:
    """Every measure of a backbone on `n_scenes` held-out scenes (seeds 1,000,000 and following)."""
    shown = held_out(n_scenes, config.image_size) if shown is None else shown
    return Quality(model, config, shown, n_bootstrap).all()


def brief(found: dict[str, Any]) -> dict[str, float | str]:
    """The main figures of `measure`, without intervals."""
    keys = ("concept_auc", "background_accuracy", "noun_recall", "noun_precision", "position_accuracy")
    values = {key: found[key]["value"] for key in (*keys, "written_text_auc", "pointing", "pointing_touch")}
    facial = {name: found["attributes"][name]["value"] for name in found["attributes"]}
    return {key: round(float(value), 3) for key, value in (values | facial).items()} | {
        "worst_concepts": " ".join(sorted(found["concept_auc_each"], key=found["concept_auc_each"].get)[:6])
    }


def main(arguments: list[str] | None = None) -> None:
    """Command line of the quality report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--bootstrap", type=int, default=200)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model, _, config = load_phantom(asked.name, asked.device)
    found = measure(model, config, asked.scenes, asked.bootstrap)
    report = {"backbone": config.name, "sha256": config.sha256, "n_scenes": asked.scenes, "first_seed": 1_000_000}
    if asked.json:
        asked.json.write_text(json.dumps(report | found, indent=1) + "\n")
    logger.info(json.dumps(brief(found), indent=1))


if __name__ == "__main__":
    main()
