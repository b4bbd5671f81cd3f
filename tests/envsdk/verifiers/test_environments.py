"""Datasets, rollouts and evaluation in the verifiers dialect."""

import asyncio
import json
import signal
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from envsdk import verifiers as vf

ROWS = [{"question": "What is 2 + 2?", "answer": "4"}, {"question": "What is 3 * 5?", "answer": "15"}]


def single(dataset: Any = ROWS, **options: Any) -> vf.SingleTurnEnv:
    return vf.SingleTurnEnv(dataset=dataset, **options)


def prompts(env: vf.SingleTurnEnv) -> list[list[tuple[str, str]]]:
    return [[(turn["role"], turn["content"]) for turn in row["prompt"]] for row in env.get_dataset()]


def test_a_question_follows_system_prompt_and_few_shot() -> None:
    shots = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]

    assert prompts(single(ROWS[:1], system_prompt="s", few_shot=shots)) == [
        [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "What is 2 + 2?")]
    ]


def test_a_prompt_gets_the_system_prompt_unless_it_begins_with_one_and_no_few_shot() -> None:
    rows = [
        {"prompt": [{"role": "user", "content": "u"}]},
        {"prompt": [{"role": "system", "content": "own"}, {"role": "user", "content": "u"}]},
        {"prompt": "a text"},
    ]
    with pytest.warns(UserWarning, match="few_shot is ignored"):
        env = single(rows, system_prompt="s", few_shot=[{"role": "user", "content": "shot"}])

    assert prompts(env) == [
        [("system", "s"), ("user", "u")],
        [("system", "own"), ("user", "u")],
        [("system", "s"), ("user", "a text")],
    ]


def test_a_row_with_neither_is_named_and_no_other_column_is_tried() -> None:
    env = single([ROWS[0], {"input": "q", "output": "a"}])

    with pytest.raises(ValueError, match=r"dataset row 2 has `input`, `output`, wanted `prompt` or `question`"):
        env.get_dataset().to_list()


def test_a_builder_is_called_when_its_rows_are_first_wanted_and_once() -> None:
    calls: list[str] = []
    env = single(lambda: calls.append("train") or ROWS, eval_dataset=lambda: calls.append("eval") or ROWS[:1])

    assert calls == []
    assert len(env.get_dataset()) == len(env.get_dataset()) == 2
    assert len(env.get_eval_dataset()) == 1
    assert calls == ["train", "eval"]


def test_without_evaluation_rows_the_training_rows_are_used_and_a_warning_says_so() -> None:
    with pytest.warns(UserWarning, match="falling back to train"):
        assert len(single().get_eval_dataset(n=1)) == 1


def test_rows_can_be_chosen_shuffled_and_changed() -> None:
    rows = single([{"question": str(number)} for number in range(9)]).get_dataset()

    assert [row["question"] for row in rows.select([3, 1])] == ["3", "1"]
    assert rows.shuffle(seed=1)["question"] == rows.shuffle(seed=1)["question"] != rows["question"]
    assert [row["example_id"] for row in rows[6:]] == [6, 7, 8]
    assert len(rows.filter(lambda row: int(row["question"]) > 6)) == 2
    assert rows.map(lambda row: {"answer": "x"})[0]["answer"] == "x"
    assert rows.column_names == ["question", "example_id", "prompt"]


def test_hugging_face_datasets_are_read_without_being_imported() -> None:
    datasets = pytest.importorskip("datasets")

    env = single(datasets.Dataset.from_list(ROWS))

    assert env.get_dataset()[1]["answer"] == "15"
    with pytest.raises(TypeError, match=r"splits|train"):
        single(datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)))


@pytest.mark.parametrize("bad", ["rows.jsonl", {"question": "q"}, 3])
def test_what_are_no_rows_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match="wanted a list of rows"):
        single(bad)


def test_an_id_that_is_no_number_is_kept_under_another_name() -> None:
    assert single([{"question": "q", "example_id": "a7"}]).get_dataset()[0] == {
        "question": "q", "src_id": "a7", "example_id": 0, "prompt": [{"role": "user", "content": "q"}],
    }  # fmt: skip


def test_unknown_keywords_become_attributes_and_nobodys_signals_are_touched() -> None:
    before = signal.getsignal(signal.SIGTERM)
    made: list[vf.SingleTurnEnv] = []
    thread = threading.Thread(target=lambda: made.append(single(flavour="mint")))
    thread.start()
    thread.join()

    assert made[0].flavour == "mint"  # type: ignore[attr-defined]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("options", [{"message_type": "completion"}, {"oai_tools": []}])
def test_what_no_longer_is_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"oai_tools|message_type"):
        single(**options)


def test_some_rows_there_must_be() -> None:
    with pytest.raises(ValueError, match="Either dataset or eval_dataset"):
        vf.SingleTurnEnv()


@pytest.mark.parametrize(("info", "read"), [(None, {}), ({"a": 1}, {"a": 1}), ('{"a": 1}', {"a": 1})])
def test_info_is_a_dict_or_the_json_of_one(info: Any, read: Any) -> None:
    state = asyncio.run(single().begin({"prompt": [], "info": info}))

    assert state["info"] == read


def test_a_task_column_is_the_task_and_without_one_the_row_is() -> None:
    env = single()

    assert asyncio.run(env.begin({"prompt": [], "task": "gsm8k"}))["task"] == "gsm8k"
    assert asyncio.run(env.begin({"prompt": [], "level": 3}))["task"]["level"] == 3


class Counting(vf.MultiTurnEnv):
    """Answers with the number of the turn; `ends` says how it ends."""

    def __init__(self, ends: str = "", **options: Any) -> None:
        super().__init__(**{"dataset": ROWS, **options})
        self.ends = ends

    async def setup_state(self, state: vf.State) -> vf.State | None:
        state["seen"] = []
        return await super().setup_state(state)

    async def env_response(self, messages: vf.Messages, state: vf.State, **options: Any) -> Any:
        state["seen"].append(messages[-1].content)
        turn = len(state["seen"])
        if self.ends == "final" and turn == 2:
            state["final_env_response"] = [{"role": "user", "content": "over"}]
        if self.ends == "error" and turn == 2:
            raise vf.ToolError("broken")
        if self.ends == "long" and turn == 2:
            raise vf.OverlongPromptError("too long")
        return f"turn {turn}"

    @vf.stop
    async def flagged(self, state: vf.State) -> bool:
        return self.ends == "flag" and len(state["seen"]) == 2


async def played(env: vf.MultiTurnEnv, *replies: str) -> vf.State:
    state = await env.begin(env.get_dataset()[0])
    for reply in replies:
        if (prompt := await env.next_prompt(state)) is None:
            break
        await env.add_reply(state, prompt, vf.AssistantMessage(content=reply))
    assert await env.next_prompt(state) is None
    await env.finish(state)
    return state


@pytest.mark.parametrize(
    ("ends", "condition", "turns", "said"),
    [
        ("", "max_turns_reached", 4, ["a", "turn 1", "b", "turn 2", "c", "turn 3", "d"]),
        ("final", "has_final_env_response", 2, ["a", "turn 1", "b", "over"]),
        ("flag", "flagged", 3, ["a", "turn 1", "b", "turn 2", "c"]),
        ("error", "has_error", 2, ["a", "turn 1", "b"]),
        ("long", "prompt_too_long", 2, ["a", "turn 1", "b"]),
    ],
)
def test_how_a_rollout_ends(ends: str, condition: str, turns: int, said: list[str]) -> None:
    """A flag that `env_response` sets takes effect after one more turn, a final response at once."""
    state = asyncio.run(played(Counting(ends, max_turns=4), *"abcdef"))

    assert state["stop_condition"] == condition
    assert len(state["trajectory"]) == turns
    assert [message["content"] for message in state["completion"]] == said
    assert state["is_truncated"] is (ends == "long")
    assert (state["error"] is not None) is (ends == "error")


def test_stop_conditions_are_asked_by_priority_and_then_by_name() -> None:
    asked: list[str] = []

    class Asked(Counting):
        @vf.stop(priority=-1)
        def last(self, state: vf.State) -> bool:
            asked.append("last")
            return True

        @vf.stop(priority=7)
        async def early(self) -> bool:
            asked.append("early")
            return False

    env = Asked()
    asyncio.run(env.is_completed(asyncio.run(env.begin(env.get_dataset()[0]))))

    assert asked == ["early", "last"]


def test_cleanup_finds_the_completion() -> None:
    found: list[Any] = []

    class Cleaning(Counting):
        @vf.cleanup
        async def look(self, state: vf.State) -> None:
            found.append(len(state["completion"]))

    asyncio.run(played(Cleaning(max_turns=2), "a", "b"))

    assert found == [3]


def right(completion: Any, answer: str) -> float:
    return float(answer in completion[-1].content)


def test_evaluating_against_an_endpoint(endpoint: Any, tmp_path: Any) -> None:
    env = single(eval_dataset=ROWS, rubric=vf.Rubric([right]), env_id="sums")

    results = env.evaluate_sync(
        endpoint.url, "policy", rollouts_per_example=3, save_results=True, results_path=tmp_path
    )

    assert [output["reward"] for output in results["outputs"]].count(1.0) == results["metadata"]["avg_reward"] * 6
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 6
    assert json.loads((tmp_path / "metadata.json").read_text())["avg_metrics"]["right"] == 5 / 6
    assert results["metadata"]["pass_at_k"] == {"1": pytest.approx(5 / 6), "2": 1.0}
    with pytest.raises(FileExistsError):
        env.evaluate_sync(endpoint.url, "policy", save_results=True, results_path=tmp_path)


def test_a_failure_costs_its_own_rollout(endpoint: Any) -> None:
    def picky(completion: Any) -> float:
        if "boxed" in completion[-1].content:
            raise KeyError("box")
        return 1.0

    env = single(eval_dataset=ROWS[:1], rubric=vf.Rubric([picky]))

    results = env.evaluate_sync(endpoint.url, "policy", rollouts_per_example=3)

    assert [output["reward"] for output in results["outputs"]].count(None) == 1
    assert results["metadata"]["avg_error"] == pytest.approx(1 / 3)
    assert results["metadata"]["avg_reward"] == 1.0
    assert [output["error"]["error"] for output in results["outputs"] if output["error"]] == ["KeyError"]


def test_an_endpoint_that_is_down_is_an_error_and_never_a_reward() -> None:
    client = vf.Client("http://127.0.0.1:9/v1", max_retries=0)

    results = single(eval_dataset=ROWS, rubric=vf.Rubric([lambda: 1.0])).evaluate_sync(client, "policy")

    assert results["metadata"]["avg_error"] == 1.0
    assert all(output["reward"] is None for output in results["outputs"])
    assert "cannot be reached" in results["outputs"][0]["error"]["message"]


def test_an_environments_own_bug_is_the_error_of_its_rollout(endpoint: Any) -> None:
    class Buggy(Counting):
        async def env_response(self, messages: vf.Messages, state: vf.State, **options: Any) -> Any:
            raise ZeroDivisionError("mine")

    results = Buggy(max_turns=3, eval_dataset=ROWS).evaluate_sync(endpoint.url, "policy", num_examples=1)

    assert results["outputs"][0]["error"] == {"error": "ZeroDivisionError", "message": "mine"}


class Scripted:
    """A client that answers with messages in turn, or raises them."""

    def __init__(self, *replies: Any, reason: str = "stop") -> None:
        self.replies, self.reason = list(replies), reason
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self.create))

    async def create(self, **body: Any) -> Any:
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        if reply == "late":
            await asyncio.sleep(30)
        message = SimpleNamespace(content=reply, tool_calls=None)
        return SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason=self.reason)], usage=None)


def outcome(env: vf.Environment, client: Any) -> dict[str, Any]:
    output: dict[str, Any] = env.evaluate_sync(client, "policy", num_examples=1)["outputs"][0]
    return output


def counting(**options: Any) -> Counting:
    return Counting(eval_dataset=ROWS[:1], rubric=vf.Rubric([lambda completion: len(completion)]), **options)


def test_an_empty_answer_is_an_error_and_no_completion() -> None:
    output = outcome(single(eval_dataset=ROWS, rubric=vf.Rubric([lambda: 1.0])), Scripted(""))

    assert output["error"]["error"] == "EmptyModelResponseError"
    assert output["reward"] is None


def test_a_prompt_that_got_too_long_ends_the_rollout_as_truncated_and_scored() -> None:
    output = outcome(counting(), Scripted("a", vf.OverlongPromptError("2000 tokens")))

    assert (output["stop_condition"], output["is_truncated"], output["error"]) == ("prompt_too_long", True, None)
    assert output["reward"] == 1.0


def test_a_rollout_out_of_time_is_scored_on_what_it_has() -> None:
    output = outcome(counting(timeout_seconds=0.2), Scripted("a", "late"))

    assert (output["stop_condition"], output["is_truncated"], output["error"]) == ("timeout_reached", False, None)
    assert output["reward"] == 1.0


def test_an_answer_that_was_cut_is_truncated() -> None:
    env = single(eval_dataset=ROWS, rubric=vf.Rubric([lambda: 1.0]))

    assert outcome(env, Scripted("a", reason="length"))["is_truncated"] is True
