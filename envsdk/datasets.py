"""Datasets: rows as tasks, and the conversations SFT trains on."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, overload

from envsdk.examples import Message, TaskExample, target_messages, task_example_from_record
from envsdk.records import Source, load_task_examples


class PromptBuilder(Protocol):
    """What turns a task into the messages that the policy is shown."""

    def build_prompt_messages(self, example: TaskExample, prompt_text: str) -> list[Message]: ...


class Opening(PromptBuilder, Protocol):
    """An environment, as far as SFT needs one."""

    def start_episode(self, example: TaskExample, prompt_text: str) -> list[Message]: ...


class Dataset(Sequence[TaskExample]):
    """Rows in order."""

    def __init__(self, examples: Iterable[TaskExample]) -> None:
        self.examples: tuple[TaskExample, ...] = tuple(
            example if isinstance(example, TaskExample) else task_example_from_record(example, index)
            for index, example in enumerate(examples)
        )

    @classmethod
    def from_source(cls, source: Source) -> "Dataset":
        """A file (.jsonl .json .csv .txt .bson) or rows."""
        return cls(load_task_examples(source))

    def build_conversations(self, env: Opening, prompt_text: str = "") -> list[list[Message]]:
        """Opening and gold turns of each row. Raises ValueError for a row without output."""
        conversations = []
        for index, example in enumerate(self.examples):
            if example.output is None:
                raise ValueError(f"row {index + 1} ({example.id}) has no `output`, so there is nothing to train on")
            conversations.append([*env.start_episode(example, prompt_text), *target_messages(example.output)])
        return conversations

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[TaskExample]:
        return iter(self.examples)

    @overload
    def __getitem__(self, at: int) -> TaskExample: ...
    @overload
    def __getitem__(self, at: slice) -> "Dataset": ...
    def __getitem__(self, at: int | slice) -> "TaskExample | Dataset":
        return Dataset(self.examples[at]) if isinstance(at, slice) else self.examples[at]

    def __repr__(self) -> str:
        return f"Dataset({len(self)} examples)"


def load_dataset(source: Source) -> Dataset:
    """A file (.jsonl .json .csv .txt .bson) or rows, as a Dataset."""
    return Dataset.from_source(source)
