"""Write the model card of the phantom's editor from its editor.json and quality.json, so that no figure is typed by hand.

python -m mine_core.counterfactual.phantom_editor_card
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mine_core.artifacts import write_text
from mine_core.config import PROJECT
from mine_core.counterfactual.editor_judge import JUDGED_SIZE
from mine_core.counterfactual.windows import SURROUNDINGS
from mine_core.errors import EditError

NAME = "phantom"
EDITORS = PROJECT / "assets" / "editors"
DESCRIBED, QUALITY = "editor.json", "quality.json"
MINUTES = {
    "critic-pictures": "critic-minutes",
    "sharp": "sharp-minutes",
    "decoder": "decoder-minutes",
    "critic-latents": "critic-minutes",
}
AFTER = ("words", "families")  # stages that follow the denoiser's
TAUGHT = {
    "critic-pictures": "A critic of pictures",
    "sharp": "The autoencoder again, with what that critic sees",
    "decoder": "Its decoder alone, half of what it sees being faces",
    "critic-latents": "A critic of latents, which the denoiser is to convince as well",
    "words": "The text encoder alone, until all that prompts tell is legible in what the denoiser reads of them",
    "families": "The denoiser and text encoder for faces, from those before, on families of faces that their words alone tell apart",
}
ATTRIBUTES = ("colour", "expression", "pose", "hair", "glasses", "hat", "age", "view")


def card(directory: Path) -> str:
    """Text of the card; raises EditError if a file is missing or was measured on other weights."""
    try:
        described = json.loads((directory / DESCRIBED).read_text())
        quality = json.loads((directory / QUALITY).read_text())
    except (OSError, ValueError) as error:
        raise EditError(f"{directory.name}: {error}; train, export and measure the editor first.") from error
    if quality["sha256"] != described["sha256"]:
        raise EditError(
            f"{QUALITY} was measured on weights {quality['sha256'][:12]}, {DESCRIBED} names {described['sha256'][:12]}; "
            "run python -m mine_core.counterfactual.phantom_editor_quality again."
        )
    megabytes = sum(file.stat().st_size for file in directory.rglob("*.safetensors")) / 1e6
    described["shape"] = {"surroundings": SURROUNDINGS} | described["shape"]  # editors of before had no other
    made = (_shape(described, megabytes), _training(described["training"], described["shape"]))
    parts = (_head(), *made, _figures(quality), _faces(quality["faces"]), _limits())
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _head() -> list[str]:
    return [
        "# phantom editor",
        "",
        "A small latent inpainting pipeline (StableDiffusionInpaintPipeline of diffusers; Rombach et al. 2022, arXiv:2112.10752), "
        "trained from scratch on rendered scenes of the phantom. It inserts and removes the things of that world by words, on a "
        "processor and without a download. It knows that world and no other: of photographs it makes nonsense.",
    ]


def _shape(described: dict[str, Any], megabytes: float) -> list[str]:
    shape = described["shape"]
    return [
        "## Model",
        "",
        f"- A square window about the mask with {100 * shape['surroundings']:.0f} % of its longer side on each "
        f"side, {shape['size']} x {shape['size']} pixels; latents of 4 channels, one cell of "
        f"{2 ** (len(shape['encoder_blocks']) - 1)} x {2 ** (len(shape['encoder_blocks']) - 1)} pixels.",
        f"- AutoencoderTiny of width {shape['width']}; UNet of {', '.join(map(str, shape['channels']))} channels that reads the "
        f"prompt through its time embedding and by attention; text encoder of {shape['text_layers']} layers, width "
        f"{shape['text_width']}, {len(shape['words'])} words; DDIM with v-prediction and zero terminal SNR.",
        *_specialist(described.get("specialist", {})),
        f"- Denoisers in eight bits a weight, all else in half precision, {megabytes:.1f} MB; hash of all weights "
        f"`{described['sha256']}`.",
        "- The true picture behind an object is the scene drawn without it: removals were learnt from pairs, not guessed.",
    ]


def _specialist(specialists: dict[str, dict[str, Sequence[str]]]) -> list[str]:
    return [
        f"- Prompts for {', '.join(asked['words'][:-1])} or {asked['words'][-1]} that tell more of it ({', '.join(asked['told'])}) are "
        f"painted by a denoiser and a text encoder of the same shape (`{name}`), which learnt these and less of all else."
        for name, asked in specialists.items()
    ]


def _training(training: dict[str, Any], shape: dict[str, Any]) -> list[str]:
    window = f"--size {shape['size']} --surroundings {shape['surroundings']:g}"
    autoencoder, denoiser = training["autoencoder"], training["denoiser"]
    pools = " and ".join(f"{n:,} edits in windows of {size} pixels" for size, n in training["pool"].items())
    return [
        "## Training",
        "",
        f"- Autoencoder: {_stage(autoencoder)}. Denoiser with text encoder: {_stage(denoiser)}, on a pool of {pools}, new noise and "
        "new words each time.",
        *(f"- {TAUGHT[stage]}: {_stage(training[stage])}." for stage in TAUGHT if stage in training),
        f"- Scenes with seeds from {min(training['first_seed'].values()):,} on, of one to three objects of any concept on any "
        "background; evaluation scenes have seeds from 1,000,000 on; subjects have small seeds.",
        *(f"- {note}" for note in training["notes"]),
        "",
        "```",
        f"python -m mine_core.counterfactual.train_phantom --stage autoencoder {_asked(autoencoder, 'autoencoder-minutes')} "
        f"--rate {autoencoder['recipe']['rate'] / 2:g}",
        *(_command(training, stage, window) for stage in MINUTES if stage in training),
        f"python -m mine_core.counterfactual.train_phantom --stage denoiser {_asked(denoiser, 'minutes')} "
        f"--rate {denoiser['recipe']['rate']:g} --pool {next(iter(training['pool'].values()))} "
        f"--first-size {next(iter(training['pool']))} --large-pool {list(training['pool'].values())[-1]} {window}",
        *(_command_after(training, stage, window) for stage in AFTER if stage in training),
        "python -m mine_core.counterfactual.train_phantom --export",
        f"python -m mine_core.counterfactual.phantom_editor_quality --json assets/editors/{NAME}/{QUALITY}",
        "python -m mine_core.counterfactual.phantom_editor_card",
        "```",
        "",
        "A run that was cut off goes on from its last checkpoint. With minutes, the schedule follows the clock: the same seed then "
        "gives the same scenes, but not the same weights.",
    ]


def _stage(stage: dict[str, Any]) -> str:
    recipe = stage["recipe"]
    return (
        f"{stage['steps']:,} steps of {recipe['batch_size']} in {stage['minutes']:.0f} minutes, AdamW, peak rate {recipe['rate']:g}, "
        f"{recipe['precision']}, running average {recipe['average']:g}"
    )


def _command(training: dict[str, Any], stage: str, window: str) -> str:
    recipe = training[stage]["recipe"]
    rate = recipe["rate"] / 2 if stage.startswith("critic") else recipe["rate"]
    asked = f"{_asked(training[stage], MINUTES[stage])} --rate {rate:g} --batch {recipe['batch_size']}"
    return f"python -m mine_core.counterfactual.train_phantom --stage {stage} {asked} {window}"


def _command_after(training: dict[str, Any], stage: str, window: str) -> str:
    recipe, pools = training[stage]["recipe"], training["pools_after"]
    asked = f"{_asked(training[stage], 'minutes')} --rate {recipe['rate']:g} --batch {recipe['batch_size']}"
    sizes = f"--first-size {next(iter(training['pool']))} --pool {pools['pool']} --large-pool {pools['pool']}"
    given = f"{sizes} --families {pools['families']}"
    return f"python -m mine_core.counterfactual.train_phantom --stage {stage} {asked} {given} {window}"


def _asked(stage: dict[str, Any], minutes: str) -> str:
    recipe = stage["recipe"]
    return f"--steps {recipe['steps']} --{minutes} {recipe['minutes']:g} --seed {recipe['seed']}"


def _figures(quality: dict[str, Any]) -> list[str]:
    made, passed, drawn = quality["insertions"], quality["round_trip"], quality["rendered"]
    n_concepts = len(made["recognised_each"])
    rows = [
        _row(
            f"Concept recognised ({n_concepts} concepts)", made["recognised"], passed["recognised"], drawn["recognised"], 1 / n_concepts
        )
    ]
    rows += [
        _row(name.capitalize(), made[name], passed[name], drawn[name], made[name]["chance"]) for name in ATTRIBUTES if name in made
    ]
    worst = sorted(made["recognised_each"].items(), key=lambda entry: entry[1])[:6]
    removals = [
        f"| {name} | {entry['mean']:.1f} ({entry['low']:.1f} to {entry['high']:.1f}) | {entry['median']:.1f} | "
        f"{entry['more']:.1f} ({entry['more_low']:.1f} to {entry['more_high']:.1f}) | {entry['n']} |"
        for name, entry in quality["removals"].items()
    ]
    seconds = quality["seconds"]
    return [
        "## Measured quality",
        "",
        "Insertions into held-out scenes, under boxes and ovals of any aspect (1:2 to 2:1). An attribute counts where the prompt "
        "tells it; a prompt that names a group, such as food, is answered by anything of it.",
        f"{quality['judge']} The column `rendered` is what the judge finds in truly rendered objects: its own ceiling; "
        "`re-encoded`, in these after the autoencoder alone: what painting can reach. Intervals are 95 % (Wilson). "
        f"Of rendered objects softened by a Gaussian it recognises {_listed(quality['rendered_soft'])}.",
        "",
        "| | painted | 95 % interval | n | re-encoded | rendered | chance |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        "Weakest concepts: " + ", ".join(f"{name} {value:.2f}" for name, value in worst) + ".",
        "",
        "Removals: mean absolute difference, of 255, between the filled region and the scene drawn without the object, and how much "
        "more than the painter's it is in the same scenes. Intervals are 95 % (Student, over scenes).",
        "",
        "| | mean | median | more than painted | n |",
        "| --- | --- | --- | --- | --- |",
        *removals,
        "",
        f"Seconds an edit with {seconds['threads']} thread(s), on a machine that was shared while measuring: {seconds['insert']:.2f} "
        f"to insert, {seconds['remove']:.2f} to remove.",
    ]


def _listed(soft: dict[str, dict[str, Any]]) -> str:
    return " and ".join(f"{found['recognised']['value']:.3f} (SD {sd} of {JUDGED_SIZE} pixels)" for sd, found in soft.items())


def _faces(faces: dict[str, Any]) -> list[str]:
    judges = faces["judges"]
    sets = list(judges["second"])
    rows = [
        f"| {question.capitalize()}, {name} judge | {share['value']:.3f} | {share['low']:.3f} to {share['high']:.3f} | {share['n']} | "
        + " | ".join(f"{judged[each][question]['value']:.3f}" for each in sets[1:])
        + " |"
        for question in judges["second"]["painted"]
        for name, judged in judges.items()
        for share in (judged["painted"][question],)
    ]
    return [
        "## Faces, by two judges",
        "",
        f"{faces['n']} more insertions, of faces alone, in scenes with seeds from {faces['first_seed']:,} on. The first judge is that "
        "above, which tells little of softened faces by the patches it reads. The second is a small network that was fit on other "
        "rendered faces, sharp and softened; it shares nothing with the editor or with the first. Where a judge errs about rendered "
        "faces that were softened (by a Gaussian of that SD in pixels of a window of 96), it says of painted ones how sharp they are, "
        "not what they show.",
        "",
        f"| | {' | '.join(['painted', '95 % interval', 'n', *sets[1:]])} |",
        f"|{' --- |' * (3 + len(sets))}",
        *rows,
    ]


def _row(label: str, made: dict[str, float], passed: dict[str, float], drawn: dict[str, float], chance: float) -> str:
    interval = f"{made['low']:.3f} to {made['high']:.3f}"
    return f"| {label} | {made['value']:.3f} | {interval} | {made['n']} | {passed['value']:.3f} | {drawn['value']:.3f} | {chance:.3f} |"


def _limits() -> list[str]:
    return [
        "## Limits",
        "",
        "- Words outside its vocabulary are refused.",
        "- What it paints is softer than a rendered object, and written text is not legible.",
        "- A removal invents what it cannot know. The grain of a background is not continued.",
        "- An edit counts only when it is verified: a concept that was asked for may be missing from the picture.",
    ]


def main(arguments: list[str] | None = None) -> None:
    """Command line of the card."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(arguments)
    write_text(EDITORS / NAME / "README.md", card(EDITORS / NAME))


if __name__ == "__main__":
    main()
