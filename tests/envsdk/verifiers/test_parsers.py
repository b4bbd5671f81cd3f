"""Finding answers. The cases are those that tell the releases of the real package apart."""

from types import SimpleNamespace
from typing import Any

import pytest

from envsdk import verifiers as vf
from envsdk.verifiers.math import extract_boxed_answer


def said(*texts: Any) -> list[vf.Message]:
    return [vf.AssistantMessage(content=text) for text in texts]


def test_a_parser_reads_the_last_assistant_message() -> None:
    parser = vf.Parser(extract_fn=str.upper)
    completion = [*said("a", "b"), vf.ToolMessage(content="t", tool_call_id="1")]

    assert parser.parse_answer(completion) == "B"
    assert parser.parse_answer("plain") == "PLAIN"
    assert parser.parse_answer([vf.UserMessage(content="u")]) is None
    assert parser.parse_answer(said([{"type": "text", "text": "x"}, {"type": "image_url"}])) == "X"
    assert parser.parse_answer([{"role": "assistant", "content": None}]) == ""
    assert parser.parse_answer([SimpleNamespace(role="assistant", content="o")]) == "O"
    assert parser.get_format_reward_func()(completion, anything=1) == 1.0


@pytest.mark.parametrize(
    ("text", "think", "maybe"),
    [
        ("<think>why</think> 4 ", "4", "4"),
        ("4", "", "4"),
        ("a</think>b</think>c", "c", "c"),
        ("<think>open", "", "<think>open"),
    ],
)
def test_think_parsers_read_what_follows_the_last_tag(text: str, think: str, maybe: str) -> None:
    assert vf.ThinkParser().parse(text) == think
    assert vf.MaybeThinkParser().parse(text) == maybe


@pytest.mark.parametrize(
    ("text", "earns"),
    [
        ("<think>a</think>b", 1.0),
        ("  <think>a</think>b", 1.0),
        ("<think>a</think>", 0.0),
        ("x<think>a</think>b", 0.0),
        ("<think>a</think><think>b</think>c", 0.0),
        ("b", 0.0),
    ],
)
def test_the_form_that_a_think_parser_wants(text: str, earns: float) -> None:
    assert vf.ThinkParser().get_format_reward_func()(said(text)) == earns


XML = vf.XMLParser(["reasoning", ("code", "answer")], answer_field="answer")


def test_xml_fields_are_read_with_all_their_alternatives() -> None:
    parsed = XML.parse("<reasoning>\n why \n</reasoning><answer>4</answer>")

    assert (parsed.reasoning, parsed.code, parsed.answer) == ("why", None, "4")
    assert XML.get_fields() == ["reasoning", "code"]


def test_the_first_match_counts_in_messages_and_the_last_in_a_text() -> None:
    twice = "<answer>1</answer><answer>2</answer>"

    assert XML.parse_answer(said(twice)) == "1"
    assert XML.parse_answer(twice) == "2"
    assert XML.parse(twice, last=True).answer == "2"


def test_the_answer_is_looked_for_backwards_and_only_under_its_own_name() -> None:
    assert XML.parse_answer(said("<answer>old</answer>", "nothing")) == "old"
    assert XML.parse_answer(said("<code>x</code>")) is None
    assert XML.parse_answer([]) is None


@pytest.mark.parametrize(
    ("text", "earns"),
    [
        ("plain text", 0.2),
        ("<answer>4</answer>", 0.6),
        ("<reasoning>a</reasoning>\n<answer>4</answer>", 1.0),
        ("so: <reasoning>a</reasoning>", 0.4),
        ("<reasoning>unclosed", 0.4),
        ("<reasoning>a</reasoning> <answer>unclosed", 0.8),
    ],
)
def test_the_form_that_an_xml_parser_pays_for(text: str, earns: float) -> None:
    form = XML.get_format_reward_func()

    assert form(said(text)) == pytest.approx(earns)
    assert form(said(text, "plain text")) == pytest.approx((earns + 0.2) / 2)
    assert form([]) == 0.0


def test_xml_is_written_under_canonical_names() -> None:
    assert XML.format(reasoning="r", answer=4) == "<reasoning>\nr\n</reasoning>\n<code>\n4\n</code>"
    assert XML.get_format_str() == "<reasoning>\n...\n</reasoning>\n<[ code | answer ]>\n...\n</[ code | answer ]>"
    with pytest.raises(ValueError, match="Missing value for field 'reasoning'"):
        XML.format(code="x")


@pytest.mark.parametrize(
    ("fields", "error"),
    [([()], ValueError), ([1], TypeError), ([("a", 1)], TypeError), (["a", ("a", "b")], ValueError)],
)
def test_fields_that_cannot_be_are_refused(fields: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        vf.XMLParser(fields)


@pytest.mark.parametrize(
    ("text", "strict", "loose"),
    [
        ("\\boxed{4}", "4", "4"),
        ("\\boxed{1} then \\boxed{\\frac{1}{2}}", "\\frac{1}{2}", "\\frac{1}{2}"),
        ("4", "", "4"),
        ("\\boxed{4", "", "\\boxed{4"),
        ("\\boxed{}", "", ""),
    ],
)
def test_the_last_box_is_the_answer(text: str, strict: str, loose: str) -> None:
    assert extract_boxed_answer(text, strict=True) == strict
    assert extract_boxed_answer(text) == loose
