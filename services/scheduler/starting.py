"""Whether the weights that a run starts from, or evaluates, are there for it: asked before it is accepted."""

import msgspec

from flash.bus import Bus
from flash.contracts.keys import run_of_adapter, spec_key
from flash.contracts.spec import RunSpec
from flash.contracts.steps import StepSaved
from flash.contracts.values import PolicyRef
from flash.errors import NoSuchObject, NotFound, Refused
from flash.store import Store


async def check_start(bus: Bus, store: Store, spec: RunSpec) -> None:
    """Raises NotFound for an adapter that no run of the organisation has saved, Refused for another model's.

    Whoever submits has looked the adapter up, and could name any key: this keeps an organisation's weights its own.
    """
    start = spec.train.init_from_adapter if spec.train else spec.policy
    if start is None or not start.key:
        return
    run_id = run_of_adapter(start.key)
    trained = await _spec(store, run_id) if run_id else None
    if trained is None or trained.org != spec.org:
        raise NotFound(f"there is no run {run_id or repr(start.key)} to start from: `flash runs` lists them")
    if not await _has_saved(bus, trained, start):
        raise NotFound(f"{run_id} has saved no such adapter: `flash checkpoints {run_id}` lists what it has")
    if trained.model != spec.model:
        raise Refused(
            f"{run_id} trained an adapter of {trained.model}, but this run's model is {spec.model}: an adapter fits "
            "its own base model only"
        )


async def _spec(store: Store, run_id: str) -> RunSpec | None:
    try:
        return msgspec.json.decode(await store.get(spec_key(run_id)), type=RunSpec)
    except NoSuchObject:
        return None


async def _has_saved(bus: Bus, trained: RunSpec, start: PolicyRef) -> bool:
    async for told in bus.history(StepSaved.pattern(org=trained.org, run_id=trained.run_id)):
        if isinstance(told.event, StepSaved) and told.event.policy == start:
            return True
    return False
