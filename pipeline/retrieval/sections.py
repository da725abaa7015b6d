"""Sections of the configuration's ``search``: what a method or a clue lets its user choose."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.yamls import first_problem


class Section(BaseModel):
    """A section of the configuration's ``search``: the weights that one or several methods share,
    or what a clue is made with.

    The one home of a weight: its default, its defaults by dataset, its label and the values that
    tuning tries by default. Fields that are numbers are made by ``weight``; a clue's may hold texts
    too, which are never tuned.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)
    name: ClassVar[str]
    by_dataset: ClassVar[Mapping[str, Mapping[str, float]]] = {}
    """Defaults that differ by dataset; ``config.OWN_IMAGES`` is a folder of one's own."""
    needed: ClassVar[Mapping[str, str]] = {}
    """Fields without a default that can be used, with what stands for their value in advice."""

    @property
    def lacking(self) -> str | None:
        """What has to be set before anything can be made with it, and how; None for nothing."""
        for field, shown in self.needed.items():
            if getattr(self, field) is None:
                return f"{self.label(field)}: --set search.{self.name}.{field}={shown}"
        return None

    def require(self) -> None:
        """Raise ConfigError that says what has to be set before anything can be made with it."""
        if self.lacking:
            raise ConfigError(f"The method {self.name} needs {self.lacking}")

    @classmethod
    def label(cls, field: str) -> str:
        """Return what a weight is called in a picture."""
        return cls.model_fields[field].title or field

    @classmethod
    def grid(cls) -> dict[str, list[float]]:
        """Return the values that are tried by default of every weight that has some."""
        found = {}
        for name, field in cls.model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and isinstance(extra.get("grid"), list):
                found[name] = cast("list[float]", extra["grid"])
        return found


def weight(default: float, label: str, grid: Sequence[float] = (), **bounds: Any) -> Any:
    """Return a field of a ``Section``: its default, its label and the values that are tuned."""
    extra: Any = {"grid": list(grid)} if grid else None
    return Field(default=default, title=label, json_schema_extra=extra, **bounds)


def steps(start: float, stop: float, step: float) -> list[float]:
    """Return evenly spaced values, both ends included."""
    return [round(start + i * step, 10) for i in range(round((stop - start) / step) + 1)]


Kind = TypeVar("Kind", bound=Section)


def section(config: Config, kind: type[Kind], dataset: str) -> Kind:
    """Return one section's values for a dataset; raises ConfigError naming the field.

    What the configuration says for the dataset counts before what it says for all, and that before
    the defaults of the section.
    """
    given = config.search.section(kind.name)
    general = {field: value for field, value in given.items() if field in kind.model_fields}
    values = dict(kind.by_dataset.get(dataset, {})) | general | dict(given.get(dataset) or {})
    return validated(kind, values)


def validated(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """Return ``values`` as a section; raises ConfigError naming the field that is wrong."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"search.{kind.name}.{first_problem(error)}") from None
