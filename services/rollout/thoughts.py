"""How many tokens a policy thought: those that stand between `<think>` and `</think>`. Pure.

Legend: T tokens of one turn.
"""

from collections.abc import Sequence

Marks = tuple[tuple[int, ...], tuple[int, ...]]
"""`<think>` and `</think>` as the model writes them: one token each where it was made to think."""


def thinking_tokens(ids_T: Sequence[int], marks: Marks, *, opened: bool, closed: bool) -> int:
    """The tokens of all spans of a turn, without their marks, cut as `envsdk.thinking` cuts its text.

    `opened`: the prompt ended inside a span. A span that nothing opened began with the turn; one that nothing closes
    lasts to its end. `closed`: the last token ends the turn, and is no thought.
    """
    ids = tuple(ids_T[:-1] if closed else ids_T)
    begin, end = marks
    tokens, inside, marked = 0, opened, opened
    at = 0
    while at < len(ids):
        if begin and ids[at : at + len(begin)] == begin:
            inside = marked = True
            at += len(begin)
        elif end and ids[at : at + len(end)] == end:
            tokens = tokens if marked else at
            inside, marked = False, True
            at += len(end)
        else:
            tokens += inside
            at += 1
    return tokens
