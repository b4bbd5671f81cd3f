"""Telling what a policy thought from what it answered. A pure function of its text."""

OPEN, CLOSE = "<think>", "</think>"


class Answer(str):
    """The answer, as text, that also knows the thoughts before it."""

    completion: str
    """The answer again."""
    thinking: str | None
    """What stood between the think tags; several spans are joined by a newline. None: nothing did."""
    raw: str
    """All that the policy wrote."""
    truncated: bool = False
    """It was cut before it was done."""

    def __new__(cls, answer: str, *, thinking: str | None = None, raw: str = "") -> "Answer":
        made = super().__new__(cls, answer)
        made.completion, made.thinking, made.raw = str(answer), thinking, raw
        return made


def split_thinking(raw: str, *, prompt_opened: bool = False) -> Answer:
    """What the policy answered. `prompt_opened`: the rendered prompt ended inside a `<think>`.

    The answer is the text after the last `</think>`. Without one it is empty if the prompt had opened the span, the
    text before `<think>` if the policy did, and otherwise everything.
    """
    before, close, after = raw.rpartition(CLOSE)
    if close:
        return Answer(after, thinking=_spans(before + CLOSE), raw=raw)
    if prompt_opened:
        return Answer("", thinking=raw.removeprefix(OPEN), raw=raw)
    answer, opened, thought = raw.partition(OPEN)
    return Answer(answer, thinking=thought if opened else None, raw=raw)


def cut_short(answer: str) -> Answer:
    """The answer, knowing that it was cut before it was done."""
    thinking, raw = (answer.thinking, answer.raw) if isinstance(answer, Answer) else (None, str(answer))
    made = Answer(str(answer), thinking=thinking, raw=raw)
    made.truncated = True
    return made


def _spans(text: str) -> str:
    """The insides of the spans of a text that ends with `</think>`; what no tag opened, the prompt did."""
    first_open, first_close = text.find(OPEN), text.find(CLOSE)
    if first_open < 0 or first_close < first_open:
        text = OPEN + text
    spans = []
    for piece in text.split(OPEN)[1:]:
        inside, close, _ = piece.partition(CLOSE)
        spans.append(inside if close else piece)
    return "\n".join(spans)
