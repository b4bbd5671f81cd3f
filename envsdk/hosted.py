"""An environment as its host uses it: loaded from a folder, its rows and verdicts as plain data.

Nothing here knows of processes. Answers are told one by one through `tell(index, value)`, so that what is told stays
told when the author's code takes the process down.
"""

import math
import random
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from envsdk import dialects
from envsdk.environments import with_system_text
from envsdk.examples import Message, TaskExample, checked_message, stable_example_id
from envsdk.faults import NoRewardError, fault
from envsdk.lines import LineFile
from envsdk.loading import accepted_params, checked_environment, find_factory, names_param
from envsdk.pools import ANSWERING, renew_in_forks
from envsdk.splits import DEFAULT_SPLIT, SUITES, load_split, prompt_text, split_names
from envsdk.suites import Suites, suites_of
from envsdk.thinking import Answer, cut_short, split_thinking

Tell = Callable[[int, dict[str, Any]], None]

TOTAL = -1
"""The index under which the number of rows is told."""

_ROWS_A_BEAT = 64
_MAX_DEPTH = 32
_MOST_MARKS = 50_000
"""As many fit into one answer; a file of more rows is looked through each time."""
_LARGEST_REWARD = 1e9
_NUMBERS = (float, int, bool)


class Hosted:
    """One loaded environment."""

    def __init__(self, environment: Any, folder: Path, params: Mapping[str, Any], *, in_code: bool) -> None:
        self.environment, self.folder, self.params = environment, folder, params
        self.split = str(params.get("split") or DEFAULT_SPLIT)
        self.in_code = in_code
        """The rows that the environment made itself are those of `split`."""

    @classmethod
    def load(cls, folder: Path, params: Mapping[str, Any]) -> "Hosted":
        """Import `environment.py` and call its factory.

        Raises whatever the author's code raises, and TypeError for what is no environment.
        """
        factory, origin = find_factory(folder / "environment.py", "load_environment")
        made = checked_environment(factory(**accepted_params(factory, params, origin)), origin)
        environment = dialects.hosted_form(made)
        renew_in_forks()
        split = params.get("split") or DEFAULT_SPLIT
        if suites := suites_of(folder, params, split):
            environment = Suites(environment, suites)
        return cls(environment, folder, params, in_code=split == DEFAULT_SPLIT or names_param(factory, "split"))

    def about(self) -> dict[str, Any]:
        """What the parent needs to know before it asks for anything."""
        return {
            "name": type(getattr(self.environment, "author", self.environment)).__name__,
            "split": self.split,
            "splits": split_names(self.folder, self.split, self.environment),
            "prompt_text": prompt_text(self.folder, self.params),
            "max_score_concurrency": self._at_once(),
            "isolation": "call" if getattr(self.environment, "isolation", "group") == "call" else "group",
            "scores_groups": self.compares_episodes() if self.multi_turn else self._scores_groups(),
            "multi_turn": self.multi_turn,
        }

    @property
    def multi_turn(self) -> bool:
        return isinstance(self.environment, dialects.multi_turn_types())

    def compares_episodes(self) -> bool:
        """The author compares the episodes of a group: they are scored in one call, and fail together."""
        return self._overrides("score_episodes")

    def opening(self, example: TaskExample, text: str, where: str) -> list[Message]:
        """The messages that open an episode. Raises ValueError, which begins with `where`, for what are none."""
        opening = self.environment.start_episode(example, text)
        if not isinstance(opening, list | tuple) or not opening:
            raise ValueError(f"{where}: start_episode gave a {_kind(opening)}, wanted a list of at least one message")
        messages = list(_messages(opening, f"{where}: message"))
        return with_system_text(messages, text) if self.multi_turn else messages

    def most_turns(self, example: TaskExample, where: str) -> int:
        """How many actions the policy has in an episode of this example, whatever else ends it."""
        turns = self.environment.max_episode_turns(example)
        if type(turns) is not int or turns < 1:
            raise ValueError(f"{where}: max_episode_turns gave {_shown(turns)}, wanted a whole number of at least 1")
        return turns

    def rows(self, args: Mapping[str, Any], tell: Tell) -> None:
        """Rows `start` to `start + count` of a split, rendered; first their total. A bad row is told as a fault.

        `at_once`: of a split that has to be read whole, all rows, so that it is read once.
        """
        start, count = args["start"], args["count"]
        try:
            examples = self._examples(args["split"], args.get("known"))
            marks = examples.marks if isinstance(examples, LineFile) else []
            if args.get("at_once") and not isinstance(examples, LineFile):
                start, count = 0, len(examples)
            tell(TOTAL, {"total": len(examples), **({"marks": marks} if 0 < len(marks) <= _MOST_MARKS else {})})
            for index in range(start, min(start + count, len(examples))):
                tell(index, {"example": self._rendered(examples[index], index, args["prompt_text"])})
        except Exception as error:
            tell(TOTAL, {"fault": fault(error, self.folder, kind="load-failed")})

    def check(self, args: Mapping[str, Any], tell: Tell) -> None:
        """Render every row of a split and tell only how many there are, now and then and at the end."""
        try:
            examples = self._examples(args["split"])
            for index, example in enumerate(examples):
                self._rendered(example, index, args["prompt_text"])
                if index % _ROWS_A_BEAT == 0:
                    tell(index, {})
            tell(TOTAL, {"total": len(examples)})
        except Exception as error:
            tell(TOTAL, {"fault": fault(error, self.folder, kind="load-failed")})

    def score(self, args: Mapping[str, Any], tell: Tell) -> float:
        """A verdict for each of `texts`, told as it is known; a raise is the fault of its own answer alone.

        Gives the seconds that the answers took, added up: more than passed where they were scored side by side.
        """
        example = example_of(args["example"])
        texts: list[str] = args["texts"]
        random.seed(_seed(example, texts))  # the same group draws the same numbers, whatever is scored before it
        if args["thinking"]:
            texts = [split_thinking(text, prompt_opened=args["prompt_opened"]) for text in texts]
        if getattr(self.environment, "takes_answers", False):
            cut = [raw in args.get("truncated", ()) for raw in args["texts"]]
            texts = [cut_short(text) if short else text for text, short in zip(texts, cut, strict=True)]
        if self._scores_groups():
            return self._score_group(example, texts, tell)
        if hasattr(self.environment, "score_each"):
            return self._score_each(example, texts, tell)
        took_s: list[float] = []

        def score(index: int) -> None:
            began = time.perf_counter()
            found = self._verdict(self._score_one, example, texts[index])
            took_s.append(time.perf_counter() - began)
            tell(index, {**found, "took_s": took_s[-1]})

        at_once = min(args["at_once"], len(texts))
        if at_once <= 1:
            for index in range(len(texts)):
                score(index)
        else:
            from concurrent.futures import ThreadPoolExecutor  # loaded where it is used: it costs every fork

            with ThreadPoolExecutor(at_once, ANSWERING) as pool:
                for done in [pool.submit(score, index) for index in range(len(texts))]:
                    done.result()
        return sum(took_s)

    def score_groups(self, args: Mapping[str, Any], tell: Tell) -> float:
        """`score` for several groups, one after another, their answers numbered through."""
        first, busy_s = 0, 0.0
        for group in args["groups"]:

            def tell_from(index: int, value: dict[str, Any], first: int = first) -> None:
                tell(first + index, value)

            busy_s += self.score({**args, **group}, tell_from)
            first += len(group["texts"])
        return busy_s

    def _score_each(self, example: TaskExample, texts: Sequence[str], tell: Tell) -> float:
        """The environment itself scores answers side by side. Gives the seconds it took."""
        began = time.perf_counter()

        def told(index: int, result: Any, took_s: float) -> None:
            tell(index, {**self._verdict(verdict, result), "took_s": took_s})

        self.environment.score_each(example, texts, told)
        return time.perf_counter() - began

    def _score_one(self, example: TaskExample, text: str) -> dict[str, Any]:
        normal = self.environment.normalize_response_text(example, text)
        if isinstance(text, Answer) and not isinstance(normal, Answer):
            normal = Answer(normal, thinking=text.thinking, raw=text.raw)
        return verdict(self.environment.score_response(example, normal))

    def _score_group(self, example: TaskExample, texts: Sequence[str], tell: Tell) -> float:
        """The author compares answers: all are scored in one call, and fail together. Gives the seconds it took."""

        def score() -> list[Any]:
            results = self.environment.score_responses(example, list(texts))
            if not isinstance(results, list | tuple) or len(results) != len(texts):
                found = f"{len(results)} results" if isinstance(results, list | tuple) else f"a {_kind(results)}"
                raise NoRewardError(f"score_responses gave {found} for {len(texts)} answers, wanted one for each")
            return list(results)

        began = time.perf_counter()
        results, found = [], {}
        try:
            results = score()
        except BaseException as error:
            found = {"fault": fault(error, self.folder)}
        took_s = time.perf_counter() - began
        for index in range(len(texts)):
            found = self._verdict(verdict, results[index]) if results else found
            tell(index, {**found, "took_s": took_s})
        return took_s

    def _verdict(self, give: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
        try:
            return give(*args)
        except BaseException as error:  # also SystemExit: exit() costs its own answer only
            return {"fault": fault(error, self.folder)}

    def _examples(self, split: str, known: Any = None) -> Sequence[TaskExample]:
        if split == SUITES and split != self.split:  # only looked through: whoever scores them is loaded for them
            return Suites(self.environment, suites_of(self.folder, self.params, split)).split_rows(split)
        return load_split(
            self.folder, self.environment, self.params, split, own=self.split, in_code=self.in_code, known=known
        )

    def _rendered(self, example: TaskExample, index: int, text: str) -> dict[str, Any]:
        where = f"row {index + 1}"
        example = dialects.known_to_author(example)
        own = deepcopy(example) if self.multi_turn else example  # an episode may write on it
        opening = self.opening(own, text, where)
        return {
            "index": index,
            "id": stable_example_id(index),
            "input": example.input,
            "output": plain(example.output, f"{where}: output"),
            "metadata": plain(example.metadata, f"{where}: metadata"),
            "record": plain(example.record, f"{where}: record"),
            "messages": opening,
            "completion": self._completion(example, where),
            "max_turns": self.most_turns(own, where) if self.multi_turn else None,
        }

    def _completion(self, example: TaskExample, where: str) -> list[Message] | None:
        """The gold turns; None for a row without output, unless the author's own `sft_completion` has some."""
        if example.output is None and not self._overrides("sft_completion"):
            return None
        try:
            turns = self.environment.sft_completion(example)
        except Exception as error:
            if example.output is None:
                return None
            raise ValueError(f"{where}: {error}") from error
        return list(_messages(turns, f"{where}: completion message")) if turns else None

    def _at_once(self) -> int:
        return max(1, int(getattr(self.environment, "max_score_concurrency", 32)))

    def _scores_groups(self) -> bool:
        return self._overrides("score_responses")

    def _overrides(self, method: str) -> bool:
        """The author's class, or the object itself, has a method of its own in place of the SDK's."""
        defined = getattr(getattr(type(self.environment), method), "__module__", "")
        return method in vars(self.environment) or defined.partition(".")[0] not in ("envsdk", "freesolo")


def _seed(example: TaskExample, texts: Sequence[str]) -> int:
    seed = zlib.crc32((example.id or "").encode("utf-8", "surrogatepass"))
    for text in texts:
        seed = zlib.crc32(text.encode("utf-8", "surrogatepass"), seed + 1)
    return seed


def example_of(row: Mapping[str, Any]) -> TaskExample:
    """A rendered row as authors see it."""
    example: TaskExample = dialects.known_to_author(
        TaskExample(
            record=row["record"], input=row["input"], id=row["id"], metadata=row["metadata"], output=row["output"]
        )
    )
    return example


def verdict(result: Any, given_by: str = "score_response") -> dict[str, Any]:
    """A RewardResult, or a number alone, as plain data. Raises NoRewardError for anything else, and an error itself."""
    if isinstance(result, BaseException):
        raise result
    if not (hasattr(result, "score") and hasattr(result, "resolved_success")):
        if type(result) not in _NUMBERS:
            raise NoRewardError(
                f"{given_by} gave {_shown(result)} (a {_kind(result)}), wanted a RewardResult or a number"
            )
        reward = number(result, f"{given_by} gave")
        return {"reward": reward, "success": reward > 0}
    reward = number(result.score, "score is")
    return {
        "reward": reward,
        "success": bool(result.resolved_success()),
        "metrics": [_metric(metric) for metric in result.metrics],
        "metadata": lenient(dict(result.metadata or {})),
        "error": None if result.error is None else str(result.error),
    }


def number(value: Any, what: str) -> float:
    """An exact int, float or bool, finite: a subclass could read differently each time."""
    if type(value) not in _NUMBERS:
        raise NoRewardError(
            f"{what} {_shown(value)} (a {_kind(value)}), wanted a plain number: write float(...) around it"
        )
    found = float(value) if abs(value) <= _LARGEST_REWARD else math.inf
    if not math.isfinite(found) or value != value:
        raise NoRewardError(f"{what} {_shown(value)}, wanted a finite number of at most {_LARGEST_REWARD:.0e}")
    return found


def plain(value: Any, where: str, depth: int = 0) -> Any:
    """The value, if JSON could hold it. Raises ValueError, which begins with `where`, if it could not."""
    if value is None or type(value) in (bool, float, str):
        return value
    if type(value) is int:
        if not -(2**63) <= value < 2**64:
            raise ValueError(f"{where} holds an integer of more than 64 bits; write it as text")
        return value
    if depth > _MAX_DEPTH:
        raise ValueError(f"{where} is nested deeper than {_MAX_DEPTH}")
    if isinstance(value, list | tuple):
        return [plain(item, where, depth + 1) for item in value]
    if isinstance(value, Mapping):
        if odd := next((key for key in value if not isinstance(key, str)), None):
            raise ValueError(f"{where} has {_shown(odd)} as a key, wanted text")
        return {str(key): plain(item, where, depth + 1) for key, item in value.items()}
    if isinstance(value, str):
        return str(value)
    raise ValueError(f"{where} holds a {_kind(value)}, wanted text, numbers, lists and objects")


def lenient(value: Any, depth: int = 0) -> Any:
    """The value with what JSON cannot hold written as text: what an author notes beside a reward fails no rollout."""
    if isinstance(value, Mapping) and depth <= _MAX_DEPTH:
        return {str(key): lenient(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and depth <= _MAX_DEPTH:
        return [lenient(item, depth + 1) for item in value]
    try:
        return plain(value, "", _MAX_DEPTH)
    except ValueError:
        return str(value)


def _metric(metric: Any) -> dict[str, Any]:
    name = str(metric.name)
    return {
        "name": name,
        "score": None if metric.score is None else number(metric.score, f"score of metric {name!r} is"),
        "value": lenient(metric.value),
        "success": None if metric.success is None else bool(metric.success),
        "weight": None if metric.weight is None else number(metric.weight, f"weight of metric {name!r} is"),
        "reason": None if metric.reason is None else str(metric.reason),
    }


def _messages(turns: Any, where: str) -> Iterator[Message]:
    for at, turn in enumerate(turns):
        yield plain(checked_message(turn, f"{where} {at + 1}"), f"{where} {at + 1}")


def _kind(value: Any) -> str:
    return type(value).__name__


def _shown(value: Any) -> str:
    try:
        return repr(value)[:100]
    except Exception:
        return "something"
