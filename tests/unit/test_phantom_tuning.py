"""What is planted: kinds and groups in their shares, receptive fields on the map, ceilings as measured in a real cortex."""

import csv
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from phantom_cortex import REGIONS, toy_cortex

from mine_core.errors import SubjectError
from mine_core.subjects.phantom.anatomy import PhantomCortex, check_cortex, region_of, smooth_field
from mine_core.subjects.phantom.contrast import FREQUENCIES, ORIENTATIONS, channel_weights, contrast_energy, quadrature_filters
from mine_core.subjects.phantom.scenes import ATTRIBUTES, CONCEPTS, GROUPS
from mine_core.subjects.phantom.scenes.concepts import CONCEPT_INDEX, DRAWN
from mine_core.subjects.phantom.tuning import Tuning, plant_tuning


@pytest.fixture(scope="module")
def cortex() -> PhantomCortex:
    return toy_cortex(6000)


@pytest.fixture(scope="module")
def tuning(cortex: PhantomCortex) -> Tuning:
    return plant_tuning(cortex, seed=3)


def test_same_seed_plants_the_same_and_another_seed_does_not(cortex: PhantomCortex, tuning: Tuning) -> None:
    again, other = plant_tuning(cortex, seed=3), plant_tuning(cortex, seed=4)
    for field in fields(Tuning):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(tuning, field.name))
    assert (other.kind != tuning.kind).any() and not np.allclose(other.concept_weights, tuning.concept_weights)


def test_null_and_confounded_voxels_are_each_more_than_a_twentieth(tuning: Tuning) -> None:
    for kind in ("null", "confounded"):
        assert 0.06 <= len(tuning.of_kind(kind)) / len(tuning) <= 0.07
    null = tuning.of_kind("null")
    assert not tuning.concept_weights[null].any() and not tuning.background_weights[null].any()
    assert not tuning.ncsnr[null].any() and (np.delete(tuning.ncsnr, null) > 0).all()


def test_null_voxels_lie_everywhere(cortex: PhantomCortex, tuning: Tuning) -> None:
    null = np.zeros(len(tuning), bool)
    null[tuning.of_kind("null")] = True
    for region in REGIONS:
        members = cortex.voxels.in_region(region)
        expected = 0.065 * len(members)
        assert abs(null[members].sum() - expected) < 4 * np.sqrt(expected)


def test_a_category_region_is_mostly_its_own_and_partly_something_else(cortex: PhantomCortex, tuning: Tuning) -> None:
    own = {"OFA": "faces", "FFA": "faces", "EBA": "bodies", "PPA": "places", "OPA": "places", "RSC": "places"}
    own["IPS"] = "tools and vehicles"
    for region, group in own.items():
        members = cortex.voxels.in_region(region)
        members = members[tuning.kind[members] == 1]
        share = np.mean(tuning.group[members] == GROUPS.index(group))
        assert 0.68 < share < 0.92, f"{region}: {share:.2f} {group}"
    for region in ("V1", "V2", "V3"):
        members = cortex.voxels.in_region(region)
        assert set(np.unique(tuning.kind[members])) == {0, 2}


def test_every_group_is_planted_somewhere(tuning: Tuning) -> None:
    counts = np.bincount(tuning.group[tuning.kind == 1], minlength=len(GROUPS))
    assert counts.min() >= 30
    assert tuning.concept_weights[tuning.kind == 1].any(axis=0).all()


def test_words_lie_beside_the_left_ffa(cortex: PhantomCortex) -> None:
    """The same cortex called left, then right: the share of word voxels beside the FFA."""
    unnamed = ~cortex.voxels.membership.any(axis=0)
    nearest = np.array(region_of(cortex)[0])
    beside = unnamed & (nearest == "FFA")
    share = {}
    for left in (True, False):
        planted = plant_tuning(replace(cortex, left=np.full(len(cortex), left)), seed=3)
        share[left] = np.mean(planted.group[beside & (planted.kind == 1)] == GROUPS.index("words"))
    assert share[True] > share[False] + 0.15


def test_confounded_voxels_lie_where_the_wrong_account_would_be_believed(cortex: PhantomCortex, tuning: Tuning) -> None:
    confounded = tuning.of_kind("confounded")
    names = [CONCEPTS[index].name for index in tuning.driver[confounded]]
    assert set(names) == {"ball", "skis"}
    assert 0.6 < names.count("ball") / len(names) < 0.9
    members = {region: cortex.positions[cortex.voxels.in_region(region)] for region in REGIONS}

    def distance(voxel: int, region: str) -> float:
        return float(np.linalg.norm(members[region] - cortex.positions[voxel], axis=1).min())

    ball = [voxel for voxel, name in zip(confounded, names, strict=True) if name == "ball"]
    rest = tuning.of_kind("category")[::7]
    assert np.median([distance(v, "EBA") for v in ball]) < 0.5 * np.median([distance(v, "EBA") for v in rest])
    assert any(cortex.voxels.membership[REGIONS.index("EBA"), ball])
    for voxel, name in zip(confounded, names, strict=True):
        assert np.flatnonzero(tuning.concept_weights[voxel]).tolist() == [CONCEPT_INDEX[name]]
        assert not tuning.background_weights[voxel].any()
        company = tuning.company_concept[voxel] if name == "ball" else tuning.company_background[voxel]
        assert company >= 0


def test_a_planted_attribute_is_one_that_the_voxels_concepts_can_have(tuning: Tuning) -> None:
    with_attribute = np.flatnonzero(tuning.attribute >= 0)
    assert 0.4 < len(with_attribute) / len(tuning.of_kind("category")) < 0.7
    names = list(ATTRIBUTES)
    drawn = 0
    for voxel in with_attribute:
        name = names[tuning.attribute[voxel]]
        value = ATTRIBUTES[name][tuning.attribute_value[voxel]]
        concepts = [CONCEPTS[index].name for index in np.flatnonzero(tuning.concept_weights[voxel])]
        if name not in ("size", "indoor", "natural"):
            assert any(value in DRAWN.get(concept, {}).get(name, ()) for concept in concepts)
            drawn += 1
    assert drawn > 300
    assert 0.05 < tuning.conjunction.sum() / len(tuning.of_kind("category")) < 0.2
    assert not (tuning.attribute_gain[tuning.conjunction]).any()


def test_receptive_fields_follow_the_map_of_the_visual_field(cortex: PhantomCortex, tuning: Tuning) -> None:
    x, y, sigma = tuning.receptive_field.T
    early = tuning.kind == 0
    u, v = cortex.retinotopic.T
    mapped = early & ~np.isnan(u)
    outside = mapped & (v > 0.4) & (np.abs(u) < 0.8)
    assert (x[outside & cortex.left] > 0.5).all() and (x[outside & ~cortex.left] < 0.5).all()
    assert (y[outside & (u < -0.5)] < 0.5).all() and (y[outside & (u > 0.5)] > 0.5).all()
    eccentricity = np.hypot(x - 0.5, y - 0.5)
    order = np.argsort(v[mapped])
    assert np.corrcoef(np.argsort(order), np.argsort(np.argsort(eccentricity[mapped])))[0, 1] > 0.95
    median = [np.median(sigma[cortex.voxels.in_region(region)][early[cortex.voxels.in_region(region)]]) for region in REGIONS[:3]]
    assert median[0] < median[1] < median[2]
    category = (tuning.kind == 1) & ~cortex.voxels.membership[REGIONS.index("IPS")]
    assert sigma[category].min() >= 0.25 and sigma[category].max() <= 0.60


def test_neighbours_are_tuned_alike(cortex: PhantomCortex, tuning: Tuning) -> None:
    """Tuning comes in patches: the nearest unnamed neighbour shares the group more often than a random one."""
    unnamed = np.flatnonzero(~cortex.voxels.membership.any(axis=0) & (tuning.kind == 1))
    distance = np.linalg.norm(cortex.positions[unnamed][:, None] - cortex.positions[unnamed][None], axis=2)
    np.fill_diagonal(distance, np.inf)
    group = tuning.group[unnamed]
    near = np.mean(group == group[distance.argmin(axis=1)])
    assert near > 1.5 * np.mean(group[:, None] == group[None])


def test_smooth_field_has_the_covariance_it_names() -> None:
    """Over many draws, two voxels 9 mm apart correlate by exp(-1/2) and distant ones do not."""
    rng = np.random.default_rng(0)
    places = np.array([[0.0, 0, 0], [9.0, 0, 0], [90.0, 0, 0]])
    draws = np.stack([smooth_field(places, length_mm=9.0, rng=rng) for _ in range(3000)])
    found = np.corrcoef(draws.T)
    assert abs(found[0, 1] - np.exp(-0.5)) < 0.05 and abs(found[0, 2]) < 0.07
    np.testing.assert_allclose(draws.std(axis=0), 1, atol=0.05)


def test_planted_noise_ceilings_match_a_real_subject(tuning: Tuning, real: Path) -> None:
    """Quantiles of the ceiling above NSD's ncsnr threshold of 0.2, and the published median over nsdgeneral."""
    measured: dict[str, float] = {}
    for name in ("evc", "otc"):
        with (real / "nsd_tables" / f"{name}_voxel_metadata.csv").open() as stream:
            measured |= {row["voxel_id"]: float(row["ncsnr"]) for row in csv.DictReader(stream) if row["subj_id"] == "1"}
    ncsnr = np.array(list(measured.values()))
    levels = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
    quantiles = [np.quantile(ceiling(values[values >= 0.2]), levels) for values in (ncsnr, tuning.ncsnr.astype(float))]
    np.testing.assert_allclose(quantiles[1], quantiles[0], atol=0.02)
    assert abs(np.median(ceiling(tuning.ncsnr)) - 0.281) < 0.01


def ceiling(ncsnr: np.ndarray) -> np.ndarray:
    return ncsnr**2 / (ncsnr**2 + 1 / 3)


@pytest.mark.parametrize("orientation", range(4))
@pytest.mark.parametrize("frequency", range(3))
def test_a_grating_excites_most_the_channel_of_its_orientation_and_frequency(orientation: int, frequency: int) -> None:
    """Bars along the direction (cos o, up sin o), drawn here from that definition alone."""
    y, x = np.mgrid[0:96, 0:96] / 96
    angle = ORIENTATIONS[orientation]
    across = x * np.sin(angle) + y * np.cos(angle)  # constant along (cos o, -sin o) with y down
    energies = []
    for phase in (0.0, 1.0):
        wave = np.cos(2 * np.pi * FREQUENCIES[frequency] * across + phase)
        image = np.repeat((127.5 + 100 * wave)[..., None], 3, axis=2).astype(np.uint8)
        energies.append(contrast_energy(image, quadrature_filters(), 24).reshape(4, 3, 24, 24)[:, :, 6:18, 6:18].mean((2, 3)))
    assert np.unravel_index(energies[0].argmax(), (4, 3)) == (orientation, frequency)
    # a quadrature pair does not care for the phase, and its energy is the squared amplitude of the wave
    np.testing.assert_allclose(energies[0], energies[1], atol=0.03 * energies[0].max())
    assert abs(energies[0].max() - (100 / 255) ** 2) < 0.1 * (100 / 255) ** 2


def test_a_blank_image_has_no_energy_even_at_its_border() -> None:
    blank = np.full((192, 192, 3), 200, dtype=np.uint8)
    assert contrast_energy(blank, quadrature_filters(), 24).max() < 1e-8


def test_energy_stays_where_the_contrast_is(rng: np.random.Generator) -> None:
    image = np.full((96, 96, 3), 128, dtype=np.uint8)
    image[64:, :32] = rng.integers(0, 256, (32, 32, 1))
    energy = contrast_energy(image, quadrature_filters(), 24).sum(axis=0).reshape(24, 24)
    assert energy[16:, :8].sum() > 0.85 * energy.sum()


def test_channel_weights_peak_at_the_preferred_channel() -> None:
    weights = channel_weights(np.repeat(ORIENTATIONS, 3), np.tile(FREQUENCIES, 4))
    np.testing.assert_array_equal(weights.argmax(axis=0), np.arange(12))
    np.testing.assert_allclose(weights.sum(axis=0), 1, rtol=1e-5)


def test_a_cortex_without_known_regions_or_places_is_refused(cortex: PhantomCortex) -> None:
    index = replace(cortex.voxels, regions=("A1",), membership=cortex.voxels.membership[:1])
    with pytest.raises(SubjectError, match="a phantom needs voxels and one of V1"):
        check_cortex(replace(cortex, voxels=index))
    far = cortex.retinotopic.copy()
    far[0] = 7
    with pytest.raises(SubjectError, match="2 retinotopic coordinates are out of range"):
        check_cortex(replace(cortex, retinotopic=far))
    with pytest.raises(SubjectError, match="1 positions are not finite"):
        check_cortex(replace(cortex, positions=np.where(np.arange(18000).reshape(-1, 3) == 4, np.nan, cortex.positions)))
