"""The cortex of a user's own recording: what must hold before it is kept, and the map that its voxels are drawn on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import shapely
from jaxtyping import Float, Float32, Int, Int8, Int32

from mine_core.artifacts import Artifact, ArtifactStore
from mine_core.cortex import fsaverage, s1
from mine_core.cortex.filestore import PYCORTEX_LOCK, open_pycortex, quiet
from mine_core.cortex.flatmap import FlatMap, build_flatmap
from mine_core.cortex.projection import Projection, interior_pixels, project
from mine_core.cortex.s1 import HEIGHT, MARGIN_MM
from mine_core.errors import SubjectError
from mine_core.subjects.custom.cortices import CheckCortex, CortexChoice, CortexKind
from mine_core.subjects.custom.responses import Places, lengths
from mine_core.subjects.custom.volumes import MAX_APART_MM, distance_between
from mine_core.subjects.nsd.alignment import orientations
from mine_core.types import Subject, VoxelIndex

LEAD = 0.02
"""By how much the correlation of a mask with the cortical surface must exceed that in any other orientation."""


def checker(store: ArtifactStore) -> CheckCortex:
    """Return what an import asks about the cortex that was named, with pycortex working under the store."""

    def check(choice: CortexChoice, places: Places | None) -> tuple[str, ...]:
        return check_pycortex(store.root, choice, places) if choice.kind == "pycortex" and places is not None else ()

    return check


def check_pycortex(cache_dir: Path, choice: CortexChoice, places: Places) -> tuple[str, ...]:
    """Prove that voxels lie on the cortex of a pycortex subject in a transform, as they are laid and not otherwise.

    A volume on the grid of the transform's own reference image, with its affine, is placed by that. With another affine, the mask
    must follow the voxels within 2 mm of the cortical surface: their correlation over the grid must exceed that of the mask flipped or
    turned in every way by 0.02. Equal shapes prove nothing, and a mask that is alike both ways round cannot be placed so.

    Returns
    -------
    What was found, for the report.

    Raises
    ------
    SubjectError
        If the filestore has no such subject or transform, the shape is another, or the voxels do not lie on the cortex.
    """
    projection = project(cache_dir, choice.subject, choice.transform, HEIGHT)
    named = f"transform '{choice.transform}' of pycortex subject '{choice.subject}'"
    if places.shape != projection.grid_shape:
        raise SubjectError(
            f"The mask is {lengths(places.shape)} (z, y, x), {named} {lengths(projection.grid_shape)}; expected the same grid. Give "
            "the mask that was made with this transform, or name its own transform."
        )
    inside = np.zeros(places.shape, np.float32)
    inside.reshape(-1)[places.flat_index] = 1
    near = np.zeros(places.shape, np.float32)
    near.reshape(-1)[projection.surface_voxels.flat_index] = 1
    found = f"{float(near[inside > 0].mean()):.0%} of voxels lie within 2 mm of the cortical surface."
    apart = _apart_from_reference(cache_dir, choice, places)
    if apart is not None and apart <= MAX_APART_MM:
        return (f"Placed on the cortex by the affine of {named}; {found}",)
    own = _correlation(inside, near)
    rival = max((_correlation(turned, near) for turned in orientations(inside)), default=-1.0)
    if own < rival + LEAD:
        away = "has no affine to compare" if apart is None else f"has another affine (voxels up to {apart:,.1f} mm away)"
        raise SubjectError(
            f"The mask {away}, and follows the cortical surface with a correlation of {own:.2f}, {rival:.2f} if it is flipped or "
            f"turned; expected {LEAD} more than otherwise. Save the mask on the grid of {named}, with its affine."
        )
    return (
        f"Placed on the cortex of {named} by where voxels lie: the mask follows the surface with a correlation of {own:.2f}, "
        f"{rival:.2f} if it were flipped or turned; {found}",
    )


def _correlation(first: Float[np.ndarray, "z y x"], second: Float[np.ndarray, "z y x"]) -> float:
    """Correlation of two volumes of 0 and 1; 0 where one of them does not vary."""
    a, b = first - first.mean(), second - second.mean()
    spread = float(np.sqrt((a**2).sum(dtype=np.float64) * (b**2).sum(dtype=np.float64)))
    return float((a * b).sum(dtype=np.float64)) / spread if spread > 0 else 0.0


def _apart_from_reference(cache_dir: Path, choice: CortexChoice, places: Places) -> float | None:
    """Return how far the affine puts a voxel from where the transform's reference image does, mm; None where either has none."""
    with PYCORTEX_LOCK, quiet():
        cortex = open_pycortex(cache_dir)
        reference = getattr(cortex.db.get_xfm(choice.subject, choice.transform), "reference", None)
    affine = getattr(reference, "affine", None)
    if affine is None or places.affine is None:
        return None
    return distance_between(np.asarray(affine, np.float64), places.affine, places.shape[::-1])


def check_units(kind: CortexKind, n_voxels: int) -> None:
    """Refuse more voxels without a cortex than can be laid out by similarity; raises SubjectError."""
    from mine_core.cortex.layout import MAX_UNITS  # with scikit-learn, which pages need not wait for

    if kind == "none" and n_voxels > MAX_UNITS:
        raise SubjectError(
            f"There are {n_voxels:,} voxels and no cortex; at most {MAX_UNITS:,} can be laid out by similarity. Give a cortex, and "
            "a mask that says where voxels lie, or fewer voxels."
        )


def with_drawn_regions(cache_dir: Path, subject: Subject) -> Subject:
    """Give a subject on a pycortex cortex that names no regions those drawn in its overlays; any other is returned as it is.

    A voxel that the map shows is in a region when the pixel deepest inside it is; a hidden one within 2 mm of the surface, when the
    surface point nearest to its centre is; others are in none.
    """
    choice, voxels = subject.provenance["import"]["cortex"], subject.responses.voxels
    if choice["kind"] != "pycortex" or voxels.regions:
        return subject
    projection = project(cache_dir, choice["subject"], choice["transform"], HEIGHT)
    xy, hemisphere = _on_map(projection, voxels)
    drawn = tuple(dict.fromkeys(outline.region for outline in projection.outlines))
    inside = np.array([s1._inside(projection, name, xy, hemisphere) for name in drawn]).reshape(len(drawn), len(voxels))
    held = np.flatnonzero(inside.any(axis=1))
    membership = inside[held]
    membership.setflags(write=False)
    record = dict(subject.provenance["import"])
    record["notes"] = [*record["notes"], f"Regions are those drawn in the overlays of pycortex subject '{choice['subject']}'."]
    named = replace(voxels, regions=tuple(drawn[row] for row in held), membership=membership)
    return replace(subject, responses=replace(subject.responses, voxels=named), provenance={**subject.provenance, "import": record})


def _on_map(projection: Projection, voxels: VoxelIndex) -> tuple[Float[np.ndarray, "voxel 2"], Int8[np.ndarray, " voxel"]]:
    """Pixel and hemisphere of each voxel; NaN and 0 where neither the map nor the nearest surface point tells."""
    xy, hemisphere = np.full((len(voxels), 2), np.nan), np.zeros(len(voxels), np.int8)
    near = projection.surface_voxels
    place = np.minimum(np.searchsorted(near.flat_index, voxels.flat_index), len(near.flat_index) - 1)
    known = near.flat_index[place] == voxels.flat_index
    xy[known], hemisphere[known] = near.xy[place[known]], near.hemisphere[place[known]]
    pixels = interior_pixels(projection.pixel_flat, int(np.prod(projection.grid_shape)))[voxels.flat_index]
    shown = pixels[:, 0] >= 0
    xy[shown], hemisphere[shown] = pixels[shown], projection.hemisphere[pixels[shown, 1], pixels[shown, 0]]
    return xy, hemisphere


def pycortex_map(cache_dir: Path, subject: Subject) -> FlatMap:
    """Draw a subject's voxels on the flatmap of the pycortex subject that it was imported with."""
    choice = subject.provenance["import"]["cortex"]
    return on_pycortex(cache_dir, choice["subject"], choice["transform"], subject.responses.voxels)


def on_pycortex(cache_dir: Path, subject: str, transform: str, voxels: VoxelIndex) -> FlatMap:
    """Draw voxels of a volume on the flatmap of a pycortex subject.

    Outlined are the drawn regions that the voxels name too, or, where they name none, all that hold a voxel.
    """
    projection = project(cache_dir, subject, transform, HEIGHT)
    drawn = _holding(projection, voxels)
    outlined = tuple(name for name in voxels.regions if name in drawn) if voxels.regions else drawn
    return build_flatmap(projection, voxels, regions=outlined, margin_mm=MARGIN_MM)


def _holding(projection: Projection, voxels: VoxelIndex) -> tuple[str, ...]:
    """Names of the drawn regions that hold a voxel which the map shows, in the order in which they were drawn."""
    places = interior_pixels(projection.pixel_flat, int(np.prod(projection.grid_shape)))[voxels.flat_index]
    x, y = places[places[:, 0] >= 0].T
    held = (outline.region for outline in projection.outlines if shapely.contains_xy(outline.polygon, x, y).any())
    return tuple(dict.fromkeys(held))


def mapper_map(artifact: Artifact, subject: Subject) -> FlatMap:
    """Draw a subject's voxels on the flatmap of the mapper that was kept with it."""
    pixel_voxel, curvature = (np.load(artifact.path / "mapper" / f"{name}.npy") for name in ("pixel_voxel", "curvature"))
    positions = subject.provenance["import"]["voxel_positions"]
    voxels = subject.responses.voxels
    kept = np.arange(len(voxels)) if positions is None else np.array(positions)
    return on_mapper(pixel_voxel, curvature, voxels, kept)


def on_mapper(
    pixel_voxel: Int32[np.ndarray, "height width"],
    curvature: Float32[np.ndarray, "height width"],
    voxels: VoxelIndex,
    kept: Int[np.ndarray, " voxel"],
) -> FlatMap:
    """Draw voxels on the flatmap of a mapper, of whose voxels they are the `kept` ones; raises SubjectError if it shows none."""
    lookup = np.full(max(int(pixel_voxel.max()), int(kept.max())) + 2, -1, np.int32)
    lookup[kept] = np.arange(len(kept))
    # The last entry is never a voxel: -1 reads it.
    pixels = lookup[pixel_voxel]
    if not (pixels >= 0).any():
        raise SubjectError(f"The mapper shows none of the {len(voxels):,} voxels; give the mapper of this subject.")
    outlines = tuple(
        outline
        for name, inside in zip(voxels.regions, voxels.membership, strict=True)
        for outline in fsaverage._outlines(name, inside, pixels)
    )
    centres = interior_pixels(pixels, len(voxels))
    for array in (pixels, curvature, centres):
        array.setflags(write=False)
    return FlatMap(voxels.subject, pixels, curvature, centres, outlines=outlines, px_per_mm=None)
