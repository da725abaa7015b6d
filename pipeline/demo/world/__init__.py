"""The demo's world: scenes of coloured shapes, their pictures, descriptions and edits.

A scene has one or two groups of equal shapes on a background. A description mentions some of a
scene's attributes; an edit changes attributes and can be applied to scenes and descriptions alike,
which yields ground truth for retrieval and the right answers for the LLM.
"""

from pipeline.demo.world.edits import Edit, halves_of_edit, joined_edit, random_edit, vocabulary
from pipeline.demo.world.pictures import CELL, SCALE, SIDE, render
from pipeline.demo.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    OPPOSITE,
    RELATIONS,
    SHAPES,
    SIZES,
    Group,
    Scene,
    claims,
    held_out,
    mention,
    parse,
    plural,
    random_scene,
    training_scene,
)

__all__ = [
    "BACKGROUNDS",
    "CELL",
    "COLOURS",
    "COUNTS",
    "OPPOSITE",
    "RELATIONS",
    "SCALE",
    "SHAPES",
    "SIDE",
    "SIZES",
    "Edit",
    "Group",
    "Scene",
    "claims",
    "halves_of_edit",
    "held_out",
    "joined_edit",
    "mention",
    "parse",
    "plural",
    "random_edit",
    "random_scene",
    "render",
    "training_scene",
    "vocabulary",
]
