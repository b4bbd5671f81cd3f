"""Finding an environment by its name, as scripts do."""

import importlib
import os
from typing import Any

from envsdk.loading import accepted_params, find_factory
from envsdk.verifiers.environments import Environment


def load_environment(env_id: str, **env_args: Any) -> Environment:
    """A package, a folder with an `environment.py`, or a file: what its `load_environment(**env_args)` gives.

    Raises FileNotFoundError, ModuleNotFoundError or AttributeError where there is none, and TypeError for arguments
    that it does not take, or when it gives something else.
    """
    from envsdk import dialects

    dialects.install()
    a_path = os.path.exists(env_id) or env_id.endswith(".py")
    place = env_id if a_path else env_id.rpartition("/")[2].replace("-", "_")
    if not a_path:
        importlib.import_module(place)
    factory, origin = find_factory(place, "load_environment")
    environment = factory(**accepted_params(factory, env_args, origin))
    if not isinstance(environment, Environment):
        raise TypeError(f"{origin} gave a {type(environment).__name__}, wanted an Environment of this dialect")
    environment.env_id = environment.env_id or env_id
    environment.env_args = environment.env_args or env_args
    return environment
