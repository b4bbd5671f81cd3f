"""The rows of a real `verifiers` environment as examples, and an example as the row that the package plays."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from envsdk.examples import Message, TaskExample, stable_example_id
from envsdk.installed.rewards import leaves
from envsdk.records import Source, load_records
from envsdk.verifiers.messages import text_of

_BUILDERS = {"train": "build_dataset", "eval": "build_eval_dataset"}
_BUILT = {"train": "dataset", "eval": "eval_dataset"}


class Examples(Sequence[TaskExample]):
    """Rows as tasks, each made when it is read."""

    def __init__(self, rows: Any, make: Callable[[Mapping[str, Any], int], TaskExample]) -> None:
        self._rows, self._make = rows, make

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[TaskExample]:
        return (self._make(row, index) for index, row in enumerate(self._rows))

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[index] for index in range(*at.indices(len(self)))]
        return self._make(self._rows[at], at)


class Rows:
    """What an environment has to work through."""

    def __init__(self, env: Any) -> None:
        self._env = env

    def of(self, split: str) -> Examples | None:
        """The package formats them, once; None where the author gave none for this split."""
        if split not in _BUILT:
            return None
        build = getattr(self._env, _BUILDERS[split], None)
        rows = build() if build else getattr(self._env, _BUILT[split], None)
        return None if rows is None else Examples(rows, self.example)

    def build(self) -> None:
        """Now, once, and not in every fork, where `datasets` may not write to the cache that it chose when it was
        imported. What fails here is raised to whoever asks for the rows."""
        for split in _BUILT:
            with contextlib.suppress(Exception):
                self.of(split)

    def has_eval(self) -> bool:
        """Without building anything."""
        return any(getattr(self._env, name, None) is not None for name in ("eval_dataset_source", "eval_dataset"))

    def loaded(self, source: Source) -> list[TaskExample]:
        """Rows of a file or a param, in the package's columns or in ours."""
        return [
            self.example(self._formatted(record, index), index) for index, record in enumerate(load_records(source))
        ]

    def row(self, example: TaskExample) -> dict[str, Any]:
        """What the package's rollout begins with."""
        if isinstance(example.record, Mapping) and "prompt" in example.record:
            return dict(example.record)
        number = (example.id or "").rpartition("_")[2]
        return self._formatted(example.record, int(number) if number.isdigit() else 0)

    def example(self, row: Mapping[str, Any], index: int) -> TaskExample:
        info = row.get("info")
        if isinstance(info, str):
            try:
                info = json.loads(info)
            except ValueError as error:
                raise ValueError(f"row {index + 1}: info is the text {info[:60]!r}, which is not JSON") from error
        asked = [text_of(message.get("content")) for message in row["prompt"] if message.get("role") == "user"]
        question = row.get("question")
        return TaskExample(
            record=dict(row),
            input=(question if isinstance(question, str) else (asked or [""])[-1]).strip(),
            id=stable_example_id(index),
            metadata=dict(info) if isinstance(info, Mapping) else {},
            output=self._gold(row),
        )

    def _formatted(self, record: Any, index: int) -> dict[str, Any]:
        """With a prompt, as the package would make it of a question."""
        row: dict[str, Any] = {"question": record} if isinstance(record, str) else dict(record)
        row.setdefault("example_id", index)
        if "prompt" not in row and "question" not in row and "input" in row:
            found = {"answer": row.get("output"), "info": row.get("metadata"), **row, "question": row["input"]}
            row = {key: value for key, value in found.items() if value is not None}
        if "prompt" not in row:
            if not isinstance(row.get("question"), str):
                raise ValueError(f"row {index + 1} has neither `prompt` nor `question`; found {', '.join(row)}")
            shots = [dict(shot) for shot in getattr(self._env, "few_shot", None) or ()]
            row["prompt"] = [*self._system(), *shots, {"role": "user", "content": row["question"]}]
        elif row["prompt"] and row["prompt"][0].get("role") != "system":
            row["prompt"] = [*self._system(), *row["prompt"]]
        return row

    def _system(self) -> list[Message]:
        text = getattr(self._env, "system_prompt", None)
        return [{"role": "system", "content": text}] if text else []

    def _gold(self, row: Mapping[str, Any]) -> Any:
        """A `completion` column; else the plainest text in which the parser finds the answer; else None."""
        if row.get("completion") is not None:
            completion = row["completion"]
            return completion if isinstance(completion, str) else [without_nulls(message) for message in completion]
        answer = row.get("answer")
        if answer is None or answer == "":
            return None
        parser = self._env.parser
        if type(parser).__name__ == "Parser":
            parser = next(leaves(self._env.rubric)).parser
        texts = [str(answer), f"\\boxed{{{answer}}}"]
        field = getattr(parser, "answer_field", None)
        if field and parser.get_fields() == [field]:
            texts.append(parser.format(**{field: answer}))
        return next((text for text in texts if _parsed(parser, text) == str(answer)), None)


def without_nulls(message: Mapping[str, Any]) -> Message:
    """A dataset's columns hold null where another row's message has something."""
    return {str(key): value for key, value in message.items() if value is not None or key == "content"}


def _parsed(parser: Any, text: str) -> Any:
    try:
        found = parser.parse_answer([{"role": "assistant", "content": text}])
    except Exception:  # the author's own extract_fn
        return None
    return found if found is None else str(found)
