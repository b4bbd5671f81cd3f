"""Say what things cost, with a tool that knows. In the verifiers dialect: a ToolEnv, whose tools are Python functions.

reward = 1.0 × the right price said at the end + 0.2 × the tool asked for the right thing

The prices stand nowhere that the policy can see, and other things are held out than are trained on: only asking helps.
"""

import json
from pathlib import Path

import verifiers as vf

HERE = Path(__file__).parent
PRICES = json.loads((HERE / "prices.json").read_text())


def price(item: str) -> int:
    """What a thing costs."""
    if item not in PRICES:
        raise ValueError(f"no {item} here")  # the policy hears it, and may ask again
    return PRICES[item]


def load_environment():
    rubric = vf.Rubric(funcs=[right, asked], weights=[1.0, 0.2])
    return vf.ToolEnv(
        tools=[price],
        max_turns=3,
        dataset=lambda: rows("train"),
        eval_dataset=lambda: rows("eval"),
        rubric=rubric,
        pass_threshold=1.2,
    )


def right(completion, answer):
    return float(completion[-1].role == "assistant" and completion[-1].content.strip() == answer)


def asked(completion, info):
    """Whether the first call is the one that helps."""
    calls = [call for message in completion for call in message.tool_calls or ()]
    return float(bool(calls) and calls[0].name == "price" and wanted(calls[0].arguments) == info)


def wanted(arguments):
    try:
        return json.loads(arguments)
    except ValueError:
        return None


def rows(split):
    """Questions with their gold episodes, which is what SFT learns from."""
    items = (HERE / "dataset" / f"{split}.txt").read_text().split()
    return [
        {
            "question": f"Price: {item}",
            "answer": str(PRICES[item]),
            "info": {"item": item},
            "completion": episode(item, str(PRICES[item])),
        }
        for item in items
    ]


def episode(item, answer):
    call = {"id": "call_0", "type": "function", "function": {"name": "price", "arguments": json.dumps({"item": item})}}
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": answer, "tool_call_id": "call_0"},
        {"role": "assistant", "content": answer},
    ]
