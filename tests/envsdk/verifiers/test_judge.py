"""The judge: asked with the question, once, a few at a time; one that cannot be asked is an error."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from envsdk import verifiers as vf
from envsdk.verifiers.judge import JudgeRubric


class Scripted:
    """A client that says yes, and notes what it was asked and how many at once."""

    def __init__(self, fails: bool = False) -> None:
        self.asked: list[dict[str, Any]] = []
        self.fails, self.now, self.most = fails, 0, 0
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self.create))

    async def create(self, **body: Any) -> Any:
        self.asked.append(body)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.005)
        self.now -= 1
        if self.fails:
            raise TimeoutError("slow")
        return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content="yes"))])


async def judged(judge: Any, prompt: Any, completion: Any, answer: Any, state: Any) -> float:
    return float("yes" in (await judge(prompt, completion, answer, state)).lower())


def rubric(client: Any, **options: Any) -> JudgeRubric:
    made = vf.JudgeRubric(judge_client=client, **options)
    made.add_reward_func(judged)
    return made


def score(made: JudgeRubric, *texts: str) -> list[vf.State]:
    row = {"prompt": [vf.SystemMessage(content="s"), vf.UserMessage(content="What is 2 + 2?")], "answer": "4"}
    states = [
        vf.State(input=row, completion=[vf.AssistantMessage(content=text)], task=row, trajectory=[], error=None)
        for text in texts
    ]
    asyncio.run(made.score_group(states))
    return states


def test_the_judge_is_shown_question_answer_and_response() -> None:
    client = Scripted()

    (state,) = score(
        rubric(client, judge_model="m", judge_sampling_args={"max_tokens": 5, "temperature": None}), "four"
    )

    (asked,) = client.asked
    text = asked["messages"][0]["content"]
    assert all(part in text for part in ("```\nWhat is 2 + 2?\n```", "```\n4\n```", "```\nfour\n```"))
    assert (asked["model"], asked["max_completion_tokens"]) == ("m", 5)
    assert "temperature" not in asked
    assert state["reward"] == 1.0
    assert list(state["judge_response"].values()) == ["yes"]


def test_a_question_is_asked_once_however_many_answers_raise_it() -> None:
    client = Scripted()
    made = rubric(client)

    score(made, "a", "b", "a", "a")
    score(made, "b")

    assert len(client.asked) == 2


def test_no_more_questions_are_out_at_once_than_may_be() -> None:
    client = Scripted()

    score(rubric(client, max_concurrent=2), *"abcdef")

    assert (len(client.asked), client.most) == (6, 2)


def test_a_judge_that_cannot_be_asked_is_an_error_and_no_wrong_answer() -> None:
    (state,) = score(rubric(Scripted(fails=True)), "a")

    assert state["reward"] is None
    assert isinstance(state["error"], vf.JudgeError)
    assert isinstance(state["error"], RuntimeError)


def test_another_template_and_parser() -> None:
    client = Scripted()

    score(rubric(client, judge_prompt="{answer}?{response}", parser=vf.XMLParser(["answer"])), "<answer>5</answer>")

    assert client.asked[0]["messages"][0]["content"] == "4?5"


def test_the_clients_own_way_to_an_endpoint_goes_on_after_what_may_pass(endpoint: Any) -> None:
    endpoint.failing = 1
    made = rubric(vf.Client(endpoint.url, "none"), judge_model="judge")

    right, wrong = score(made, "it is 4", "it is 5")

    assert (right["reward"], wrong["reward"]) == (1.0, 0.0)
    assert len(endpoint.asked) == 3


def test_the_client_says_what_an_endpoint_refused(endpoint: Any) -> None:
    endpoint.failing = 9
    client = vf.Client(endpoint.url, max_retries=0)

    with pytest.raises(vf.ModelError, match=r"answered 500: .*down"):
        asyncio.run(client.chat.completions.create(model="m", messages=[]))
