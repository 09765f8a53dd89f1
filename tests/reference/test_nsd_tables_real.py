"""Real voxels of the Natural Scenes Dataset keep their coordinates, regions and ceilings on the way through an import."""

from pathlib import Path

import h5py
import nsd_tree
import numpy as np
import pandas as pd
import pytest

from mine_core.artifacts import ArtifactStore
from mine_core.encoding.noise_ceiling import noise_ceiling_from_ncsnr
from mine_core.instrument.subjects import custom_artifact, import_nsd_into, subject_of

TABLES = Path(__file__).parents[3] / "shared" / "real" / "nsd_tables"
VOLUME = (81, 104, 83)  # x, y, z of subject 1
PUBLISHED = {1: 0.281, 2: 0.281, 5: 0.341, 7: 0.191}
SETS = {
    "prf-visualrois": ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"),
    "floc-faces": ("OFA", "FFA-1", "FFA-2"),
    "floc-places": ("OPA", "PPA"),
    "floc-words": ("OWFA", "VWFA-1", "VWFA-2"),
}
pytestmark = pytest.mark.skipif(
    not TABLES.is_dir(), reason="the tables of real voxels are not on this machine (shared/real beside the checkout)"
)


@pytest.fixture(scope="module")
def voxels() -> pd.DataFrame:
    tables = [pd.read_csv(TABLES / f"{part}_voxel_metadata.csv") for part in ("evc", "otc")]
    regions = [name for names in SETS.values() for name in names]
    joined = pd.concat(tables)
    joined = joined.groupby(["subj_id", "voxel_id"], sort=False)[["ncsnr", *(name for name in regions if name in joined)]].max()
    joined[["x", "y", "z"]] = joined.index.get_level_values(1).str.extract(r"-(\d+)-(\d+)-(\d+)$").astype(int).to_numpy()
    return joined


def test_ceilings_are_of_the_size_of_the_published_medians(voxels):
    found = {
        subject: float(np.median(noise_ceiling_from_ncsnr(part["ncsnr"].to_numpy(), np.array([3]))))
        for subject, part in voxels.groupby(level=0)
    }
    assert set(found) == set(PUBLISHED)
    for subject, median in found.items():
        # these tables hold early and occipitotemporal voxels alone, whose signal is above that of the whole published mask
        assert PUBLISHED[subject] < median < 1.5 * PUBLISHED[subject]
    assert min(found, key=found.get) == 7
    assert max(found, key=found.get) == 5


def test_every_voxel_of_a_real_subject_keeps_its_place_regions_and_ratio(voxels, tmp_path):
    table = voxels.loc[1]
    at = (table["z"].to_numpy(), table["y"].to_numpy(), table["x"].to_numpy())
    root, rng = tmp_path / "nsd", np.random.default_rng(3)
    shown, shared = nsd_tree.write_design(root, rng)
    nsd_tree.write_stimuli(root, rng)
    shape = VOLUME[::-1]
    ncsnr = np.full(shape, np.nan, np.float32)
    ncsnr[at] = table["ncsnr"]
    nsd_tree.write_ratio(root, "func1pt8mm", 1, ncsnr)
    nsd_tree.write_map(root, "func1pt8mm", 1, "nsdgeneral", np.isfinite(ncsnr))
    for group, names in SETS.items():
        labels = np.zeros(shape, np.int16)
        for label, name in enumerate(names, 1):
            labels[tuple(axis[table[name].to_numpy() == 1] for axis in at)] = label
        nsd_tree.write_map(root, "func1pt8mm", 1, group, labels)
        nsd_tree.write_table(root, group, dict(enumerate(names, 1)))
    for session in (1, 2, 3):
        write_sparse(root, session, shown[session - 1], at, table["ncsnr"].to_numpy(), rng)
    store = ArtifactStore(tmp_path / "store")
    report = import_nsd_into(store, root=root, subject=1, size=24)
    subject = subject_of(custom_artifact(report["subject"], store))
    index = subject.responses.voxels
    z, y, x = np.unravel_index(index.flat_index, index.grid_shape)
    names = [f"S1-{place}" for place in map("-".join, np.stack([x, y, z], axis=1).astype(str))]
    assert sorted(names) == sorted(table.index)
    ordered = table.loc[names]
    for region, inside in zip(index.regions, index.membership, strict=True):
        np.testing.assert_array_equal(inside, ordered[region] == 1)
    assert set(index.regions) == {name for group in SETS.values() for name in group}
    square = ordered["ncsnr"].to_numpy() ** 2
    counts = np.bincount(shown[:3].ravel(), minlength=nsd_tree.N_BRICK)[shared]
    np.testing.assert_allclose(subject.noise_ceiling, square / (square + np.mean(1 / counts[counts > 0])), atol=1e-5)


def write_sparse(root: Path, session: int, shown: np.ndarray, at: tuple, ncsnr: np.ndarray, rng: np.random.Generator) -> None:
    """A session of the full grid of which only the planes with voxels are stored."""
    signal = np.random.default_rng(99).normal(size=(nsd_tree.N_BRICK, len(ncsnr)))[shown] * ncsnr
    values = np.round(300 * (signal + rng.normal(size=signal.shape))).astype(np.int16)
    path = nsd_tree.folder(root, "func1pt8mm", 1) / f"betas_session{session:02d}.hdf5"
    with h5py.File(path, "w") as stream:
        betas = stream.create_dataset("betas", (len(shown), *VOLUME[::-1]), np.int16, chunks=(len(shown), 1, *VOLUME[1::-1]))
        for plane in np.unique(at[0]):
            inside = at[0] == plane
            block = np.zeros((len(shown), *VOLUME[1::-1]), np.int16)
            block[:, at[1][inside], at[2][inside]] = values[:, inside]
            betas[:, int(plane)] = block
