"""What paints faces: denoisers in eight bits, prompts that are painted by another one, and files that say which."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from randomised import randomise
from safetensors.torch import load_file, save_file
from test_editor_families import RECIPE
from test_editor_training import CPU, made, pool_of, tiny

from mine_core.counterfactual.diffusion import DiffusionEditor, LoadedPipeline
from mine_core.counterfactual.editor_loading import load_from_assets
from mine_core.counterfactual.editor_presets import find_editor_preset
from mine_core.counterfactual.packing import PACKED, packed, read_denoiser, save_denoiser, unpacked
from mine_core.counterfactual.phantom_editor import ASSETS, SPECIALIST, assemble, build_denoiser, build_text_encoder, weights_hash
from mine_core.counterfactual.train_again import take_up
from mine_core.counterfactual.train_families import FACE_TOLD, FACE_WORDS
from mine_core.counterfactual.train_phantom import averaged, denoiser_run, export, finished_autoencoder
from mine_core.counterfactual.train_run import CHECKPOINT, read_state
from mine_core.errors import EditError

SHAPE = replace(tiny(), first_size=32)
PRESET = replace(find_editor_preset("phantom"), side=32, steps=3, surroundings=SHAPE.surroundings)


# --- eight bits ---------------------------------------------------------------------------------------------------------


def test_packed_weights_are_within_half_a_step_of_their_row(rng) -> None:
    state = {
        "conv.weight": torch.from_numpy(rng.normal(size=(5, 4, 3, 3)) * 10.0 ** -np.arange(5)[:, None, None, None]),
        "linear.weight": torch.from_numpy(rng.normal(size=(7, 6))),
        "norm.weight": torch.from_numpy(1 + rng.normal(size=9)),
        "empty.weight": torch.zeros(2, 3),
    }
    state["linear.weight"][3] = 0
    kept = packed(state)
    found = unpacked(kept)
    assert set(found) == set(state) and kept["conv.weight"].dtype == torch.int8 and kept["norm.weight"].dtype == torch.float16
    for name in ("conv.weight", "linear.weight"):
        wanted, got = (each[name].double().numpy().reshape(len(state[name]), -1) for each in (state, found))
        largest = np.abs(wanted).max(1, keepdims=True)
        # half a step, and what half precision loses of the largest
        assert (np.abs(got - wanted) <= largest * (0.5 / 127 + 1e-3) + 1e-12).all()
        assert np.abs(got - wanted).max() > 0
    assert torch.equal(found["norm.weight"], state["norm.weight"].half().float())
    assert not found["empty.weight"].any() and not found["linear.weight"][3].any()


def test_packing_what_was_unpacked_gives_the_same_bytes() -> None:
    kept = packed(randomise(build_denoiser(SHAPE), 11).state_dict())
    again = packed(unpacked(kept))
    assert set(again) == set(kept) and all(torch.equal(again[name], value) for name, value in kept.items())


def test_a_saved_denoiser_paints_almost_as_before(tmp_path) -> None:
    denoiser = randomise(build_denoiser(SHAPE), 12)
    save_denoiser(denoiser, tmp_path)
    generator = torch.Generator().manual_seed(7)
    noisy, text = torch.randn(2, 9, 8, 8, generator=generator), torch.randn(2, 20, 16, generator=generator)
    with torch.inference_mode():
        before, after = (
            each(noisy, torch.tensor([100, 700]), encoder_hidden_states=text).sample for each in (denoiser, read_denoiser(tmp_path))
        )
    assert 0 < (before - after).abs().mean() < 0.02 * before.abs().mean()


def test_broken_denoisers_are_refused_in_one_line(tmp_path) -> None:
    denoiser = randomise(build_denoiser(SHAPE), 13)

    def lacks(folder) -> None:
        kept = load_file(folder / PACKED)
        kept.pop("conv_in.bias")
        save_file(kept, folder / PACKED)

    damages = (
        lambda folder: (folder / PACKED).unlink(),
        lambda folder: (folder / PACKED).write_bytes((folder / PACKED).read_bytes()[:-9]),
        lambda folder: (folder / "config.json").write_text("{"),
        lacks,
    )
    for number, damage in enumerate(damages):
        folder = tmp_path / str(number)
        save_denoiser(denoiser, folder)
        damage(folder)
        with pytest.raises(EditError, match="cannot be read .*restore its files") as refusal:
            read_denoiser(folder)
        assert "\n" not in str(refusal.value)


# --- faces --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Checkpoints of a tiny denoiser and of what families made of it."""
    folder = tmp_path_factory.mktemp("stages")
    made(folder)
    for name in ("pool", "families"):
        pool_of(folder, 32, 40).save(folder / f"{name}-32.safetensors", {"n_edits": 40})
    for number, stage in enumerate(("denoiser", "families")):
        run = denoiser_run(replace(RECIPE, stage=stage), SHAPE, CPU, folder / stage)
        randomise(run.average, 40 + number)
        run.save(folder / stage, SHAPE.to_dict())
    return folder


@pytest.fixture(scope="module")
def shipped(root, tmp_path_factory):
    """The exported editor, and one that was exported without what families made."""
    folders = [tmp_path_factory.mktemp(name) for name in ("with", "without")]
    export(root, folders[0])
    (root / "families" / CHECKPOINT).rename(root / "aside")
    export(root, folders[1])
    (root / "aside").rename(root / "families" / CHECKPOINT)
    return [folder / "phantom" for folder in folders]


@pytest.fixture
def picture(rng):
    mask = np.zeros((40, 48), bool)
    mask[8:24, 10:30] = True
    return rng.integers(0, 256, (*mask.shape, 3), dtype=np.uint8), mask


def painted(editor, asked, picture):
    return editor.edit(*picture, asked, seed=2)


def test_faces_alone_are_painted_by_what_learnt_them(shipped, picture) -> None:
    both, plain = (load_from_assets(PRESET, folder) for folder in shipped)
    for asked in ("remove it", "insert a red ball", "insert a dog", "insert a dancer", "insert a woman", "insert a photo of a face"):
        edit = painted(both, asked, picture)
        assert np.array_equal(edit.edited, painted(plain, asked, picture).edited) and edit.provenance["specialist"] == "", asked
    for asked in ("insert a smiling woman with red hair", "insert a Face looking left", "insert a clown without glasses"):
        edit = painted(both, asked, picture)
        assert edit.provenance["specialist"] == SPECIALIST and np.array_equal(edit.edited, painted(both, asked, picture).edited)
        assert not np.array_equal(edit.edited, painted(plain, asked, picture).edited), asked
    assert set(FACE_WORDS) == {"man", "woman", "child", "clown", "face"}
    assert "specialist" not in json.loads((shipped[1] / "editor.json").read_text())
    assert both.loaded.specialist.pipeline.vae is both.loaded.pipeline.vae, "one autoencoder, one memory"
    assert both.loaded.offload() is None


def test_the_specialist_is_what_families_made(root, shipped, picture) -> None:
    """A pipeline built by hand from that checkpoint's average, in the bits that are kept, paints the same."""
    denoiser, text_encoder = averaged(root / "families", build_denoiser(SHAPE), build_text_encoder(SHAPE))
    denoiser.load_state_dict(unpacked(packed(denoiser.state_dict())))
    pipeline = assemble(SHAPE, finished_autoencoder(root).half().float(), denoiser, text_encoder.half().float())
    by_hand = DiffusionEditor(PRESET, LoadedPipeline(pipeline, "w", "processor"), frozenset(SHAPE.words))
    found = load_from_assets(PRESET, shipped[0])
    pictures = [painted(editor, "insert a smiling man", picture).edited.astype(int) for editor in (by_hand, found)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_its_files_are_of_the_hash_and_their_loss_is_refused(shipped, tmp_path) -> None:
    assert weights_hash(shipped[0]) != weights_hash(shipped[1])
    for number, name in enumerate((f"unet/{PACKED}", "text_encoder/config.json", "unet/config.json")):
        folder = tmp_path / str(number) / "phantom"
        shutil.copytree(shipped[0], folder)
        (folder / SPECIALIST / name).unlink()
        with pytest.raises(EditError, match=("restore both", "restore its files", "restore its files")[number]):
            load_from_assets(PRESET, folder)


def test_a_training_goes_on_from_what_was_shipped_for_faces(shipped, tmp_path) -> None:
    again = tmp_path / "again"
    take_up(shipped[0], again)
    run = denoiser_run(replace(RECIPE, stage="families"), SHAPE, CPU, again / "families", again / "denoiser")
    kept = unpacked(load_file(shipped[0] / SPECIALIST / "unet" / PACKED))
    assert all(torch.equal(run.parts["denoiser"].state_dict()[name], value) for name, value in kept.items())
    assert read_state(again / "families")["recipe"]["stage"] == "families"
    (again / "pool-32.safetensors").write_bytes(b"")
    second = export(again, tmp_path / "second")
    first = json.loads((shipped[0] / "editor.json").read_text())
    assert second["sha256"] == first["sha256"] and second["specialist"] == first["specialist"]
    assert first["specialist"] == {SPECIALIST: {"words": list(FACE_WORDS), "told": list(FACE_TOLD)}}
    assert second["training"] == first["training"] and first["training"]["pools_after"] == {"pool": 40, "families": 10}


def test_the_shipped_editor_is_whole_and_under_25_megabytes() -> None:
    folder = ASSETS / "phantom"
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 25e6
    assert load_from_assets(find_editor_preset("phantom"), folder).loaded.specialist.words == set(FACE_WORDS)
