"""How a method's name says more than the method: the encoder it ranks by, and that it is verified.

``NAME``, ``NAME@ENCODER``, ``NAME+verify`` and ``NAME@ENCODER+verify``.
"""

VERIFIED = "+verify"
"""Ends a method's name, as in ``seize+verify``: its ranking as the verify stage reordered it."""

AT = "@"
"""Stands before the name of the encoder, as in ``joint@emb``."""

CLIP = "clip"
"""The encoder of a method that names none: the configuration's section of this name."""


def encoder_of(method: str) -> str:
    """Return the name of the encoder that one method ranks by, ``CLIP`` where it names none."""
    return method.removesuffix(VERIFIED).partition(AT)[2] or CLIP


def without_encoder(method: str) -> str:
    """Return one method's name without the encoder that it names.

    >>> without_encoder("seize@emb+verify"), without_encoder("seize")
    ('seize+verify', 'seize')
    """
    name, _, encoder = method.partition(AT)
    return name + VERIFIED if encoder.endswith(VERIFIED) else name
