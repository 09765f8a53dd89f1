"""The phantom's stimuli: scene graphs, their pixels and masks, and what they are called."""

from mine_core.subjects.phantom.scenes.captions import (
    VOCABULARY,
    attribute_prompts,
    background_prompt,
    captions,
    concept_prompt,
)
from mine_core.subjects.phantom.scenes.concepts import ATTRIBUTES, BACKGROUNDS, CO_OCCURRENCE, CONCEPTS, GROUPS, Background, Concept
from mine_core.subjects.phantom.scenes.graph import Scene, SceneLabels, SceneObject, scene_labels
from mine_core.subjects.phantom.scenes.render import RenderedScene, masks, render, render_isolated
from mine_core.subjects.phantom.scenes.sampling import sample_scene

__all__ = [
    "ATTRIBUTES",
    "BACKGROUNDS",
    "CONCEPTS",
    "CO_OCCURRENCE",
    "GROUPS",
    "VOCABULARY",
    "Background",
    "Concept",
    "RenderedScene",
    "Scene",
    "SceneLabels",
    "SceneObject",
    "attribute_prompts",
    "background_prompt",
    "captions",
    "concept_prompt",
    "masks",
    "render",
    "render_isolated",
    "sample_scene",
    "scene_labels",
]
