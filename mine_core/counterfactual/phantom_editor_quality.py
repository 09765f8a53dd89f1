"""Measure the phantom's editor: are things recognised that it inserted, as asked, and how near is a removal to the truth?

python -m mine_core.counterfactual.phantom_editor_quality --json assets/editors/phantom/quality.json
"""

import argparse
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from mine_core.config import cache_directory
from mine_core.counterfactual.asked import DRAWN_ATTRIBUTES, FACES, QUESTIONS, answers_of, answers_told
from mine_core.counterfactual.editor_judge import (
    BACKBONE,
    FIRST_SEED,
    Judge,
    Views,
    joined,
    rendered_views,
    softened,
    trained_judge,
    view_of,
)
from mine_core.counterfactual.editor_loading import load_editor
from mine_core.counterfactual.editors import Editor, create_editor
from mine_core.counterfactual.face_judge import FACE_QUESTIONS, faces_among, trained_face_judge
from mine_core.counterfactual.train_pairs import SCENE_SIZE, pairs_of, prompt_of
from mine_core.statistics import share_interval, t_interval
from mine_core.subjects.phantom import scenes
from mine_core.subjects.phantom.scenes.concepts import DRAWN

EVALUATION_SEED, FACES_SEED = 1_000_000, 5_000_000
SOFTNESS = (0.7, 1.2)  # pixels of a judge's view, the SD of what softens rendered faces
RING = 4  # pixels of the ring whose median colour a removal is compared with
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Insertion:
    """One request: what to insert where in which scene."""

    image: UInt8[np.ndarray, "size size 3"]
    edit_mask: Bool[np.ndarray, "size size"]
    item: scenes.SceneObject
    prompt: str


def insertions(n: int, first_seed: int = EVALUATION_SEED, concepts: Sequence[str] = QUESTIONS["concept"]) -> list[Insertion]:
    """Requests that go through `concepts` in turn, under boxes and ovals of any aspect, anywhere in held-out scenes.

    The longer side is a third to 60 % of the scene, the aspect 1:2 to 2:1.
    """
    found = []
    for number in range(n):
        rng = np.random.default_rng([first_seed, number])
        concept = concepts[number % len(concepts)]
        drawn = tuple((name, str(rng.choice(values))) for name, values in DRAWN.get(concept, {}).items())
        item = scenes.SceneObject(concept, 0.5, 0.5, 0.5, drawn, number)
        image = scenes.render(scenes.sample_scene(first_seed + number), SCENE_SIZE).image
        found.append(Insertion(image, any_region(rng), item, prompt_of(item, rng, told=1.0)))
    return found


def any_region(rng: np.random.Generator) -> Bool[np.ndarray, "size size"]:
    """A box or an oval of any aspect that lies in the scene."""
    longer, aspect = rng.uniform(0.33, 0.6) * SCENE_SIZE, 2.0 ** rng.uniform(-1, 1)
    tall, wide = (longer, longer / aspect) if aspect > 1 else (longer * aspect, longer)
    top, left = rng.uniform(0, SCENE_SIZE - tall), rng.uniform(0, SCENE_SIZE - wide)
    rows, cols = np.indices((SCENE_SIZE, SCENE_SIZE)) + 0.5
    across, down = (cols - left - wide / 2) / (wide / 2), (rows - top - tall / 2) / (tall / 2)
    return (np.maximum(abs(across), abs(down)) <= 1) if rng.random() < 0.5 else (across**2 + down**2 <= 1)


def measure_insertions(editor: Editor, judge: Judge, asked: Sequence[Insertion]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Share of insertions that the judge recognises, and of attributes that are as the prompt asked; returns the edited images, too.

    A prompt that names a group, such as food, is answered by anything of it; attributes that a prompt does not tell count nowhere.
    """
    edited, views, told = _painted(editor, asked)
    return _as_asked(judge, views, [request.item for request in asked], told), edited


def _painted(editor: Editor, asked: Sequence[Insertion]) -> tuple[list[np.ndarray], Views, dict[str, Int[np.ndarray, " view"]]]:
    """Edited images, what a judge sees of them, and what was told."""
    edited = []
    for number, request in enumerate(asked):
        edited.append(editor.edit(request.image, request.edit_mask, f"insert {request.prompt}", seed=number).edited)
    views = joined([view_of(image, request.edit_mask) for image, request in zip(edited, asked, strict=True)])
    return edited, views, answers_told([request.item for request in asked], [request.prompt for request in asked])


@runtime_checkable
class Encodes(Protocol):
    """An editor that can show what its autoencoder alone makes of a region."""

    def round_trip(
        self, image: UInt8[np.ndarray, "height width 3"], edit_mask: Bool[np.ndarray, "height width"]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The image, encoded and decoded under the mask."""


def passed_views(editor: Encodes, n: int, first_seed: int) -> tuple[Views, list[scenes.SceneObject]]:
    """Views of rendered insertions after the editor's autoencoder alone, and what each shows: no painting can be told apart better."""
    views: list[Views] = []
    items: list[scenes.SceneObject] = []
    for seed in count(first_seed):
        for pair in pairs_of(seed):
            if pair.item is not None and len(items) < n:
                views.append(view_of(editor.round_trip(pair.after, pair.edit_mask), pair.edit_mask))
                items.append(pair.item)
        if len(items) >= n:
            return joined(views), items
    raise AssertionError("seeds do not end")


def measure_faces(
    editor: Editor,
    judges: Mapping[str, Callable[[Views], dict[str, Int[np.ndarray, " view"]]]],
    asked: Sequence[Insertion],
    rendered: tuple[Views, Sequence[scenes.SceneObject]],
    passed: tuple[Views, Sequence[scenes.SceneObject]],
) -> dict[str, Any]:
    """Share of faces that are as their prompts asked, by several judges, beside what each finds in faces that are as they should be.

    Parameters
    ----------
    rendered, passed : views of rendered things, and of others after the autoencoder alone, with what each shows. The rendered faces
        are judged sharp and softened by `SOFTNESS`: a judge that errs there would err about soft paintings, whatever they show.
    """
    _, painted, told = _painted(editor, asked)
    (sharp, drawn), (through, shown) = faces_among(*rendered), faces_among(*passed)
    truth = answers_of(drawn)
    sets = {"painted": (painted, told), "re-encoded": (through, answers_of(shown)), "rendered": (sharp, truth)}
    sets |= {f"rendered, softened by {sd}": (softened(sharp, sd), truth) for sd in SOFTNESS}
    return {name: {of: _shares(judge(views), answers) for of, (views, answers) in sets.items()} for name, judge in judges.items()}


def _shares(found: Mapping[str, Int[np.ndarray, " view"]], told: Mapping[str, Int[np.ndarray, " view"]]) -> dict[str, dict[str, float]]:
    """Per question about faces, the share that is as told, where it is told."""
    asked = {name: told[name] >= 0 for name in FACE_QUESTIONS}
    return {name: _share(found[name][where] == told[name][where]) for name, where in asked.items() if where.any()}


def _as_asked(
    judge: Judge, views: Views, items: Sequence[scenes.SceneObject], told: dict[str, Int[np.ndarray, " view"]] | None = None
) -> dict[str, Any]:
    """Shares of views that show what is `told` of their items (-1: not told); all of it by default."""
    found, truth = judge(views), answers_of(items)
    told = truth if told is None else told
    group = np.unique([concept.group for concept in scenes.CONCEPTS], return_inverse=True)[1]
    of_group = group[found["concept"]] == group[truth["concept"]]
    right = np.where(told["concept"] < 0, of_group, found["concept"] == truth["concept"])
    each = {}
    for index, name in enumerate(QUESTIONS["concept"]):
        if (truth["concept"] == index).any():
            each[name] = float(right[truth["concept"] == index].mean())
    report: dict[str, Any] = {"recognised": _share(right), "recognised_each": each}
    for name in DRAWN_ATTRIBUTES:
        asked = told[name] >= 0
        if asked.any():
            report[name] = _share(found[name][asked] == told[name][asked]) | {"chance": 1 / len(QUESTIONS[name])}
    return report


def _share(right: Bool[np.ndarray, " trial"]) -> dict[str, float]:
    """A share with its 95 % interval (Wilson 1927)."""
    low, high = share_interval(right)
    return {"value": float(right.mean()), "low": low, "high": high, "n": len(right)}


def measure_removals(editors: Sequence[Editor], n: int, first_seed: int = EVALUATION_SEED) -> dict[str, Any]:
    """Mean absolute difference (of 255) under the mask between what a removal left and the scene drawn without the object.

    Masks are an object's outline grown by three pixels. `ring median` fills with the median colour of a ring about the mask.
    `more` is the mean error beyond the first editor's, scene by scene; intervals are Student's over scenes.
    """
    errors: dict[str, list[float]] = {name: [] for name in (*(editor.name for editor in editors), "ring median")}
    for number in range(n):
        scene = scenes.sample_scene(first_seed + 500_000 + number)
        full = scenes.render(scene, SCENE_SIZE)
        index = int(np.argmax(full.visible))
        rest = tuple(other for place, other in enumerate(scene.objects) if place != index)
        truth = scenes.render(scenes.Scene(scene.seed, scene.background, rest, scene.light), SCENE_SIZE).image
        outline = cv2.dilate((full.object_map == index).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
        if not 100 < outline.sum() < 0.6 * outline.size:
            continue
        for editor in editors:
            edit = editor.edit(full.image, outline, "remove the object", seed=number)
            errors[editor.name].append(float(np.abs(edit.edited[outline].astype(float) - truth[outline]).mean()))
        ring = (cv2.dilate(outline.astype(np.uint8), np.ones((2 * RING + 1,) * 2, np.uint8)) > 0) & ~outline
        median = np.median(full.image[ring], axis=0)
        errors["ring median"].append(float(np.abs(median - truth[outline]).mean()))
    first = np.array(errors[editors[0].name])
    return {name: _removal_error(np.array(values), first) for name, values in errors.items()}


def _removal_error(values: Float[np.ndarray, " scene"], first: Float[np.ndarray, " scene"]) -> dict[str, float]:
    (low, high), (more_low, more_high) = t_interval(values), t_interval(values - first)
    about = {"mean": values.mean(), "median": np.median(values), "low": low, "high": high}
    more = {"more": (values - first).mean(), "more_low": more_low, "more_high": more_high}
    return {name: float(value) for name, value in (about | more).items()} | {"n": len(values)}


def measure_speed(editor: Editor, asked: Sequence[Insertion]) -> dict[str, float]:
    """Median wall seconds of an insertion and of a removal on this machine."""
    seconds: dict[str, list[float]] = {"insert": [], "remove": []}
    for request in asked:
        for kind, words in (("insert", f"insert {request.prompt}"), ("remove", "remove the object")):
            start = time.perf_counter()
            editor.edit(request.image, request.edit_mask, words, seed=1)
            seconds[kind].append(time.perf_counter() - start)
    return {kind: float(np.median(values)) for kind, values in seconds.items()}


def main(arguments: list[str] | None = None) -> None:
    """Command line of the quality report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--insertions", type=int, default=720)
    parser.add_argument("--removals", type=int, default=200)
    parser.add_argument("--faces", type=int, default=240, help="more insertions, of faces alone, for two judges")
    parser.add_argument("--workers", type=int, default=0, help="processes that render what a judge is fit on")
    parser.add_argument("--round-trips", type=int, default=600, help="rendered things through the autoencoder alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of edits to this PNG")
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    import torch

    torch.set_num_threads(asked.threads)
    folder = cache_directory() / "training" / "phantom-editor"
    judge, face_judge = trained_judge(folder / "judge.safetensors"), trained_face_judge(folder, workers=asked.workers)
    editor = load_editor("phantom", "cpu")
    requests = insertions(asked.insertions)
    report, edited = measure_insertions(editor, judge, requests)
    rendered = rendered_views(1500, FIRST_SEED + 50_000_000)
    passed = passed_views(editor, asked.round_trips, FIRST_SEED + 60_000_000)
    faces = insertions(asked.faces, FACES_SEED, FACES)
    report = {
        "sha256": editor.loaded.weights,
        "first_seed": EVALUATION_SEED,
        "judge": f"The judge is read-outs of backbone `{BACKBONE}` fit on rendered objects, sharp and softened; it sees what is "
        "under the mask alone.",
        "insertions": report,
        "rendered": _as_asked(judge, *rendered),
        "rendered_soft": {str(sd): _as_asked(judge, softened(rendered[0], sd), rendered[1]) for sd in SOFTNESS},
        "round_trip": _as_asked(judge, *passed),
        "faces": {
            "first_seed": FACES_SEED,
            "n": len(faces),
            "judges": measure_faces(editor, {"first": judge, "second": face_judge}, faces, rendered, passed),
        },
        "removals": measure_removals([editor, create_editor("patch-fill"), create_editor("smooth-fill")], asked.removals),
        "seconds": measure_speed(editor, requests[:10]) | {"threads": asked.threads},
    }
    if asked.json:
        asked.json.write_text(json.dumps(report, indent=1) + "\n")
    if asked.sheet:
        sheet = contact_sheet(requests[:72], edited[:72])
        cv2.imwrite(str(asked.sheet), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    logger.info(json.dumps(brief(report), indent=1))


def brief(report: dict[str, Any]) -> dict[str, Any]:
    """The main figures of a report: painted, rendered and sent through the autoencoder, rendered."""
    made, passed, drawn = report["insertions"], report["round_trip"], report["rendered"]
    names = ("recognised", *(name for name in DRAWN_ATTRIBUTES if name in made))
    shares = {name: f"{made[name]['value']:.3f} / {passed[name]['value']:.3f} / {drawn[name]['value']:.3f}" for name in names}
    removals = {name: round(values["mean"], 2) for name, values in report["removals"].items()}
    worst = sorted(made["recognised_each"].items(), key=lambda entry: entry[1])[:6]
    return {**shares, "removals": removals, "seconds": report["seconds"], "worst": worst}


def contact_sheet(asked: Sequence[Insertion], edited: Sequence[np.ndarray], columns: int = 9) -> UInt8[np.ndarray, "rows cols 3"]:
    """Edited images side by side, their masks outlined."""
    tiles = []
    for request, image in zip(asked, edited, strict=True):
        tile = image.copy()
        outlines, _ = cv2.findContours(request.edit_mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        tiles.append(cv2.drawContours(tile, outlines, -1, (255, 255, 255), 1))
    rows = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles) - columns + 1, columns)]
    return np.concatenate(rows)


if __name__ == "__main__":
    main()
