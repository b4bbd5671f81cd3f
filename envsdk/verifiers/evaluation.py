"""Playing an environment's rows against an endpoint, from scripts and notebooks.

What fails is the error of its own rollout: it has no reward, is left out of every mean, and counted in `avg_error`.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from math import comb
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from envsdk.verifiers.clients import resolved
from envsdk.verifiers.datasets import Row, Rows
from envsdk.verifiers.errors import EmptyModelResponseError, Error, ModelError, OverlongPromptError
from envsdk.verifiers.messages import AssistantMessage, Message, as_message, as_plain
from envsdk.verifiers.rubrics import settled
from envsdk.verifiers.states import State

if TYPE_CHECKING:
    from envsdk.verifiers.environments import Environment

Progress = Callable[[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]], None]
"""Takes all outputs so far, those of the group that has just ended, and the metadata of all."""

_IN_FLIGHT = 128


async def evaluate(
    env: "Environment",
    client: Any,
    model: str,
    sampling_args: Mapping[str, Any] | None = None,
    num_examples: int = -1,
    rollouts_per_example: int = 1,
    max_concurrent: int = -1,
    results_path: str | Path | None = None,
    state_columns: Sequence[str] | None = None,
    save_results: bool = False,
    shuffle: bool = False,
    shuffle_seed: int | None = None,
    on_progress: Progress | None = None,
    **_: Any,
) -> dict[str, Any]:
    """Play rows of the evaluation dataset, or of the training rows where there is none, `rollouts_per_example` each.

    Gives `{"outputs": [one per rollout, in order], "metadata": {...}}`. `client`: a URL, a ClientConfig, or an OpenAI
    client. `max_concurrent`: rollouts in flight.
    """
    rows = env.get_eval_dataset()
    if shuffle:
        rows = rows.shuffle(shuffle_seed or 0)
    rows = rows.take(num_examples) if num_examples > 0 else rows
    return await generate(
        env,
        [row for row in rows for _ in range(rollouts_per_example)],
        client,
        model,
        sampling_args,
        max_concurrent=max_concurrent,
        results_path=results_path,
        state_columns=state_columns,
        save_results=save_results,
        on_progress=on_progress,
    )


async def generate(
    env: "Environment",
    inputs: Sequence[Row] | Rows,
    client: Any,
    model: str,
    sampling_args: Mapping[str, Any] | None = None,
    max_concurrent: int = -1,
    results_path: str | Path | None = None,
    state_columns: Sequence[str] | None = None,
    save_results: bool = False,
    on_progress: Progress | None = None,
    **_: Any,
) -> dict[str, Any]:
    """Play these rows. Rows that follow each other with the same `example_id` are rollouts of one group."""
    began = time.time()
    groups = _groups(list(inputs))
    asked, sampling = resolved(client), {**env.sampling_args, **(sampling_args or {})}
    slots = asyncio.Semaphore(max_concurrent if max_concurrent > 0 else _IN_FLIGHT)
    folder = _results_folder(results_path, env, model) if save_results else None
    told: list[list[dict[str, Any]]] = [[] for _ in groups]

    def metadata() -> dict[str, Any]:
        known = {"env_id": env.env_id, "env_args": env.env_args, "model": model, "sampling_args": sampling}
        counts = {"num_examples": len(groups), "rollouts_per_example": max(map(len, groups), default=0)}
        figures = summary([group for group in told if group], env.pass_threshold)
        return {**known, **counts, **figures, "date": time.strftime("%Y-%m-%dT%H:%M:%S"), "time": time.time() - began}

    async def work(at: int) -> None:
        async def one(row: Row) -> State:
            async with slots:
                return await play(env, row, asked, model, sampling)

        states = await asyncio.gather(*(one(row) for row in groups[at]))
        await score(env, states)
        told[at] = [output_of(state, state_columns or ()) for state in states]
        if folder:
            await asyncio.to_thread(_append, folder / "results.jsonl", told[at])
        if on_progress:
            on_progress([output for group in told for output in group], told[at], metadata())

    waiting = iter(range(len(groups)))

    async def worker() -> None:
        for at in waiting:
            await work(at)

    async with asyncio.TaskGroup() as workers:
        for _worker in range(min(len(groups), slots._value)):
            workers.create_task(worker())
    found = metadata()
    if folder:
        (folder / "metadata.json").write_text(json.dumps(found, indent=2, default=str), encoding="utf-8")
    return {"outputs": [output for group in told for output in group], "metadata": found}


async def play(env: "Environment", row: Row, client: Any, model: str, sampling: Mapping[str, Any]) -> State:
    """A rollout to its end; what fails is in `state["error"]`."""
    try:
        state = await env.begin(row, client=client, model=model, sampling_args=dict(sampling))
    except Exception as error:
        return State(input=dict(row), error=error, trajectory=[], completion=[], metrics={}, reward=None)
    state["timing"]["start"] = time.time()
    try:
        async with asyncio.timeout(getattr(env, "timeout_seconds", None)):
            while (prompt := await env.next_prompt(state)) is not None:
                try:
                    reply, cut = await _reply(state, prompt, client, model, sampling)
                except OverlongPromptError:
                    state["prompt_too_long"] = state["is_truncated"] = True
                    continue
                await env.add_reply(state, prompt, reply, is_truncated=cut)
    except TimeoutError:
        state.update(timed_out=True, is_completed=True, stop_condition="timeout_reached")
    except Exception as error:
        state["error"] = error
    state["timing"]["end"] = time.time()
    try:
        await env.finish(state)
    except Exception as error:
        state["error"] = state.get("error") or error
    return state


async def score(env: "Environment", states: Sequence[State]) -> None:
    """Rewards and metrics for the rollouts of a group that have not failed; a raise is the error of its own rollout."""
    whole = [state for state in states if state.get("error") is None]
    if not env.score_rollouts:
        for state in whole:
            state["reward"], state["metrics"] = 0.0, {}
    elif env.rubric.has_group_rewards:
        await env.rubric.score_group(whole)
    else:
        await asyncio.gather(*(_score_one(env, state) for state in whole))
    for state in whole:
        await env.rubric.cleanup(state)


def output_of(state: State, columns: Sequence[str] = ()) -> dict[str, Any]:
    """A rollout as it is saved; metrics also stand beside the reward, where no field has their name."""
    error, timing = state.get("error"), state.get("timing") or {}
    output = {
        "example_id": state.get("example_id"),
        "prompt": as_plain(state.get("prompt") or []),
        "completion": as_plain(state.get("completion") or []),
        "answer": state.get("answer", ""),
        "info": state.get("info", {}),
        "reward": None if error is not None else state.get("reward"),
        "metrics": state.get("metrics") or {},
        "error": error and {"error": type(error).__name__, "message": str(error)},
        "is_completed": bool(state.get("is_completed")),
        "is_truncated": bool(state.get("is_truncated")),
        "stop_condition": state.get("stop_condition"),
        "token_usage": state.get("usage"),
        "timing": {"generation_s": round(timing.get("end", 0.0) - timing.get("start", 0.0), 4)},
        **{column: state.get(column) for column in columns},
    }
    return {**output["metrics"], **output}


def summary(groups: Sequence[Sequence[Mapping[str, Any]]], threshold: float) -> dict[str, Any]:
    """Means over the rollouts that did not fail, and over the examples how likely one of k is right, or all are."""
    outputs = [output for group in groups for output in group]
    whole = [output for output in outputs if output["error"] is None]
    names = dict.fromkeys(name for output in whole for name in output["metrics"])
    return {
        "avg_reward": fmean(output["reward"] for output in whole) if whole else 0.0,
        "avg_metrics": {
            name: fmean(output["metrics"][name] for output in whole if name in output["metrics"]) for name in names
        },
        "avg_error": (len(outputs) - len(whole)) / len(outputs) if outputs else 0.0,
        "pass_at_k": _over_examples(groups, threshold, lambda n, c, k: 1 - comb(n - c, k) / comb(n, k)),
        "pass_all_k": _over_examples(groups, threshold, lambda n, c, k: comb(c, k) / comb(n, k)),
        "pass_threshold": threshold,
    }


async def _score_one(env: "Environment", state: State) -> None:
    try:
        await env.rubric.score_rollout(state)
    except Exception as error:
        state["error"] = error


async def _reply(
    state: State, prompt: Sequence[Message], client: Any, model: str, sampling: Mapping[str, Any]
) -> tuple[Message, bool]:
    """What the policy answers, and whether it was cut. Raises Error."""
    tools = [{"type": "function", "function": dict(tool)} for tool in state["tool_defs"]]
    options = {**sampling, **({"tools": tools} if tools else {})}
    try:
        reply = await settled(client.chat.completions.create(model=model, messages=as_plain(prompt), **options))
    except (Error, asyncio.CancelledError):
        raise
    except Exception as error:
        raise ModelError(f"{type(error).__name__}: {error}") from error
    choice, usage = reply.choices[0], getattr(reply, "usage", None)
    calls = getattr(choice.message, "tool_calls", None)
    message = AssistantMessage(content=getattr(choice.message, "content", None))
    if calls:
        message["tool_calls"] = [_call_fields(call) for call in calls]
    if reasoning := getattr(choice.message, "reasoning_content", None):
        message["reasoning_content"] = reasoning
    if not (message["content"] or calls or reasoning):
        raise EmptyModelResponseError(f"{model} answered with neither text nor tool calls")
    _count(state, usage)
    return as_message(dict(message)), getattr(choice, "finish_reason", None) == "length"


def _call_fields(call: Any) -> dict[str, Any]:
    function = call.function
    return {"id": call.id, "function": {"name": function.name, "arguments": function.arguments}}


def _count(state: State, usage: Any) -> None:
    before = state.get("usage") or {"input_tokens": 0, "output_tokens": 0}
    state["usage"] = {
        "input_tokens": before["input_tokens"] + (getattr(usage, "prompt_tokens", 0) or 0),
        "output_tokens": before["output_tokens"] + (getattr(usage, "completion_tokens", 0) or 0),
    }


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    groups: list[list[Row]] = []
    for at, row in enumerate(rows):
        if groups and row.get("example_id") is not None and row.get("example_id") == rows[at - 1].get("example_id"):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _over_examples(
    groups: Sequence[Sequence[Mapping[str, Any]]], threshold: float, share: Callable[[int, int, int], float]
) -> dict[str, float]:
    counted = []
    for group in groups:
        rewards = [output["reward"] for output in group if output["error"] is None]
        if rewards:
            counted.append((len(rewards), sum(reward >= threshold for reward in rewards)))
    found: dict[str, float] = {}
    k = 1
    while k <= max((n for n, _ in counted), default=0):
        found[str(k)] = fmean(share(n, c, k) for n, c in counted if n >= k)
        k *= 2
    return found


def _results_folder(results_path: str | Path | None, env: "Environment", model: str) -> Path:
    name = f"{env.env_id or type(env).__name__}--{model.replace('/', '--')}"
    folder = Path(results_path or Path("outputs/evals") / name / time.strftime("%Y%m%d-%H%M%S"))
    if (folder / "results.jsonl").exists():
        raise FileExistsError(f"{folder} holds the results of another evaluation; give another results_path")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _append(path: Path, outputs: Sequence[Mapping[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(output, default=str) + "\n" for output in outputs)
