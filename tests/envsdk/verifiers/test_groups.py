"""Several environments as one, through the hooks that runs use."""

from pathlib import Path
from typing import Any

import pytest

from envsdk import verifiers as vf
from envsdk.hosted import Hosted
from envsdk.playing import Episodes
from envsdk.verifiers.hosting import MultiTurn, SingleTurn, hosted_form


class Echo(vf.MultiTurnEnv):
    async def env_response(self, messages: vf.Messages, state: vf.State, **options: Any) -> Any:
        return [{"role": "user", "content": f"again {messages[-1].content}"}]


def single(question: str, reward: float, **options: Any) -> vf.SingleTurnEnv:
    def pays(info: Any) -> float:
        assert "env_id" not in info
        return reward + info.get("bonus", 0.0)

    rows = [{"question": question, "answer": "a", "info": {"bonus": 0.25}}]
    return vf.SingleTurnEnv(dataset=rows, rubric=vf.Rubric([pays]), **options)


def rows_of(hosted: Hosted) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    hosted.rows({"split": "train", "start": 0, "count": 9, "prompt_text": ""}, lambda _, value: told.append(value))
    assert "fault" not in told[-1], told[-1]
    return [value["example"] for value in told[1:]]


def hosted(env: vf.Environment) -> Hosted:
    return Hosted(hosted_form(env), Path("/nowhere"), {}, in_code=True)


def test_each_row_is_asked_and_scored_by_its_own_environment() -> None:
    group = hosted(vf.EnvGroup([single("q", 1.0, system_prompt="s"), single("r", 2.0)], env_names=["one", "two"]))
    assert isinstance(group.environment, SingleTurn)
    first, second = rows_of(group)
    told: dict[int, Any] = {}
    args = {"texts": ["x"], "thinking": False, "prompt_opened": False, "at_once": 1}
    for place, example in enumerate((first, second)):
        group.score({**args, "example": example}, lambda _, value, place=place: told.__setitem__(place, value))

    assert [message["content"] for message in first["messages"]] == ["s", "q"]
    assert [message["content"] for message in second["messages"]] == ["r"]
    assert (second["id"], second["metadata"]) == ("example_000001", {"bonus": 0.25, "env_id": "two"})
    assert [told[0]["reward"], told[1]["reward"]] == [1.25, 2.25]


def test_one_of_several_turns_makes_all_of_them_episodes() -> None:
    echo = Echo(dataset=[{"question": "e"}], max_turns=2, rubric=vf.Rubric([lambda state: len(state["trajectory"])]))
    group = hosted(vf.EnvGroup([single("q", 1.0), echo]))
    assert isinstance(group.environment, MultiTurn)
    examples = rows_of(group)

    def played(example: dict[str, Any]) -> tuple[list[bool], float]:
        episodes = Episodes(group, {"example": example, "prompt_text": "", "thinking": False})
        episodes.start(0)
        done = []
        while not done or not done[-1]:
            done.append(episodes.step(0, "x", False)["done"])
        return done, episodes.score([0])["verdicts"][0]["reward"]

    assert played(examples[0]) == ([True], 1.25)
    assert played(examples[1]) == ([False, True], 2.0)


def test_groups_may_stand_in_groups_and_compare_answers() -> None:
    def first_said(completions: Any) -> list[float]:
        return [float(at == 0) for at, _ in enumerate(completions)]

    compared = vf.SingleTurnEnv(dataset=[{"question": "c"}], rubric=vf.Rubric([first_said]), isolation="call")
    inner = vf.EnvGroup([single("q", 1.0), compared])
    group = hosted(vf.EnvGroup([single("z", 0.0), inner]))
    examples = rows_of(group)
    told: dict[int, Any] = {}
    args = {"texts": ["x", "y"], "thinking": False, "prompt_opened": False, "at_once": 1}

    group.score({**args, "example": examples[2]}, told.__setitem__)

    assert [example["metadata"]["env_id"] for example in examples] == ["env_0", ["env_1", "env_0"], ["env_1", "env_1"]]
    assert (group.about()["scores_groups"], group.about()["isolation"]) == (True, "call")
    assert [told[0]["reward"], told[1]["reward"]] == [1.0, 0.0]


def test_what_leads_nowhere_is_refused() -> None:
    group = vf.EnvGroup([single("q", 1.0), single("r", 1.0)])

    with pytest.raises(ValueError, match="No environment found for info\\['env_id'\\]='gone'; there are env_0, env_1"):
        group.get_env_for_name("gone")
    with pytest.raises(ValueError, match="requires at least one"):
        vf.EnvGroup([])
    with pytest.raises(ValueError, match="must match"):
        vf.EnvGroup([single("q", 1.0)], env_names=["a", "b"])
