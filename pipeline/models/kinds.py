"""One scheme of names for every model: ``KIND:NAME``, or a bare name of the role's default kind.

A role (captioner, LLM, verifier, encoder) has a package with one file a kind, which holds a
``KIND``; packages of others add kinds as entry points of the role's group. Only the kind that is
chosen is imported, and what it declares is told before anything is loaded: whoever wants to know
something about a model asks its kind, and nobody else reads names.
"""

import difflib
import gc
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pipeline import plugins
from pipeline.config import Computed, Config, RuntimeConfig, in_precision
from pipeline.errors import ConfigError, nearest
from pipeline.models import identity
from pipeline.models.loading import LOADING
from pipeline.store.jsonl import RecordFile

if TYPE_CHECKING:
    from pipeline.run import Run

Model = TypeVar("Model")
"""What a role's kinds load."""

SHARED = "base"
"""The module of a role's package that holds what its kinds share."""
TYPO = 0.8
"""How alike a known kind must be to what stands before a colon, for that to be a typing error."""

HERE, SERVED = "here", "served"
"""Where a model runs."""

_LOADED: dict[tuple[str, str, str], Any] = {}
"""The models that this process holds, by their role and what they were loaded by: of each role one
that takes memory here, and every one behind a server."""


@dataclass(frozen=True)
class Given:
    """Texts that are there already, query by query: nothing is computed."""

    file: Callable[["Run", str], RecordFile]
    """Returns the texts' file by the model's name; raises MissingStageError where it is not."""
    read: Callable[["Run", RecordFile], Mapping[str, list[str]]]
    """Returns the file's texts by query id; raises ConfigError where the run cannot use them."""


def _nothing(settings: Any) -> tuple[str, ...]:
    return ()


def _no_place(settings: Any) -> None:
    return None


@dataclass(frozen=True)
class Kind(Generic[Computed, Model]):
    """What a kind of model tells about itself. Importing it must load no library of models.

    Its functions get the role's section of the configuration, with the bare name as ``model``.
    """

    load: Callable[[Computed, RuntimeConfig], Model]
    """Returns the model; raises ModelError. Called once a process and configuration."""
    identity: Callable[[Computed], dict[str, Any]]
    """Returns everything about the model that changes its results, as JSON-able data."""
    served: bool = False
    """Whether a server at ``url`` runs it; else it runs here, in the section's ``precision``."""
    threads: bool = False
    """Whether several threads may call it at a time."""
    files: Callable[[Computed], tuple[str, ...]] = _nothing
    """Returns the local files and folders, or hub names, that it is loaded from."""
    downloads: Callable[[Computed], str | None] = _no_place
    """Returns what the first use fetches beside ``files``, a hub's name or a URL; None for none."""
    folder: str = "FOLDER"
    """How a local folder is given as its name."""
    given: Given | None = None
    """For texts that somebody else made."""


@dataclass(frozen=True)
class Choice(Generic[Computed, Model]):
    """The kind that a model's name chooses, with the section of the configuration for it."""

    role: "Role[Computed, Model]"
    kind_name: str
    kind: Kind[Computed, Model]
    settings: Computed
    """With the bare name as ``model``."""

    @property
    def name(self) -> str:
        """The model's name without its kind."""
        return self.settings.model

    @property
    def identity(self) -> dict[str, Any]:
        """Everything about the model that changes its results.

        A kind from elsewhere is named, so that it need not tell itself from all others.
        """
        named = {} if self.role.has(self.kind_name) else {"kind": self.kind_name}
        return named | self.kind.identity(self.settings)

    @property
    def files(self) -> tuple[str, ...]:
        """The local files and folders, or hub names, that it is loaded from."""
        return self.kind.files(self.settings)

    @property
    def downloads(self) -> str | None:
        """What the first use fetches beside ``files``, a hub's name or a URL; None for none."""
        return self.kind.downloads(self.settings)

    @property
    def advice(self) -> str:
        """How another one of its kind is given by a local folder."""
        kind = "" if self.kind_name == self.role.default else f"{self.kind_name}:"
        return f"{self.role.option} {kind}{self.kind.folder}"


@dataclass(frozen=True)
class Role(Generic[Computed, Model]):
    """What a model is for."""

    name: str
    """In the words of messages."""
    section: str
    """The section of the configuration that is about it."""
    option: str
    """The option that names the model."""
    package: str
    """Where its kinds are, a file each."""
    group: str
    """The entry points by which others add kinds."""
    default: str
    """The kind of a bare name."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of all kinds; none is imported for it."""
        return tuple(dict.fromkeys([*self._own, *plugins.entry_points(self.group)]))

    @property
    def _own(self) -> tuple[str, ...]:
        return tuple(name for name in plugins.names(self.package) if name != SHARED)

    def has(self, kind: str) -> bool:
        """Whether a kind is this project's own."""
        return kind in self._own

    def of(self, model: str) -> tuple[str, str]:
        """Return kind and name of a model.

        What stands before the first colon is a kind only where it is known as one, so that names
        may have colons (``qwen2.5:7b``). A kind may be spelt with hyphens. Raises ConfigError where
        it is a known kind misspelt, or has no name behind it.
        """
        before, colon, name = model.partition(":")
        if not colon:
            return self.default, model
        before = before.replace("-", "_") if before.replace("-", "_") in self.kinds else before
        if before in self.kinds:
            if not name.strip():
                raise ConfigError(f"{model!r} names no {self.name}: {self.option} {before}:NAME.")
            return before, name
        if difflib.get_close_matches(before, self.kinds, n=1, cutoff=TYPO):
            raise ConfigError(
                f"{before!r} is no kind of {self.name}.{nearest(before, self.kinds)} A name with "
                f"a colon is given as {self.option} {self.default}:{model}."
            )
        return self.default, model

    def kind(self, name: str) -> Kind[Computed, Model]:
        """Return a kind by its name; raises ConfigError for one that is not there, or is none."""
        if self.has(name):
            found: Any = importlib.import_module(f"{self.package}.{name}")
        elif name in (points := plugins.entry_points(self.group)):
            found = plugins.resolved(points[name])
        else:
            raise ConfigError(
                f"There is no kind of {self.name} {name!r}.{nearest(name, self.kinds)}"
            )
        found = getattr(found, "KIND", found)
        if not isinstance(found, Kind):
            raise ConfigError(
                f"{name!r} ({self.group}) is no kind of {self.name}: its entry point must name a "
                "pipeline.models.kinds.Kind, or a module that has one as KIND."
            )
        return found

    def choose(self, settings: Computed) -> Choice[Computed, Model]:
        """Return what the section's ``model`` chooses; raises ConfigError."""
        kind, name = self.of(settings.model)
        bare = settings.model_copy(update={"model": name})
        return Choice(self, kind, self.kind(kind), bare)

    def chosen(self, config: Config) -> Choice[Computed, Model]:
        """Return what the configuration chooses; raises ConfigError."""
        return self.choose(getattr(config, self.section))

    def load(self, settings: Computed, runtime: RuntimeConfig) -> Model:
        """Load what the section names, once a process; raises ModelError.

        Another one that was loaded here before is let go. Those behind servers are kept: they take
        no memory, and what is asked of a server at first is not asked again.
        """
        choice = self.choose(settings)
        served = choice.kind.served
        bare = choice.settings if served else in_precision(choice.settings, runtime)
        told = choice.kind_name + bare.model_dump_json() + runtime.model_dump_json()
        key = (self.name, SERVED if served else HERE, told)
        with LOADING:
            if key not in _LOADED:
                # Else the other one would stay in memory until this one is there.
                self._let_go(HERE)
                _LOADED[key] = choice.kind.load(bare, runtime)
            model: Model = _LOADED[key]
            return model

    def _let_go(self, *places: str) -> None:
        for key in [key for key in _LOADED if key[0] == self.name and key[1] in places]:
            del _LOADED[key]

    def unload(self) -> None:
        """Forget the model that is loaded, so that its memory is freed."""
        self._let_go(HERE, SERVED)
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def settle(self, settings: Computed, runtime: RuntimeConfig, records: RecordFile) -> Computed:
        """Return the section that goes on with ``records`` in the precision they were begun in.

        What a new file is begun in goes into its header; a server's precision is its own matter.
        """
        if self.choose(settings).kind.served:
            return settings
        begun = identity.begun_records(records.file)
        settled, told = identity.settle(settings, runtime, begun)
        records.header = records.header | told
        return settled
