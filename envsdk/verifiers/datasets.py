"""Datasets: any kind of rows, built when they are first wanted, formatted when they are read.

A row has a `prompt` (messages) or a `question` (a text), and may have an `answer`, an `info` and other columns. There
are no other names for them.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, overload

from envsdk.verifiers.messages import as_messages

Row = dict[str, Any]
Source = Any
"""A list of rows, a Hugging Face Dataset, or a function without arguments that gives either."""


class Rows(Sequence[Row]):
    """Rows in an order, read from where they lie. Has the everyday part of a Hugging Face Dataset's interface."""

    def __init__(self, source: Any, places: Sequence[int] | None = None, edit: Callable[[Row, int], Row] | None = None):
        self._source, self._edit = source, edit
        self._places = range(len(source)) if places is None else places

    @property
    def column_names(self) -> list[str]:
        """The columns of the first row."""
        return list(self[0]) if len(self) else []

    def select(self, indices: Iterable[int]) -> "Rows":
        return self._at([self._places[index] for index in indices])

    def take(self, n: int) -> "Rows":
        return self._at(self._places[:n])

    def repeat(self, times: int) -> "Rows":
        return self._at(list(self._places) * times)

    def shuffle(self, seed: int | None = None) -> "Rows":
        places = list(self._places)
        random.Random(seed).shuffle(places)
        return self._at(places)

    def filter(self, keep: Callable[[Row], bool]) -> "Rows":
        return self._at([place for place, row in zip(self._places, self, strict=True) if keep(row)])

    def map(self, change: Callable[[Row], Row]) -> "Rows":
        """Each row with what `change` gives laid over it, when it is read."""
        return Rows(self, edit=lambda row, _: {**row, **change(row)})

    def to_list(self) -> list[Row]:
        return list(self)

    def raw(self) -> Iterator[Any]:
        """The rows as their author made them."""
        return (self._source[place] for place in self._places)

    def raw_at(self, at: int) -> Any:
        return self._source[self._places[at]]

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Row]:
        return (self._row(place) for place in self._places)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> "Rows": ...
    @overload
    def __getitem__(self, at: str) -> list[Any]: ...
    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, str):
            return [row[at] for row in self]
        return self._at(self._places[at]) if isinstance(at, slice) else self._row(self._places[at])

    def __repr__(self) -> str:
        return f"Rows({len(self)} rows, columns {', '.join(self.column_names)})"

    def _at(self, places: Sequence[int]) -> "Rows":
        return Rows(self._source, places, self._edit)

    def _row(self, place: int) -> Row:
        row = self._source[place]
        return self._edit(row, place) if self._edit else row


def rows_of(source: Source, name: str) -> Any:
    """What a source holds, with `len` and places; `name` begins the errors. A builder is called.

    Raises TypeError for what are no rows.
    """
    rows = source() if callable(source) else source
    splits = getattr(rows, "keys", None)
    if callable(splits) and not hasattr(rows, "column_names"):
        raise TypeError(
            f"{name} is a {type(rows).__name__} with {', '.join(map(str, splits()))}, wanted a list of rows"
        )
    if isinstance(getattr(rows, "column_names", None), Mapping):
        found = ", ".join(map(repr, rows.column_names))
        raise TypeError(f"{name} is a {type(rows).__name__} with the splits {found}: choose one, as in data['train']")
    by_place = hasattr(rows, "__len__") and hasattr(rows, "__getitem__")
    if isinstance(rows, str | bytes | Mapping) or not (by_place or isinstance(rows, Iterable)):
        raise TypeError(
            f"{name} is a {type(rows).__name__}, wanted a list of rows, a Dataset, or a function giving one"
        )
    return rows if by_place else list(rows)


def formatted(
    row: Any, index: int, *, system_prompt: str | None, few_shot: Sequence[Any] | None, name: str = "dataset"
) -> Row:
    """The row with its `prompt` and `example_id`.

        prompt      [system prompt, unless its first message is one] + prompt
        question    [system prompt] + few shot + the question as the user's

    Raises ValueError naming the row for one that has neither.
    """
    where = f"{name} row {index + 1}"
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} is a {type(row).__name__}, wanted an object with `prompt` or `question`")
    found = dict(row)
    if not isinstance(found.get("example_id", 0), int):
        found["src_id"] = found.pop("example_id")
    found.setdefault("example_id", index)
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    if found.get("prompt") is not None:
        opening = [dict(message) for message in as_messages(found["prompt"], f"{where}: prompt")]
        if not opening:
            raise ValueError(f"{where}: prompt is empty, wanted at least one message")
        found["prompt"] = opening if opening[0].get("role") == "system" else [*system, *opening]
    elif found.get("question") is not None:
        question = {"role": "user", "content": found["question"]}
        found["prompt"] = [*system, *(dict(shot) for shot in few_shot or ()), question]
    else:
        columns = ", ".join(f"`{column}`" for column in islice(row, 8)) or "nothing"
        raise ValueError(f"{where} has {columns}, wanted `prompt` or `question`; there are no other names for them")
    return found
