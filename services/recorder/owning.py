"""Whose run it is: somebody else's is none."""

import msgspec

from flash.contracts.keys import spec_key
from flash.errors import NoSuchObject, NotFound
from flash.store import Store


class Owner(msgspec.Struct):
    """What is read of a run's spec."""

    org: str


async def require_own(store: Store, org: str, run_id: str) -> None:
    """Raises NotFound for a run that is not there, or not the organisation's."""
    try:
        owner = msgspec.json.decode(await store.get(spec_key(run_id)), type=Owner)
    except NoSuchObject:
        owner = Owner(org="")
    if owner.org != org:
        raise NotFound(f"there is no run {run_id}: `flash runs` lists them")
