"""What each voxel of a phantom is made to respond to: the answer that the instrument is asked to find.

Sealed: only this package, the experiments and the tests may import it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int8, Int16

from mine_core.subjects.phantom.anatomy import (
    PATCH_MM,
    PhantomCortex,
    broad_receptive_fields,
    early_receptive_fields,
    place_near,
    ranks,
    region_of,
    smooth_field,
    tuning_shares,
)
from mine_core.subjects.phantom.scenes import ATTRIBUTES, BACKGROUNDS, CONCEPTS, GROUPS
from mine_core.subjects.phantom.scenes.concepts import BACKGROUND_INDEX, CONCEPT_INDEX, DRAWN, LAYOUT

KINDS = ("early", "category", "null", "confounded")
EARLY, CATEGORY, NULL, CONFOUNDED = range(4)
TUNING_TAG = 0x7D41A6

SHARE_NULL = 0.065
SHARE_CONFOUNDED = 0.065
SHARE_BALL = 0.75
BESIDE_BODIES = ("EBA",)
BESIDE_PLACES = ("PPA", "OPA", "RSC")
# ncsnr of the voxels with a signal: Weibull(shape, scale). Fitted to the deciles of NSD subject 1 (func1pt8mm,
# betas_fithrf_GLMdenoise_RR; Allen et al. 2022, 10.1038/s41593-021-00962-x): the voxel tables of early and occipitotemporal
# cortex with ncsnr > 0.2, scaled so that the median ceiling over all of nsdgeneral is the published 28.1 %.
# Together with 6.5 % of voxels without a signal it meets every decile above the table's threshold within 0.006.
NCSNR_SHAPE = 1.98
NCSNR_SCALE = 0.458

P_ATTRIBUTE = 0.45
P_CONJUNCTION = 0.12
P_MIXED = 0.15
P_GENERAL = 0.45
P_FEW = 0.30
ATTRIBUTES_OF_ALL = ("size", "indoor", "natural")
SURROUNDINGS: dict[str, tuple[str, ...]] = {
    "indoor": tuple(place.name for place in BACKGROUNDS if place.indoor),
    "outdoor": tuple(place.name for place in BACKGROUNDS if not place.indoor),
    "natural": tuple(place.name for place in BACKGROUNDS if not place.built),
    "built": tuple(place.name for place in BACKGROUNDS if place.built),
}
P_SURROUNDINGS = 0.70


@dataclass(frozen=True)
class Tuning:
    """The planted tuning of every voxel.

    `kind` indexes `KINDS`; `group` indexes the scenes' `GROUPS` (-1: early and null). `concept_weights` and
    `background_weights` say what drives a voxel; an object that has value `attribute_value` of attribute `attribute` (indices
    into `ATTRIBUTES`; -1: none) drives it `1 + attribute_gain` times as much or, with `conjunction`, is almost all that
    does. `receptive_field` is (x, y, sigma) in fractions of the image width, x to the right, y down. `orientation` (radians,
    of the bars, 0 horizontal) and `frequency` (cycles per image) are NaN except in early voxels. `semi_saturation` is the
    share of the receptive field at which an object has half its effect, `gain` that of the final tanh. `driver`
    is a confounded voxel's concept, `company_concept` or `company_background` what it usually comes with (-1: none).
    `ncsnr` is signal SD over the noise SD of one showing; 0 in null voxels.
    """

    kind: Int8[np.ndarray, " voxel"]
    group: Int8[np.ndarray, " voxel"]
    concept_weights: Float32[np.ndarray, "voxel concept"]
    background_weights: Float32[np.ndarray, "voxel background"]
    attribute: Int8[np.ndarray, " voxel"]
    attribute_value: Int8[np.ndarray, " voxel"]
    attribute_gain: Float32[np.ndarray, " voxel"]
    conjunction: Bool[np.ndarray, " voxel"]
    receptive_field: Float32[np.ndarray, "voxel 3"]
    orientation: Float32[np.ndarray, " voxel"]
    frequency: Float32[np.ndarray, " voxel"]
    semi_saturation: Float32[np.ndarray, " voxel"]
    gain: Float32[np.ndarray, " voxel"]
    driver: Int16[np.ndarray, " voxel"]
    company_concept: Int16[np.ndarray, " voxel"]
    company_background: Int16[np.ndarray, " voxel"]
    ncsnr: Float32[np.ndarray, " voxel"]

    def __len__(self) -> int:
        return len(self.kind)

    def of_kind(self, name: str) -> Int[np.ndarray, " member"]:
        """Voxels (0-based) of a kind named in `KINDS`."""
        return np.flatnonzero(self.kind == KINDS.index(name))


def plant_tuning(cortex: PhantomCortex, *, seed: int) -> Tuning:
    """Draw the tuning of every voxel: by region, in patches of about 9 mm, with null and confounded voxels among them.

    Parameters
    ----------
    cortex : where the voxels lie.
    seed : of the subject; a pure function of it and of the cortex.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([TUNING_TAG, seed])))
    regions, own = region_of(cortex)
    group = _draw_groups(cortex, regions, own, rng=rng)
    kind, driver = _draw_kinds(cortex, group, rng=rng)
    group = np.where(kind == NULL, -1, group).astype(np.int8)
    concepts, backgrounds = _draw_weights(kind, group, driver, rng=rng)
    group[kind == CONFOUNDED] = [_group_index(CONCEPTS[index].group) for index in driver[kind == CONFOUNDED]]
    attribute, value, gain, conjunction = _draw_attributes(kind, concepts, _often_sized(cortex), rng=rng)
    fields = _draw_receptive_fields(cortex, regions, kind, group, rng=rng)
    early = kind == EARLY
    periphery = np.hypot(fields[:, 0] - 0.5, fields[:, 1] - 0.5)
    octaves = np.clip(np.log2(20.0) - 3.0 * periphery + rng.normal(scale=0.4, size=len(kind)), np.log2(6.0), np.log2(24.0))
    orientation = rng.uniform(0, np.pi, size=len(kind))
    company = {CONCEPT_INDEX["ball"]: (CONCEPT_INDEX["person"], -1), CONCEPT_INDEX["skis"]: (-1, BACKGROUND_INDEX["snow"])}
    usual = np.array([company.get(int(index), (-1, -1)) for index in driver], dtype=np.int16)
    return Tuning(
        kind=kind,
        group=group,
        concept_weights=concepts,
        background_weights=backgrounds,
        attribute=attribute,
        attribute_value=value,
        attribute_gain=gain,
        conjunction=conjunction,
        receptive_field=fields,
        orientation=np.where(early, orientation, np.nan).astype(np.float32),
        frequency=np.where(early, 2.0**octaves, np.nan).astype(np.float32),
        semi_saturation=rng.uniform(0.03, 0.09, size=len(kind)).astype(np.float32),
        gain=rng.uniform(0.4, 0.9, size=len(kind)).astype(np.float32),
        driver=driver,
        company_concept=usual[:, 0],
        company_background=usual[:, 1],
        ncsnr=np.where(kind == NULL, 0.0, draw_ncsnr(cortex, rng=rng)).astype(np.float32),
    )


def draw_ncsnr(cortex: PhantomCortex, *, rng: np.random.Generator) -> Float[np.ndarray, " voxel"]:
    """Signal-to-noise per voxel with exactly the quantiles of Weibull(1.98, 0.458), half of its variation smooth over cortex."""
    field = smooth_field(cortex.positions, length_mm=PATCH_MM, rng=rng) + rng.normal(size=len(cortex))
    return NCSNR_SCALE * (-np.log1p(-ranks(field))) ** (1 / NCSNR_SHAPE)


def _group_index(name: str) -> int:
    return GROUPS.index(name)


def _draw_groups(
    cortex: PhantomCortex, regions: tuple[str, ...], own: Bool[np.ndarray, " voxel"], *, rng: np.random.Generator
) -> Int[np.ndarray, " voxel"]:
    """Group of each voxel (-1: early): the largest of log share plus Gumbel noise, which is smooth over cortex for two thirds."""
    options = ("early", *GROUPS)
    shares = [tuning_shares(region, *sides) for region, *sides in zip(regions, own.tolist(), cortex.left.tolist(), strict=True)]
    log_shares = np.log(np.array([[row.get(name, 1e-12) for name in options] for row in shares]))
    for column in range(len(options)):
        field = smooth_field(cortex.positions, length_mm=PATCH_MM / 2, rng=rng) * np.sqrt(2 / 3)
        field += rng.normal(scale=np.sqrt(1 / 3), size=len(cortex))
        log_shares[:, column] += -np.log(-np.log(ranks(field)))
    return log_shares.argmax(axis=1) - 1


def _draw_kinds(
    cortex: PhantomCortex, group: Int[np.ndarray, " voxel"], *, rng: np.random.Generator
) -> tuple[Int8[np.ndarray, " voxel"], Int16[np.ndarray, " voxel"]]:
    """Kind of each voxel, and the concept that drives the confounded ones (-1 elsewhere)."""
    n_voxels = len(cortex)
    kind = np.where(group < 0, EARLY, CATEGORY).astype(np.int8)
    kind[rng.permutation(n_voxels)[: round(SHARE_NULL * n_voxels)]] = NULL
    driver = np.full(n_voxels, -1, dtype=np.int16)
    n_confounded = round(SHARE_CONFOUNDED * n_voxels)
    n_ball = round(SHARE_BALL * n_confounded)
    for name, near, wanted in (("ball", BESIDE_BODIES, n_ball), ("skis", BESIDE_PLACES, n_confounded - n_ball)):
        inside = np.asarray(cortex.voxels.membership[[region in near for region in cortex.voxels.regions]].any(axis=0))
        chosen = place_near(wanted, kind == CATEGORY, inside, cortex, share_inside=0.15, rng=rng)
        kind[chosen] = CONFOUNDED
        driver[chosen] = CONCEPT_INDEX[name]
    return kind, driver


def _draw_weights(
    kind: Int8[np.ndarray, " voxel"],
    group: Int8[np.ndarray, " voxel"],
    driver: Int16[np.ndarray, " voxel"],
    *,
    rng: np.random.Generator,
) -> tuple[Float32[np.ndarray, "voxel concept"], Float32[np.ndarray, "voxel background"]]:
    """What drives each voxel; for places mostly the surroundings."""
    concepts = np.zeros((len(kind), len(CONCEPTS)), dtype=np.float32)
    backgrounds = np.zeros((len(kind), len(BACKGROUNDS)), dtype=np.float32)
    for voxel in np.flatnonzero(kind == CATEGORY):
        name = GROUPS[group[voxel]]
        if name == "places" and rng.random() < P_SURROUNDINGS:
            backgrounds[voxel] = _surroundings(rng)
            concepts[voxel] = 0.4 * _some_concepts(name, rng)
        else:
            concepts[voxel] = _some_concepts(name, rng)
        if rng.random() < P_MIXED:
            concepts[voxel, rng.integers(len(CONCEPTS))] += rng.uniform(0.3, 0.6)
    confounded = np.flatnonzero(kind == CONFOUNDED)
    concepts[confounded, driver[confounded]] = 1.0
    return concepts, backgrounds


def _some_concepts(name: str, rng: np.random.Generator) -> Float32[np.ndarray, " concept"]:
    """Weights about 1 on all concepts of a group, on two or three of them, or on one."""
    members = np.array([index for index, concept in enumerate(CONCEPTS) if concept.group == name])
    style = rng.random()
    if style >= P_GENERAL:
        size = int(rng.integers(2, 4)) if style < P_GENERAL + P_FEW else 1
        members = rng.choice(members, size=size, replace=False)
    weights = np.zeros(len(CONCEPTS), dtype=np.float32)
    weights[members] = rng.lognormal(sigma=0.2, size=len(members))
    return weights


def _surroundings(rng: np.random.Generator) -> Float32[np.ndarray, " background"]:
    """Weights about 1 on indoor, outdoor, natural or built surroundings, or on one background."""
    style = int(rng.integers(len(SURROUNDINGS) + 2))
    names = list(SURROUNDINGS.values())[style] if style < len(SURROUNDINGS) else (str(rng.choice(list(BACKGROUND_INDEX))),)
    weights = np.zeros(len(BACKGROUNDS), dtype=np.float32)
    weights[[BACKGROUND_INDEX[place] for place in names]] = rng.lognormal(sigma=0.2, size=len(names))
    return weights


def _often_sized(cortex: PhantomCortex) -> Bool[np.ndarray, " voxel"]:
    """True in the intraparietal sulcus, whose voxels care for size and position."""
    return np.asarray(cortex.voxels.membership[[region == "IPS" for region in cortex.voxels.regions]].any(axis=0))


def _draw_attributes(
    kind: Int8[np.ndarray, " voxel"],
    concepts: Float32[np.ndarray, "voxel concept"],
    sized: Bool[np.ndarray, " voxel"],
    *,
    rng: np.random.Generator,
) -> tuple[Int8[np.ndarray, " voxel"], Int8[np.ndarray, " voxel"], Float32[np.ndarray, " voxel"], Bool[np.ndarray, " voxel"]]:
    """An attribute that some of a voxel's own concepts are drawn with: as a gain, or as a condition (conjunction)."""
    names = list(ATTRIBUTES)
    attribute = np.full(len(kind), -1, dtype=np.int8)
    value = np.full(len(kind), -1, dtype=np.int8)
    gain = np.zeros(len(kind), dtype=np.float32)
    conjunction = np.zeros(len(kind), dtype=bool)
    for voxel in np.flatnonzero(kind == CATEGORY):
        draw = rng.random()
        if draw >= P_ATTRIBUTE + P_CONJUNCTION:
            continue
        options = _attribute_values([CONCEPTS[index].name for index in np.flatnonzero(concepts[voxel])])
        weights = np.array([1.0 if name in ATTRIBUTES_OF_ALL else 3.0 for name in options])
        name = "size" if sized[voxel] and rng.random() < 0.5 else str(rng.choice(list(options), p=weights / weights.sum()))
        attribute[voxel] = names.index(name)
        value[voxel] = ATTRIBUTES[name].index(str(rng.choice(options[name])))
        conjunction[voxel] = draw < P_CONJUNCTION
        gain[voxel] = 0.0 if conjunction[voxel] else rng.uniform(0.5, 1.5)
    return attribute, value, gain, conjunction


def _attribute_values(concepts: list[str]) -> dict[str, list[str]]:
    """Attributes of the concepts with the values that occur: those they are drawn with, and size and surroundings."""
    options: dict[str, list[str]] = {}
    for concept in concepts:
        layout = LAYOUT[concept]
        sizes = [name for name, occurs in (("small", layout.smallest <= 0.34), ("large", layout.largest >= 0.46)) if occurs]
        rooms = ["outdoor"] if layout.outdoor else ["indoor", "outdoor"]
        possible = {**DRAWN.get(concept, {}), "size": sizes, "indoor": rooms, "natural": ["natural", "built"]}
        for name, values in possible.items():
            known = options.setdefault(name, [])
            known += [value for value in values if value not in known]
    return options


def _draw_receptive_fields(
    cortex: PhantomCortex,
    regions: tuple[str, ...],
    kind: Int8[np.ndarray, " voxel"],
    group: Int8[np.ndarray, " voxel"],
    *,
    rng: np.random.Generator,
) -> Float32[np.ndarray, "voxel 3"]:
    """Small and retinotopic in early voxels, sigma 0.12-0.3 in intraparietal tool voxels, 0.25-0.6 in other category voxels."""
    early = early_receptive_fields(cortex, regions, rng=rng)
    broad = broad_receptive_fields(cortex, 0.25, 0.60, rng=rng)
    narrow = broad_receptive_fields(cortex, 0.12, 0.30, rng=rng)
    narrow[:, :2] = 0.5 + 2.0 * (narrow[:, :2] - 0.5)
    positional = _often_sized(cortex) & (group == _group_index("tools and vehicles")) & (kind == CATEGORY)
    fields = np.where(positional[:, None], narrow, broad)
    return np.where((kind == EARLY)[:, None], early, fields).astype(np.float32)
