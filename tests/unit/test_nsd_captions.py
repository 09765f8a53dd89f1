"""Every stimulus of a miniature gets the captions of its own image of COCO; what does not match is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from nsd_tree import N_BRICK, Planted, write

from mine_core.artifacts import ArtifactStore
from mine_core.cli import main
from mine_core.errors import SubjectError
from mine_core.instrument.subjects import custom_artifact, import_nsd_into, known_subjects, subject_of

INFORMATION = "nsddata/experiments/nsd/nsd_stim_info_merged.csv"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write(tmp_path_factory.mktemp("nsd"))


def coco_ids() -> np.ndarray:
    """Image of COCO of each stimulus: of no order."""
    return np.random.default_rng(3).choice(500_000, N_BRICK, replace=False)


def write_information(tree: Planted, first: int = 0, n: int = N_BRICK, header: str = "nsdId") -> Path:
    shared = set(tree.shared.tolist())
    rows = [f",cocoId,cocoSplit,cropBox,{header},flagged,shared1000"]
    order = np.random.default_rng(8).permutation(n)
    rows += [
        f'{row},{coco_ids()[row]},{"val2017" if row % 7 == 0 else "train2017"},"(0, 0, 0.1, 0.1)",{row + first},False,{row in shared}'
        for row in order
    ]
    path = tree.root / INFORMATION
    path.write_text("\n".join(rows) + "\n")
    return path


def sentences(stimulus: int) -> list[str]:
    return [f"stimulus {stimulus}, caption {number}" for number in range(1 + stimulus % 3)]


def write_coco(folder: Path, of: list[int] | None = None) -> list[Path]:
    """Two files as COCO's, in an order of their own, with images that are no stimuli, and white space as COCO has it."""
    rng, files = np.random.default_rng(4), []
    for split, chosen in (("train", lambda row: row % 7), ("val", lambda row: row % 7 == 0)):
        rows = [row for row in (range(N_BRICK) if of is None else of) if chosen(row)]
        images = [{"id": int(coco_ids()[row]), "file_name": f"{coco_ids()[row]:012d}.jpg"} for row in rows]
        said = [{"image_id": int(coco_ids()[row]), "caption": f" {text}\n"} for row in rows for text in sentences(row)]
        images.append({"id": 900_000, "file_name": "900000.jpg"})
        said.append({"image_id": 900_000, "caption": "no stimulus"})
        shuffled = sorted(said, key=lambda _: rng.random())
        # captions of one image keep their order
        shuffled.sort(key=lambda entry: entry["image_id"] * 7919 % 1009)
        files.append(folder / f"captions_{split}2017.json")
        files[-1].write_text(json.dumps({"images": images, "annotations": shuffled}))
    return files


def imported(tree: Planted, store: ArtifactStore, coco: list[Path]):
    report = import_nsd_into(store, root=tree.root, subject=1, size=24, coco=coco)
    return subject_of(custom_artifact(report["subject"], store)), report


def test_captions_are_those_of_the_image_itself(tree, tmp_path):
    write_information(tree)
    subject, report = imported(tree, ArtifactStore(tmp_path), write_coco(tmp_path))
    assert subject.stimuli.caption_source == "COCO"
    for name, said in zip(subject.stimuli.ids, subject.stimuli.captions, strict=True):
        assert sorted(said) == sentences(int(name[4:]))
    n = sum(map(len, subject.stimuli.captions))
    assert f"Captions of COCO: {n} of {len(subject.stimuli)} images." in report["report"]


def test_captions_make_another_artifact_and_none_are_made_up(tree, tmp_path):
    write_information(tree)
    store = ArtifactStore(tmp_path)
    with_captions, _ = imported(tree, store, write_coco(tmp_path))
    without, report = imported(tree, store, [])
    assert not any(without.stimuli.captions) and without.stimuli.caption_source == "none"
    assert not [line for line in report["report"] if "Captions" in line]
    np.testing.assert_array_equal(without.responses.values, with_captions.responses.values)


def refused(tree: Planted, tmp_path: Path, coco: list[Path]) -> str:
    store = ArtifactStore(tmp_path / "store")
    with pytest.raises(SubjectError) as refusal:
        import_nsd_into(store, root=tree.root, subject=1, size=24, coco=coco)
    assert known_subjects(store) == ("phantom",) and "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_table_that_counts_from_one_is_found_out(tree, tmp_path):
    write_information(tree, first=1)
    assert "nsd_stim_info_merged.csv and the design do not count stimuli alike" in refused(tree, tmp_path, write_coco(tmp_path))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n": 390}, "nsd_stim_info_merged.csv lacks 1 stimulus|nsd_stim_info_merged.csv lacks [0-9]+ stimuli"),
        ({"header": "id"}, "nsd_stim_info_merged.csv cannot be read .*nsdId"),
    ],
)
def test_a_table_that_lacks_something_is_refused(tree, tmp_path, given, said):
    import re

    write_information(tree, **given)
    assert re.search(said, refused(tree, tmp_path, write_coco(tmp_path)))


def test_a_missing_table_is_refused(tree, tmp_path):
    (tree.root / INFORMATION).unlink(missing_ok=True)
    assert f"There is no {INFORMATION}" in refused(tree, tmp_path, write_coco(tmp_path))


def test_images_without_a_caption_are_refused_with_the_file_that_is_missing(tree, tmp_path):
    write_information(tree)
    train, val = write_coco(tmp_path)
    said = refused(tree, tmp_path, [train])
    assert "have no caption in captions_train2017.json" in said and "of COCO's val2017" in said
    assert "give COCO's captions of train2017 and of val2017" in said
    val.write_text("[1, 2]")
    assert "captions_val2017.json" in refused(tree, tmp_path, [train, val])


def test_the_command_takes_both_files(tree, tmp_path, monkeypatch, capsys):
    write_information(tree)
    monkeypatch.setenv("MINE_CACHE", str(tmp_path / "cache"))
    files = [str(path) for path in write_coco(tmp_path)]
    assert main(["import", "nsd", "--root", str(tree.root), "--size", "24", "--coco", *files]) == 0
    assert "Captions of COCO:" in capsys.readouterr().out
    assert main(["import", "algonauts", "--root", str(tree.root), "--coco", *files]) == 2
    assert "--coco" in capsys.readouterr().err
