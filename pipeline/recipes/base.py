"""What a recipe declares, and what it is given. Loads no torch: `seize train --help` lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline import config, datasets
from pipeline.config import Config
from pipeline.errors import ConfigError, InputError, nearest
from pipeline.models.training.settings import Settings
from pipeline.run import Run
from pipeline.yamls import first_problem

if TYPE_CHECKING:
    from pipeline.models.encoders._open_clip import Clip
    from pipeline.models.training.task import Task


@dataclass(frozen=True)
class Preset:
    """Published values of a training, and the encoder that they are for."""

    source: str
    """Where they are stated."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from the recipe's own defaults."""
    encoder: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the configuration."""
    unstated: str = ""
    """What the source does not state, and what is taken instead."""


@dataclass(frozen=True)
class Source:
    """Data that a recipe is trained from: an option of its command."""

    name: str
    help: str
    required: bool = True


@dataclass(frozen=True)
class Given:
    """What one training is given."""

    settings: Settings
    sources: Mapping[str, str | None]
    """The data, by its option: as given."""
    out: Path
    preset: str = config.DEFAULT
    """The configuration's preset or file, and what overrides its fields."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    cache: Path = Path("cache")
    data_root: Path = Path("data")

    @property
    def config(self) -> Config:
        """The configuration: encoder, device, folders."""
        return self.configured({})

    def configured(self, changes: Mapping[str, Any]) -> Config:
        """Return the configuration with more fields changed."""
        return config.load(self.preset, {**self.overrides, **changes})

    def file(self, source: str) -> Path:
        """Return a source that is a file; raises InputError where there is none."""
        file = Path(self.sources[source] or "")
        if not file.is_file():
            raise InputError(f"--{source} {file} is no file.")
        return file

    def run(self, place: str, changes: Mapping[str, Any] | None = None) -> Run:
        """Return the run of a benchmark's split, given as ``DATASET:SPLIT``; raises ConfigError."""
        name, colon, split = place.partition(":")
        if not colon:
            raise ConfigError(f"{place!r} is not DATASET:SPLIT, as in circo:val.")
        settings = self.configured(changes or {})
        links = settings.runtime.follow_links
        dataset = datasets.load(name, split, self.data_root, settings.dataset.gallery, links)
        command = f"--config {self.preset} --dataset {name} --split {split}"
        command += f" --data-root {self.data_root}"
        return Run(dataset, settings, self.cache, Path("submissions"), command)

    def encoder(self) -> Clip:
        """Load the encoder, frozen; raises ConfigError for one that takes no pseudo-words."""
        from pipeline.models.inversion import towers

        clip = towers.load(self.config.clip, self.config.runtime)
        clip.model.eval().requires_grad_(False)
        return clip


@dataclass(frozen=True)
class Recipe:
    """How something is trained: settings with published defaults, data, and what makes the task."""

    name: str
    help: str
    """For the command, with an example."""
    settings: type[Settings]
    sources: tuple[Source, ...]
    make: Callable[[Given], Task]
    """Returns what the loop trains; refuses bad data before an encoder is loaded."""
    presets: Mapping[str, Preset] = field(default_factory=dict)
    weights: str = ""
    """The configuration's field that names a file of its weights: ``search.lincir.phi``."""
    method: str = ""
    """The method that checkpoints are validated by."""

    def find_preset(self, name: str) -> Preset:
        """Return a preset by its name; raises ConfigError with the nearest one."""
        if name not in self.presets:
            raise ConfigError(
                f"{self.name} has no training preset {name!r}.{nearest(name, self.presets)}"
            )
        return self.presets[name]

    def chosen(self, values: Mapping[str, Any], preset: str | None) -> Settings:
        """Return the settings: what was given, then the preset's, then the recipe's defaults.

        Raises ConfigError naming the option that is wrong.
        """
        base = dict(self.find_preset(preset).values) if preset else {}
        if "steps" in values:  # else published epochs would count
            base["epochs"] = None
        try:
            return self.settings(**{**base, **values})
        except ValidationError as error:
            raise ConfigError(f"seize train {self.name}: {first_problem(error)}") from None
