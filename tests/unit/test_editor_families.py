"""Families of faces: what their members share, what tells them apart, and that batches and checkpoints are of them."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from test_editor_training import CPU, tiny

from mine_core.counterfactual.train_denoiser import DenoiserBatches, Pool
from mine_core.counterfactual.train_families import LEAST_TIME, MEMBERS, FamilyBatches, FamilyChunks, members_of
from mine_core.counterfactual.train_pairs import draw_scene, pairs_of, rng_of
from mine_core.counterfactual.train_phantom import denoiser_run
from mine_core.counterfactual.train_run import Recipe
from mine_core.counterfactual.train_telling import SCALE, TellingChunks, telling_map, telling_pixels
from mine_core.errors import EditError
from mine_core.subjects.phantom import scenes

FIRST = 31
CHUNK = 12  # scenes
RECIPE = Recipe("families", steps=9, batch_size=24, precision="fp32")


@pytest.fixture(scope="module")
def chunk():
    return FamilyChunks(FIRST, 48, 4, CHUNK, surroundings=0.12)[0]


@cache
def faces():
    """Insertions of faces among the scenes of the chunk, in their order."""
    pairs = [(seed, pair) for seed in range(FIRST, FIRST + CHUNK) for pair in pairs_of(seed)]
    return [(seed, pair) for seed, pair in pairs if pair.item is not None and "expression" in dict(pair.item.attributes)]


def pool_like(items, seed: int) -> Pool:
    generator = torch.Generator().manual_seed(seed)
    latents, seen = (torch.randn(len(items), 4, 8, 8, generator=generator).half() for _ in range(2))
    cells = torch.rand(len(items), 8, 8, generator=generator) < 0.5
    return Pool(latents, seen, cells, torch.zeros(len(items), 8, 8, dtype=torch.uint8), tuple(items))


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    faces_of_pool = [member for seed, pair in faces()[:2] for member in members_of(seed, pair.item)]
    others = [None, *faces_of_pool, scenes.SceneObject("car", 0.5, 0.5, 0.4, (("colour", "red"),), 3)]
    families = [member for seed, pair in faces() for member in members_of(seed, pair.item)]
    run = denoiser_run(RECIPE, tiny(), CPU, tmp_path_factory.mktemp("none"))
    return FamilyBatches(pool_like(others, 1), pool_like(families, 2), tiny(), run), len(others)


def test_members_differ_in_drawn_attributes_alone_and_not_in_the_hat() -> None:
    for seed, pair in faces():
        members = members_of(seed, pair.item)
        assert members[0] == pair.item and len(members) == MEMBERS and members == members_of(seed, pair.item)
        for member in members:
            assert replace(member, attributes=pair.item.attributes) == pair.item
            assert dict(member.attributes).get("hat") == dict(pair.item.attributes).get("hat")
    drawn = [dict(member.attributes)["view"] for seed, pair in faces() for member in members_of(seed, pair.item)]
    assert set(drawn) == {"front", "left", "right"}


def test_a_chunk_holds_each_face_of_its_scenes_as_a_family_rendered_in_its_place(chunk) -> None:
    images, cells, items, maps = chunk
    wanted = [(seed, pair, member) for seed, pair in faces() for member in members_of(seed, pair.item)]
    assert items == [member for _, _, member in wanted] and len(images) == len(cells) == len(maps) == len(wanted)
    plain = TellingChunks(FIRST, 48, 4, CHUNK, surroundings=0.12)[0]
    rows = [row for row, item in enumerate(plain[2]) if item is not None and "expression" in dict(item.attributes)]
    for first, row in zip(range(0, len(items), MEMBERS), rows, strict=True):
        assert torch.equal(images[first], plain[0][row]) and torch.equal(maps[first], plain[3][row])
        outside = ~np.kron(cells[first].numpy(), np.ones((4, 4), bool))
        for member in range(first, first + MEMBERS):
            assert torch.equal(cells[member], cells[first])
            assert torch.equal(images[member][outside], images[first][outside])
            assert items[member] == items[first] or not torch.equal(images[member], images[first])


def test_what_tells_a_member_is_of_that_member(chunk) -> None:
    position = next(row for row, item in enumerate(chunk[2]) if row % MEMBERS and item != chunk[2][row - row % MEMBERS])
    seed, pair = faces()[position // MEMBERS]
    member, scene = chunk[2][position], draw_scene(rng_of(seed), seed)
    changed = replace(scene, objects=tuple(member if each == pair.item else each for each in scene.objects))
    wanted = telling_map(pair, telling_pixels(changed, member), 48, 0.12)
    assert np.allclose(chunk[3][position].numpy() / SCALE, np.minimum(wanted, 255 / SCALE), atol=0.5 / SCALE + 1e-6)


def test_a_chunk_without_a_face_is_refused() -> None:
    shown = ([item.concept for item in draw_scene(rng_of(seed), seed).objects] for seed in range(200))
    seed = next(seed for seed, concepts in enumerate(shown) if not {"man", "woman", "child", "clown"} & set(concepts))
    with pytest.raises(EditError, match="Chunk 0 holds no face; give chunks of more than 1 scenes"):
        FamilyChunks(seed, 48, 4, 1)[0]


def test_members_of_a_family_share_time_and_noise_where_words_decide(batches) -> None:
    losses, n_others = batches
    given = losses.loss_at(4).keywords
    times, noise, rows = given["times"], given["noise"], given["rows"].numpy()
    assert len(rows) == len(times) == len(noise) == RECIPE.batch_size
    for first in range(0, 8, MEMBERS):
        members = slice(first, first + MEMBERS)
        assert (rows[members] >= n_others).all() and np.array_equal(np.diff(rows[members]), np.ones(MEMBERS - 1))
        assert (rows[first] - n_others) % MEMBERS == 0
        assert len(times[members].unique()) == 1 and int(times[first]) >= 1000 * LEAST_TIME
        assert all(torch.equal(noise[first], noise[member]) for member in range(first, first + MEMBERS))
    assert (rows[8:] < n_others).all() and not torch.equal(noise[8], noise[9])
    assert not torch.equal(noise[0], noise[MEMBERS]) and rows[0] != rows[MEMBERS]
    many = torch.cat([losses.loss_at(step).keywords["times"][8:] for step in range(60)])
    assert int(many.min()) < 100 and int(many.max()) > 900


def test_batches_are_functions_of_their_step(batches) -> None:
    losses, _ = batches
    first, again, other = (losses.loss_at(step).keywords for step in (4, 4, 5))
    for name in ("rows", "ids", "times", "noise"):
        assert torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name])


def test_broken_families_are_refused(batches, tmp_path) -> None:
    losses, _ = batches
    pool = pool_like([None, *losses.pools[0].items[1:4]], 1)
    run = denoiser_run(RECIPE, tiny(), CPU, tmp_path)
    for items in (losses.pools[0].items[1:4], ()):
        with pytest.raises(EditError, match=f"{len(items)} edits make no whole families of 4"):
            FamilyBatches(pool, pool_like(items, 2), tiny(), run)


def test_the_stage_begins_with_the_average_of_the_one_before(tmp_path) -> None:
    before = denoiser_run(replace(RECIPE, stage="denoiser", seed=5), tiny(), CPU, tmp_path / "denoiser")
    for number, parameter in enumerate(before.average.parameters()):
        parameter.data.normal_(generator=torch.Generator().manual_seed(number))
    before.save(tmp_path / "denoiser", tiny().to_dict())
    run = denoiser_run(RECIPE, tiny(), CPU, tmp_path / "families", tmp_path / "denoiser")
    assert run.progress.step == 0
    for name, value in before.average.state_dict().items():
        assert torch.equal(run.parts.state_dict()[name], value) and torch.equal(run.average.state_dict()[name], value), name
    run.progress.step = 3
    run.parts["denoiser"].conv_in.bias.data += 1
    run.save(tmp_path / "families", tiny().to_dict())
    again = denoiser_run(RECIPE, tiny(), CPU, tmp_path / "families", tmp_path / "denoiser")
    assert again.progress.step == 3
    assert torch.equal(again.parts["denoiser"].conv_in.bias, run.parts["denoiser"].conv_in.bias)
    with pytest.raises(EditError, match="No checkpoint"):
        denoiser_run(RECIPE, tiny(), CPU, tmp_path / "new", tmp_path / "nothing")


def test_without_families_batches_are_as_before(batches) -> None:
    losses, n_others = batches
    alone = DenoiserBatches([pool_like(losses.pools[0].items[:n_others], 1)], tiny(), losses.run)
    given = alone.loss_at(2).keywords
    assert len(given["rows"]) == RECIPE.batch_size and (given["rows"] < n_others).all()
    assert len(given["times"].unique()) > MEMBERS
