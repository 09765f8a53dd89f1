"""Real captions of COCO, of photographs and of the images that all subjects of the Natural Scenes Dataset saw, reach their image."""

import ast
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mine_core.errors import SubjectError
from mine_core.subjects.custom import describe_import, import_subject
from mine_core.subjects.nsd.captions import captions_of
from mine_core.subjects.nsd.tree import NsdTree


def cleaned(sentences: list[str]) -> list[str]:
    return [" ".join(sentence.split()) for sentence in sentences]


def told(root: Path, coco_ids: list[int], shared: np.ndarray) -> NsdTree:
    """A table as published that says which image of COCO each stimulus is."""
    tree = NsdTree(root, 1, "func1pt8mm")
    tree.information.parent.mkdir(parents=True)
    columns = {"cocoId": coco_ids, "cocoSplit": "val2017", "nsdId": range(len(coco_ids)), "shared1000": False}
    table = pd.DataFrame(columns)
    table.loc[shared, "shared1000"] = True
    table.to_csv(tree.information)
    return tree


def by_hand(path: Path) -> dict[int, list[str]]:
    said: dict[int, list[str]] = {}
    for entry in json.loads(path.read_text())["annotations"]:
        said.setdefault(entry["image_id"], []).append(entry["caption"])
    return said


def test_captions_of_photographs_come_with_an_import(real, rng, tmp_path):
    folder = real / "coco_val128"
    responses = tmp_path / "responses.npy"
    np.save(responses, rng.normal(size=(9, 128)).astype(np.float32))
    given = {"responses": responses, "response_axes": ("voxel", "stimulus"), "size": 48, "captions": folder / "captions.json"}
    subject = import_subject("photographs", folder / "images", **given)
    said = by_hand(folder / "captions.json")
    assert sum(map(len, subject.stimuli.captions)) == sum(map(len, said.values())) == 641
    for name, sentences in zip(subject.stimuli.ids, subject.stimuli.captions, strict=True):
        assert list(sentences) == cleaned(said[int(Path(name).stem)])
    assert any("641" in line and "captions.json" in line for line in describe_import(subject))


def test_captions_of_photographs_are_found_by_the_number_of_a_stimulus(real, rng, tmp_path):
    path = real / "coco_val128" / "captions.json"
    said = by_hand(path)
    ids = rng.permutation(sorted(said)).tolist()
    stimuli, shared = np.sort(rng.choice(128, 90, replace=False)), np.array([3, 40, 99])
    tree = told(tmp_path, ids, shared)
    captions = captions_of(tree, stimuli, shared, [path])
    assert [list(sentences) for sentences in captions] == [cleaned(said[ids[place]]) for place in stimuli]
    with pytest.raises(SubjectError, match="do not count stimuli alike: of 3 images .* 3 are not so"):
        captions_of(tree, stimuli, shared + 1, [path])


def test_captions_of_every_shared_image_of_the_dataset_are_read(real, rng, tmp_path):
    table = pd.read_csv(real / "nsd_tables" / "shared1000.csv")
    said = {int(row.image_id): ast.literal_eval(row.coco_captions) for row in table.itertuples()}
    assert len(said) == 1000 and sum(map(len, said.values())) == 5003
    pairs = [(image, sentence) for image, sentences in said.items() for sentence in sentences]
    halves = [pairs[::2], pairs[1::2]]  # of one image in both files
    files = []
    for number, half in enumerate(halves):
        images = [{"id": image, "file_name": f"{image:012d}.jpg"} for image in sorted({image for image, _ in half})]
        files.append(tmp_path / f"captions{number}.json")
        notes = [{"image_id": image, "caption": sentence} for image, sentence in half]
        files[-1].write_text(json.dumps({"images": images, "annotations": notes}))
    ids = rng.permutation(sorted(said)).tolist()
    captions = captions_of(told(tmp_path, ids, np.arange(1000)), np.arange(1000), np.arange(1000), files)
    assert [sorted(sentences) for sentences in captions] == [sorted(cleaned(said[image])) for image in ids]
    with pytest.raises(SubjectError, match="have no caption in captions0.json"):
        captions_of(told(tmp_path / "half", [*ids[:-1], 1], np.arange(1000)), np.arange(1000), np.arange(1000), files[:1])
