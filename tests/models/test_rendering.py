"""flash/models/rendering.py, on the tiny model's tokenizer: a token a byte, and one for each mark and role."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash.errors import FlashError, NotFound
from flash.models import folder
from flash.models.rendering import closing_ids, following_ids, load_tokenizer, prompt_ids, sft_ids

NO_THOUGHT = "<think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(folder("tiny", Path("unused")))


@pytest.fixture
def foreign() -> Any:
    """A tokenizer whose template a test may change."""
    return load_tokenizer(folder("tiny", Path("unused")))


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def spoken(tokenizer: Any, ids: list[int], mask: list[int]) -> str:
    """What is trained on, each run of it in brackets."""
    text, on = "", 0
    for id, bit in zip(ids, mask, strict=True):
        text += ("[" if bit else "]") * (bit != on) + tokenizer.decode([id])
        on = bit
    return text + "]" * on


def test_a_prompt_ends_with_the_header_after_which_the_policy_speaks(tokenizer: Any) -> None:
    shown = tokenizer.decode(prompt_ids(tokenizer, [user("Sort: 3 1")], thinking=True))

    assert shown == "<|im_start|>user\nSort: 3 1<|im_end|>\n<|im_start|>assistant\n"


def test_with_thinking_off_the_prompt_holds_an_empty_thought(tokenizer: Any) -> None:
    shown = tokenizer.decode(prompt_ids(tokenizer, [user("Sort: 3 1")]))

    assert shown == f"<|im_start|>user\nSort: 3 1<|im_end|>\n<|im_start|>assistant\n{NO_THOUGHT}"


def test_the_mask_covers_the_answer_and_its_end_of_turn_and_no_glue(tokenizer: Any) -> None:
    ids, mask = sft_ids(tokenizer, [user("Hi")], [assistant("yo")])

    # <|im_start|> user \n H i <|im_end|> \n, <|im_start|> assistant \n <think> \n \n </think> \n \n, y o <|im_end|>, \n
    assert mask == [0] * 7 + [0] * 9 + [1] * 3 + [0]
    assert len(ids) == len(mask)
    assert tokenizer.decode([id for id, bit in zip(ids, mask, strict=True) if bit]) == "yo<|im_end|>"


def test_with_thinking_on_the_thought_is_said_too(tokenizer: Any) -> None:
    ids, mask = sft_ids(tokenizer, [user("Hi")], [assistant("<think>\nhm\n</think>\n\nyo")], thinking=True)

    assert spoken(tokenizer, ids, mask) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[<think>\nhm\n</think>\n\nyo<|im_end|>]\n"
    )


def test_a_conversation_trains_every_assistant_turn_of_the_completion_and_nothing_else(tokenizer: Any) -> None:
    prompt = [{"role": "system", "content": "Be brief."}, user("a"), assistant("b"), user("c")]
    completion = [assistant("d"), {"role": "tool", "content": "e"}, assistant("f"), user("g")]

    ids, mask = sft_ids(tokenizer, prompt, completion)

    assert spoken(tokenizer, ids, mask) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
        f"<|im_start|>assistant\n{NO_THOUGHT}b<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
        f"<|im_start|>assistant\n{NO_THOUGHT}[d<|im_end|>]\n<|im_start|>tool\ne<|im_end|>\n"
        f"<|im_start|>assistant\n{NO_THOUGHT}[f<|im_end|>]\n<|im_start|>user\ng<|im_end|>\n"
    )


@pytest.mark.parametrize("thinking", [False, True])
def test_training_opens_with_the_very_ids_that_sampling_is_shown(tokenizer: Any, thinking: bool) -> None:
    prompt = prompt_ids(tokenizer, [user("Hi")], thinking=thinking)

    ids, mask = sft_ids(tokenizer, [user("Hi")], [assistant("yo")], thinking=thinking)

    assert ids[: len(prompt)] == prompt
    assert mask[: len(prompt)] == [0] * len(prompt)
    assert mask[len(prompt)] == 1


def test_a_template_that_drops_what_it_had_rendered_is_refused_with_the_place(foreign: Any) -> None:
    foreign.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    sft_ids(foreign, [user("a")], [assistant("b")], thinking=True)

    with pytest.raises(FlashError, match="renders a turn differently once another follows"):
        sft_ids(foreign, [user("a")], [assistant("b"), user("c"), assistant("d")], thinking=True)


def test_a_thought_in_a_gold_answer_is_refused_while_thinking_is_off(tokenizer: Any) -> None:
    with pytest.raises(FlashError, match="without reasoning unless thinking is on"):
        sft_ids(tokenizer, [user("a")], [assistant("<think>\nhm\n</think>\n\nb")])


def test_a_template_that_never_ends_a_turn_is_refused(foreign: Any) -> None:
    foreign.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"

    with pytest.raises(FlashError, match="would never stop"):
        sft_ids(foreign, [user("a")], [assistant("b")])


def test_an_answer_ends_with_eos_of_tokenizer_or_model_or_with_the_end_of_turn(foreign: Any) -> None:
    end, pad, start = foreign.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>", "<|im_start|>"])

    assert closing_ids(foreign, SimpleNamespace(eos_token_id=end)) == {end}
    assert closing_ids(foreign, SimpleNamespace(eos_token_id=[pad, end])) == {end, pad}
    foreign.chat_template = foreign.chat_template.replace("<|im_end|>", "<|im_start|>")
    assert closing_ids(foreign, SimpleNamespace(eos_token_id=None)) == {end, start}


def test_a_folder_without_a_tokenizer_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no tokenizer_config\.json"):
        load_tokenizer(tmp_path)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_goes_through_the_tiny_tokenizer_unharmed(text: str) -> None:
    tokenizer = load_tiny()

    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=False) == text


def test_printable_ascii_and_role_words_come_out_as_they_went_in(tokenizer: Any) -> None:
    text = "".join(map(chr, range(32, 127))) + " user assistants, the tool  ,  and a system. It's n't"

    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


_TINY: list[Any] = []


def load_tiny() -> Any:
    """hypothesis wants no fixtures."""
    if not _TINY:
        _TINY.append(load_tokenizer(folder("tiny", Path("unused"))))
    return _TINY[0]


def text_of(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids))


END = "<|im_end|>"


@pytest.mark.parametrize("thinking", [False, True])
def test_what_follows_a_turn_continues_what_was_sampled(tokenizer: Any, thinking: bool) -> None:
    [end] = tokenizer(END)["input_ids"]
    first = prompt_ids(tokenizer, [user("a")], thinking=thinking)
    drawn = [*tokenizer("b")["input_ids"], end]

    more = following_ids(tokenizer, [user("a")], [user("c")], last_id=end, thinking=thinking)

    header = "<|im_start|>assistant\n" + ("" if thinking else NO_THOUGHT)
    assert text_of(tokenizer, first + drawn + more) == (
        f"<|im_start|>user\na{END}\n{header}b{END}\n<|im_start|>user\nc{END}\n{header}"
    )


def test_an_end_of_turn_that_the_policy_did_not_write_is_added(tokenizer: Any) -> None:
    [end] = tokenizer(END)["input_ids"]
    cut = tokenizer("b")["input_ids"][-1]

    added = following_ids(tokenizer, [user("a")], [user("c")], last_id=cut)

    assert added == [end, *following_ids(tokenizer, [user("a")], [user("c")], last_id=end)]


def test_tools_answer_between_turns(tokenizer: Any) -> None:
    [end] = tokenizer(END)["input_ids"]
    tool = {"role": "tool", "content": "4", "tool_call_id": "c1"}

    more = following_ids(tokenizer, [user("a")], [tool], last_id=end, thinking=True)

    assert text_of(tokenizer, more) == f"\n<|im_start|>tool\n4{END}\n<|im_start|>assistant\n"


TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}
WITH_TOOL = {"role": "system", "content": "s", "tools": [TOOL]}
ADDS = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
CALL = {"role": "assistant", "content": None, "tool_calls": [ADDS]}
PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_that_knows_tools_gets_them_and_shows_calls_in_its_manner(tokenizer: Any) -> None:
    ids, mask = sft_ids(tokenizer, [WITH_TOOL, user("a")], [CALL], thinking=True)

    assert spoken(tokenizer, ids, mask) == (
        f"<|im_start|>system\nTools: {json.dumps([TOOL])}{END}\n<|im_start|>system\ns{END}\n<|im_start|>user\na{END}\n"
        f'<|im_start|>assistant\n[{NO_THOUGHT}\n<tool_call>\n{{"name": "add", "arguments": {{"a": 1}}}}\n</tool_call>'
        f"{END}]\n"
    )


def test_to_a_template_that_knows_no_tools_they_are_text(foreign: Any) -> None:
    foreign.chat_template = PLAIN
    ids, mask = sft_ids(foreign, [WITH_TOOL, user("a")], [CALL])

    told = spoken(foreign, ids, mask)
    assert told.startswith("<|im_start|>system\ns\n\n# Tools\n\n")
    assert f"<tools>\n{json.dumps(TOOL)}\n</tools>" in told
    assert told.endswith(f'assistant\n[<tool_call>\n{{"name": "add", "arguments": {{"a": 1}}}}\n</tool_call>{END}]\n')


def test_a_system_message_that_is_there_for_its_tools_is_not_shown_empty(tokenizer: Any, foreign: Any) -> None:
    foreign.chat_template = PLAIN
    messages = [{"role": "system", "content": "", "tools": [TOOL]}, user("a")]

    assert text_of(tokenizer, prompt_ids(tokenizer, messages)).count("<|im_start|>system") == 1
    assert text_of(foreign, prompt_ids(foreign, messages)).startswith("<|im_start|>system\n# Tools")
    assert text_of(foreign, prompt_ids(foreign, [{**messages[0], "tools": []}, user("a")])).startswith(
        "<|im_start|>user"
    )


def test_nothing_between_turns_is_only_a_new_header(tokenizer: Any) -> None:
    [end] = tokenizer(END)["input_ids"]

    more = following_ids(tokenizer, [user("a")], [], last_id=end, thinking=True)

    assert text_of(tokenizer, more) == "\n<|im_start|>assistant\n"


def test_a_template_that_drops_earlier_thoughts_changes_nothing_that_was_drawn(foreign: Any) -> None:
    foreign.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    [end] = foreign(END)["input_ids"]
    said = [user("a"), assistant("<think>hm</think>b"), user("c")]

    more = following_ids(foreign, said, [user("d")], last_id=end, thinking=True)

    assert text_of(foreign, more) == f"\n<|im_start|>user\nd{END}\n<|im_start|>assistant\n"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20), st.text(min_size=1, max_size=20))
def test_whatever_the_environment_says_follows_whole(said: str, more: str) -> None:
    tokenizer = load_tiny()
    [end] = tokenizer(END)["input_ids"]

    ids = following_ids(tokenizer, [user(said)], [user(more)], last_id=end, thinking=True)

    told = f"\n<|im_start|>user\n{more}{END}\n<|im_start|>assistant\n"
    assert tokenizer.decode(ids, skip_special_tokens=False) == told
