"""Rows from files: none lost, none reordered, and errors that say where."""

import csv
import io
import json
import struct
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envsdk import load_dataset, load_records, load_task_examples
from envsdk.examples import TaskExample

SEVERAL = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
INPUTS = TEXTS.filter(lambda text: text.strip() == text)
ROWS = st.lists(
    st.fixed_dictionaries({"input": INPUTS, "output": TEXTS | st.integers() | st.none() | st.lists(TEXTS)}), max_size=20
)


def fields(examples: list[TaskExample]) -> list[tuple[str, Any]]:
    assert [example.id for example in examples] == [f"example_{index:06d}" for index in range(len(examples))]
    return [(example.input, example.output) for example in examples]


@SEVERAL
@given(rows=ROWS, ascii_only=st.booleans(), blanks=st.booleans(), ending=st.sampled_from(["\n", "\r\n"]))
def test_jsonl_never_loses_or_reorders_a_row(
    tmp_path: Path, rows: list[dict[str, Any]], ascii_only: bool, blanks: bool, ending: str
) -> None:
    lines = [json.dumps(row, ensure_ascii=ascii_only) + ending + ("  " + ending if blanks else "") for row in rows]
    (tmp_path / "rows.jsonl").write_bytes("".join(lines).encode())

    examples = load_task_examples(tmp_path / "rows.jsonl")

    assert fields(examples) == [(row["input"], row["output"]) for row in rows]
    assert [example.record for example in examples] == rows


@SEVERAL
@given(rows=ROWS, wrapped=st.booleans())
def test_json_never_loses_or_reorders_a_row(tmp_path: Path, rows: list[dict[str, Any]], wrapped: bool) -> None:
    (tmp_path / "rows.JSON").write_text(json.dumps({"data": rows} if wrapped else rows))

    assert fields(load_task_examples(tmp_path / "rows.JSON")) == [(row["input"], row["output"]) for row in rows]


@SEVERAL
@given(rows=st.lists(st.tuples(INPUTS.map(lambda text: text.replace("\0", "")), TEXTS), max_size=20))
def test_csv_never_loses_or_reorders_a_row(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    rows = [(given.strip(), gold.replace("\0", "")) for given, gold in rows]
    written = io.StringIO(newline="")
    csv.writer(written, quoting=csv.QUOTE_ALL).writerows([("input", "output"), *rows])
    (tmp_path / "rows.csv").write_bytes(written.getvalue().encode())

    assert fields(load_task_examples(tmp_path / "rows.csv")) == rows


@SEVERAL
@given(lines=st.lists(TEXTS.filter(lambda text: "\n" not in text and text.strip() != ""), max_size=20))
def test_txt_never_loses_or_reorders_a_line(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "rows.txt").write_bytes("\n\n".join(lines).encode())

    assert fields(load_task_examples(tmp_path / "rows.txt")) == [(line.strip(), None) for line in lines]


@SEVERAL
@given(rows=ROWS)
def test_an_iterable_never_loses_or_reorders_a_row(rows: list[dict[str, Any]]) -> None:
    assert fields(load_task_examples(iter(rows))) == [(row["input"], row["output"]) for row in rows]
    assert len(load_dataset(rows)) == len(rows)


def bson_document(**values: Any) -> bytes:
    body = b""
    for name, value in values.items():
        key = name.encode() + b"\0"
        if isinstance(value, str):
            text = value.encode() + b"\0"
            body += b"\x02" + key + struct.pack("<i", len(text)) + text
        elif isinstance(value, bool):
            body += b"\x08" + key + bytes([value])
        elif isinstance(value, int):
            body += b"\x12" + key + struct.pack("<q", value)
        elif isinstance(value, float):
            body += b"\x01" + key + struct.pack("<d", value)
        elif isinstance(value, bytes):
            body += b"\x07" + key + value
        elif isinstance(value, list):
            body += b"\x04" + key + bson_document(**{str(at): item for at, item in enumerate(value)})
        elif value is None:
            body += b"\x0a" + key
        else:
            body += b"\x03" + key + bson_document(**value)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def test_bson_documents_are_rows(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"_id": bytes(range(12)), "input": "ü", "output": [1, True, None, 2.5], "metadata": {"level": "a"}},
        {"input": "b"},
    ]
    (tmp_path / "rows.bson").write_bytes(b"".join(bson_document(**row) for row in rows))

    first, second = load_task_examples(tmp_path / "rows.bson")

    assert (first.input, first.output, first.metadata) == ("ü", [1, True, None, 2.5], {"level": "a"})
    assert first.record["_id"] == "000102030405060708090a0b"
    assert (second.input, second.output, second.id) == ("b", None, "example_000001")


@pytest.mark.parametrize("damage", [b"\x05", b"\xff\xff\xff\x7f\0", b"\x0c\0\0\0\x55input\0\0", b"\0" * 8])
def test_a_damaged_bson_file_says_which_document(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "rows.bson").write_bytes(bson_document(input="a") + damage)

    with pytest.raises(ValueError, match=r"rows\.bson: document 2 .*byte 18"):
        load_records(tmp_path / "rows.bson")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("r.jsonl", '{"input": "a"}\n\n{"input": }', "r.jsonl line 3 is not JSON"),
        ("r.jsonl", '{"input": "a"}\n[1]', "r.jsonl line 2 is a list, wanted an object with `input`"),
        ("r.jsonl", '{"input": "a"}\n{"output": "a"}', "r.jsonl line 2 has no `input`; found `output`"),
        ("r.jsonl", '{"question": "a"}', "has no `input`; found `question`; rename `question` to `input`"),
        ("r.jsonl", '{"input": null}', "has no `input`"),
        ("r.json", '{"rows": []}', 'holds an object with .*, wanted a list of rows, or {"data"'),
        ("r.json", '[{"input": "a"}, 3]', "r.json item 2 is a int"),
        ("r.json", "[" * 100_000, "r.json is not JSON"),
        ("r.csv", "question,output\na,b\n", "wanted a header with `input`"),
        ("r.csv", "input,output\na,b,c\n", "r.csv line 2 has more cells"),
        ("r.xml", "", "ends in '.xml', wanted one of .jsonl"),
    ],
)
def test_an_error_names_file_and_line_and_what_was_wanted(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)

    with pytest.raises(ValueError, match=said):
        load_task_examples(tmp_path / name)


def test_a_file_that_is_not_there_or_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"\xfcber")

    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl is not there"):
        load_records(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8"):
        load_records(tmp_path / "latin.txt")


def test_a_missing_csv_cell_is_none_and_an_empty_one_is_empty(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text('input,output,level\n"two\nlines",,3\nb\n')

    first, second = load_task_examples(tmp_path / "r.csv")

    assert (first.input, first.output, first.record["level"]) == ("two\nlines", "", "3")
    assert (second.input, second.output) == ("b", None)


def test_a_likely_other_name_for_the_output_is_said_once() -> None:
    with pytest.warns(UserWarning, match="row 1 has `answer` but no `output`") as said:
        load_task_examples([{"input": "a", "answer": "b"}, {"input": "c", "answer": "d"}])

    assert len(said) == 1


def test_a_row_rewritten_in_code_keeps_what_was_rewritten() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [example] = load_task_examples([TaskExample(record={"input": "a", "extra": 1}, input="b", output=3)])

    assert (example.input, example.output, example.record) == ("b", 3, {"input": "a", "extra": 1})
