"""The episodes of one group as their fork plays them, in the order of calls that authors rely on.

Each episode has a deep copy of the example for itself: `start_episode`, then `step_episode` for each action of the
policy, up to the example's own `max_episode_turns`; the whole group is scored at the end. What an author keeps on the
environment meanwhile is there when it is scored, and gone afterwards.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from envsdk import dialects
from envsdk.environments import EnvironmentEpisode, EnvironmentTurn
from envsdk.examples import Message, TaskExample, checked_message
from envsdk.faults import NoRewardError, fault
from envsdk.hosted import Hosted, Tell, example_of, plain, verdict
from envsdk.pools import ANSWERING
from envsdk.thinking import Answer, cut_short, split_thinking

Word = tuple[int, str, Mapping[str, Any]]
"""A number to answer under, a method of `Episodes`, and its arguments."""


@dataclass
class _Episode:
    """One rollout, as far as it has come."""

    example: TaskExample
    """Its own copy."""
    most_turns: int
    transcript: list[Message]
    scored: list[Message]
    """The transcript as scoring gets it: with answers that know their thoughts in place of what the policy wrote."""
    num_turns: int = 0
    answer: str = ""
    """The last thing the policy said, as scoring gets it."""
    final: str | None = None
    steps: list[Any] = field(default_factory=list)
    """Every step's metadata that is not empty."""
    began_s: float = field(default_factory=time.monotonic)
    took_s: float = 0.0
    """From its opening to the end of its last step."""
    tokens: int | None = None
    """What the policy wrote, as far as it was counted."""


class Episodes:
    """The group's episodes, by their index."""

    def __init__(self, hosted: Hosted, args: Mapping[str, Any]) -> None:
        self._hosted, self._environment = hosted, hosted.environment
        self._example = example_of(args["example"])
        self._prompt_text: str = args["prompt_text"]
        self._thinking: bool = args["thinking"]
        self._episodes: dict[int, _Episode] = {}

    def start(self, index: int) -> dict[str, Any]:
        """The opening messages."""
        example = deepcopy(self._example)
        messages = self._hosted.opening(example, self._prompt_text, "the opening")
        most_turns = self._hosted.most_turns(example, "the example")
        self._episodes[index] = _Episode(example, most_turns, list(messages), list(messages))
        return {"messages": messages}

    def step(
        self, index: int, text: str, prompt_opened: bool, truncated: bool = False, tokens: int | None = None
    ) -> dict[str, Any]:
        """What follows an action of the policy: messages, and whether the episode is over."""
        episode = self._episodes[index]
        if tokens is not None:
            episode.tokens = (episode.tokens or 0) + tokens
        answer = split_thinking(text, prompt_opened=prompt_opened) if self._thinking else text
        episode.transcript.append({"role": "assistant", "content": text})
        episode.scored.append({"role": "assistant", "content": answer})
        episode.num_turns, episode.answer = episode.num_turns + 1, answer
        said = text
        if getattr(self._environment, "takes_answers", False):
            said = cut_short(answer) if truncated else answer
        result = self._environment.step_episode(episode.example, list(episode.transcript), said)
        if not (hasattr(result, "done") and hasattr(result, "final_response_text")):
            raise NoRewardError(f"step_episode gave a {type(result).__name__}, wanted an EnvironmentStepResult")
        messages = _messages(result.messages)
        episode.transcript += messages
        episode.scored += messages
        if result.final_response_text is not None:
            episode.final = self._final(str(result.final_response_text), text, answer, prompt_opened)
        if result.metadata:
            episode.steps.append(result.metadata)
        episode.took_s = time.monotonic() - episode.began_s
        return {"messages": messages, "done": bool(result.done) or episode.num_turns >= episode.most_turns}

    def score(self, indices: Sequence[int]) -> dict[str, Any]:
        """A verdict for each, in order. An environment that compares them gets all in one call."""
        episodes = [self._played(self._episodes[index]) for index in indices]
        if not self._hosted.compares_episodes():
            score = self._environment.score_episode
            return {"verdicts": [self._verdict(partial(score, self._example, played)) for played in episodes]}
        results = self._environment.score_episodes(self._example, episodes)
        if not isinstance(results, list | tuple) or len(results) != len(episodes):
            found = f"{len(results)} results" if isinstance(results, list | tuple) else f"a {type(results).__name__}"
            raise NoRewardError(f"score_episodes gave {found} for {len(episodes)} episodes, wanted one for each")
        return {"verdicts": [self._verdict(partial(_same, result)) for result in results]}

    def play(self, words: Iterable[Word], tell: Tell, at_once: int) -> None:
        """Answer word after word, up to `at_once` side by side, or one by one on this thread.

        An environment that has a use for this thread itself takes it through `run_beside(work)`.
        """

        methods: dict[str, Callable[..., dict[str, Any]]]
        methods = {"start": self.start, "step": self.step, "score": self.score}

        def answer(number: int, method: str, args: Mapping[str, Any]) -> None:
            try:
                told = methods[method](**args)
            except BaseException as error:  # also SystemExit: exit() costs its own episode only
                told = {"fault": fault(error, self._hosted.folder)}
            tell(number, told)

        def one_by_one() -> None:
            for word in words:
                answer(*word)

        def side_by_side() -> None:
            from concurrent.futures import ThreadPoolExecutor  # loaded where it is used: it costs every fork

            with ThreadPoolExecutor(at_once, ANSWERING) as pool:
                for word in words:
                    pool.submit(answer, *word)

        work = one_by_one if at_once <= 1 else side_by_side
        beside = getattr(self._environment, "run_beside", None)
        if beside:
            beside(work)
        else:
            work()

    def _final(self, final: str, text: str, answer: str, prompt_opened: bool) -> str:
        """What a step declared to be the response, without thoughts, and knowing those of its turn."""
        if not isinstance(answer, Answer):
            return final
        said = split_thinking(final, prompt_opened=prompt_opened and final == text)
        return Answer(str(said), thinking=answer.thinking, raw=answer.raw)

    def _played(self, episode: _Episode) -> EnvironmentEpisode:
        played: EnvironmentEpisode = dialects.known_to_author(
            EnvironmentEpisode(
                messages=tuple(episode.scored),
                response_text=episode.answer if episode.final is None else episode.final,
                turns=tuple(dialects.known_to_author(_turn(message)) for message in episode.scored),
                metadata={"steps": episode.steps},
                latency_ms=episode.took_s * 1e3,
                total_tokens=episode.tokens,
            )
        )
        return played

    def _verdict(self, give: Callable[[], Any]) -> dict[str, Any]:
        try:
            return verdict(give(), "score_episode")
        except BaseException as error:
            return {"fault": fault(error, self._hosted.folder)}


def _same(result: Any) -> Any:
    return result


def _messages(turns: Any) -> list[Message]:
    """A step's messages as plain data. Raises NoRewardError for what are none."""
    if not isinstance(turns, list | tuple):
        raise NoRewardError(f"step_episode gave a {type(turns).__name__} as messages, wanted a tuple of messages")
    try:
        where = [(f"step_episode: message {at + 1}", turn) for at, turn in enumerate(turns)]
        return [plain(checked_message(turn, place), place) for place, turn in where]
    except ValueError as error:
        raise NoRewardError(str(error)) from error


def _turn(message: Message) -> EnvironmentTurn:
    others = {key: value for key, value in message.items() if key not in ("role", "content", "name")}
    content = message.get("content")
    return EnvironmentTurn(message["role"], "" if content is None else content, message.get("name"), others)
