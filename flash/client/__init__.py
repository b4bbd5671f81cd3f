"""What the command line and notebooks talk through: requests to the services, over the bus and nothing else.

What needs more than the contracts (archives, models) is imported when it is first named.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flash.client.asking import (
    ask,
    cancel,
    delete,
    environments,
    pin,
    resume,
    runs,
    sealed_for_archive,
    sealed_for_run,
    standing,
    submit,
    versions,
    with_params,
)
from flash.client.connection import connect
from flash.client.following import follow, is_terminal
from flash.client.view import RunView, folded, view

if TYPE_CHECKING:
    from flash.client.references import Reference, resolve_reference
    from flash.client.serving import pools, require_pool
    from flash.client.surveying import Survey, survey
    from flash.client.transfers import archive_limits, fetch_environment, publish_environment, publish_packed

__all__ = [
    "Reference", "RunView", "Survey", "archive_limits", "ask", "cancel", "connect", "delete", "environments",
    "fetch_environment", "folded", "follow", "is_terminal", "pin", "pools", "publish_environment", "publish_packed",
    "require_pool", "resolve_reference", "resume", "runs", "sealed_for_archive", "sealed_for_run", "standing",
    "submit", "survey", "versions", "view", "with_params",
]  # fmt: skip

_LATER = ("references", "serving", "surveying", "transfers")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _LATER:
            if hasattr(found := import_module(f"flash.client.{module}"), name):
                return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
