"""Environments as the classic `verifiers` documentation writes them. Runs with the real package and with ours.

python classic.py URL       evaluate each against the endpoint, and print what every rollout earned
"""

import asyncio
import json
import os
import sys

try:
    from envsdk import dialects

    dialects.install()
except ImportError:  # the real package's interpreter
    pass

import verifiers as vf
from datasets import Dataset

ROWS = [
    {"question": "What is 2 + 2?", "answer": "4"},
    {"question": "What is 3 * 5?", "answer": "15"},
    {"question": "Say nothing of use", "answer": "never"},
]


async def correct_answer(completion, answer) -> float:
    """Check if the answer appears in the response."""
    response = completion[-1]["content"]
    return 1.0 if answer in response else 0.0


def question_column(url):
    return vf.SingleTurnEnv(
        dataset=Dataset.from_list(ROWS),
        system_prompt="You are a helpful math tutor.",
        rubric=vf.Rubric([correct_answer]),
    )


def prompt_column(url):
    rows = [{"prompt": [{"role": "user", "content": row["question"]}], "answer": row["answer"]} for row in ROWS]
    return vf.SingleTurnEnv(
        dataset=Dataset.from_list(rows), system_prompt="Be brief.", rubric=vf.Rubric(funcs=[correct_answer])
    )


def xml_parser(url):
    parser = vf.XMLParser(["think", ("answer", "result")])

    def lcs(parser, completion, answer, **kwargs):
        from difflib import SequenceMatcher

        return SequenceMatcher(None, parser.parse_answer(completion) or "", answer).ratio()

    rubric = vf.Rubric(funcs=[lcs], weights=[1.0], parser=parser)
    rubric.add_reward_func(parser.get_format_reward_func(), weight=0.2)
    return vf.SingleTurnEnv(dataset=Dataset.from_list(ROWS), parser=parser, rubric=rubric)


def several_weights(url):
    def check_keywords(completion, info):
        return sum(word in completion[-1]["content"] for word in info["keywords"]) / len(info["keywords"])

    def length_reward(completion):
        return len(completion[-1]["content"]) / 100

    async def penalty(completion, state, **kwargs):
        state["seen"] = len(completion)
        return "3" in completion[-1].content

    rows = [{**row, "info": json.dumps({"keywords": [row["answer"], "answer"]})} for row in ROWS]
    rubric = vf.Rubric(funcs=[check_keywords, length_reward, penalty], weights=[1.0, 0.1, -0.25])
    return vf.SingleTurnEnv(dataset=lambda: Dataset.from_list(rows), rubric=rubric)


def zero_weight(url):
    rubric = vf.Rubric(funcs=[correct_answer])
    rubric.add_metric(lambda completion: 1e6 * len(completion[-1]["content"]))

    async def first_to_state(state, completion):
        state["length"] = len(completion[-1]["content"])
        return state["length"]

    def from_state(state):
        return state["length"] / 1000

    rubric.add_metric(first_to_state)
    rubric.add_reward_func(from_state, weight=0.5)
    return vf.SingleTurnEnv(dataset=Dataset.from_list(ROWS), rubric=rubric)


def columns_and_objects(url):
    def harder_pays_more(completion, answer, difficulty, bonus, example_id=None, task=None):
        return (answer in completion[-1]["content"]) * difficulty * bonus["factor"]

    rubric = vf.Rubric(funcs=[harder_pays_more])
    rubric.add_class_object("bonus", {"factor": 3})
    rows = [{**row, "difficulty": at} for at, row in enumerate(ROWS)]
    return vf.SingleTurnEnv(
        dataset=Dataset.from_list(rows[:1]), eval_dataset=Dataset.from_list(rows), rubric=rubric,
        few_shot=[{"role": "user", "content": "What is 1 + 1?"}, {"role": "assistant", "content": "2"}],
    )  # fmt: skip


def group_reward(url):
    def shortest(completions, answers, **kwargs) -> list[float]:
        lengths = [len(completion[-1]["content"]) for completion in completions]
        return [float(length == min(lengths)) for length in lengths]

    async def rank(states) -> list[float]:
        texts = sorted(state["completion"][-1]["content"] for state in states)
        return [texts.index(state["completion"][-1]["content"]) / len(states) for state in states]

    rubric = vf.Rubric(funcs=[correct_answer, shortest, rank], weights=[1.0, 0.5, 0.25])
    return vf.SingleTurnEnv(dataset=Dataset.from_list(ROWS), rubric=rubric)


def judge_rubric(url):
    try:
        from openai import AsyncOpenAI as Client
    except ImportError:
        Client = vf.Client
    judge = vf.JudgeRubric(judge_client=Client(base_url=url, api_key="none"), judge_model="judge")

    async def judged(judge, prompt, completion, answer, state):
        verdict = await judge(prompt, completion, answer, state)
        return 1.0 if "yes" in verdict.lower() else 0.0

    judge.add_reward_func(judged, weight=0.8)
    return vf.SingleTurnEnv(dataset=Dataset.from_list(ROWS), rubric=judge)


def rubric_group(url):
    parser = vf.XMLParser(["answer"])
    first = vf.Rubric(funcs=[correct_answer], weights=[0.5])
    second = vf.Rubric(funcs=[parser.get_format_reward_func()], weights=[2.0], parser=parser)
    return vf.SingleTurnEnv(dataset=Dataset.from_list(ROWS), rubric=vf.RubricGroup(rubrics=[first, second]))


def math_rubric(url):
    return vf.SingleTurnEnv(dataset=Dataset.from_list(ROWS), rubric=vf.MathRubric())


def think_parser(url):
    def told(parser, completion, answer):
        return float((parser.parse_answer(completion) or "").strip() == answer)

    def form(parser, completion):
        return parser.get_format_reward_func()(completion)

    rubrics = [vf.Rubric([told, form], [1.0, 0.3], parser=kind()) for kind in (vf.ThinkParser, vf.MaybeThinkParser)]
    return vf.SingleTurnEnv(dataset=Dataset.from_list(ROWS), rubric=vf.RubricGroup(rubrics))


def tools(url):
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: the first
            b: the second
        """
        return a + b

    def used_tools(completion):
        return sum(message["role"] == "tool" and message["content"] == "4" for message in completion)

    return vf.ToolEnv(
        tools=[add], max_turns=3, dataset=Dataset.from_list(ROWS), rubric=vf.Rubric([correct_answer, used_tools])
    )


class Offset(vf.StatefulToolEnv):
    def update_tool_args(self, tool_name, tool_args, messages, state, **kwargs):
        return {**tool_args, "offset": 10 * len(state["trajectory"])}


def stateful_tools(url):
    def add(a: int, b: int, offset: int) -> int:
        """Adds.

        Args:
            a: the first
            offset: nobody's business
        """
        return a + b + offset

    def heard(completion):
        return sum(message["role"] == "tool" and message["content"] == "14" for message in completion)

    env = Offset(max_turns=3, dataset=Dataset.from_list(ROWS), rubric=vf.Rubric([correct_answer, heard]))
    env.add_tool(add, args_to_skip=["offset"])
    assert "offset" not in str(env.tool_defs)
    return env


def env_group(url):
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    def used_tools(completion, info):
        return sum(message["role"] == "tool" for message in completion) + 10 * ("env_id" in info)

    def last_digit(completion, answer, info):
        return 0.5 * (completion[-1]["content"][-1:] == answer[-1]) + info["bonus"]

    first = vf.ToolEnv(tools=[add], max_turns=3, dataset=Dataset.from_list(ROWS[:1]), rubric=vf.Rubric([used_tools]))
    rows = [{**ROWS[1], "info": {"bonus": 0.25}}]
    second = vf.SingleTurnEnv(dataset=Dataset.from_list(rows), rubric=vf.Rubric([last_digit]), system_prompt="s")
    return vf.EnvGroup([first, second], env_names=["tools", "digits"])


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


def multi_turn(url):
    def guesses(state, completion):
        return len(state["guesses"]) + 0.01 * len(completion)

    return Guess(max_turns=5, dataset=Dataset.from_list(ROWS), rubric=vf.Rubric([guesses, correct_answer]))


CASES = {
    function.__name__: function
    for function in (
        question_column, prompt_column, xml_parser, several_weights, zero_weight, columns_and_objects, group_reward,
        judge_rubric, rubric_group, math_rubric, think_parser, tools, stateful_tools,
        env_group, multi_turn,
    )
}  # fmt: skip


def shown(message):
    fields = message if isinstance(message, dict) else message.model_dump(exclude_none=True)
    return [fields["role"], fields.get("content") or "", len(fields.get("tool_calls") or ())]


async def main(url):
    os.environ["CLASSIC_KEY"] = "none"
    client = vf.ClientConfig(api_base_url=url, api_key_var="CLASSIC_KEY")
    told = {}
    for name, make in CASES.items():
        results = await make(url).evaluate(client, "policy", rollouts_per_example=3)
        told[name] = [
            {
                "prompt": [shown(message) for message in output["prompt"]],
                "completion": [shown(message) for message in output["completion"]],
                "reward": output["reward"],
                "metrics": output["metrics"],
                "stop": output["stop_condition"],
                "error": bool(output.get("error")),
            }
            for output in results["outputs"]
        ]
    print("TOLD " + json.dumps(told))
    sys.stdout.flush()


if __name__ == "__main__":
    if not hasattr(vf, "ClientConfig"):
        from verifiers.types import ClientConfig

        vf.ClientConfig = ClientConfig
    asyncio.run(main(sys.argv[1]))
    os._exit(0)
