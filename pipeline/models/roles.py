"""All roles that models have, for what goes through them one by one."""

from typing import Any

from pipeline.models import captioners, encoders, llms, verifiers
from pipeline.models.kinds import Role

ROLES: tuple[Role[Any, Any], ...] = (
    captioners.ROLE,
    llms.ROLE,
    encoders.ROLE,
    verifiers.ROLE,
)
"""In the order in which a run comes to them."""
