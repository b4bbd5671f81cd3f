"""A lookup table behind a tool, in the verifiers dialect, with gold episodes of two turns."""

import verifiers as vf

CODES = dict(zip("abcdefgh", "31415926", strict=True))


def code(letter: str) -> str:
    """The code of a letter."""
    return CODES[letter]


def right(completion, answer):
    return float(completion[-1].content == answer)


def varied(completion):
    return len(set(completion[-1].content)) / 100


def gold(letter):
    call = {"id": "call_0", "type": "function", "function": {"name": "code", "arguments": f'{{"letter": "{letter}"}}'}}
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": CODES[letter], "tool_call_id": "call_0"},
        {"role": "assistant", "content": CODES[letter]},
    ]


def load_environment():
    rows = [{"question": letter, "answer": CODES[letter], "completion": gold(letter)} for letter in CODES]
    return vf.ToolEnv(tools=[code], max_turns=3, dataset=rows, rubric=vf.Rubric([right, varied], [1.0, 0.5]))
