"""Our processes of the transport bench: who generates, who scores without a host, who learns, and plain NATS.

`python -m bench.transport_parts rollout|scorer|learner|raw NATS_URL STORE_URL`, driven by `bench.transport`. The scorer
is the real one but for the environment host, in whose place stands a function; with the host it is the service itself.
"""

import argparse
import asyncio
import random
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import msgspec
import nats

from bench.parts import obey
from flash.artifacts import Packed
from flash.bus import Bus
from flash.bus.jetstream import connect
from flash.contracts.groups import GroupGenerated, GroupScored
from flash.contracts.keys import environment_key, spec_key
from flash.contracts.packing import pack_floats, pack_ids, unpack_floats, unpack_ids
from flash.contracts.spec import EnvironmentSpec, RunSpec, SamplingSpec
from flash.contracts.values import Example, PolicyRef, Rollout, Verdict
from flash.process import configure_logging
from flash.store import Store, open_store
from services.scorer.service import Scorer
from services.scorer.settings import Settings

ORG = "local"
ROLLOUTS, PROMPT_TOKENS, ANSWER_TOKENS = 8, 128, 384
IN_FLIGHT = 16
"""Groups that the generating process tells at once: as many as a few rollout replicas."""
WORDS = ["the", "policy", "wrote", "a", "line", "of", "reasoning", "and", "then", "said", "what", "it", "had", "found"]

Sampled = list[tuple[list[int], list[float], str]]
"""A group as a sampler leaves it: ids, logprobs and text of each rollout."""


async def rollout(bus: Bus, store: Store) -> None:
    """Packs and tells groups of random tokens."""
    ready: list[GroupGenerated] = []
    sampled: list[Sampled] = []

    async def prepare(run_id: str, groups: int, tokens: int) -> dict[str, Any]:
        """Draw the tokens; packing and encoding them is part of what is measured."""
        rng = random.Random(run_id)
        ready[:] = [unsampled(run_id, number, rng) for number in range(groups)]
        sampled[:] = [sample(rng, tokens) for _ in range(groups)]
        return {"body_bytes": len(generated(ready[0], sampled[0]).encode())}

    async def go() -> dict[str, Any]:
        waiting = iter(zip(ready, sampled, strict=True))
        await asyncio.gather(*(worker(waiting) for _ in range(IN_FLIGHT)))
        return {}

    async def worker(waiting: Iterator[tuple[GroupGenerated, Sampled]]) -> None:
        for group, drawn in waiting:
            await bus.publish(generated(group, drawn), caused_by="flash.group.requested.v1.bench")

    await obey({"prepare": prepare, "go": go})


class NoHost:
    """In place of an environment's host: every answer earns 1."""

    async def score(self, example: Example, texts: Sequence[str], **_: Any) -> list[Verdict]:
        return [Verdict(reward=1.0, success=True) for _ in texts]


class Unhosted(Scorer):
    """The real scorer, that asks a function."""

    def _host(self, spec: RunSpec) -> AbstractAsyncContextManager[Any]:
        return nullcontext(NoHost())


async def scorer(bus: Bus, store: Store) -> None:
    await bus.listen(*Unhosted(bus, store, Settings(replica="bench")).subscriptions())
    await obey({})


async def learner(bus: Bus, store: Store) -> None:
    """Reads what was scored, in the order of the stream, and unpacks it."""

    async def read(run_id: str, groups: int) -> dict[str, Any]:
        seen: set[int] = set()
        tokens, rewards = 0, 0.0
        async for told in bus.replay(GroupScored.pattern(org=ORG, run_id=run_id, scope="train")):
            group = told.event
            assert isinstance(group, GroupScored)
            prompt = unpack_ids(group.prompt_ids)
            for drawn, verdict in zip(group.rollouts, group.verdicts, strict=True):
                ids, logprobs = unpack_ids(drawn.token_ids), unpack_floats(drawn.logprobs)
                assert len(ids) == len(logprobs) == len(drawn.mask)
                assert verdict.fault is None, verdict.fault
                tokens += len(prompt) + len(ids)
                rewards += verdict.reward or 0.0
            seen.add(group.group)
            if len(seen) == groups:
                break
        return {"tokens": tokens, "rewards": rewards}

    await obey({"read": read})


async def raw(nats_url: str) -> None:
    """The floor: plain nats-py with bodies of the same size, into a stream of its own and past every stream."""
    client = await nats.connect(nats_url)
    jetstream = client.jetstream()
    await jetstream.add_stream(name="RAW", subjects=["raw.>"])
    bodies: list[bytes] = []

    async def prepare(groups: int) -> dict[str, Any]:
        rng = random.Random(groups)
        distinct = [generated(unsampled("raw", n, rng), sample(rng)).encode() for n in range(32)]
        bodies[:] = [distinct[n % len(distinct)] for n in range(groups)]
        return {}

    async def stream(name: str) -> dict[str, Any]:
        """Each acknowledged by the server, on a subject of its own."""
        waiting = iter(enumerate(bodies))

        async def worker() -> None:
            for number, body in waiting:
                await jetstream.publish(f"raw.{name}.{number}", body)

        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
        return {}

    async def core(name: str) -> dict[str, Any]:
        """Nobody keeps them: as fast as the socket takes them."""
        for number, body in enumerate(bodies):
            await client.publish(f"past.{name}.{number}", body)
        await client.flush()
        return {}

    await obey({"prepare": prepare, "stream": stream, "core": core})


async def submit(store: Store, run_id: str, packed: Packed) -> None:
    """What a scorer looks up in the store: the run's spec, and its environment."""
    version = packed.digest[:12]
    key = environment_key(ORG, "trivial", version)
    environment = EnvironmentSpec(id=f"{ORG}/trivial", version=version, digest=packed.digest, key=key)
    spec = RunSpec(
        org=ORG, run_id=run_id, algorithm="grpo", model="tiny", pool="tiny", seed=0, environment=environment,
        split="train", sampling=SamplingSpec(group_size=ROLLOUTS, temperature=1.0, max_tokens=ANSWER_TOKENS),
    )  # fmt: skip
    await store.put(key, packed.data)
    await store.put(spec_key(run_id), msgspec.json.encode(spec))


def unsampled(run_id: str, number: int, rng: random.Random) -> GroupGenerated:
    """A group of an example, before anything is drawn."""
    text = " ".join(rng.choices(WORDS, k=PROMPT_TOKENS))
    example = Example(
        index=number, id=f"row-{number}", input=text, output="42", messages=[{"role": "user", "content": text}]
    )
    prompt_ids = pack_ids(rng.randrange(150_000) for _ in range(PROMPT_TOKENS))
    return GroupGenerated(
        org=ORG, run_id=run_id, scope="train", step=number // 8 + 1, group=number, example=example,
        policy=PolicyRef(), prompt_ids=prompt_ids, rollouts=[], replica="bench",
    )  # fmt: skip


def sample(rng: random.Random, tokens: int = ANSWER_TOKENS) -> Sampled:
    return [
        (
            [rng.randrange(150_000) for _ in range(tokens)],
            [-rng.expovariate(1.0) for _ in range(tokens)],
            " ".join(rng.choices(WORDS, k=tokens)),
        )
        for _ in range(ROLLOUTS)
    ]


def generated(group: GroupGenerated, sampled: Sampled) -> GroupGenerated:
    rollouts = [
        Rollout(token_ids=pack_ids(ids), logprobs=pack_floats(logprobs), mask=b"\1" * len(ids), text=text)
        for ids, logprobs, text in sampled
    ]
    return GroupGenerated(
        org=group.org, run_id=group.run_id, scope=group.scope, step=group.step, group=group.group,
        example=group.example, policy=group.policy, prompt_ids=group.prompt_ids, rollouts=rollouts,
        replica=group.replica, took_s=1.0,
    )  # fmt: skip


async def main(role: str, nats_url: str, store_url: str) -> None:
    if role == "raw":
        return await raw(nats_url)
    configure_logging("info", service=role)  # to stderr, as services do: stdout is for the bench
    store = await open_store(store_url)
    bus = await connect(nats_url, store, name=f"{role}:bench")
    work: Coroutine[Any, Any, None] = {"rollout": rollout, "scorer": scorer, "learner": learner}[role](bus, store)
    return await work


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["rollout", "scorer", "learner", "raw"])
    parser.add_argument("nats_url")
    parser.add_argument("store_url")
    given = parser.parse_args()
    asyncio.run(main(given.role, given.nats_url, given.store_url))
