"""Our own sampling and our own update without any platform around them.

`python -m bench.alone`, driven by `bench.step`: the engine of the rollout and the policy of the learner, called as
their services call them, for the steps that a run has taken. What a step of the whole system spends beyond this is the
platform's.
"""

import asyncio
import time
from pathlib import Path
from typing import Any

from bench.parts import obey
from bench.taken import ADAPTER_FILES, Run, read
from flash.contracts.groups import GroupScored
from flash.contracts.packing import unpack_ids
from services.learner.batch import group_batch
from services.learner.loss import DrGrpo
from services.learner.policy import Base, Cut
from services.rollout.engines import Adapter, SampleRequest
from services.rollout.engines.torch import TorchEngine, load
from services.rollout.seeds import rollout_seed


class Alone:
    """An engine and a policy for one run."""

    def __init__(self, run: Run) -> None:
        assert run.spec.train is not None
        assert run.spec.sampling is not None
        self._run, self._train, self._sampling = run, run.spec.train, run.spec.sampling
        self._drawn = self._same = 0
        self._engine = TorchEngine(lambda: load(Path(run.model)))
        base = Base.load(Path(run.model), run.spec.model)
        self._policy = base.load_adapter({name: (run.start / name).read_bytes() for name in ADAPTER_FILES})

    async def start(self) -> None:
        await self._engine.start()
        # What a service does once, the first time: not a step's.
        await self._sample(self._run.groups[1][0])

    async def sample(self, number: int) -> float:
        """CPU seconds of a step's groups, asked for all at once."""
        begin = time.process_time()
        await asyncio.gather(*(self._sample(group) for group in self._run.groups[number]))
        return time.process_time() - begin

    async def update(self, number: int) -> float:
        """CPU seconds of a step's update."""
        batch = group_batch(self._run.groups[number], masks_truncated=not self._sampling.stop_sequences)
        loss = DrGrpo(
            normaliser=batch.rollouts * self._sampling.max_tokens,
            cap=2.0 if self._train.importance_correction == "truncate" else None,
            kl_coef=self._train.kl_penalty_coef,
            temperature=self._sampling.temperature,
        )
        if not batch.trees:
            return 0.0
        told = self._run.finished[number]
        cut = Cut(max_tokens=told.micro_batch, threads=told.threads)
        begin = time.process_time()
        self._policy.update(batch.trees, loss, learning_rate=self._train.learning_rate, cut=cut)
        return time.process_time() - begin

    @property
    def same_share(self) -> float:
        """How many of the recorded rollouts were drawn again, token by token: the others differ by rounding."""
        return self._same / self._drawn

    async def close(self) -> None:
        await self._engine.close()

    async def _sample(self, group: GroupScored) -> None:
        digest = group.policy.digest
        request = SampleRequest(
            prompt_ids=tuple(unpack_ids(group.prompt_ids)),
            seeds=tuple(
                rollout_seed(self._run.spec.seed, group.scope, group.step, group.group, number)
                for number in range(self._sampling.group_size)
            ),
            temperature=self._sampling.temperature,
            max_tokens=self._sampling.max_tokens,
            stop=tuple(self._sampling.stop_sequences),
            adapter=Adapter(digest, self._run.adapter(digest)),
        )
        samples = await self._engine.sample(request)
        self._drawn += len(samples)
        recorded = [unpack_ids(rollout.token_ids) for rollout in group.rollouts]
        self._same += sum(s.token_ids == ids for s, ids in zip(samples, recorded, strict=True))


async def main() -> None:
    async def steps(file: str) -> dict[str, Any]:
        """The steps of a run, one after another."""
        run = read(file)
        alone = Alone(run)
        await alone.start()
        found = [(await alone.sample(number), await alone.update(number)) for number in run.groups]
        await alone.close()
        assert alone.same_share > 0.5, f"only {alone.same_share:.0%} of the recorded rollouts were drawn again"
        return {
            "sample_cpu_s": sum(sample for sample, _ in found),
            "update_cpu_s": sum(update for _, update in found),
        }

    await obey({"steps": steps})


if __name__ == "__main__":
    asyncio.run(main())
