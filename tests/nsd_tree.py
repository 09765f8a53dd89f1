"""A miniature of the Natural Scenes Dataset's published layout, written from its description, with everything in it planted."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel
import numpy as np
from scipy.io import savemat

VERSION = "betas_fithrf_GLMdenoise_RR"
N_SESSIONS, N_TRIALS, N_IMAGES, N_SHARED, N_BRICK, SIDE = 40, 90, 130, 20, 400, 24
VOLUME = (7, 9, 8)  # x, y, z as in NIfTI
N_VERTICES = 220
AFFINE = np.diag([1.8, 1.8, 1.8, 1.0])
PRESENT = (1, 2, 4)  # session 3 is withheld


@dataclass(frozen=True)
class Planted:
    """What was written: images of each trial (0-based), and maps [z, y, x] or [hemisphere, vertex] as responses lie."""

    root: Path
    space: str
    shown: np.ndarray
    shared: np.ndarray
    mask: np.ndarray
    ncsnr: np.ndarray
    betas: dict[int, np.ndarray]
    bricks: np.ndarray
    regions: dict[str, np.ndarray]


def relative(path: str, subject: int = 1) -> str:
    return path.replace("SUBJ", f"subj{subject:02d}")


def write(root: Path, space: str = "func1pt8mm", subject: int = 1, seed: int = 5) -> Planted:
    rng = np.random.default_rng(seed)
    shown, shared = write_design(root, rng, subject)
    bricks = write_stimuli(root, rng)
    shape = VOLUME[::-1] if space == "func1pt8mm" else (2, N_VERTICES)
    mask = np.zeros(shape, bool)
    if space == "func1pt8mm":
        mask[1:7, 2:8, 1:5] = rng.random((6, 6, 4)) < 0.8
    else:
        mask[:, 30:150] = rng.random((2, 120)) < 0.7
    ncsnr = np.where(rng.random(shape) < 0.5, rng.uniform(0.05, 0.4, shape), rng.uniform(0.8, 1.8, shape))
    published = ncsnr.copy()
    published.reshape(-1)[np.flatnonzero(mask)[[3, 11]]] = np.nan
    labels = {"streams": np.where(mask, rng.integers(0, 3, shape), -1), "floc-faces": np.where(mask, rng.integers(0, 2, shape), 0)}
    names = {"streams": {1: "early", 2: "midventral"}, "floc-faces": {1: "OFA", 2: "FFA-1"}}
    write_map(root, space, subject, "nsdgeneral", np.where(mask, 1, np.where(rng.random(shape) < 0.3, -1, 0)))
    for group, values in labels.items():
        write_map(root, space, subject, group, values)
        write_table(root, group, names[group])
    write_ratio(root, space, subject, published)
    betas = {session: session_betas(rng, shown[session - 1], ncsnr) for session in PRESENT}
    for session, values in betas.items():
        write_session(root, space, subject, session, values)
    regions = {
        names[group][label]: values == label for group, values in labels.items() for label in names[group] if (values == label).any()
    }
    return Planted(root, space, shown, shared, mask & np.isfinite(published), ncsnr, betas, bricks, regions)


def write_design(root: Path, rng: np.random.Generator, subject: int = 1) -> tuple[np.ndarray, np.ndarray]:
    shared = np.sort(rng.choice(N_BRICK // 4, N_SHARED, replace=False)) + 1
    rows = [np.concatenate([shared, rng.choice(np.arange(N_BRICK // 4, N_BRICK) + 1, N_IMAGES - N_SHARED, False)]) for _ in range(8)]
    ordering = rng.integers(1, N_IMAGES + 1, N_SESSIONS * N_TRIALS)
    tables = {"masterordering": ordering[None], "subjectim": np.array(rows), "sharedix": shared[None]}
    path = root / "nsddata/experiments/nsd/nsd_expdesign.mat"
    path.parent.mkdir(parents=True)
    savemat(path, tables)
    return (rows[subject - 1][ordering - 1] - 1).reshape(N_SESSIONS, N_TRIALS), shared - 1


def write_stimuli(root: Path, rng: np.random.Generator) -> np.ndarray:
    bricks = rng.integers(0, 256, (N_BRICK, SIDE, SIDE, 3), dtype=np.uint8)
    path = root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as stream:
        stream["imgBrick"] = bricks
    return bricks


def session_betas(rng: np.random.Generator, shown: np.ndarray, ncsnr: np.ndarray) -> np.ndarray:
    """Percent signal change [trial, *place]: a signal of each image and place, noise, and a scale and shift of the session."""
    signal = np.random.default_rng(99).normal(size=(N_BRICK, *ncsnr.shape))[shown] * ncsnr
    raw = signal + rng.normal(size=signal.shape)
    return (rng.uniform(0.5, 2) * raw + rng.normal()).astype(np.float32)


def folder(root: Path, space: str, subject: int) -> Path:
    made = root / f"nsddata_betas/ppdata/subj{subject:02d}/{space}/{VERSION}"
    made.mkdir(parents=True, exist_ok=True)
    return made


def write_session(root: Path, space: str, subject: int, session: int, values: np.ndarray) -> None:
    target = folder(root, space, subject)
    if space == "func1pt8mm":
        with h5py.File(target / f"betas_session{session:02d}.hdf5", "w") as stream:
            stream.create_dataset("betas", data=np.round(values * 300).astype(np.int16), chunks=(len(values), 1, 1, 1))
        return
    for side, hemisphere in enumerate(("lh", "rh")):
        save_surface(target / f"{hemisphere}.betas_session{session:02d}.mgh", values[:, side].T[:, None, None])


def write_ratio(root: Path, space: str, subject: int, values: np.ndarray) -> None:
    target = folder(root, space, subject)
    if space == "func1pt8mm":
        save_volume(target / "ncsnr.nii.gz", values.astype(np.float32))
        return
    for side, hemisphere in enumerate(("lh", "rh")):
        save_surface(target / f"{hemisphere}.ncsnr.mgh", values[side][:, None, None])


def write_map(root: Path, space: str, subject: int, name: str, values: np.ndarray) -> None:
    if space == "func1pt8mm":
        target = root / f"nsddata/ppdata/subj{subject:02d}/func1pt8mm/roi"
        target.mkdir(parents=True, exist_ok=True)
        save_volume(target / f"{name}.nii.gz", values.astype(np.int16))
        return
    target = root / "nsddata/freesurfer/fsaverage/label"
    target.mkdir(parents=True, exist_ok=True)
    for side, hemisphere in enumerate(("lh", "rh")):
        save_surface(target / f"{hemisphere}.{name}.mgz", values[side][:, None, None])


def write_table(root: Path, name: str, names: dict[int, str]) -> None:
    target = root / "nsddata/freesurfer/fsaverage/label"
    target.mkdir(parents=True, exist_ok=True)
    lines = ["0 Unknown", *(f"{label} {said}" for label, said in names.items())]
    (target / f"{name}.mgz.ctab").write_text("\n".join(lines) + "\n")


def save_volume(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    """Save [z, y, x] as NIfTI has it, [x, y, z]."""
    nibabel.save(nibabel.Nifti1Image(values.T, affine), path)


def save_surface(path: Path, values: np.ndarray) -> None:
    nibabel.save(nibabel.MGHImage(values.astype(np.float32), np.eye(4)), path)
