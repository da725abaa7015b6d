"""Recipes of published figures: data, one YAML file a paper, in ``pipeline/study/recipes``.

A recipe says which files it needs and where they are to be had, which benchmark and settings give
the figures, and what they should be, by a row of ``published.yaml`` or with a source of its own.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline import datasets
from pipeline.errors import ConfigError, nearest
from pipeline.study import published
from pipeline.yamls import first_problem, read_yaml

FOLDER = Path(__file__).resolve().parent.parent / "recipes"


class Source(BaseModel):
    """A row of ``published.yaml``."""

    model_config = ConfigDict(extra="forbid")
    method: str
    backbone: str


class Case(BaseModel):
    """One benchmark under one configuration, and what a paper says comes out."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    name: str
    dataset: str
    split: str
    preset: str
    method: str
    settings: dict[str, Any] = {}
    """Fields of the configuration, with dots."""
    texts: str | None = None
    """A released annotation file that is imported first (``seize import``)."""
    weights: dict[str, str] = {}
    """Fields of the configuration to names of released files."""
    published: Source | None = None
    expected: dict[str, float] = {}
    """Figures in percent by metric, where they are in no row; they go before a row's."""
    source: str = ""
    """Where the ``expected`` figures are from."""
    tolerance: float = Field(ge=0)
    """Percentage points that ours may differ by."""
    submission: dict[str, str] = {}
    """Kind of lists to a released submission file, with which ours is compared."""
    agreement: dict[str, float] = {}
    """The least agreement with it, in percent: ``overlap@10``, ``overlap@50`` and the like."""
    because: list[str] = []
    """What may explain a difference."""

    @field_validator("settings")
    @classmethod
    def _harmless(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Refuse what only a user's own option may set: where data goes, what may be run."""
        for field in settings:
            if field.startswith("runtime.") or field.endswith(".url"):
                raise ValueError(f"{field} is for your own options, not for a recipe")
        return settings

    @model_validator(mode="after")
    def _sourced(self) -> "Case":
        if self.expected and not self.source:
            raise ValueError(f"{self.name}: its expected figures need a source")
        if not (self.published or self.expected or self.submission):
            raise ValueError(f"{self.name}: it expects nothing")
        return self

    @property
    def files(self) -> list[str]:
        """The released files that it needs."""
        texts = [] if self.texts is None else [self.texts]
        return [*texts, *self.weights.values(), *self.submission.values()]

    def figures(self) -> dict[str, tuple[float, str]]:
        """Return the expected figure and its source by metric; raises ConfigError for no row."""
        found: dict[str, tuple[float, str]] = {}
        if self.published is not None:
            table, backbone = published.load(), self.published.backbone
            rows = [
                entry
                for entry in published.entries(table, self.dataset, (backbone,), {})
                if entry.method == self.published.method
            ]
            if not rows:
                raise ConfigError(f"{self.name}: no published row of {self.published.method}.")
            found = {m: (v, rows[0].source) for m, v in rows[0].values.items() if v is not None}
        return found | {metric: (value, self.source) for metric, value in self.expected.items()}


class Recipe(BaseModel):
    """One paper, or one program, and its cases."""

    model_config = ConfigDict(extra="forbid")
    title: str
    needs: dict[str, str] = {}
    """Released file to where it is to be had."""
    cases: list[Case] = Field(min_length=1)

    @model_validator(mode="after")
    def _complete(self) -> "Recipe":
        used = {file for case in self.cases for file in case.files}
        for file in used | set(self.needs):
            if Path(file).name != file or file in ("", ".", ".."):
                raise ValueError(f"{file!r} must be the name of a file, without folders")
        if used != set(self.needs):
            wrong = min(used ^ set(self.needs))
            raise ValueError(f"{wrong}: is needed by no case, or it is not told where it is had")
        names = [case.name for case in self.cases]
        if len(set(names)) < len(names):
            raise ValueError("two cases have one name")
        for case in self.cases:
            datasets.find(case.dataset)
            case.figures()
        return self


def names() -> list[str]:
    """Return the names of the recipes that are shipped."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load(name: str) -> Recipe:
    """Read a recipe by its name, or a YAML file by its path; raises ConfigError."""
    file = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if file.parent == FOLDER and name not in names():
        raise ConfigError(f"There is no recipe {name!r}.{nearest(name, names())}")
    try:
        return Recipe.model_validate(read_yaml(file))
    except ValidationError as error:
        raise ConfigError(f"{file}: {first_problem(error)}") from None


def chosen(recipe: Recipe, wanted: tuple[str, ...]) -> list[Case]:
    """Return the recipe's cases of these names, all where none is given; raises ConfigError."""
    known = {case.name: case for case in recipe.cases}
    for name in wanted:
        if name not in known:
            raise ConfigError(f"There is no case {name!r}.{nearest(name, known)}")
    return [known[name] for name in wanted or known]
