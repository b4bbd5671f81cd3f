"""Call a tool, hear what it gives, and say it: tool use taught by trajectories, in the envsdk dialect.

A row's output is a conversation as a tool-using model leaves it: a turn with a call, the tool's message, a turn with
the answer. SFT learns the two turns of the assistant and nothing of the tool's. Here the tools are played too, so that
what was learned can be measured: the policy calls, a real function answers, the policy speaks.
"""

import json
import re

from envsdk import EnvironmentMultiTurn, EnvironmentStepResult, RewardMetric, RewardResult

CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
TOOLS = {"add": lambda a, b: a + b, "larger": lambda a, b: max(a, b), "sort": lambda digits: sorted(digits)}


class ToolCalls(EnvironmentMultiTurn):
    def start_episode(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]

    def max_episode_turns(self, example):
        return 2

    def step_episode(self, example, messages, assistant_response):
        call = read_call(assistant_response)
        if call is None or len(messages) > 2:  # the answer, or what is no call
            return EnvironmentStepResult(done=True)
        return EnvironmentStepResult(
            done=False, messages=({"role": "tool", "content": used(call)},), metadata={"call": call}
        )

    def score_episode(self, example, episode):
        """Half for the call that the row makes, half for saying what the tool gave."""
        wanted, _, answer = example.output["messages"]
        calls = [step["call"] for step in episode.metadata["steps"]]
        right_call = calls == [wanted["tool_calls"][0]["function"]]
        right_answer = bool(calls) and episode.response_text.strip() == answer["content"]
        return RewardResult(
            score=0.5 * right_call + 0.5 * right_answer,
            success=right_call and right_answer,
            metrics=(
                RewardMetric("exact_call", score=right_call),
                RewardMetric("any_call", score=bool(calls)),
                RewardMetric("right_answer", score=right_answer),
            ),
        )


def read_call(text):
    """`{"name", "arguments"}` of a turn that calls a tool; None for any other."""
    found = CALL.search(text)
    try:
        call = json.loads(found.group(1)) if found else None
    except (ValueError, RecursionError):
        return None
    return call if isinstance(call, dict) and call.keys() == {"name", "arguments"} else None


def used(call):
    """What a tool gives, as text. A call that it cannot take is answered with why."""
    try:
        return json.dumps(TOOLS[call["name"]](**call["arguments"]))
    except Exception as error:  # the policy writes whatever it likes
        return f"error: {type(error).__name__}"


def load_environment():
    return ToolCalls()
