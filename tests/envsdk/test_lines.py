"""envsdk/lines.py: files with a row on each line, read where they are wanted."""

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envsdk import load_task_examples
from envsdk.lines import EVERY, LineFile

LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=12), max_size=40)


def written(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps({"input": f"row {n}", "output": n}) + "\n" * (1 + n % 3) for n in range(count)))
    return path


@settings(max_examples=200, deadline=None)
@given(lines=LINES, bom=st.booleans())
def test_rows_are_those_of_a_file_that_is_loaded_whole(
    lines: list[str], bom: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    path.write_bytes(b"\xef\xbb\xbf" * bom + "\n".join(lines).encode())

    assert list(LineFile(path)) == load_task_examples(path)


def test_any_row_can_be_read_first_and_by_somebody_who_knows_the_marks(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", 3 * EVERY)
    whole, first = load_task_examples(path), LineFile(path)

    assert len(first) == 3 * EVERY
    assert len(first.marks) == 3
    for known in (None, (first.total, first.marks)):
        rows = LineFile(path, known)
        for index in (2 * EVERY + 7, 0, EVERY - 1, EVERY, 3 * EVERY - 1, -1, 5, 6):
            assert rows[index] == whole[index]
        assert rows[EVERY - 1 : EVERY + 1] == whole[EVERY - 1 : EVERY + 1]
    with pytest.raises(IndexError):
        first[3 * EVERY]


def test_a_bad_line_is_named_when_its_turn_comes(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"input": "a"}\n\n{"input": \n{"input": "\xff"}\n')
    rows = LineFile(path)

    assert rows[0].input == "a"
    with pytest.raises(ValueError, match=r"rows.jsonl line 3 is not JSON"):
        rows[1]
    with pytest.raises(ValueError, match=r"rows.jsonl is not UTF-8: line 4"):
        rows[2]


def test_an_output_by_another_name_is_warned_of_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"input": "a", "answer": 1}\n{"input": "b", "answer": 2}\n')

    with pytest.warns(UserWarning, match="line 1 has `answer` but no `output`") as warned:
        list(LineFile(path))
    assert len(warned) == 1


def test_a_page_of_many_rows_takes_the_memory_of_a_page(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", 50 * EVERY)
    tracemalloc.start()

    rows = LineFile(path)
    for index in range(40 * EVERY, 40 * EVERY + 100):
        rows[index]

    assert tracemalloc.get_traced_memory()[1] < 1 << 20 < path.stat().st_size
    tracemalloc.stop()
