"""Retrieval methods: one file a family, each a function from clues to the ends of its score.

A package of one's own adds some through entry points in the group ``seize.methods``, each naming a
module that registers them with ``method``.
"""

from collections.abc import Iterable, Mapping

from pipeline import plugins
from pipeline.config import CLIP, OWN_IMAGES, VERIFIED, Config, encoder_of, without_encoder
from pipeline.config.names import is_pool, join, named, parts_of, split
from pipeline.errors import ConfigError, nearest
from pipeline.models import encoders
from pipeline.retrieval.clues import CLUES, Clue, Clues, closure
from pipeline.retrieval.methods.base import METHODS, Method, Section
from pipeline.retrieval.plans import Lists
from pipeline.retrieval.pool import Pool
from pipeline.retrieval.scoring import Score
from pipeline.retrieval.sections import section

__all__ = ["METHODS", "Method", "Section", "is_pool", "join", "split"]

GROUP = "seize.methods"

plugins.load(__name__, GROUP)

ORDER = ("seize", "seize-rank", "mean-ensemble", "ldre", "cirevl", "image", "text", "image+text")
"""What comes first where all methods are listed; the others follow as they are registered."""


def names() -> list[str]:
    """Return every method's name."""
    return [name for name in ORDER if name in METHODS] + [n for n in METHODS if n not in ORDER]


def find(name: str) -> Method:
    """Return the method of that name, whichever encoder it names; ConfigError with the nearest."""
    if name == "all" or len(split(name)) > 1:
        raise ConfigError(
            f"--method {name}: one method is needed here, or a pool of them (--method pool:A,B). "
            "Several are taken by embed, search, compare, audit and turns."
        )
    if name.endswith(VERIFIED):
        raise ConfigError(f"{name} is made by the verify stage, from the ranking by {base(name)}.")
    if is_pool(name):
        return _pool(name)
    try:
        return METHODS[without_encoder(name)]
    except KeyError:
        raise ConfigError(f"There is no method {name!r}.{nearest(name, METHODS)}") from None


def _pool(name: str) -> Method:
    """Return the pool of that name; raises ConfigError for parts that cannot be some."""
    parts = parts_of(name)
    if len(set(parts)) < max(len(parts), 2):
        raise ConfigError(
            f"{name}: a pool takes two or more different methods, as in {named(('seize', 'pdv'))}."
        )
    found = [find(part) for part in parts]
    needs = dict.fromkeys(clue for one in found for clue in one.needs)

    def score(*_: object) -> Score:
        """The candidates of several rankings, fused."""
        raise ConfigError(f"{name} fuses rankings; it has no score of its own.")

    return Method(name, score, tuple(needs), (Pool,), parts=tuple(parts))


def expanded(names: Iterable[str]) -> list[str]:
    """Return the methods that rank by themselves: pools and verified ones give what they need."""
    bare = (base(name) for name in names)
    found = (parts_of(name) if is_pool(name) else [name] for name in bare)
    return list(dict.fromkeys(name for some in found for name in some))


def check_pools(config: Config, names: Iterable[str], dataset: str) -> None:
    """Raise ConfigError for a weight of ``search.pool`` that is of no part of these pools."""
    pools = [name for name in map(base, names) if is_pool(name)]
    weights = section(config, Pool, dataset)
    parts = expanded(pools)
    for name in weights.weights if pools else ():
        if name not in parts:
            raise ConfigError(
                f"search.pool.weights: {name!r} is no part of {join(pools)}.{nearest(name, parts)}"
            )
    for name in pools:
        weights.of(parts_of(name))


def base(name: str) -> str:
    """Return a method's name without the mark of the verify stage."""
    return name.removesuffix(VERIFIED)


def in_file_names(name: str) -> str:
    """Return a method's name as files are called by, ``pool-seize-pdv`` for a pool's."""
    return without_encoder(name).replace(":", "-").replace(",", "-")


def verified(name: str) -> str:
    """Return a method's name with the mark of the verify stage."""
    return base(name) + VERIFIED


def clues_of(name: str) -> dict[str, Clue]:
    """Return all clues that a method needs, those that others are made from first."""
    return closure(find(base(name)).needs)


def reads(name: str) -> set[str]:
    """Return the kinds of texts that a method's clues are made from."""
    return {kind for one in clues_of(name).values() for kind in one.reads}


def by_model(name: str) -> bool:
    """Whether a model has to make a clue of a method's, beside the features of its texts."""
    return any(one.by_model for one in clues_of(name).values())


def selection(chosen: str, lacking: Mapping[str, str]) -> list[str]:
    """Return the methods of a comma-separated list, or every one that can be for ``all``.

    ``lacking`` maps kinds of texts that there are none of, and clues that cannot be made, to what
    would make them. Names may end in ``+verify``; raises ConfigError for unknown ones, and for one
    that needs what is lacking.
    """

    def uses(name: str) -> set[str]:
        if is_pool(name):
            return {use for part in parts_of(name) for use in uses(part)}
        clues = clues_of(name)
        if encoder_of(name) != CLIP:  # whether that one can is for the clue to check
            clues = {one: clue for one, clue in clues.items() if not clue.joint}
        return reads(name) | clues.keys()

    possible = [name for name in names() if not uses(name) & lacking.keys()]
    wanted = possible if chosen == "all" else split(chosen)
    for name in wanted:
        missing = uses(name) & lacking.keys()
        if missing:
            raise ConfigError(f"The method {name} needs {lacking[min(missing)]}")
    return list(dict.fromkeys(wanted))


def settings(config: Config, name: str, dataset: str) -> tuple[Section, ...]:
    """Return the weights of a method's sections for a dataset; raises ConfigError naming a field.

    What the configuration says for the dataset counts before what it says for all, and that before
    the defaults of the section.
    """
    return tuple(section(config, kind, dataset) for kind in find(base(name)).sections)


def lacking(config: Config, dataset: str) -> dict[str, str]:
    """Return the clues that cannot be made as the configuration is, and what each needs."""
    kinds = {name: one.settings for name, one in CLUES.items() if one.settings}
    found = {name: section(config, kind, dataset).lacking for name, kind in kinds.items()}
    if not encoders.is_joint(config.clip):
        said = "an encoder that embeds an image with a text: --clip served:NAME, or METHOD@ENCODER"
        found |= {name: said for name, one in CLUES.items() if one.joint}
    return {name: what for name, what in found.items() if what}


def check(config: Config, datasets: tuple[str, ...]) -> None:
    """Raise ConfigError for a section of ``search`` that is wrong, whichever method uses it.

    ``datasets`` are the names that a section may hold weights for, beside its own fields.
    """
    kinds = {kind.name: kind for one in METHODS.values() for kind in one.sections}
    kinds |= {one.settings.name: one.settings for one in CLUES.values() if one.settings}
    kinds[Pool.name] = Pool
    kept, places = config.search.exclude_reference, (*datasets, OWN_IMAGES)
    for name in kept if isinstance(kept, dict) else ():
        if name not in places:
            raise ConfigError(
                f"search.exclude_reference: there is no dataset {name!r}.{nearest(name, places)}"
            )
    for name in config.search.sections:
        if name in MOVED:
            raise ConfigError(f"search.{name} is now search.{MOVED[name]}.")
        if name not in kinds:
            known = [*kinds, *type(config.search).model_fields]
            raise ConfigError(f"search has no {name!r}.{nearest(name, known)}")
        kind, given = kinds[name], config.search.section(name)
        for field, value in given.items():
            if field in kind.model_fields:
                continue
            if field not in (*datasets, OWN_IMAGES):
                known = [*kind.model_fields, *datasets, OWN_IMAGES]
                raise ConfigError(
                    f"search.{name} has no {field!r}: neither a weight nor a dataset."
                    f"{nearest(field, known)}"
                )
            if not isinstance(value, Mapping):
                raise ConfigError(f"search.{name}.{field} must hold weights as `name: value`.")
        for dataset in (*datasets, OWN_IMAGES):
            section(config, kind, dataset)


MOVED = {"drops": "ldre.drops", "temperature": "ldre.temperature"}
"""Fields of earlier versions, and where they are now."""


def increment_of(name: str) -> type[Section] | None:
    """Return the section of a method that has weights of an increment, if one has."""
    for kind in find(base(name)).sections:
        if {"positive", "negative"} <= kind.model_fields.keys():
            return kind
    return None


def with_increment(
    config: Config, dataset: str, positive: float | None, negative: float | None
) -> Config:
    """Return ``config`` with α⁺ and α⁻ of its method for a dataset; None changes nothing.

    The weights are those of the method in use: of similarity, or of places for the rank variant.
    Several methods take them if any has an increment. Raises ConfigError where none has.
    """
    alphas = {"positive": positive, "negative": negative}
    given = {name: alpha for name, alpha in alphas.items() if alpha is not None}
    if not given:
        return config
    chosen = config.search.method
    methods = names() if chosen == "all" else expanded(split(chosen))
    kinds = {kind.name: kind for name in methods if (kind := increment_of(name))}
    if not kinds:
        raise ConfigError(
            f"The method {chosen} has no increment: leave --alpha-pos and --alpha-neg out."
        )
    if len(kinds) > 1:  # the rank variant's are of another scale
        kinds.pop("rank_increment", None)
    for name, kind in kinds.items():
        own = config.search.section(name)
        changed = own | {dataset: dict(own.get(dataset) or {}) | given}
        config = config.with_section(name, changed)
        section(config, kind, dataset)
    return config


def score(config: Config, name: str, dataset: str, clues: Clues) -> Score:
    """Return what a method makes of the queries' clues, at the configuration's weights."""
    return scored(find(name), clues, settings(config, name, dataset))


def lists(config: Config, name: str, dataset: str, clues: Clues) -> Lists | None:
    """Return the candidate lists of a method that joins some; None for one that scores."""
    chosen = find(name)
    if chosen.lists is None:
        return None
    return chosen.lists(clues.restricted(chosen.needs), *settings(config, name, dataset))


def scored(chosen: Method, clues: Clues, weights: tuple[Section, ...]) -> Score:
    """Return what a method makes of the queries' clues at these ``weights``."""
    return chosen.score(clues.restricted(chosen.needs), *weights)
