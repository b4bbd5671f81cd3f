"""Environments as authors of `verifiers` packages write them, and what a policy says in each.

    python samples.py       play each by the real package itself and through Flash's hooks, and print what both earned

Runs in an interpreter that has the real package, and envsdk on its path.
"""

import asyncio
import json
import os
import sys
from copy import deepcopy

import verifiers as vf
from datasets import Dataset

ROWS = [
    {"question": "What is 2 + 2?", "answer": "4", "info": json.dumps({"word": "four"}), "level": 3},
    {"question": "What is 3 * 5?", "answer": "15", "info": json.dumps({"word": "fifteen"}), "level": 1},
]


def rows(*fields, **more):
    return Dataset.from_list([{name: row[name] for name in fields or ("question", "answer")} | more for row in ROWS])


def correct(completion, answer) -> float:
    return 1.0 if answer in (completion[-1]["content"] or "") else 0.0


def xml():
    """A parser, several weighted rewards, a zero-weight metric, what rows hold beside their answer."""
    parser = vf.XMLParser(["think", ("answer", "result")])

    def exact(parser, completion, answer):
        return (parser.parse_answer(completion) or "").strip() == answer

    async def says_word(completion, info):
        await asyncio.sleep(0)
        return (
            info["word"] in completion[-1].content
            if hasattr(completion[-1], "content")
            else (info["word"] in completion[-1]["content"])
        )

    def length(completion, state):
        state["length"] = len(completion[-1]["content"])
        return state["length"]

    def shorter_pays(state, **others):
        return -state["length"] / 100

    rubric = vf.Rubric(funcs=[exact, says_word], weights=[1.0, 0.25], parser=parser)
    rubric.add_reward_func(parser.get_format_reward_func(), weight=0.2)
    rubric.add_reward_func(length, weight=0.0)
    rubric.add_reward_func(shorter_pays, weight=0.5)
    return vf.SingleTurnEnv(
        dataset=rows("question", "answer", "info", "level"), system_prompt="Be brief.", parser=parser, rubric=rubric,
        few_shot=[{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "<answer>2</answer>"}],
    )  # fmt: skip


def prompts():
    """A prompt column, and rows that are built when they are wanted."""

    def made():
        return Dataset.from_list(
            [{"prompt": [{"role": "user", "content": row["question"]}], "answer": row["answer"]} for row in ROWS]
        )

    return vf.SingleTurnEnv(dataset=made, system_prompt="Be kind.", rubric=vf.Rubric(funcs=[correct]))


def group():
    """Answers that are compared."""

    def first_said(completions) -> list[float]:
        texts = [completion[-1]["content"] for completion in completions]
        return [float(texts.index(text) == at) for at, text in enumerate(texts)]

    async def longest(states):
        lengths = [len(state["completion"][-1]["content"]) for state in states]
        return [float(length == max(lengths)) for length in lengths]

    return vf.SingleTurnEnv(dataset=rows(), rubric=vf.Rubric([correct, first_said, longest], [1.0, 0.5, 0.25]))


def rubrics():
    first = vf.Rubric([correct], [0.5])
    second = vf.Rubric([correct, lambda completion: len(completion[-1]["content"]) / 10])
    return vf.SingleTurnEnv(dataset=rows(), rubric=vf.RubricGroup(rubrics=[first, second]))


def thoughts():
    def told(parser, completion, answer):
        return float((parser.parse_answer(completion) or "").strip() == answer)

    def form(parser, completion):
        return parser.get_format_reward_func()(completion)

    parts = [vf.Rubric([told, form], [1.0, 0.3], parser=kind()) for kind in (vf.ThinkParser, vf.MaybeThinkParser)]
    return vf.SingleTurnEnv(dataset=rows(), rubric=vf.RubricGroup(parts))


def mathematics():
    return vf.SingleTurnEnv(dataset=rows(), rubric=vf.MathRubric())


def nothing_to_score():
    return vf.SingleTurnEnv(dataset=rows())


class Guess(vf.MultiTurnEnv):
    async def setup_state(self, state, **kwargs):
        state["guesses"] = []
        return await super().setup_state(state, **kwargs)

    async def env_response(self, messages, state, **kwargs):
        state["guesses"].append(messages[-1]["content"])
        if len(state["guesses"]) == 3:
            state["final_env_response"] = [{"role": "user", "content": "enough"}]
            return state["final_env_response"]
        return [{"role": "user", "content": f"not {len(state['guesses'])}"}]

    @vf.stop
    async def had_fifteen(self, state):
        return any("15" in guess for guess in state["guesses"])


def guesses(state, completion):
    return len(state["guesses"]) + 0.01 * len(completion)


def multi_turn(**options):
    return Guess(max_turns=5, dataset=rows(), rubric=vf.Rubric([guesses, correct]), **options)


def compared_turns():
    def most(states):
        counts = [len(state["trajectory"]) for state in states]
        return [float(count == max(counts)) for count in counts]

    return Guess(max_turns=2, dataset=rows(), rubric=vf.Rubric([guesses, most]))


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: the first
        b: the second
    """
    return a + b


def halve(a: int) -> float:
    """Half of a number."""
    return 1 / 0 if a == 0 else a / 2


def tools():
    def used(completion):
        return sum(message["role"] == "tool" and message["content"] == "4" for message in completion)

    return vf.ToolEnv(
        tools=[add, halve], max_turns=3, dataset=rows(), system_prompt="Use tools.", rubric=vf.Rubric([correct, used])
    )  # fmt: skip


def mixture():
    return vf.EnvGroup(envs=[prompts(), multi_turn()], env_names=["one", "many"])


def call(name, **arguments):
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def _single(*texts):
    return [[text] for text in texts]


CASES = {
    xml: _single("<think>four</think><answer>4</answer>", "<answer>15</answer>", "4 or fifteen", "<result>4</result>"),
    prompts: _single("4", "five", "15"),
    group: _single("4", "4", "it is fifteen, no 4", "15"),
    rubrics: _single("4", "so 15"),
    thoughts: _single("<think>two and two</think>\n4", "4", "<think>x</think><think>y</think>15"),
    mathematics: _single("so \\boxed{4.0}", "\\boxed{\\frac{30}{2}}", "4"),
    nothing_to_score: _single("4", "5"),
    multi_turn: [["1", "2", "3", "4"], ["15", "never said"], ["a", "15"]],
    compared_turns: [["15"], ["1", "2"], ["3", "4"]],
    tools: [
        ["four? " + call("add", a=2, b=2), "It is 4"],
        ["15"],
        [call("halve", a=0) + call("add", a=1, b=3), call("halve", a="x"), call("add", a=1, b=1)],
        ["<tool_call>broken</tool_call> 4"],
    ],
    mixture: [["4", "15"], ["1", "2", "3", "4"]],
}
BY_NAME = {made.__name__: made for made in CASES}


def load_environment(case="xml", **options):
    return BY_NAME[case](**options)


# By the package itself, against a policy that answers at once.


def _spoken(text, before):
    """As an endpoint with a parser for tool calls tells it."""
    import re

    calls = []

    def take(match):
        try:
            found = json.loads(match.group(1))
        except ValueError:
            return match.group(0)
        function = {"name": found["name"], "arguments": json.dumps(found["arguments"])}
        calls.append({"id": f"call_{before + len(calls)}", "type": "function", "function": function})
        return ""

    rest = re.sub(r"<tool_call>\s*(.*?)\s*</tool_call>", take, text, flags=re.DOTALL)
    return {"role": "assistant", "content": rest.strip() if calls else text, **({"tool_calls": calls} if calls else {})}


class Scripted:
    """Shaped like openai's client: says its texts one after another."""

    def __init__(self, texts):
        from types import SimpleNamespace

        self.texts, self.asked = list(texts), []
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self.create))

    async def create(self, *, messages, tools=None, **others):
        from openai.types.chat import ChatCompletion

        self.asked.append(messages)
        before = sum(len(message.get("tool_calls") or ()) for message in messages)
        message = _spoken(self.texts.pop(0), before) if tools else {"role": "assistant", "content": self.texts.pop(0)}
        choice = {"index": 0, "finish_reason": "tool_calls" if "tool_calls" in message else "stop", "message": message}
        return ChatCompletion.model_validate(
            {"id": "r", "object": "chat.completion", "created": 1, "model": "policy", "choices": [choice]}
        )


def client_of(scripted):
    try:
        from verifiers.clients import OpenAIChatCompletionsClient
    except ImportError:
        return scripted

    class Client(OpenAIChatCompletionsClient):
        async def get_native_response(self, prompt, model, sampling_args, tools=None, **others):
            return await scripted.create(messages=prompt, tools=tools)

    return Client(scripted)


async def by_the_package(env, played):
    """Each row's group, scored as the package's own `evaluate` scores it."""
    told = []
    for row in env.get_dataset():
        states = [await env.rollout(deepcopy(row), client_of(Scripted(texts)), "policy", {}) for texts in played]
        await env.rubric.score_group(states)
        told.append([shown(state) for state in states])
    return told


def shown(state):
    return {
        "messages": [spoken(message) for message in [*state["prompt"], *state["completion"]]],
        "reward": state["reward"],
        "metrics": dict(state["metrics"] or {}),
    }


def spoken(message):
    fields = message if isinstance(message, dict) else message.model_dump(exclude_none=True)
    calls = [one.get("function") or one for one in fields.get("tool_calls") or ()]
    return [fields["role"], fields.get("content") or "", [[one["name"], one["arguments"]] for one in calls]]


# Through Flash's hooks.


def hosted(env):
    from pathlib import Path

    from envsdk import dialects
    from envsdk.hosted import Hosted

    return Hosted(dialects.hosted_form(env), Path("/nowhere"), {}, in_code=True)


def examples(hosted):
    rendered = []
    args = {"split": "train", "start": 0, "count": 100, "prompt_text": ""}
    hosted.rows(args, lambda _, value: rendered.append(value))
    return [value["example"] for value in rendered[1:]]


def by_flash(env, played):
    from envsdk.playing import Episodes

    host, told = hosted(env), []
    for example in examples(host):
        if not host.multi_turn:
            found = {}
            args = {"example": example, "texts": [texts[0] for texts in played], "thinking": False,
                    "prompt_opened": False, "at_once": 4}  # fmt: skip
            host.score(args, found.__setitem__)
            told.append([{"messages": example["messages"], **found[at]} for at in range(len(played))])
            continue
        episodes = Episodes(host, {"example": example, "prompt_text": "", "thinking": False})
        said = [_acted(episodes, index, texts) for index, texts in enumerate(played)]
        through = [index for index, one in enumerate(said) if "fault" not in one]
        compared = host.compares_episodes()
        scored = [episodes.score(indices) for indices in ([through] if compared else [[index] for index in through])]
        for index, verdict in zip(through, [one for score in scored for one in score["verdicts"]], strict=True):
            said[index].update(verdict)
        told.append(said)
    return told


def _acted(episodes, index, texts):
    from pathlib import Path

    from envsdk.faults import fault

    messages = list(episodes.start(index)["messages"])
    for text in texts:
        messages.append({"role": "assistant", "content": text})
        try:
            stepped = episodes.step(index, text, False)
        except BaseException as error:  # also SystemExit, as in the fork
            return {"messages": messages, "fault": fault(error, Path("/nowhere"))}
        messages += stepped["messages"]
        if stepped["done"]:
            break
    return {"messages": messages}


def main(names):
    told = {}
    for make, played in CASES.items():
        if names and make.__name__ not in names:
            continue
        theirs = asyncio.run(by_the_package(make(), played))
        told[make.__name__] = [theirs, by_flash(make(), played)]
    print("TOLD " + json.dumps(told))
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # the package's workers would keep us
