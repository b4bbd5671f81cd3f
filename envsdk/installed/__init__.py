"""Environments of the real `verifiers` package, where a run's requirements name it, as the environment host plays them.

The package runs as it is: its own rollouts, its own rubrics. A rollout is suspended at each of its model calls, and
goes on with what our policy has answered: `rollouts`. What the package would make a silent 0 of is a fault: `rewards`.
Known to work with the releases 0.1.9 to 0.3.1; what an adapter needs is looked for, and no version string is read.
"""

import sys
from typing import Any

_ENVIRONMENTS = ("verifiers.legacy.envs.environment", "verifiers.envs.environment")
"""Where the package defines `Environment`: since 0.3.0, and before."""


def environment_type() -> type | None:
    """The package's `Environment`, if the package is loaded and is not our dialect under its name."""
    for name in _ENVIRONMENTS:
        module = sys.modules.get(name)
        if module is not None and not getattr(module, "flash", False):
            found = getattr(module, "Environment", None)
            return found if isinstance(found, type) else None
    return None


def hosted_form(env: Any) -> Any:
    """The environment with the hooks of ours. Raises TypeError for what cannot be driven."""
    from envsdk.installed.hosting import MultiTurn, SingleTurn, most_turns

    return SingleTurn(env) if most_turns(env) == 1 else MultiTurn(env)
