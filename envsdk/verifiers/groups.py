"""Several environments as one: each row goes its own way, which `info["env_id"]` names."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from envsdk.verifiers.datasets import Rows
from envsdk.verifiers.environments import Environment, MultiTurnEnv
from envsdk.verifiers.messages import Message, Messages
from envsdk.verifiers.rubrics import Rubric
from envsdk.verifiers.states import State, read_info

ROUTE = "env_id"
"""Under this key of a row's `info`: the name of its environment; of groups in groups a list of names."""


class EnvGroup(MultiTurnEnv):
    """The rows of all, in their order. What becomes of a row, its reward and metrics included, is its environment's."""

    def __init__(self, envs: Sequence[MultiTurnEnv], env_names: Sequence[str] | None = None, **options: Any) -> None:
        if not envs:
            raise ValueError("EnvGroup requires at least one environment")
        self.envs = list(envs)
        self.env_names = list(env_names or (f"env_{place}" for place in range(len(envs))))
        if len(self.env_names) != len(self.envs):
            raise ValueError("Number of env_names must match number of envs")
        self.env_map = dict(zip(self.env_names, self.envs, strict=True))
        self._member_key = f"env_group_{id(self)}"
        turns = [env.max_turns for env in self.envs]
        has_rows = any(env.dataset_source is not None for env in self.envs)
        has_eval_rows = any(env.eval_dataset_source is not None for env in self.envs)
        super().__init__(
            max_turns=1 if max(turns) == min(turns) == 1 else -1 if min(turns) < 1 else max(turns),
            dataset=(lambda: _rows(self.env_map, lambda env: env.build_dataset())) if has_rows else None,
            eval_dataset=(lambda: _rows(self.env_map, lambda env: env.build_eval_dataset())) if has_eval_rows else None,
            **options,
        )
        self.rubric = _Routed(self)
        self.max_score_concurrency = min(env.max_score_concurrency for env in self.envs)
        self.isolation = "call" if any(env.isolation == "call" for env in self.envs) else "group"
        self.tool_defs = [tool for env in self.envs for tool in env.tool_defs]

    def get_env_for_name(self, name: str) -> MultiTurnEnv:
        if name not in self.env_map:
            raise ValueError(f"No environment found for info['env_id']={name!r}; there are {', '.join(self.env_map)}")
        return self.env_map[name]

    def member_of(self, state: State) -> MultiTurnEnv:
        """The environment that plays this rollout."""
        member: MultiTurnEnv = state[self._member_key]
        return member

    async def begin(self, row: Mapping[str, Any], **known: Any) -> State:
        info = read_info(row.get("info"))
        route = _route(info.pop(ROUTE, None)) or (self.env_names if len(self.envs) == 1 else [])
        if not route:
            raise ValueError("a row of an EnvGroup has no info['env_id']: take rows from get_dataset()")
        if len(route) > 1:
            info[ROUTE] = route[1:] if len(route) > 2 else route[1]
        member = self.get_env_for_name(route[0])
        state = await member.begin({**row, "info": info}, **known)
        state[self._member_key] = member
        return state

    async def next_prompt(self, state: State) -> Messages | None:
        return await self.member_of(state).next_prompt(state)

    async def add_reply(
        self, state: State, prompt: Sequence[Message], reply: Message, *, is_truncated: bool = False
    ) -> None:
        await self.member_of(state).add_reply(state, prompt, reply, is_truncated=is_truncated)

    async def is_completed(self, state: State) -> bool:
        return await self.member_of(state).is_completed(state)

    async def finish(self, state: State) -> None:
        await self.member_of(state).finish(state)

    async def teardown(self) -> None:
        for env in self.envs:
            await env.teardown()

    async def env_response(self, messages: Messages, state: State, **options: Any) -> Any:
        return await self.member_of(state).env_response(messages, state, **options)


class _Routed(Rubric):
    """What each rollout's own environment says of it."""

    def __init__(self, group: EnvGroup) -> None:
        super().__init__()
        self._group = group

    @property
    def has_group_rewards(self) -> bool:
        return any(env.rubric.has_group_rewards for env in self._group.envs)

    def leaves(self) -> list[Rubric]:
        return [leaf for env in self._group.envs for leaf in env.rubric.leaves()]

    async def score_rollout(self, state: State) -> None:
        await self._group.member_of(state).rubric.score_rollout(state)

    async def score_group(self, states: Sequence[State]) -> None:
        """Those of one environment together, as they are of one row."""
        for env in self._group.envs:
            own = [state for state in states if self._group.member_of(state) is env]
            if own:
                await env.rubric.score_group(own)

    async def cleanup(self, state: State) -> None:
        await self._group.member_of(state).rubric.cleanup(state)


def _rows(envs: Mapping[str, Environment], build: Callable[[Environment], Rows | None]) -> list[dict[str, Any]]:
    return [_routed(row, name) for name, env in envs.items() for row in build(env) or ()]


def _routed(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    info = read_info(row.get("info"))
    route = [name, *_route(info.get(ROUTE))]
    others = {key: value for key, value in row.items() if key not in ("example_id", "env_id")}
    return {**others, "info": {**info, ROUTE: route if len(route) > 1 else name}}


def _route(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(name) for name in value or ()]
