"""Environments of the verifiers dialect through the hooks that runs use."""

import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from envsdk import EnvironmentEpisode, TaskExample, dialects
from envsdk import verifiers as vf
from envsdk.hosted import Hosted
from envsdk.thinking import split_thinking
from envsdk.verifiers.hosting import MultiTurn, hosted_form

ROWS = [{"question": "2 + 2", "answer": "4", "level": 3}, {"question": "3 * 5", "answer": "15", "level": 1}]


def exact(completion: Any, answer: str) -> float:
    return float(completion[-1]["content"] == answer)


def hosted(env: vf.Environment, params: dict[str, Any] | None = None) -> Hosted:
    return Hosted(hosted_form(env), Path("/nowhere"), params or {}, in_code=True)


def single(*funcs: Any, **options: Any) -> vf.SingleTurnEnv:
    return vf.SingleTurnEnv(**{"dataset": ROWS, "rubric": vf.Rubric(list(funcs)), **options})


def examples(env: vf.Environment, split: str = "train", **params: Any) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    args = {"split": split, "start": 0, "count": 100, "prompt_text": "be kind"}
    hosted(env, params).rows(args, lambda _, value: told.append(value))
    assert "fault" not in told[-1], told[-1]["fault"]
    return [value["example"] for value in told[1:]]


def scored(env: vf.Environment, *texts: str, thinking: bool = False) -> list[dict[str, Any]]:
    told: dict[int, dict[str, Any]] = {}
    args = {
        "example": examples(env)[0], "texts": list(texts), "thinking": thinking, "prompt_opened": False, "at_once": 4,
    }  # fmt: skip
    hosted(env).score(args, told.__setitem__)
    return [told[index] for index in range(len(texts))]


def test_a_row_is_rendered_with_its_prompt_its_gold_and_the_untouched_record() -> None:
    first, second = examples(single(exact, system_prompt="s"))

    assert first["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "2 + 2"}]
    assert first["completion"] == [{"role": "assistant", "content": "4"}]
    assert first["record"] == ROWS[0]
    assert (second["input"], second["output"], second["id"]) == ("3 * 5", "15", "example_000001")
    assert examples(single(exact))[0]["messages"][0] == {"role": "system", "content": "be kind"}


@pytest.mark.parametrize(
    ("parser", "row", "gold"),
    [
        (vf.Parser(), {}, "4"),
        (vf.MaybeThinkParser(), {}, "4"),
        (vf.XMLParser(["answer"]), {}, "<answer>\n4\n</answer>"),
        (vf.XMLParser(["why", "answer"]), {}, None),
        (vf.ThinkParser(), {}, None),
        (vf.MaybeThinkParser(lambda text: vf.extract_boxed_answer(text, strict=True)), {}, "\\boxed{4}"),
        (vf.ThinkParser(), {"completion": [{"role": "assistant", "content": "own"}]}, "own"),
        (vf.Parser(), {"answer": ""}, None),
    ],
)
def test_gold_is_the_plainest_text_in_which_the_parser_finds_the_answer(
    parser: vf.Parser, row: dict[str, Any], gold: str | None
) -> None:
    (example,) = examples(single(exact, parser=parser, dataset=[{"question": "q", "answer": "4", **row}]))

    assert example["completion"] == (None if gold is None else [{"role": "assistant", "content": gold}])


def test_evaluation_rows_are_the_split_eval_and_are_built_only_when_they_are_wanted() -> None:
    calls: list[str] = []
    env = single(
        exact, dataset=lambda: calls.append("train") or ROWS, eval_dataset=lambda: calls.append("eval") or ROWS
    )

    assert hosted(env).about()["splits"] == ["train", "eval"]
    assert calls == []
    assert len(examples(env, "eval")) == 2
    assert calls == ["eval"]


def test_a_page_of_a_large_dataset_reads_its_own_rows_only() -> None:
    class Large:
        read = 0

        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, at: int) -> dict[str, Any]:
            self.read += 1
            return {"question": f"q{at}"}

    large = Large()
    told: list[dict[str, Any]] = []
    args = {"split": "train", "start": 900_000, "count": 2, "prompt_text": ""}
    hosted(single(exact, dataset=lambda: large)).rows(args, lambda _, value: told.append(value))

    assert told[0] == {"total": 1_000_000}
    assert [value["example"]["id"] for value in told[1:]] == ["example_900000", "example_900001"]
    assert large.read < 10


def test_records_of_the_params_may_be_in_the_columns_of_either_dialect() -> None:
    found = examples(single(exact), records=[{"question": "q", "answer": "a"}, {"input": "i", "output": "o"}])

    assert [example["messages"][-1]["content"] for example in found] == ["q", "i"]
    assert [example["output"] for example in found] == ["a", "o"]


def test_info_that_is_no_json_names_its_row() -> None:
    told: list[Any] = []
    env = single(exact, dataset=[{"question": "q", "info": "{oops"}])
    args = {"split": "train", "start": 0, "count": 9, "prompt_text": ""}
    hosted(env).rows(args, lambda _, value: told.append(value))

    assert "row 1: info is the text '{oops', which is not JSON" in told[-1]["fault"]["message"]


def test_every_function_is_a_metric_and_the_reward_is_the_rubrics() -> None:
    async def harder(level: int, info: Any, task: Any, prompt: Any) -> int:
        assert prompt[-1].content == "2 + 2"
        return level

    env = single(exact, harder)
    env.rubric.add_metric(lambda completion: 1 / 0)
    right, wrong = scored(env, "4", "5")

    assert (right["reward"], right["success"], wrong["reward"]) == (4.0, True, 3.0)
    assert [(metric["name"], metric["score"]) for metric in right["metrics"]] == [
        ("exact", 1.0), ("harder", 3.0), ("<lambda>", None),
    ]  # fmt: skip
    assert right["metrics"][2]["reason"] == "ZeroDivisionError: division by zero"


def test_success_is_a_reward_of_at_least_the_pass_threshold() -> None:
    env = single(lambda completion: float(completion[-1].content))

    assert [verdict["success"] for verdict in scored(env, "0.5", "0.4")] == [True, False]


@pytest.mark.parametrize("does", ["raise", "exit", "nan", "none"])
def test_a_reward_function_that_fails_is_the_fault_of_its_own_answer(does: str) -> None:
    def picky(completion: Any) -> Any:
        if completion[-1].content == "4":
            return 1.0
        if does == "exit":
            raise SystemExit(2)
        return {"raise": {}.__getitem__, "nan": float, "none": lambda _: None}[does]("nan")

    good, bad = scored(single(picky), "4", "5")

    assert good["reward"] == 1.0
    assert bad["fault"]["kind"] == "raised"


def test_a_group_function_compares_all_and_a_raise_in_another_costs_its_own_answer() -> None:
    def longest(completions: Any) -> list[float]:
        lengths = [len(completion[-1].content) for completion in completions]
        return [float(length == max(lengths)) for length in lengths]

    def whole(completion: Any) -> float:
        return float(int(completion[-1].content) > 0)

    env = single(longest, whole)
    short, long, odd = scored(env, "4", "55", "x")

    assert hosted(env).about()["scores_groups"] is True
    assert [short["reward"], long["reward"]] == [1.0, 2.0]
    assert "ValueError" in odd["fault"]["message"]


@pytest.mark.parametrize(
    ("parser", "content", "reasoning"),
    [
        (vf.Parser(), "4", "why"),
        (vf.ThinkParser(), "<think>why</think>4", None),
        (vf.XMLParser(["think"]), "<think>why</think>4", None),
    ],
)  # fmt: skip
def test_thoughts_are_apart_unless_a_parser_wants_to_see_their_tags(
    parser: vf.Parser, content: str, reasoning: str | None
) -> None:
    seen: list[Any] = []
    env = single(lambda completion: seen.append(completion[-1]) or 1.0, parser=parser)

    scored(env, "<think>why</think>4", thinking=True)

    assert (seen[0].content, seen[0].reasoning_content) == (content, reasoning)


class Doubling(vf.MultiTurnEnv):
    async def setup_state(self, state: vf.State) -> vf.State | None:
        state["numbers"] = []
        return await super().setup_state(state)

    async def env_response(self, messages: vf.Messages, state: vf.State, **options: Any) -> Any:
        state["numbers"].append(int(messages[-1].content))
        if state["numbers"][-1] == 8:
            state["final_env_response"] = [{"role": "user", "content": "done"}]
        return [{"role": "user", "content": f"twice {state['numbers'][-1]}"}]


def sum_of(state: vf.State) -> float:
    return float(sum(state["numbers"]))


def doubling(max_turns: int = 5, **options: Any) -> MultiTurn:
    env = Doubling(**{"max_turns": max_turns, "dataset": ROWS, "rubric": vf.Rubric([sum_of]), **options})
    form = hosted_form(env)
    assert isinstance(form, MultiTurn)
    return form


def play(form: MultiTurn, *actions: str) -> tuple[TaskExample, EnvironmentEpisode, list[Any]]:
    example = deepcopy((form.dataset or [])[0])
    transcript: list[Any] = form.start_episode(example, "")
    steps, results = [], []
    for action in actions:
        transcript.append({"role": "assistant", "content": action})
        results.append(form.step_episode(example, transcript, action))
        steps.append(results[-1].metadata)
        transcript += results[-1].messages
        if results[-1].done:
            break
    return example, EnvironmentEpisode(tuple(transcript), action, metadata={"steps": steps}), results


def test_episodes_are_stepped_with_a_state_of_their_own_and_scored_by_it() -> None:
    form = doubling()
    first = play(form, "1", "2", "8", "9")
    second = play(form, "3")

    assert [message["content"] for message in first[1].messages] == [
        "2 + 2",
        "1",
        "twice 1",
        "2",
        "twice 2",
        "8",
        "done",
    ]
    assert [result.done for result in first[2]] == [False, False, True]
    assert form.score_episode(first[0], first[1]).score == 11.0
    assert form.score_episode(second[0], second[1]).score == 3.0
    assert [metric.name for metric in form.score_episode(second[0], second[1]).metrics] == ["sum_of", "num_turns"]


def test_the_last_permitted_turn_ends_the_episode_without_an_answer_of_the_environment() -> None:
    form = doubling(max_turns=2)
    example, episode, results = play(form, "1", "2", "3")

    assert form.max_episode_turns(example) == 2
    assert [result.done for result in results] == [False, True]
    assert form.score_episode(example, episode).score == 1.0


def test_an_episode_that_was_not_played_here_is_played_again() -> None:
    example, episode, _ = play(doubling(), "1", "2")

    assert doubling().score_episode(example, episode).score == 3.0


def test_states_are_gone_with_their_examples() -> None:
    form = doubling()
    for _ in range(3):
        play(form, "1")

    assert form._states == {}


def test_an_error_of_the_environment_is_raised_to_whoever_steps() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        play(doubling(), "one")


def test_episodes_are_compared_where_a_function_wants_them_all() -> None:
    def most(states: Any) -> list[float]:
        sums = [sum(state["numbers"]) for state in states]
        return [float(total == max(sums)) for total in sums]

    form = doubling(rubric=vf.Rubric([most]))
    example, low, _ = play(form, "1")
    kept, high, _ = play(form, "7")

    assert Hosted(form, Path("/nowhere"), {}, in_code=True).about()["scores_groups"] is True
    assert [result.score for result in form.score_episodes(example, [low, high])] == [0.0, 1.0]
    assert kept is not example


def test_scoring_sees_thoughts_apart() -> None:
    seen: list[Any] = []
    form = doubling(rubric=vf.Rubric([lambda completion: seen.extend(completion) or 1.0]))
    example, episode, _ = play(form, "<think>a</think>1")
    answer = split_thinking("<think>a</think>1")
    messages = tuple({**m, "content": answer} if m["role"] == "assistant" else m for m in episode.messages)
    form.score_episode(example, EnvironmentEpisode(messages, answer, metadata=episode.metadata))

    assert (seen[0].content, seen[0].reasoning_content) == ("1", "a")


def test_a_history_that_is_rewritten_is_refused() -> None:
    class Forgetful(Doubling):
        async def get_prompt_messages(self, state: vf.State) -> Any:
            return [vf.UserMessage(content=f"turn {len(state['trajectory'])}")]

    form = hosted_form(Forgetful(max_turns=3, dataset=ROWS))
    assert isinstance(form, MultiTurn)
    with pytest.raises(ValueError, match="conversations that only grow"):
        play(form, "1")


def test_tools_are_shown_called_and_counted() -> None:
    def double(number: int) -> int:
        """Twice the number."""
        return 2 * number

    form = hosted_form(vf.ToolEnv(tools=[double], dataset=ROWS, system_prompt="s", rubric=vf.Rubric([exact])))
    assert isinstance(form, MultiTurn)
    call = '<tool_call>{"name": "double", "arguments": {"number": 2}}</tool_call>'
    example, episode, results = play(form, call, "4")
    result = form.score_episode(example, episode)

    assert episode.messages[0]["content"] == "s"
    assert [tool["function"]["name"] for tool in episode.messages[0]["tools"]] == ["double"]
    assert results[0].messages == ({"role": "tool", "content": "4", "tool_call_id": "call_0"},)
    assert results[1].done
    assert result.score == 1.0
    assert {metric.name: metric.score for metric in result.metrics} == {
        "exact": 1.0, "num_turns": 2.0, "total_tool_calls": 1.0, "double_calls": 1.0,
    }  # fmt: skip


def test_both_dialects_can_be_imported_in_any_interpreter_after_install() -> None:
    code = """
import sys
from envsdk import dialects
dialects.install()
assert "envsdk.verifiers" not in sys.modules
import verifiers as vf
from verifiers.rubrics.math_rubric import MathRubric
from verifiers.types import Messages, State
from verifiers.utils.data_utils import extract_boxed_answer
from freesolo.environments import EnvironmentSingleTurn
import envsdk.verifiers as ours
assert vf.SingleTurnEnv is ours.SingleTurnEnv and MathRubric is ours.MathRubric
try:
    vf.SandboxEnv
except AttributeError as error:
    assert "[environment] pip" in str(error)
try:
    import verifiers.v1
except ModuleNotFoundError:
    print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)

    assert done.stdout == "fine\n", done.stderr


def test_a_real_package_goes_first(tmp_path: Path) -> None:
    (tmp_path / "verifiers.py").write_text("MINE = 1")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom envsdk import dialects; dialects.install()\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "import verifiers; print(verifiers.MINE)"],
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert done.stdout == "1\n", done.stderr


def test_a_script_loads_an_environment_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "environment.py").write_text(
        "import verifiers as vf\n"
        "def load_environment(size=1):\n    return vf.SingleTurnEnv(dataset=[{'question': 'q'}] * size)\n"
    )

    env = vf.load_environment(str(tmp_path), size=3)

    assert len(env.get_dataset()) == 3
    assert env.env_args == {"size": 3}
    assert isinstance(env, dialects.environment_types())
    with pytest.raises(TypeError, match="does not take colour"):
        vf.load_environment(str(tmp_path), colour="red")
