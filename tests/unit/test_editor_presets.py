"""Presets of editors: complete, refused where wrong, placed by free memory, and what was measured of them."""

import json

import pytest

from mine_core.counterfactual import editor_loading, editor_presets
from mine_core.counterfactual.editor_presets import (
    choose_placement,
    editor_available,
    find_editor_preset,
    how_to_get,
    load_editor_presets,
)
from mine_core.errors import ConfigError, EditError

PRESETS = load_editor_presets()


def test_measured_quality_is_what_was_measured_or_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(editor_presets, "EDITOR_WEIGHTS", tmp_path)
    (tmp_path / "phantom").mkdir()
    assert editor_presets.measured_quality("phantom") is None
    report = tmp_path / "phantom" / "quality.json"
    report.write_text('{"insertions": {"recognised": {"value": 0.7, "low": 0.66, "high": 0.74, "n": 400}}}')
    assert editor_presets.measured_quality("phantom") == (0.7, 0.66, 0.74)
    for broken in ("{", '{"insertions": []}', '{"insertions": {"recognised": {"value": 0.7}}}'):
        report.write_text(broken)
        assert editor_presets.measured_quality("phantom") is None


def test_measured_removals_are_what_was_measured_or_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(editor_presets, "EDITOR_WEIGHTS", tmp_path)
    (tmp_path / "phantom").mkdir()
    assert editor_presets.measured_removals("phantom") == {}
    report = tmp_path / "phantom" / "quality.json"
    entry = {"mean": 20, "low": 18.5, "high": 21.5, "n": 90, "more": 0, "more_low": 0, "more_high": 0, "median": 3}
    report.write_text(json.dumps({"removals": {"phantom": entry, "patch-fill": entry | {"more": 2.5}}}))
    found = editor_presets.measured_removals("phantom")
    assert found["phantom"] == editor_presets.RemovalError(20, 18.5, 21.5, 90, 0, 0, 0) and found["patch-fill"].more == 2.5
    for broken in ("{", '{"removals": []}', '{"removals": {"phantom": {"mean": 20}}}', '{"insertions": {}}'):
        report.write_text(broken)
        assert editor_presets.measured_removals("phantom") == {}


def test_placement_follows_free_memory() -> None:
    preset = PRESETS["sdxl-inpaint"]
    places = [choose_placement(preset, free) for free in (None, 80.0, 11.2, 8.0, 4.0)]
    assert places == ["processor", "whole on the GPU", "whole on the GPU", "part by part on the GPU", "layer by layer on the GPU"]
    with pytest.raises(EditError, match=r"1\.2 GB are free"):
        choose_placement(preset, 1.2)


def test_presets_are_complete_and_wrong_ones_are_refused(tmp_path) -> None:
    assert set(PRESETS) == {"phantom", "sd15-inpaint-lcm", "sdxl-inpaint", "flux2-klein-4b", "instruct-pix2pix"}
    assert [name for name, preset in PRESETS.items() if preset.source == "assets"] == ["phantom"]
    assert all(preset.offload_gb <= preset.memory_gb for preset in PRESETS.values())
    text = (editor_loading.EDITOR_WEIGHTS.parent / "editors.toml").read_text()
    path = tmp_path / "editors.toml"
    for found, instead, reason in (
        ("side = 512", "side = 512\ndepth = 3", "unknown keys depth"),
        ('revision = "main"', "", "missing keys revision"),
        ("strength = 0.99", "strength = 1.5", "strength"),
        ("steps = 20", 'steps = "20"', "expected type int"),
        ("guidance = 7.5", "guidance = 7", "decimal point"),
        ("StableDiffusionXLInpaintPipeline", "PickledPipeline", "PickledPipeline"),
        ('insertion = "add {}"', 'insertion = "add"', "insertion hold"),
        ("masked = true", "masked = 1", "expected type bool"),
        ("[phantom]", "[phantom", "cannot be read"),
    ):
        assert found in text
        path.write_text(text.replace(found, instead))
        with pytest.raises(ConfigError, match=reason):
            load_editor_presets(path)
    with pytest.raises(EditError, match="no generative editor 'dall'"):
        find_editor_preset("dall")


def test_absent_weights_say_how_to_get_them(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *asked, **named: None)
    ready, reason = editor_available("sd15-inpaint-lcm")
    assert not ready and "hf download stable-diffusion-v1-5" in reason and "lcm-lora" in reason and "2270 MB" in reason
    monkeypatch.setattr("diffusers.DiffusionPipeline.download", _offline)
    with pytest.raises(EditError, match="hf download diffusers/stable-diffusion-xl"):
        editor_loading.load_editor("sdxl-inpaint", "cpu")
    assert how_to_get(PRESETS["flux2-klein-4b"]).count("hf download") == 1


def _offline(*asked, **named):
    raise OSError("no connection")
