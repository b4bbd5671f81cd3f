"""Environments of the real package in which something goes wrong, and what Flash's hooks make of it.

python unsound.py       print, for each case, what its rollouts earned or failed with
"""

import asyncio
import json
import os
import sys

import samples
import verifiers as vf

from envsdk.thinking import split_thinking


def single(*funcs, **options):
    return vf.SingleTurnEnv(dataset=samples.rows().select([0]), rubric=vf.Rubric(list(funcs)), **options)


def said(completion):
    return completion[-1]["content"]


def reward():
    """A function gives what the policy asks it for."""

    def odd(completion):
        asked = said(completion)
        if asked == "raise":
            raise KeyError("gone")
        return {"none": None, "nan": float("nan"), "text": "much", "half": "0.5", "yes": True, "": -1}[asked]

    return single(odd)


def missing():
    return single(lambda nobody_gives_this: 1.0)


def metric():
    rubric = vf.Rubric([samples.correct])

    def broken(completion):
        return 1 / 0

    def not_a_number(completion):
        return float("nan")

    for func in (broken, not_a_number):
        rubric.add_reward_func(func, weight=0.0)
    return vf.SingleTurnEnv(dataset=samples.rows().select([0]), rubric=rubric)


def one_of_a_group():
    def picky(completion):
        return float(said(completion))

    def first(completions) -> list[float]:
        return [float(at == 0) for at in range(len(completions))]

    return single(picky, first)


def group_function():
    def short(completions) -> list[float]:
        return [1.0]

    return single(samples.correct, short)


class Told(samples.Guess):
    async def env_response(self, messages, state, **kwargs):
        asked = messages[-1]["content"]
        if asked == "bug":
            raise ValueError("a bug")
        if asked == "infra":
            raise vf.InfraError("no machine")
        if asked == "exit":
            raise SystemExit(3)
        return await super().env_response(messages, state, **kwargs)


def turns():
    return Told(max_turns=5, dataset=samples.rows().select([0]), rubric=vf.Rubric([samples.guesses]))


class Forgetful(samples.Guess):
    async def get_prompt_messages(self, state):
        prompt = await super().get_prompt_messages(state)
        return prompt[-1:]


def rewritten():
    return Forgetful(max_turns=5, dataset=samples.rows().select([0]), rubric=vf.Rubric([samples.guesses]))


class Twice(samples.Guess):
    async def env_response(self, messages, state, **kwargs):
        await asyncio.gather(*(self.get_model_response(state, messages) for _ in range(2)))
        return []


def twice_at_once():
    return Twice(max_turns=5, dataset=samples.rows().select([0]), rubric=vf.Rubric([samples.guesses]))


def stopping_tool():
    return vf.ToolEnv(
        tools=[samples.halve], stop_errors=[ZeroDivisionError], dataset=samples.rows().select([0]),
        rubric=vf.Rubric([lambda completion: 1.0]),
    )  # fmt: skip


CASES = {
    reward: [[text] for text in ("raise", "none", "nan", "text", "half", "yes", "")],
    missing: [["4"]],
    metric: [["4"]],
    one_of_a_group: [["2"], ["x"], ["3"]],
    group_function: [["4"], ["4"]],
    turns: [["bug"], ["1", "infra"], ["exit"], ["", "", ""], ["1", "2", "3"], ["1"]],
    rewritten: [["1", "2"]],
    twice_at_once: [["1"]],
    stopping_tool: [[samples.call("halve", a=0)], [samples.call("halve", a=2)]],
}


def thoughts():
    """What a plain parser and one that reads tags get of an answer with thoughts."""
    told = []
    for parser in (vf.Parser(), vf.ThinkParser()):
        seen = []
        env = single(lambda completion, seen=seen: seen.append(completion[-1]) or 1.0, parser=parser)
        env.rubric.rubrics[0].parser = parser
        hosted = samples.hosted(env)
        example = samples.examples(hosted)[0]
        args = {"example": example, "texts": ["why</think>4"], "thinking": True, "prompt_opened": True, "at_once": 1}
        hosted.score(args, lambda *_: None)
        told.append([seen[0].content, seen[0].reasoning_content])
    return told


def cut():
    """Answers that were cut before they were done, with one that was not."""
    told = []
    hosted = samples.hosted(single(lambda state: float(state["is_truncated"])))
    args = {
        "example": samples.examples(hosted)[0], "texts": ["4", "so 4"], "truncated": ["4"], "thinking": False,
        "prompt_opened": False, "at_once": 1,
    }  # fmt: skip
    hosted.score(args, lambda _, value: told.append(value["reward"]))
    return told


def refused_row():
    """A text as `task` was good until 0.1.12."""
    told = []
    rows = samples.rows(task="sums")
    hosted = samples.hosted(vf.SingleTurnEnv(dataset=rows, rubric=vf.Rubric([samples.correct])))
    hosted.rows({"split": "train", "start": 0, "count": 9, "prompt_text": ""}, lambda _, value: told.append(value))
    return told[-1]["fault"]["message"]


def steps_of_thoughts():
    """A multi-turn environment is given answers that know their thoughts."""
    seen = []

    class Seeing(samples.Guess):
        async def env_response(self, messages, state, **kwargs):
            seen.append([messages[-1].content, messages[-1].reasoning_content])
            return await super().env_response(messages, state, **kwargs)

    env = Seeing(max_turns=3, dataset=samples.rows().select([0]), rubric=vf.Rubric([samples.guesses]))
    form = samples.hosted(env).environment
    example = (form.dataset or [])[0]
    form.start_episode(example, "")
    form.step_episode(example, (), split_thinking("<think>a</think>b"))
    return seen


def out_of_time():
    """The package waits no longer for the policy: the rollout is scored by what it had."""
    env = samples.multi_turn(timeout_seconds=0.2)
    form = samples.hosted(env).environment
    example = (form.dataset or [])[0]
    form.start_episode(example, "")
    form.step_episode(example, (), "1")
    form._wait(asyncio.sleep(0.5))
    return form.step_episode(example, (), "15").done


def left_behind():
    """Rollouts that nobody plays on are gone with their examples."""
    form = samples.hosted(samples.multi_turn()).environment
    for _ in range(3):
        form.start_episode((form.dataset or [])[0], "")

    async def others():
        await asyncio.sleep(0.05)
        return len(asyncio.all_tasks()) - 1

    return [len(form._rollouts), form._wait(others())]


if __name__ == "__main__":
    told = {make.__name__: samples.by_flash(make(), played)[0] for make, played in CASES.items()}
    if hasattr(vf, "Client"):
        found = (thoughts, cut, refused_row, steps_of_thoughts, out_of_time, left_behind)
        told |= {one.__name__: one() for one in found}
    print("TOLD " + json.dumps(told))
    sys.stdout.flush()
    os._exit(0)
