"""Train the phantom's editor from scratch on rendered scenes.

    python -m mine_core.counterfactual.train_phantom --autoencoder-minutes 14 --minutes 60 --threads 1

Stages, each resumed where it was cut off: the autoencoder; a critic of pictures; the autoencoder again, with what that critic sees,
and its decoder alone; pools of edits as latents, made once; a critic of latents; the denoiser with its text encoder on those
pools; its text encoder alone, until all that prompts tell is legible; and both again, on families of faces as well, which paint faces
in the stead of those before.
Checkpoints (safetensors, one atomic file a stage with weights, average, optimiser and settings) go to
cache/training/phantom-editor. `--export` writes the averaged weights to assets/editors/phantom; `--take-up` makes checkpoints of what
lies there, to go on from on a machine that has none.
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from mine_core.artifacts import hash_file
from mine_core.backbones.tracing import quick_dtype
from mine_core.config import cache_directory
from mine_core.counterfactual import train_autoencoder
from mine_core.counterfactual.critic import OF_LATENTS, Critic
from mine_core.counterfactual.phantom_editor import (
    ASSETS,
    SPECIALIST,
    EditorShape,
    Part,
    assemble,
    build_autoencoder,
    build_denoiser,
    build_text_encoder,
    save_editor,
)
from mine_core.counterfactual.train_again import take_up, trained_before
from mine_core.counterfactual.train_autoencoder import batches, trained_autoencoder
from mine_core.counterfactual.train_critic import CriticBatches
from mine_core.counterfactual.train_denoiser import DenoiserBatches, Pool, encode_pool
from mine_core.counterfactual.train_families import FACE_TOLD, FACE_WORDS, MEMBERS, FamilyBatches, FamilyChunks
from mine_core.counterfactual.train_pairs import prompt_words
from mine_core.counterfactual.train_run import CHECKPOINT, Recipe, Run, read_about, read_state, under
from mine_core.counterfactual.train_sharp import CROP_SEED, Crops, SharpBatches, made_crops
from mine_core.counterfactual.train_telling import TellingChunks
from mine_core.counterfactual.train_words import WordsBatches, build_readouts
from mine_core.counterfactual.windows import SURROUNDINGS
from mine_core.errors import EditError

NAME = "phantom"
POOL_SEED, FAMILY_SEED = 800_000_000, 880_000_000
FAMILY_SCENES = 32  # of a chunk: there must be a face among them
CRITICS = {"critic-latents": OF_LATENTS, "critic-pictures": (3, 4)}  # channels and halvings
ROUGHEST = {"critic-latents": 0.5, "critic-pictures": 0.1}  # SD of the noise they learn from; a painted mouth differs by less than .5
FACES = 0.5  # of the pictures that the decoder's stage sees: of their cells each says something
STAGES = ("all", "autoencoder", "critic-pictures", "sharp", "decoder", "pool", "critic-latents", "denoiser", "words", "families")
logger = logging.getLogger(__name__)


def autoencoder_run(recipe: Recipe, shape: EditorShape, device: torch.device, directory: Path) -> tuple[Run, EditorShape]:
    """A new autoencoder, or the one of the checkpoint in `directory`, with this recipe's schedule."""
    torch.manual_seed(recipe.seed)
    shape = saved_shape(directory) or shape
    return _resumed(Run(recipe, nn.ModuleDict({"autoencoder": build_autoencoder(shape)}), device), directory), shape


def denoiser_run(recipe: Recipe, shape: EditorShape, device: torch.device, directory: Path, before: Path | None = None) -> Run:
    """A denoiser with its text encoder: that of the checkpoint in `directory`, else the average of one `before`, else a new one."""
    torch.manual_seed(recipe.seed + 1)
    parts = nn.ModuleDict({"denoiser": build_denoiser(shape), "text_encoder": build_text_encoder(shape)})
    if before is not None:
        read_state(before)
        averaged(before, parts["denoiser"], parts["text_encoder"])
    if recipe.stage == "words":
        parts["readouts"] = build_readouts(parts["denoiser"])
    return _resumed(Run(recipe, parts, device), directory)


def critic_run(recipe: Recipe, device: torch.device, directory: Path) -> Run:
    """A new critic of the kind that its stage names, or that of the checkpoint in `directory`."""
    torch.manual_seed(recipe.seed + 2)
    return _resumed(Run(recipe, nn.ModuleDict({"critic": Critic(*CRITICS[recipe.stage])}), device), directory)


def trained_critic(root: Path, stage: str, device: torch.device) -> Critic | None:
    """The averaged critic of a stage, its weights held; None where there is none."""
    if not (root / stage / CHECKPOINT).is_file():
        return None
    critic = Critic(*CRITICS[stage]).eval().requires_grad_(False)
    critic.load_state_dict(under(under(load_file(root / stage / CHECKPOINT), "average"), "critic"))
    return critic.to(device)


def sharp_run(recipe: Recipe, device: torch.device, root: Path) -> Run:
    """The autoencoder of the stage before, to be trained further (its decoder alone, in stage 'decoder'), or that of a checkpoint."""
    decoder_alone = recipe.stage == "decoder"
    autoencoder, _ = trained_autoencoder(autoencoder_folder(root) if decoder_alone else root / "autoencoder")
    autoencoder.train().encoder.requires_grad_(not decoder_alone)
    return _resumed(Run(recipe, nn.ModuleDict({"autoencoder": autoencoder}), device), root / recipe.stage)


def autoencoder_folder(root: Path) -> Path:
    """Where the checkpoint of the last stage lies in which the encoder was trained."""
    return root / "sharp" if (root / "sharp" / CHECKPOINT).is_file() else root / "autoencoder"


def saved_shape(directory: Path) -> EditorShape | None:
    """Shape of the networks of a checkpoint; None without one."""
    return EditorShape.from_dict(read_state(directory)["shape"]) if (directory / CHECKPOINT).is_file() else None


def _resumed(run: Run, directory: Path) -> Run:
    if (directory / CHECKPOINT).is_file():
        run.restore(directory)
        logger.info("%s: resumed at step %d", run.recipe.stage, run.progress.step)
    return run


def made_pool(
    root: Path, size: int, n_edits: int, workers: int, surroundings: float = SURROUNDINGS, *, families: bool = False
) -> Pool:
    """The pool of a trained autoencoder for windows of `size` pixels, of any edits or of families: read, or made and kept."""
    name, chunks, seed = ("families", FamilyChunks, FAMILY_SEED) if families else ("pool", TellingChunks, POOL_SEED)
    path = root / f"{name}-{size}.safetensors"
    weights = hash_file(autoencoder_folder(root) / CHECKPOINT)
    about = {"autoencoder": weights, "n_edits": n_edits, "first_seed": seed, "surroundings": surroundings, "telling": True}
    if path.is_file() and read_about(path) == about:
        return Pool.load(path)
    autoencoder, shape = trained_autoencoder(autoencoder_folder(root))
    rendered = chunks(seed, size, shape.cell, FAMILY_SCENES if families else 8, surroundings)
    pool = encode_pool(autoencoder, shape, batches(rendered, 0, n_edits, workers), n_edits)
    pool.save(path, about)
    return pool


def finished_autoencoder(root: Path) -> Part:
    """The autoencoder with the decoder of its last stage; raises EditError if that was made for the latents of another encoder."""
    autoencoder, _ = trained_autoencoder(autoencoder_folder(root))
    if not (root / "decoder" / CHECKPOINT).is_file():
        return autoencoder
    last, _ = trained_autoencoder(root / "decoder")
    wanted = autoencoder.encoder.state_dict()
    if any(not torch.equal(value, wanted[name]) for name, value in last.encoder.state_dict().items()):
        raise EditError(f"The decoder in {root / 'decoder'} belongs to another encoder; remove it, or train --stage decoder anew.")
    return last


def export(root: Path, assets: Path, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Write the averaged weights to `assets`/phantom, those for faces if there are any beside them, and how they came about."""
    autoencoder = finished_autoencoder(root)
    shape = EditorShape.from_dict(read_state(root / "denoiser")["shape"])
    described: dict[str, Any] = {"training": _training_of(root, shape, notes)}
    specialist = None
    if (root / "families" / CHECKPOINT).is_file():
        specialist = averaged(root / "families", build_denoiser(shape), build_text_encoder(shape))
        described["specialist"] = {SPECIALIST: {"words": list(FACE_WORDS), "told": list(FACE_TOLD)}}
    assets.mkdir(parents=True, exist_ok=True)
    pipeline = assemble(shape, autoencoder, *averaged(root / "denoiser", build_denoiser(shape), build_text_encoder(shape)))
    return save_editor(pipeline, shape, assets / NAME, described, specialist)


def averaged(directory: Path, denoiser: Part, text_encoder: Part) -> tuple[Part, Part]:
    """Both networks with the averaged weights of a checkpoint."""
    tensors = under(load_file(directory / CHECKPOINT), "average")
    denoiser.load_state_dict(under(tensors, "denoiser"))
    text_encoder.load_state_dict(under(tensors, "text_encoder"))
    return denoiser, text_encoder


def _training_of(root: Path, shape: EditorShape, notes: Sequence[str]) -> dict[str, Any]:
    """How the checkpoints came about, before they were taken up too."""
    seeds = {"autoencoder": train_autoencoder.FIRST_SEED, "pool": POOL_SEED, "crops": CROP_SEED}
    before = trained_before(root)
    training: dict[str, Any] = {"notes": [*before.get("notes", []), *notes], "first_seed": seeds, "pool": {}}
    for stage in STAGES:
        if (root / stage / CHECKPOINT).is_file():
            state = read_state(root / stage)
            minutes = round(state["progress"]["seconds"] / 60, 1)
            training[stage] = {"recipe": state["recipe"], "steps": state["progress"]["step"], "minutes": minutes}
        elif stage in before:
            training[stage] = before[stage]
    training["pool"] = _pools_of(root, shape, training, before)
    if "families" in training:
        training["pools_after"] = _pools_after(root, shape, training, before)
    return training


def _pools_of(root: Path, shape: EditorShape, training: dict[str, Any], before: dict[str, Any]) -> dict[str, int]:
    """Numbers of edits that the denoiser's stage saw, by the size of their windows; those of before, if it was not trained since."""
    if before and training["denoiser"] == before["denoiser"]:
        return before["pool"]
    sizes = dict.fromkeys((shape.first_size, shape.size))
    return {str(size): read_about(root / f"pool-{size}.safetensors")["n_edits"] for size in sizes}


def _pools_after(root: Path, shape: EditorShape, training: dict[str, Any], before: dict[str, Any]) -> dict[str, int]:
    """Numbers of edits and of families that the last stage saw; those of before, if it was not trained since."""
    if training["families"] == before.get("families"):
        return before["pools_after"]
    pool, families = (read_about(root / f"{name}-{shape.size}.safetensors")["n_edits"] for name in ("pool", "families"))
    return {"pool": pool, "families": families // MEMBERS}


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=STAGES, default="all")
    parser.add_argument("--autoencoder-minutes", type=float, default=14.0, help="of the autoencoder, those before a resume included")
    parser.add_argument("--minutes", type=float, default=60.0, help="of the denoiser, likewise")
    parser.add_argument("--critic-minutes", type=float, default=8.0, help="of each critic, likewise")
    parser.add_argument("--sharp-minutes", type=float, default=30.0, help="of the autoencoder's second stage, likewise")
    parser.add_argument("--decoder-minutes", type=float, default=30.0, help="of its decoder alone, likewise")
    parser.add_argument("--crops", type=int, default=14_000, help="pictures for the critic of pictures and the second stage")
    parser.add_argument("--pool", type=int, default=60_000, help="edits that the denoiser begins with")
    parser.add_argument("--large-pool", type=int, default=25_000, help="edits in windows of the final size")
    parser.add_argument("--families", type=int, default=4_000, help=f"of {MEMBERS} faces each")
    parser.add_argument("--first-size", type=int, default=64, help="pixels of the windows that the denoiser begins with")
    parser.add_argument("--size", type=int, default=96, help="pixels of the final windows; as many: it has one pool")
    parser.add_argument("--surroundings", type=float, default=SURROUNDINGS, help="of a mask in its window, of its longer side")
    parser.add_argument("--steps", type=int, default=1_000_000, help="end a stage after so many steps, if its minutes last longer")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak rate of the denoiser; the autoencoder's is twice that")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="processes that render")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save-minutes", type=float, default=3.0)
    parser.add_argument("--export", action="store_true", help="write the last checkpoints to assets and do not train")
    parser.add_argument("--take-up", action="store_true", help="make checkpoints of the shipped weights and do not train")
    parser.add_argument("--note", action="append", default=[], help="with --export: a sentence for the model card")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Command line of the training."""
    asked = _arguments().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    root = cache_directory() / "training" / "phantom-editor"
    if asked.take_up:
        take_up(ASSETS / NAME, root)
        return
    if asked.export:
        export(root, ASSETS, asked.note)
        return
    torch.set_num_threads(asked.threads)
    stages = [stage for stage in STAGES[1:] if asked.stage in ("all", stage)]
    for stage in stages:
        _STAGES[stage](asked, root, torch.device(asked.device))


def _recipe(asked: argparse.Namespace, stage: str, minutes: float, rate: float) -> Recipe:
    """In bfloat16 where the device multiplies it in hardware: emulated, a step takes ten times as long."""
    precision = "bf16" if quick_dtype(asked.device) == torch.bfloat16 else "fp32"
    return Recipe(stage, asked.steps, minutes, asked.batch, rate, seed=asked.seed, precision=precision)


def _train_autoencoder(asked: argparse.Namespace, root: Path, device: torch.device) -> None:
    recipe = _recipe(asked, "autoencoder", asked.autoencoder_minutes, 2 * asked.rate)
    run, shape = autoencoder_run(recipe, EditorShape(prompt_words()), device, root / "autoencoder")
    train_autoencoder.train_autoencoder(run, shape, root / "autoencoder", workers=asked.workers, save_minutes=asked.save_minutes)


def _shape(asked: argparse.Namespace, root: Path) -> EditorShape:
    shape = EditorShape.from_dict(read_state(root / "autoencoder")["shape"])
    return replace(shape, size=asked.size, first_size=asked.first_size, surroundings=asked.surroundings)


def _pools(asked: argparse.Namespace, root: Path, device: torch.device) -> list[Pool]:  # noqa: ARG001
    shape = _shape(asked, root)
    sizes = {shape.size: asked.large_pool} | {shape.first_size: asked.pool}
    return [made_pool(root, size, n_edits, asked.workers, shape.surroundings) for size, n_edits in sorted(sizes.items())]


def _crops(asked: argparse.Namespace, root: Path) -> Crops:
    shape = _shape(asked, root)
    return made_crops(root / f"crops-{shape.size}.safetensors", shape, asked.crops, asked.workers)


def _train_critic(asked: argparse.Namespace, root: Path, device: torch.device, stage: str) -> None:
    run = critic_run(_recipe(asked, stage, asked.critic_minutes, 2 * asked.rate), device, root / stage)
    if stage == "critic-latents":
        pool = _pools(asked, root, device)[-1].joined(_families(asked, root))
        losses = CriticBatches(lambda rows: pool.latents[rows].float(), pool.cells, pool.items, run, roughest=ROUGHEST[stage])
    else:
        crops = _crops(asked, root)
        losses = CriticBatches(crops.pixels, crops.inside, crops.items, run, roughest=ROUGHEST[stage])
    run.train(losses, lambda done: done.save(root / stage, {}), save_minutes=asked.save_minutes)


def _train_denoiser(asked: argparse.Namespace, root: Path, device: torch.device) -> None:
    pools, shape = _pools(asked, root, device), _shape(asked, root)
    recipe = _recipe(asked, "denoiser", asked.minutes, asked.rate)
    run = denoiser_run(recipe, shape, device, root / "denoiser")
    losses = DenoiserBatches(pools, shape, run, trained_critic(root, "critic-latents", device))
    run.train(losses, lambda done: done.save(root / "denoiser", shape.to_dict()), save_minutes=asked.save_minutes)


def _train_words(asked: argparse.Namespace, root: Path, device: torch.device) -> None:
    pool, shape = _families(asked, root), _shape(asked, root)
    run = denoiser_run(_recipe(asked, "words", asked.minutes, asked.rate), shape, device, root / "words", root / "denoiser")
    losses = WordsBatches(pool, shape, run)
    run.train(losses, lambda done: done.save(root / "words", shape.to_dict()), save_minutes=asked.save_minutes)


def _families(asked: argparse.Namespace, root: Path) -> Pool:
    shape = _shape(asked, root)
    return made_pool(root, shape.size, MEMBERS * asked.families, asked.workers, shape.surroundings, families=True)


def _train_families(asked: argparse.Namespace, root: Path, device: torch.device) -> None:
    shape, pool = _shape(asked, root), _pools(asked, root, device)[-1]
    before = root / ("words" if (root / "words" / CHECKPOINT).is_file() else "denoiser")
    run = denoiser_run(_recipe(asked, "families", asked.minutes, asked.rate), shape, device, root / "families", before)
    losses = FamilyBatches(pool, _families(asked, root), shape, run, trained_critic(root, "critic-latents", device))
    run.train(losses, lambda done: done.save(root / "families", shape.to_dict()), save_minutes=asked.save_minutes)


def _train_sharp(asked: argparse.Namespace, root: Path, device: torch.device, stage: str) -> None:
    critic = trained_critic(root, "critic-pictures", device)
    if critic is None:
        raise EditError("This stage needs the critic of pictures; train --stage critic-pictures first.")
    shape = _shape(asked, root)
    minutes = asked.sharp_minutes if stage == "sharp" else asked.decoder_minutes
    run = sharp_run(_recipe(asked, stage, minutes, asked.rate), device, root)
    losses = SharpBatches(_crops(asked, root), critic, run, faces=FACES if stage == "decoder" else None)
    run.train(losses, lambda done: done.save(root / stage, shape.to_dict()), save_minutes=asked.save_minutes)


_STAGES: dict[str, Callable[[argparse.Namespace, Path, torch.device], object]] = {
    "autoencoder": _train_autoencoder,
    "critic-pictures": partial(_train_critic, stage="critic-pictures"),
    "sharp": partial(_train_sharp, stage="sharp"),
    "decoder": partial(_train_sharp, stage="decoder"),
    "pool": _pools,
    "critic-latents": partial(_train_critic, stage="critic-latents"),
    "denoiser": _train_denoiser,
    "words": _train_words,
    "families": _train_families,
}


if __name__ == "__main__":
    main()
