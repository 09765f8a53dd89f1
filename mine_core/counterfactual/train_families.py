"""Families of faces: one face in one place under one noise, again and again, with nothing but its attributes changed.

A denoiser that sees each face once learns to paint faces and hardly to listen: what the words say of a mouth or of where somebody
looks explains far less of its error than hair and clothes do. Members of a family have everything in common but their words, so what
tells them apart is all that their prompts can teach. Few of a face's pixels tell it (`train_telling`), and only where there is much
noise do words decide: where there is little, the picture has told it already. The more of a step is faces, the sooner other things are
forgotten: what comes of this stage paints faces of which something is told, and all else is painted by the denoiser of before.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from mine_core.counterfactual.asked import FACES, GROUP_NOUNS
from mine_core.counterfactual.critic import Critic
from mine_core.counterfactual.phantom_editor import EditorShape
from mine_core.counterfactual.train_denoiser import DenoiserBatches, Pool
from mine_core.counterfactual.train_pairs import SCENE_SIZE, EditPair, draw_scene, rng_of
from mine_core.counterfactual.train_run import Run
from mine_core.counterfactual.train_telling import TellingChunk, TellingChunks, telling_pixels
from mine_core.errors import EditError
from mine_core.subjects.phantom import scenes
from mine_core.subjects.phantom.scenes.concepts import DRAWN

KEPT = "hat"  # a hat needs room that a region made for a bare head has not
FACE_WORDS = (*FACES, GROUP_NOUNS["faces"])
# what is said of a face beside its name; a bare name is painted better by the denoiser of before
_VALUES = {value for values in DRAWN["man"].values() for value in values} - {"yes", "no", "front"}
FACE_TOLD = tuple(sorted(_VALUES | {"ahead", "glasses", KEPT}))
MEMBERS = 4
SHARE = 1 / 3  # of what the denoiser sees in this stage; with two thirds, and single faces for the rest, it knew even faces less
LEAST_TIME = 0.25  # of the noise's schedule, 0 being the picture


def members_of(seed: int, item: scenes.SceneObject) -> tuple[scenes.SceneObject, ...]:
    """A face of the scene of this seed, and others in its place whose attributes are drawn anew, all but the hat."""
    rng = np.random.default_rng([0xFA31, seed, item.seed])
    values = DRAWN[item.concept]
    members = [item]
    for _ in range(MEMBERS - 1):
        drawn = tuple((name, value if name == KEPT else str(rng.choice(values[name]))) for name, value in item.attributes)
        members.append(replace(item, attributes=drawn))
    return tuple(members)


class FamilyChunks(TellingChunks):
    """Chunk number -> families of faces, `MEMBERS` edits after one another, and maps of what tells; a function of the number."""

    def __getitem__(self, number: int) -> TellingChunk:  # type: ignore[override]
        """Render chunk `number`; raises EditError if none of its scenes holds a face."""
        rendered, pixels, told = cache(_with), cache(telling_pixels), []
        for seed, pair in self.pairs(number):
            if pair.item is None or "expression" not in DRAWN.get(pair.item.concept, {}):
                continue
            for member in members_of(seed, pair.item):
                scene, image = rendered(seed, pair.item, member)
                after = np.where(pair.edit_mask[..., None], image, pair.before)
                told.append((EditPair(pair.before, after, pair.edit_mask, member, pair.background), pixels(scene, member)))
        if not told:
            raise EditError(f"Chunk {number} holds no face; give chunks of more than {self.n_scenes} scenes.")
        return *self.crops([pair for pair, _ in told]), self.maps(told)


def _with(seed: int, item: scenes.SceneObject, member: scenes.SceneObject) -> tuple[scenes.Scene, np.ndarray]:
    """The scene of a seed with another face for one of its own."""
    scene = draw_scene(rng_of(seed), seed)
    changed = replace(scene, objects=tuple(member if each == item else each for each in scene.objects))
    return changed, scenes.render(changed, SCENE_SIZE).image


class FamilyBatches(DenoiserBatches):
    """Losses of the denoiser on families of faces, and on its pool between them."""

    def __init__(self, pool: Pool, families: Pool, shape: EditorShape, run: Run, critic: Critic | None = None) -> None:
        if not families.items or len(families.items) % MEMBERS:
            raise EditError(f"{len(families.items)} edits make no whole families of {MEMBERS}.")
        super().__init__([pool.joined(families)], shape, run, critic)
        # what is drawn singly is of the pool alone
        self.rows = [(pool.inserted, pool.removed, pool.faces)]
        self.families = np.arange(len(pool.items), len(pool.items) + len(families.items)).reshape(-1, MEMBERS)

    def drawn(self, rng: np.random.Generator, which: int, n: int) -> np.ndarray:
        """Rows of whole families, then of single edits."""
        n_families = round(SHARE * n / MEMBERS)
        chosen = self.families[rng.choice(len(self.families), n_families, replace=False)]
        return np.concatenate([chosen.ravel(), super().drawn(rng, which, n - chosen.size)])

    def noised(self, generator: torch.Generator, like: Tensor) -> tuple[Tensor, Tensor]:
        """Times and noise, one of each for a whole family."""
        of_families = MEMBERS * round(SHARE * len(like) / MEMBERS)
        times, noise = super().noised(generator, like[:of_families:MEMBERS])
        last = self.scheduler.config.num_train_timesteps
        times = (LEAST_TIME * last + (1 - LEAST_TIME) * times).long().repeat_interleave(MEMBERS)
        others = super().noised(generator, like[of_families:])
        return torch.cat([times, others[0]]), torch.cat([noise.repeat_interleave(MEMBERS, 0), others[1]])
