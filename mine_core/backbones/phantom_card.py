"""Write a phantom backbone's model card from its config.json and quality.json, so that no figure is typed by hand.

python -m mine_core.backbones.phantom_card --name phantom
"""

import argparse
import json
from pathlib import Path
from typing import Any

from mine_core.artifacts import write_text
from mine_core.backbones.phantom_model import ASSETS, CONFIG, WEIGHTS
from mine_core.errors import BackboneError

QUALITY = "quality.json"
SUPERVISION = {
    "masks": (
        "**Localisation of this model is supervised.** Beside contrastive and caption losses it was trained with the "
        "renderer's object masks (what each patch shows) and scene graph (which phrases are true of a scene). A public "
        "CLIP never had such labels: where its maps point is emergent, here it was taught. Say so wherever a figure rests "
        "on it, and show `phantom-plain` beside it."
    ),
    "captions": (
        "Trained with contrastive and caption losses only, on other scenes than `phantom`: no mask, "
        "no label. Where its maps point is emergent, as in a public CLIP. It is the independent backbone of the second "
        "encoder."
    ),
}
FIGURES = (
    ("concept_auc", "Concept AUC, mean over concepts (chance 0.5)"),
    ("background_accuracy", "Background accuracy (chance 0.125)"),
    ("noun_recall", "Caption nouns, recall"),
    ("noun_precision", "Caption nouns, precision"),
    ("position_accuracy", "Position of an object, five places (chance 0.2)"),
    ("written_text_auc", "Written text against other objects, AUC (chance 0.5)"),
    ("pointing", "Pointing game by text, objects under a fifth of the image"),
    ("pointing_touch", "Same, the object fills a quarter of the chosen patch"),
)


def card(directory: Path) -> str:
    """Text of the card of the backbone in `directory`; raises BackboneError if a file is missing or of other weights."""
    try:
        described = json.loads((directory / CONFIG).read_text())
        quality = json.loads((directory / QUALITY).read_text())
    except (OSError, ValueError) as error:
        raise BackboneError(f"{directory.name}: {error}; train, export and measure the backbone first.") from error
    model, training = described["model"], described["training"]
    if quality["sha256"] != model["sha256"]:
        raise BackboneError(
            f"{QUALITY} was measured on weights {quality['sha256'][:12]}, {CONFIG} names {model['sha256'][:12]}; "
            f"run python -m mine_core.backbones.phantom_quality --name {model['name']} again."
        )
    megabytes = (directory / WEIGHTS).stat().st_size / 1e6
    return "\n".join(
        [
            f"# {model['name']}",
            "",
            f"A small CoCa of open_clip (Yu et al. 2022, arXiv:2205.01917), trained from scratch on {training['scenes_seen']:,} "
            "rendered scenes of the phantom. It knows that world and no other.",
            "",
            SUPERVISION[model["supervision"]],
            "",
            *_shape(model, megabytes),
            "",
            *_recipe(model, training),
            "",
            *_quality(quality),
            "",
            *_limits(),
            "",
        ]
    )


def _shape(model: dict[str, Any], megabytes: float) -> list[str]:
    return [
        "## Model",
        "",
        f"- Input {model['image_size']} x {model['image_size']} pixels; {model['grid']} x {model['grid']} patches; convolutional stem "
        f"({', '.join(map(str, model['stem']))} channels, {model['stem_blocks']} residual blocks); {model['layers']} transformer "
        f"layers of width {model['width']}; text tower {model['text_layers']} layers, caption decoder {model['decoder_layers']}.",
        "- Embedding: mean over patches of LayerNorm(x_i) @ projection, so it is a sum over patches without remainder.",
        f"- {len(model['vocabulary'])} words; texts up to {model['context_length'] - 2} words.",
        f"- `{WEIGHTS}`: fp16, {megabytes:.1f} MB, SHA-256 `{model['sha256']}`.",
    ]


def _recipe(model: dict[str, Any], training: dict[str, Any]) -> list[str]:
    recipe = training["recipe"]
    name = model["name"]
    return [
        "## Training",
        "",
        f"- Scenes with seeds from {training['first_seed']:,} on, each shown once, drawn at 192 pixels and reduced by area; random "
        "brightness and contrast. Evaluation scenes have seeds from 1,000,000 on; subjects have small seeds.",
        f"- {training['scenes_seen']:,} scenes in {training['minutes']:.0f} minutes, batch {recipe['batch_size']}, AdamW, peak rate "
        f"{recipe['rate']:g} (linear warm-up, hold, linear fall), weight decay {recipe['weight_decay']:g}, bf16 autocast, seed "
        f"{recipe['seed']}; weights are a running average ({recipe['average']:g} a step).",
        *(f"- {note}" for note in training["notes"]),
        "",
        "```",
        f"python -m mine_core.backbones.train_phantom --name {name} --scenes {recipe['scenes']} --minutes {recipe['minutes']:g} "
        f"--seed {recipe['seed']}",
        f"python -m mine_core.backbones.train_phantom --name {name} --export",
        f"python -m mine_core.backbones.phantom_quality --name {name} --json assets/backbones/{name}/{QUALITY}",
        f"python -m mine_core.backbones.phantom_card --name {name}",
        "```",
        "",
        "A run that was cut off goes on from its last checkpoint. With `--minutes`, the schedule follows the clock: the same "
        "seed then gives the same scenes, but not the same weights.",
    ]


def _quality(quality: dict[str, Any]) -> list[str]:
    rows = [_row(label, quality[key]) for key, label in FIGURES]
    rows += [_row(f"{name.capitalize()} (chance {entry['chance']:.2f})", entry) for name, entry in quality["attributes"].items()]
    worst = sorted(quality["concept_auc_each"].items(), key=lambda item: item[1])[:5]
    return [
        "## Measured quality",
        "",
        f"{quality['n_scenes']:,} held-out scenes, zero-shot by text (cosine), 95 % bootstrap intervals over n. Attributes: "
        "balanced accuracy on scenes where one object has them.",
        "",
        "| | value | 95 % interval | n |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        f"Chance of the pointing game: {quality['pointing_chance']:.3f}. Mean of the facial attributes: "
        f"{quality['facial_attributes_mean']:.3f}. Weakest concepts by AUC: "
        + ", ".join(f"{name} {value:.3f}" for name, value in worst)
        + f". On one CPU core: {quality['images_per_second']:.0f} images/s embedded, "
        f"{quality['captions_per_second']:.0f} captions/s (the machine was shared while measuring).",
    ]


def _row(label: str, entry: dict[str, float]) -> str:
    interval = f"{entry['low']:.3f} to {entry['high']:.3f}" if "low" in entry else "not measured"
    return f"| {label} | {entry['value']:.3f} | {interval} | {entry['n']:,} |"


def _limits() -> list[str]:
    return [
        "## Limits",
        "",
        "- Only drawn scenes of the phantom: of photographs it says nothing that can be trusted, though it accepts them.",
        "- Words outside its vocabulary are refused.",
        "- Late patches mix what other patches hold: a part of the embedding is what its final token carries, not a proof that "
        "the pixels under it matter. Check with an edit.",
        "- Planted co-occurrences (a ball is mostly with a person, skis with snow) are in its training scenes, as in a real "
        "data set, and it may use them.",
    ]


def main(arguments: list[str] | None = None) -> None:
    """Command line of the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True)
    name = parser.parse_args(arguments).name
    write_text(ASSETS / name / "README.md", card(ASSETS / name))


if __name__ == "__main__":
    main()
