"""Which voxels these are: regions and noise ceilings beside the responses."""

import numpy as np
from jaxtyping import Bool, Float

from mine_core.errors import SubjectError
from mine_core.subjects.custom.arrays import read_array, require_numbers
from mine_core.subjects.custom.limits import MAX_REGION_NAME, MAX_REGIONS, listed, plain, quoted
from mine_core.subjects.custom.sources import Source, label
from mine_core.subjects.custom.tables import read_table


def read_regions(
    source: Source, n_voxels: int, names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], Bool[np.ndarray, "region voxel"]]:
    """Regions and their voxels, from a CSV with the header voxel,region; a voxel may be in several regions or in none.

    Parameters
    ----------
    source : the CSV; a voxel is its name in the responses, where they have names, else its position, counted from 0.
    n_voxels : voxels in the responses.
    names : their names, if they have any.

    Raises
    ------
    SubjectError : for a voxel that does not exist, a pair given twice, more than 1,000 regions, or a name that is no name.
    """
    rows = read_table(source, ("voxel", "region"), "regions")
    positions = {name: i for i, name in enumerate(names)} if names is not None else {}
    if not all(voxel in positions for voxel, _ in rows):
        positions = {str(i): i for i in range(n_voxels)}
    unknown = sorted({voxel for voxel, _ in rows if voxel not in positions})
    if unknown:
        given = {voxel for voxel, _ in rows}
        hint = " They look counted from 1." if unknown == [str(n_voxels)] and "0" not in given else ""
        raise SubjectError(
            f"regions name {len(unknown):,} voxels that do not exist (first: {listed(unknown[:1])}); expected 0 to {n_voxels - 1}"
            f"{'' if names is None else ', or their names in the responses'}.{hint}"
        )
    if len(set(rows)) != len(rows):
        twice = next(row for i, row in enumerate(rows) if row in rows[:i])
        raise SubjectError(f"regions give voxel {quoted(twice[0])} in {quoted(twice[1])} twice; expected each pair once.")
    regions = tuple(dict.fromkeys(region for _, region in rows))
    for region in regions:
        check_region_name(region)
    if len(regions) > MAX_REGIONS:
        raise SubjectError(f"regions are {len(regions):,}; expected at most {MAX_REGIONS:,}. Are the columns voxel,region?")
    membership = np.zeros((len(regions), n_voxels), dtype=np.bool_)
    row_of = {region: i for i, region in enumerate(regions)}
    for voxel, region in rows:
        membership[row_of[region], positions[voxel]] = True
    return regions, membership


def check_region_name(name: str) -> None:
    """Refuse a name that cannot be shown; raises SubjectError."""
    if not name.isprintable() or len(name) > MAX_REGION_NAME:
        raise SubjectError(f"Region {quoted(name)} has no usable name; expected at most {MAX_REGION_NAME} printable characters.")


def read_noise_ceiling(source: Source, n_voxels: int, dataset: str | None = None) -> Float[np.ndarray, " voxel"]:
    """Noise ceilings, share of variance 0 to 1, one per voxel of the responses as given; NaN is left for `check_ceiling`."""
    array = read_array(source, "noise ceilings", dataset)
    require_numbers(array.dtype, f"Noise ceilings ({label(source)})")
    if array.shape != (n_voxels,):
        raise SubjectError(
            f"Noise ceilings ({label(source)}) have shape {plain(array.shape)}; expected ({n_voxels},), one per voxel of the "
            "responses. Give all of them."
        )
    return np.array(array, dtype=np.float64)


def check_ceiling(ceiling: Float[np.ndarray, " voxel"]) -> None:
    """Refuse noise ceilings that are no shares of variance; raises SubjectError with how many, and the first."""
    wrong = ~((ceiling >= 0) & (ceiling <= 1))
    if wrong.any():
        first = int(np.argmax(wrong))
        percent = np.isfinite(ceiling).all() and ceiling.min() >= 0 and 1 < ceiling.max() <= 100
        advice = "divide percentages by 100." if percent else "correct them, or leave the file out and give repeats."
        raise SubjectError(
            f"{int(wrong.sum()):,} of {len(ceiling):,} noise ceilings are not between 0 and 1 "
            f"(first: voxel {first}, {ceiling[first]:g}); {advice}"
        )
