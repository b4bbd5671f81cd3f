"""envsdk/playing.py: the order of calls that authors of environments with several turns rely on."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from envsdk.environments import EnvironmentMultiTurn
from envsdk.episodes import EnvironmentEpisode, EnvironmentStepResult, RewardResult
from envsdk.examples import TaskExample
from envsdk.hosted import Hosted
from envsdk.playing import Episodes, Word
from envsdk.thinking import Answer

ROW = {"record": {"input": "q"}, "input": "q", "id": "example_000000", "metadata": {"turns": 2}, "output": None}


class Recorder(EnvironmentMultiTurn):
    """Writes down what it is asked, and goes on until it hears `stop`."""

    def __init__(self, **answers: Any) -> None:
        self.calls: list[Any] = []
        self.answers = answers
        self.examples: list[TaskExample] = []
        self.episodes: list[EnvironmentEpisode] = []

    def start_episode(self, example: TaskExample, prompt_text: str) -> list[dict[str, Any]]:
        self.calls.append(("start", prompt_text))
        self.examples.append(example)
        return [{"role": "user", "content": "begin"}]

    def max_episode_turns(self, example: TaskExample) -> int:
        self.calls.append("most")
        return int(example.metadata["turns"])

    def step_episode(self, example: TaskExample, messages: Any, assistant_response: str) -> Any:
        self.calls.append(("step", [message["content"] for message in messages], assistant_response))
        default = EnvironmentStepResult(
            done=assistant_response == "stop", messages=({"role": "user", "content": "on"},)
        )
        return self.answers.get(assistant_response, default)

    def score_episode(self, example: TaskExample, episode: EnvironmentEpisode) -> RewardResult:
        self.calls.append(("score", episode.response_text))
        self.examples.append(example)
        self.episodes.append(episode)
        return RewardResult(score=len(episode.turns))


def playing(environment: Any, thinking: bool = False, prompt_text: str = "", **row: Any) -> Episodes:
    hosted = Hosted(environment, Path(), {}, in_code=True)
    return Episodes(hosted, {"example": ROW | row, "prompt_text": prompt_text, "thinking": thinking})


def test_calls_come_in_order_and_the_last_permitted_action_is_stepped() -> None:
    recorder = Recorder()
    episodes = playing(recorder)

    episodes.start(0)
    first = episodes.step(0, "a", False)
    last = episodes.step(0, "b", False)
    scored = episodes.score([0])

    assert (first["done"], last["done"]) == (False, True)
    assert recorder.calls == [
        ("start", ""), "most", ("step", ["begin", "a"], "a"), ("step", ["begin", "a", "on", "b"], "b"), ("score", "b"),
    ]  # fmt: skip
    assert scored["verdicts"][0]["reward"] == 5.0


@pytest.mark.parametrize(("counted", "total"), [((3, 4), 7), ((3, None), 3), ((None, None), None)])
def test_scoring_knows_how_long_an_episode_took_and_what_the_policy_wrote(counted: Any, total: int | None) -> None:
    recorder = Recorder()
    episodes = playing(recorder)
    episodes.start(0)
    for tokens in counted:
        time.sleep(0.005)
        episodes.step(0, "a", False, tokens=tokens)

    episodes.score([0])

    [episode] = recorder.episodes
    assert episode.total_tokens == total
    assert episode.latency_ms is not None
    assert 10 <= episode.latency_ms < 5_000


def test_an_episode_ends_when_the_environment_says_so() -> None:
    episodes = playing(Recorder(), metadata={"turns": 9})
    episodes.start(0)

    assert not episodes.step(0, "a", False)["done"]
    assert episodes.step(0, "stop", False)["done"]


def test_each_rollout_has_an_example_of_its_own_and_scoring_the_untouched_one() -> None:
    recorder = Recorder()
    episodes = playing(recorder)
    episodes.start(0)
    recorder.examples[0].metadata["mine"] = True
    episodes.start(1)
    episodes.step(0, "stop", False)

    episodes.score([0])

    assert [example.metadata for example in recorder.examples] == [
        {"turns": 2, "mine": True},
        {"turns": 2},
        {"turns": 2},
    ]


def test_each_example_has_a_cap_of_its_own() -> None:
    for most in (1, 3):
        episodes = playing(Recorder(), metadata={"turns": most})
        episodes.start(0)

        assert [episodes.step(0, "a", False)["done"] for _ in range(most)] == [False] * (most - 1) + [True]


@pytest.mark.parametrize("most", [0, -1, True, 2.0, "3", None])
def test_a_cap_that_is_no_whole_number_is_refused(most: Any) -> None:
    class Odd(Recorder):
        def max_episode_turns(self, example: TaskExample) -> int:
            return most  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match=r"max_episode_turns gave .*, wanted a whole number of at least 1"):
        playing(Odd()).start(0)


def test_the_runs_text_stands_in_front_unless_the_opening_has_a_system_message() -> None:
    class Own(Recorder):
        def start_episode(self, example: TaskExample, prompt_text: str) -> list[dict[str, Any]]:
            return [{"role": "System", "content": "mine"}, {"role": "user", "content": "begin"}]

    told = [message["content"] for message in playing(Recorder(), prompt_text=" Be brief. ").start(0)["messages"]]
    own = [message["content"] for message in playing(Own(), prompt_text="Be brief.").start(0)["messages"]]

    assert (told, own) == (["Be brief.", "begin"], ["mine", "begin"])


def test_the_response_is_the_final_text_that_a_step_gave_else_the_last_answer() -> None:
    recorder = Recorder(a=EnvironmentStepResult(done=False, final_response_text="FINAL"))
    episodes = playing(recorder, metadata={"turns": 3})
    for index, texts in enumerate((["a", "b", "c"], ["b", "c"])):
        episodes.start(index)
        for text in texts:
            episodes.step(index, text, False)

    episodes.score([0, 1])

    assert [episode.response_text for episode in recorder.episodes] == ["FINAL", "c"]


def test_the_metadata_of_steps_is_kept_where_there_is_any() -> None:
    recorder = Recorder(
        a=EnvironmentStepResult(done=False, metadata={"off": 3}), b=EnvironmentStepResult(done=False),
        c=EnvironmentStepResult(metadata={"off": 0}),
    )  # fmt: skip
    episodes = playing(recorder, metadata={"turns": 3})
    episodes.start(0)
    for text in "abc":
        episodes.step(0, text, False)

    episodes.score([0])

    assert recorder.episodes[0].metadata == {"steps": [{"off": 3}, {"off": 0}]}


def test_tool_messages_and_tool_calls_stay_whole_in_the_transcript() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": {"name": "add"}}]}
    result = {"role": "tool", "content": "4", "name": "add", "tool_call_id": "c1"}
    recorder = Recorder(a=EnvironmentStepResult(done=False, messages=(call, result)))
    episodes = playing(recorder)
    episodes.start(0)

    told = episodes.step(0, "a", False)["messages"]
    episodes.score([0])

    assert told == [call, result]
    assert recorder.episodes[0].messages[-2:] == (call, result)
    turn = recorder.episodes[0].turns[-1]
    assert (turn.role, turn.content, turn.name, turn.metadata) == ("tool", "4", "add", {"tool_call_id": "c1"})


def test_a_step_gets_what_the_policy_wrote_and_scoring_its_answer() -> None:
    raw = "<think>hm</think>stop"
    recorder = Recorder(**{raw: EnvironmentStepResult(final_response_text=raw)})
    episodes = playing(recorder, thinking=True)
    for index, text in enumerate(("<think>hm</think>b", raw)):
        episodes.start(index)
        episodes.step(index, text, False)

    episodes.score([0, 1])

    assert [call[2] for call in recorder.calls if call[0] == "step"] == ["<think>hm</think>b", raw]
    for episode, answer in zip(recorder.episodes, ("b", "stop"), strict=True):
        assert isinstance(episode.response_text, Answer)
        assert (episode.response_text, episode.response_text.thinking) == (answer, "hm")
        assert episode.messages[1]["content"] == answer


def test_a_thought_that_the_prompt_opened_and_nobody_closed_is_no_answer() -> None:
    recorder = Recorder()
    episodes = playing(recorder, thinking=True)
    episodes.start(0)
    episodes.step(0, "still thinking", True)

    episodes.score([0])

    assert recorder.episodes[0].response_text == ""


class Comparing(Recorder):
    def score_episodes(self, example: TaskExample, episodes: Any) -> Any:
        self.calls.append(("score", [episode.response_text for episode in episodes]))
        return self.answers.get("scores", [float(len(episode.response_text)) for episode in episodes])


def test_an_environment_that_compares_gets_the_group_in_one_call() -> None:
    comparing = Comparing()
    episodes = playing(comparing)
    for index, text in enumerate(("a", "bbb")):
        episodes.start(index)
        episodes.step(index, text, False)

    verdicts = episodes.score([0, 1])["verdicts"]

    assert comparing.calls[-1] == ("score", ["a", "bbb"])
    assert [verdict["reward"] for verdict in verdicts] == [1.0, 3.0]


def told(episodes: Episodes, *words: Word, at_once: int = 1) -> dict[int, Any]:
    heard: dict[int, Any] = {}
    episodes.play(words, heard.__setitem__, at_once)
    return heard


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (None, "invalid-result", "step_episode gave a NoneType, wanted an EnvironmentStepResult"),
        (EnvironmentStepResult(messages="no"), "invalid-result", "gave a str as messages, wanted a tuple"),  # type: ignore[arg-type]
        (EnvironmentStepResult(messages=({"role": 1},)), "invalid-result", "step_episode: message 1 has role 1"),
        (EnvironmentStepResult(messages=({"role": "a", "content": "b", "x": {1}},)), "invalid-result", "holds a set"),
    ],
)
def test_a_step_that_gives_no_result_is_a_fault_of_its_episode(answer: Any, kind: str, said: str, at_once: int) -> None:
    episodes = playing(Recorder(a=answer))
    episodes.start(0), episodes.start(1)

    heard = told(
        episodes,
        (0, "step", {"index": 0, "text": "a", "prompt_opened": False}),
        (1, "step", {"index": 1, "text": "b", "prompt_opened": False}),
        at_once=at_once,
    )

    assert heard[0]["fault"]["kind"] == kind
    assert said in heard[0]["fault"]["message"]
    assert heard[1]["messages"] == [{"role": "user", "content": "on"}]


def raising(error: BaseException) -> Callable[..., Any]:
    def hook(*_: Any) -> Any:
        raise error

    return hook


@pytest.mark.parametrize("hook", ["start_episode", "step_episode", "score_episode"])
@pytest.mark.parametrize("error", [ValueError("gone"), SystemExit(3)])
def test_what_a_hook_raises_is_a_fault_with_the_authors_frames(hook: str, error: BaseException) -> None:
    recorder = Recorder()
    episodes = playing(recorder)
    episodes.start(0)
    setattr(recorder, hook, raising(error))

    heard = told(
        episodes,
        (0, "start", {"index": 1}),
        (1, "step", {"index": 0, "text": "a", "prompt_opened": False}),
        (2, "score", {"indices": [0]}),
    )

    faults = [heard[0], heard[1], heard[2].get("verdicts", [{}])[0]]
    [fault] = [found["fault"] for found in faults if "fault" in found]
    assert fault["kind"] == "raised"
    assert type(error).__name__ in fault["message"]


def test_scores_that_are_too_few_fail_the_group_together() -> None:
    episodes = playing(Comparing(scores=[1.0]))
    for index in (0, 1):
        episodes.start(index)
        episodes.step(index, "a", False)

    heard = told(episodes, (0, "score", {"indices": [0, 1]}))

    assert heard[0]["fault"]["message"] == "score_episodes gave 1 results for 2 episodes, wanted one for each"


def test_serial_environments_are_played_on_the_thread_that_asks() -> None:
    import threading

    threads: list[Any] = []

    class Serial(Recorder):
        def start_episode(self, example: TaskExample, prompt_text: str) -> list[dict[str, Any]]:
            threads.append(threading.current_thread())
            return super().start_episode(example, prompt_text)

    def words() -> Iterator[Word]:
        yield 0, "start", {"index": 0}

    playing(Serial()).play(words(), lambda *_: None, 1)

    assert threads == [threading.current_thread()]
