"""Stages: each reads what those before wrote into the cache, and writes its own.

A file of this folder that has a ``STAGE`` declares one. A package of one's own adds some through
entry points in the group ``seize.stages``: each is called as its stage, and names a ``Stage`` or a
module that has it as ``STAGE``.
"""

import functools
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

from pipeline import plugins
from pipeline.errors import ConfigError, nearest
from pipeline.run import Run
from pipeline.stages.base import Stage

GROUP = "seize.stages"


@functools.cache
def house() -> dict[str, Stage]:
    """Return the stages of this folder by name, without those of other packages."""
    modules = plugins.modules(__name__)
    found = [module.STAGE for module in modules if hasattr(module, "STAGE")]
    return {stage.name: stage for stage in ordered(found)}


def brought() -> tuple[str, ...]:
    """Return the names of the stages that installed packages add, without importing them."""
    return tuple(plugins.entry_points(GROUP))


@functools.cache
def find(name: str) -> Stage:
    """Return the stage of that name; raises ConfigError with the nearest one."""
    if name in house():
        return house()[name]
    if name not in brought():
        known = (*house(), *brought())
        raise ConfigError(f"There is no stage {name!r}.{nearest(name, known)}")
    target = plugins.resolved(plugins.entry_points(GROUP)[name])
    stage = getattr(target, "STAGE", target)
    if not isinstance(stage, Stage):
        raise ConfigError(f"The entry point {name!r} ({GROUP}) names no Stage. Correct it.")
    if stage.name != name:
        raise ConfigError(
            f"The entry point {name!r} ({GROUP}) names the stage {stage.name!r}: call both alike."
        )
    return stage


@functools.cache
def known() -> dict[str, Stage]:
    """Return every stage by name, each behind those that it comes after.

    Raises ConfigError for a stage of another package that cannot be imported, for a name that there
    is twice, and for stages that come after each other in a circle.
    """
    if twice := next((name for name in brought() if name in house()), None):
        raise ConfigError(
            f"An installed package adds a stage {twice!r}, which there is already. Uninstall it, "
            "or give its stage another name."
        )
    found = ordered([*house().values(), *map(find, brought())])
    return {stage.name: stage for stage in found}


def wanted(run: Run) -> list[Stage]:
    """Return the stages that a run needs, in order."""
    return [stage for stage in known().values() if stage.wanted(run)]


def ordered(stages: Iterable[Stage]) -> list[Stage]:
    """Return the stages in an order that ``after`` and ``before`` allow; else as they are given.

    Raises ConfigError for a name that no stage has, and for a circle.
    """
    by_name = {stage.name: stage for stage in stages}
    sorter = TopologicalSorter[str]({name: () for name in by_name})
    for stage in by_name.values():
        for other in (*stage.after, *stage.before):
            if other not in by_name:
                raise ConfigError(
                    f"The stage {stage.name!r} comes before or after {other!r}, which there is "
                    f"not.{nearest(other, by_name)}"
                )
        sorter.add(stage.name, *stage.after)
        for later in stage.before:
            sorter.add(later, stage.name)
    try:
        return [by_name[name] for name in sorter.static_order()]
    except CycleError as error:
        circle = " before ".join(map(repr, error.args[1]))
        raise ConfigError(
            f"The stages have no order: {circle}. Correct `after` or `before` of one of them."
        ) from None
