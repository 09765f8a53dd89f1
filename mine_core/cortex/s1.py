"""The visual cortex of S1, the subject that comes with pycortex: its voxels, their places, and their flatmap."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from jaxtyping import Bool, Float, Int8, Int32
from numpy.polynomial import Polynomial

from mine_core.artifacts import Artifact, ArtifactStore, Recipe, code_version, library_versions
from mine_core.cortex.flatmap import FlatMap, build_flatmap, load_flatmap, save_flatmap
from mine_core.cortex.projection import LEFT, RIGHT, Projection, interior_pixels, project
from mine_core.errors import ArtifactError
from mine_core.types import VoxelIndex

SUBJECT, TRANSFORM = "S1", "fullhead"
# The overlays also name V3A, V3B, V4, V7 and LO, but draw no border for them.
REGIONS = ("V1", "V2", "V3", "OFA", "FFA", "EBA", "PPA", "OPA", "RSC", "IPS")
EARLY = ("V1", "V2", "V3")
HEIGHT = 1024
AROUND_MM = 5.0
BRIDGED_MM = 26.0
MARGIN_MM = 8.0


@dataclass(frozen=True)
class CortexVoxels:
    """Voxels of a cortex and where each lies.

    `mm` is the centre in the anatomical scan's coordinates, `flat_mm` the position on the flattened surface (x right,
    y dorsal, left hemisphere below x = 0), `hemisphere` -1 left and 1 right, `visible` True where the flatmap shows the voxel.
    """

    index: VoxelIndex
    hemisphere: Int8[np.ndarray, " voxel"]
    mm: Float[np.ndarray, "voxel 3"]
    flat_mm: Float[np.ndarray, "voxel 2"]
    visible: Bool[np.ndarray, " voxel"]

    def save(self, directory: Path) -> None:
        """Write as npy and JSON files into an existing directory."""
        arrays = {"flat_index": self.index.flat_index, "membership": self.index.membership}
        arrays |= {name: getattr(self, name) for name in ("hemisphere", "mm", "flat_mm", "visible")}
        for name, array in arrays.items():
            np.save(directory / f"{name}.npy", array, allow_pickle=False)
        record = {"subject": self.index.subject, "grid_shape": list(self.index.grid_shape), "regions": list(self.index.regions)}
        (directory / "voxels.json").write_text(json.dumps(record))

    @classmethod
    def load(cls, directory: Path) -> "CortexVoxels":
        """Read what `save` wrote; raises ArtifactError if a file is missing or cannot be read."""
        try:
            record = json.loads((directory / "voxels.json").read_text())
            arrays = {
                name: np.load(directory / f"{name}.npy", allow_pickle=False)
                for name in ("flat_index", "membership", "hemisphere", "mm", "flat_mm", "visible")
            }
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{directory} holds no readable voxels ({error}); delete it and build again.") from error
        for array in arrays.values():
            array.setflags(write=False)
        index = VoxelIndex(
            record["subject"],
            arrays.pop("flat_index"),
            tuple(record["grid_shape"]),
            tuple(record["regions"]),
            arrays.pop("membership"),
        )
        return cls(index, **arrays)


def s1_voxels(cache_dir: Path) -> CortexVoxels:
    """S1's visual voxels, from the store under `cache_dir`; built there first if need be (about 10 s)."""
    return CortexVoxels.load(s1_artifact(cache_dir).path)


def s1_flatmap(cache_dir: Path) -> FlatMap:
    """The flatmap of `s1_voxels`, from the store under `cache_dir`; built there first if need be (about 10 s)."""
    return load_flatmap(s1_artifact(cache_dir).path)


def s1_artifact(cache_dir: Path) -> Artifact:
    """The stored voxels and flatmap of S1; its key names the cortex that a subject is drawn on."""
    return ArtifactStore(Path(cache_dir)).build(s1_recipe(), lambda directory: make_s1(cache_dir, directory))


def s1_recipe() -> Recipe:
    """What the stored voxels and flatmap of S1 are made of."""
    return Recipe(
        kind="cortex",
        config={"subject": SUBJECT, "transform": TRANSFORM, "height": HEIGHT, "around_mm": AROUND_MM, "bridged_mm": BRIDGED_MM},
        inputs=(f"pycortex {library_versions(('pycortex',))['pycortex']}",),
        code=code_version("cortex"),
    )


def make_s1(cache_dir: Path, directory: Path) -> dict[str, int]:
    """Write S1's voxels and flatmap into `directory`; pycortex works under `cache_dir`."""
    projection = project(Path(cache_dir), SUBJECT, TRANSFORM, HEIGHT)
    voxels = select_voxels(projection, REGIONS)
    voxels.save(directory)
    save_flatmap(build_flatmap(projection, voxels.index, regions=REGIONS, margin_mm=MARGIN_MM), directory)
    return {"n_voxels": len(voxels.index), "n_hidden": int((~voxels.visible).sum())}


def select_voxels(projection: Projection, regions: tuple[str, ...]) -> CortexVoxels:
    """Voxels within 2 mm of the cortical surface in and around `regions`.

    A visible voxel is in a region when the pixel deepest inside it is; a hidden one, when the surface point nearest to its
    centre is. Visible voxels within 5 mm of a region on the flattened surface, or in a gap of up to 52 mm between regions,
    belong to the set without a region. Hidden ones are kept in regions only.
    """
    near = projection.surface_voxels
    places = _places(projection)
    visible = places[:, 0] >= 0
    xy = np.where(visible[:, None], places, near.xy)
    hemisphere = near.hemisphere.copy()
    shown = places[visible]
    # What a click on the voxel's deepest pixel would say counts, also where the two hemispheres' surfaces nearly touch.
    hemisphere[visible] = projection.hemisphere[shown[:, 1], shown[:, 0]]
    membership = np.stack([_inside(projection, region, xy, hemisphere) for region in regions])
    around = np.zeros(len(xy), bool)
    for side in (LEFT, RIGHT):
        area = _surroundings(projection, regions, side)
        around |= shapely.intersects_xy(area, xy[:, 0], xy[:, 1]) & (hemisphere == side)
    chosen = np.flatnonzero(membership.any(0) | (around & visible))
    index = VoxelIndex(SUBJECT, near.flat_index[chosen], projection.grid_shape, regions, membership[:, chosen])
    return CortexVoxels(index, hemisphere[chosen], near.mm[chosen], projection.flat_mm(xy[chosen]), visible[chosen])


def retinotopic_coordinates(voxels: CortexVoxels) -> Float[np.ndarray, "voxel 2"]:
    """Where a voxel of V1, V2 or V3 lies within its strip: u along it, v across it; NaN elsewhere.

    u runs from -1 (ventral end) to 1 (dorsal end), along the first principal axis of V1 to V3 of the hemisphere on the
    flattened surface. v = 1/2 + (p - c(u)) / (2 h(u)), held to 0-1, with p the position across that axis, c the strip's centre
    line and h its half width (polynomials in u, fit by least squares): 0 on the side of V1's far edge, 1 on that of V3's.

    In a human brain |u| grows with eccentricity, dorsal (u > 0) is the lower visual field, and v leads from the horizontal
    to the vertical meridian in V1 and V3, back in V2, of the opposite hemifield (Wandell et al. 2007,
    doi:10.1016/j.neuron.2007.10.012). These are positions on a map, not a measured retinotopy.
    """
    coordinates = np.full((len(voxels.index), 2), np.nan)
    early = np.stack([voxels.index.membership[voxels.index.regions.index(region)] for region in EARLY])
    for side in (LEFT, RIGHT):
        strips = [np.flatnonzero(strip & (voxels.hemisphere == side)) for strip in early]
        places = voxels.flat_mm - voxels.flat_mm[np.concatenate(strips)].mean(0)
        axis = np.linalg.svd(places[np.concatenate(strips)], full_matrices=False)[2][0]
        axis = axis * np.sign(axis[1])
        along, across = places @ axis, places @ np.array([axis[1], -axis[0]])
        across = across * np.sign(across[strips[2]].mean() - across[strips[0]].mean())
        low, high = along[np.concatenate(strips)].min(), along[np.concatenate(strips)].max()
        u = 2 * (along - low) / (high - low) - 1
        for strip in strips:
            coordinates[strip, 0] = u[strip]
            coordinates[strip, 1] = _across(u[strip], across[strip])
    return coordinates


def _across(u: Float[np.ndarray, " voxel"], across: Float[np.ndarray, " voxel"]) -> Float[np.ndarray, " voxel"]:
    """Position across one strip, 0 to 1: smooth along it, because centre line and half width are polynomials."""
    off = across - Polynomial.fit(u, across, 4)(u)
    # Over a strip of half width h, |off| is uniform on 0 to h, and so h / 2 in the mean.
    half_width = 2 * Polynomial.fit(u, np.abs(off), 2)(u)
    return np.clip(0.5 + off / (2 * half_width), 0, 1)


def _places(projection: Projection) -> Int32[np.ndarray, "voxel 2"]:
    """Pixel (x, y) deepest inside each surface voxel, (-1, -1) where the flatmap hides it."""
    return interior_pixels(projection.pixel_flat, int(np.prod(projection.grid_shape)))[projection.surface_voxels.flat_index]


def _inside(
    projection: Projection, region: str, xy: Float[np.ndarray, "voxel 2"], hemisphere: Int8[np.ndarray, " voxel"]
) -> Bool[np.ndarray, " voxel"]:
    inside = np.zeros(len(xy), bool)
    for outline in projection.outlines:
        if outline.region == region:
            within = shapely.intersects_xy(outline.polygon, xy[:, 0], xy[:, 1])
            inside |= within & (hemisphere == outline.hemisphere)
    return inside


def _surroundings(projection: Projection, regions: tuple[str, ...], side: int) -> shapely.Geometry:
    """The regions of a hemisphere, widened by AROUND_MM, with gaps of up to twice BRIDGED_MM between them closed."""
    pieces = [o.polygon for o in projection.outlines if o.region in regions and o.hemisphere == side]
    bridged = BRIDGED_MM * projection.px_per_mm
    closed = shapely.union_all(pieces).buffer(bridged).buffer(AROUND_MM * projection.px_per_mm - bridged)
    return shapely.union_all([shapely.Polygon(part.exterior) for part in shapely.get_parts(closed)])
