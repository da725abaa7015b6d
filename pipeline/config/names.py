"""How a method's name says more than the method: the encoder it ranks by, and that it is verified.

``NAME``, ``NAME@ENCODER``, ``NAME+verify`` and ``NAME@ENCODER+verify``; and ``pool:NAME,NAME`` for
what several methods find.
"""

from collections.abc import Sequence

VERIFIED = "+verify"
"""Ends a method's name, as in ``seize+verify``: its ranking as the verify stage reordered it."""

AT = "@"
"""Stands before the name of the encoder, as in ``joint@emb``."""

CLIP = "clip"
"""The encoder of a method that names none: the configuration's section of this name."""

POOL = "pool:"
"""Begins a pool's name; its parts follow, with commas between them."""


def encoder_of(method: str) -> str:
    """Return the name of the encoder that one method ranks by, ``CLIP`` where it names none.

    That of a pool is its first part's.
    """
    if is_pool(method):
        method = parts_of(method)[0]
    return method.removesuffix(VERIFIED).partition(AT)[2] or CLIP


def without_encoder(method: str) -> str:
    """Return one method's name without the encoder that it names; a pool's is its parts' whole.

    >>> without_encoder("seize@emb+verify"), without_encoder("seize")
    ('seize+verify', 'seize')
    """
    if is_pool(method):
        return method
    name, _, encoder = method.partition(AT)
    return name + VERIFIED if encoder.endswith(VERIFIED) else name


def is_pool(name: str) -> bool:
    """Whether a method's name, verified or not, is a pool's."""
    return name.startswith(POOL)


def named(parts: Sequence[str]) -> str:
    """Return the name of the pool of these parts."""
    return POOL + ",".join(parts)


def parts_of(name: str) -> list[str]:
    """Return the names of a pool's parts.

    >>> parts_of("pool:seize,joint@emb+verify")
    ['seize', 'joint@emb']
    """
    return [part.strip() for part in name.removeprefix(POOL).removesuffix(VERIFIED).split(",")]


def split(chosen: str) -> list[str]:
    """Return the methods of a list. A pool takes what follows it, up to the next one or to ``,,``.

    >>> split("text,pool:seize,pdv,,image,pool:text,image+verify")
    ['text', 'pool:seize,pdv', 'image', 'pool:text,image+verify']
    """
    found: list[str] = []
    inside = False
    for name in chosen.split(","):
        bare = name.strip()
        if inside and not bare:
            inside = False
        elif inside and not is_pool(bare):
            found[-1] += f",{bare}"
        else:
            inside = is_pool(bare)
            found.append(POOL + bare.removeprefix(POOL).strip() if inside else bare)
    return found


def join(names: Sequence[str]) -> str:
    """Return a list that ``split`` takes apart into ``names``."""
    told = ""
    for place, name in enumerate(names):
        after_pool = place and is_pool(names[place - 1]) and not is_pool(name)
        told += ("" if not place else ",," if after_pool else ",") + name
    return told
