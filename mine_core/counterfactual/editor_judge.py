"""An independent judge of the phantom's editor: read-outs of the backbone `phantom`, fit on rendered objects alone.

It sees what is under the mask and nothing else of the window, the whole of it and its middle close up, and says which concept that
shows, and each attribute that is drawn. It is fit on sharp renderings and on softened ones, for what is painted is soft. Neither the
backbone nor the read-outs took part in the editor's training, and none ever saw an edited picture. The judge's accuracy on rendered
objects is the ceiling of what it can find in painted ones, and is measured beside them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from safetensors.numpy import load_file, save_file

from mine_core.artifacts import hash_text
from mine_core.backbones.base import Backbone
from mine_core.backbones.presets import load_backbone
from mine_core.counterfactual.asked import QUESTIONS, answers_of
from mine_core.counterfactual.train_autoencoder import batches
from mine_core.counterfactual.train_pairs import CropChunks
from mine_core.counterfactual.windows import cut, cut_mask, whole_cells, window_around
from mine_core.subjects.phantom import scenes

BACKBONE = "phantom"
JUDGED_SIZE, CELL = 96, 4
FIRST_SEED = 900_000_000  # no scene of the editor's training
GREY = 128
LEAST_SIDE = 24  # pixels of a close-up
SOFTEST = 1.6  # pixels, the SD of the widest Gaussian that softens a view
ZONES = 3  # along each side of a close-up


@dataclass(frozen=True)
class Views:
    """Windows at the judge's size, and the cells of each that are looked at."""

    images: UInt8[np.ndarray, "view row col 3"]
    cells: Bool[np.ndarray, "view y x"]


@dataclass(frozen=True, eq=False)
class Judge:
    """Linear read-outs of standardised features, one per question: the answer is the row with the largest score."""

    backbone: Backbone
    mean: Float[np.ndarray, " feature"]
    scale: Float[np.ndarray, " feature"]
    coef: dict[str, Float[np.ndarray, "answer feature"]]
    intercept: dict[str, Float[np.ndarray, " answer"]]
    answers: dict[str, Int[np.ndarray, " answer"]]

    def __call__(self, views: Views) -> dict[str, Int[np.ndarray, " view"]]:
        """Answer every question about every view, as positions in `QUESTIONS`."""
        X = (features_of(self.backbone, views) - self.mean) / self.scale
        return {name: self.answers[name][(X @ self.coef[name].T + self.intercept[name]).argmax(1)] for name in QUESTIONS}


def view_of(image: UInt8[np.ndarray, "height width 3"], edit_mask: Bool[np.ndarray, "height width"]) -> Views:
    """An edit as the judge looks at it."""
    window = window_around(edit_mask)
    cells = whole_cells(cut_mask(edit_mask, window, JUDGED_SIZE), CELL)
    return Views(cut(image, window, JUDGED_SIZE)[None], cells[None])


def joined(views: Sequence[Views]) -> Views:
    """Many views as one table."""
    return Views(np.concatenate([view.images for view in views]), np.concatenate([view.cells for view in views]))


def greyed(images: UInt8[np.ndarray, "*view row col 3"], cells: Bool[np.ndarray, "*view y x"]) -> UInt8[np.ndarray, "*view row col 3"]:
    """What is looked at, all else grey."""
    shown = cells.repeat(CELL, -2).repeat(CELL, -1)
    return np.where(shown[..., None], images, np.uint8(GREY))


def close_up(
    image: UInt8[np.ndarray, "row col 3"],
    cells: Bool[np.ndarray, "y x"],
    size: int,
    rng: np.random.Generator | None = None,
) -> UInt8[np.ndarray, "size size 3"]:
    """The middle square of what a view lets change, where a thing is that just fits it, all else grey; with `rng`, a little off."""
    shown = greyed(image, cells)
    rows, cols = np.flatnonzero(cells.any(1)), np.flatnonzero(cells.any(0))
    box = CELL * np.array([rows[0], cols[0], rows[-1] + 1, cols[-1] + 1])
    side, middle = float((box[2:] - box[:2]).min()), (box[:2] + box[2:]) / 2
    if rng is not None:
        middle = middle + rng.uniform(-0.06, 0.06, 2) * side
        side *= rng.uniform(0.85, 1.1)
    side = int(np.clip(side, LEAST_SIDE, min(image.shape[:2])))
    top, left = (int(np.clip(round(at - side / 2), 0, length - side)) for at, length in zip(middle, image.shape, strict=False))
    interpolation = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    return cv2.resize(shown[top : top + side, left : left + side], (size, size), interpolation=interpolation)


def close_ups(views: Views, size: int) -> UInt8[np.ndarray, "view size size 3"]:
    """The close-up of each view."""
    return np.stack([close_up(image, cells, size) for image, cells in zip(views.images, views.cells, strict=True)])


def softened(views: Views, sd: float | Float[np.ndarray, " view"]) -> Views:
    """Views blurred by a Gaussian of an SD in pixels, one for all or one for each; 0 leaves a view as it is."""
    each = np.broadcast_to(sd, len(views.images))
    blurred = [cv2.GaussianBlur(image, (0, 0), one) if one > 0 else image for image, one in zip(views.images, each, strict=True)]
    return Views(np.stack(blurred), views.cells)


def features_of(backbone: Backbone, views: Views) -> Float[np.ndarray, "view feature"]:
    """Features of each view, everything outside its cells grey: of the whole of it, and of the zones of its close-up.

    Of the whole: its embedding, and mean and maximum over the patches that its cells cover. Of the close-up: its embedding, and the
    mean over the patches of each of `ZONES` x `ZONES` zones.
    """
    found = backbone.embed(greyed(views.images, views.cells), batch_size=64)
    rows, cols = backbone.spec.grid
    n, side = len(views.images), JUDGED_SIZE // CELL
    share = views.cells.reshape(n, rows, side // rows, cols, side // cols).mean((2, 4)).reshape(n, rows * cols)
    patches = found.patches * (rows * cols)
    mean = np.einsum("np,npf->nf", share / share.sum(1, keepdims=True), patches)
    most = np.where(share[..., None] > 0, patches, -np.inf).max(1)
    near = backbone.embed(close_ups(views, JUDGED_SIZE), batch_size=64)
    laid = (near.patches * (rows * cols)).reshape(n, rows, cols, -1)
    strips = [strip for part in np.array_split(laid, ZONES, axis=1) for strip in np.array_split(part, ZONES, axis=2)]
    zones = [strip.mean((1, 2)) for strip in strips]
    return np.concatenate([found.pooled, mean, most, near.pooled, *zones], axis=1).astype(np.float32)


def rendered_views(n: int, first_seed: int, workers: int = 0) -> tuple[Views, list[scenes.SceneObject]]:
    """Views of rendered insertions under masks of any aspect, and what each shows."""
    views: list[Views] = []
    items: list[scenes.SceneObject] = []
    for pictures, cells, shown in batches(CropChunks(first_seed, JUDGED_SIZE, CELL), 0, n, workers):
        rows = [row for row, item in enumerate(shown) if item is not None]
        views.append(Views(pictures[rows].numpy(), cells[rows].numpy()))
        items += [shown[row] for row in rows]
        if len(items) >= n:
            break
    every = joined(views)
    return Views(every.images[:n], every.cells[:n]), items[:n]


def with_softened(views: Views, items: Sequence[scenes.SceneObject], seed: int = 1) -> tuple[Views, list[scenes.SceneObject]]:
    """Views, and each again, softened at random by up to `SOFTEST`; and what each shows."""
    sd = np.random.default_rng(seed).uniform(0.05, SOFTEST, len(items))
    return joined([views, softened(views, sd)]), [*items, *items]


def fit_judge(backbone: Backbone, views: Views, items: Sequence[scenes.SceneObject]) -> Judge:
    """Fit one multinomial logistic regression per question."""
    from sklearn.linear_model import LogisticRegression

    X, truth = features_of(backbone, views), answers_of(items)
    mean, scale = X.mean(0), np.maximum(X.std(0), 1e-6)
    X = (X - mean) / scale
    coef, intercept, answers = {}, {}, {}
    for name in QUESTIONS:
        asked = truth[name] >= 0
        model = LogisticRegression(C=0.01, max_iter=300).fit(X[asked], truth[name][asked])
        two = len(model.classes_) == 2  # of two answers scikit-learn keeps the score of the second alone
        coef[name] = np.concatenate([-model.coef_, model.coef_]) / 2 if two else model.coef_
        intercept[name] = np.concatenate([-model.intercept_, model.intercept_]) / 2 if two else model.intercept_
        answers[name] = model.classes_
    return Judge(backbone, mean, scale, coef, intercept, answers)


def trained_judge(path: Path, n_pictures: int = 4000, *, workers: int = 0) -> Judge:
    """Read the judge kept at `path`, or fit one on `n_pictures` rendered objects, sharp and softened, and keep it there."""
    backbone = load_backbone(BACKBONE, "cpu")
    made_of = {"n_pictures": n_pictures, "backbone": backbone.spec.weights_hash, "zones": ZONES, "softest": SOFTEST}
    about = json.dumps(made_of)
    kept = path.with_name(f"{path.stem}-{hash_text(about)[:12]}.safetensors")
    if kept.is_file():
        return _read(backbone, load_file(kept))
    judge = fit_judge(backbone, *with_softened(*rendered_views(n_pictures, FIRST_SEED, workers)))
    tables = {"mean": judge.mean, "scale": judge.scale}
    for name in QUESTIONS:
        tables |= {f"coef.{name}": judge.coef[name], f"intercept.{name}": judge.intercept[name], f"answers.{name}": judge.answers[name]}
    kept.parent.mkdir(parents=True, exist_ok=True)
    temporary = kept.with_name(f".{kept.name}")
    save_file({name: np.ascontiguousarray(table) for name, table in tables.items()}, temporary, metadata={"about": about})
    temporary.replace(kept)
    return judge


def _read(backbone: Backbone, tables: dict[str, np.ndarray]) -> Judge:
    parts = {part: {name: tables[f"{part}.{name}"] for name in QUESTIONS} for part in ("coef", "intercept", "answers")}
    return Judge(backbone, tables["mean"], tables["scale"], parts["coef"], parts["intercept"], parts["answers"])
