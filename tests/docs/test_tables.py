"""The tables of docs/environments*.md, cell by cell, against the real host."""

import ast
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from envsdk import Environment, EnvironmentEpisode, EnvironmentStepResult
from flash.config.keys import Train
from flash.contracts.values import Example
from flash.host import Episodes, Host, HostSpec, Limits, LoadFailed
from flash.host.child.frames import OUTPUT_BYTES
from services.rollout.episodes import RESTARTS
from services.scorer.settings import Settings as ScorerSettings

EXAMPLE = Example(index=0, id="example_000000", input="q", record={"input": "q"}, max_turns=3)

SINGLE = '''
import os, time
from envsdk import EnvironmentSingleTurn, RewardResult

class Single(EnvironmentSingleTurn):
    def build_prompt_messages(self, example, prompt_text):
        self.is_opened = True
        return [{"role": "user", "content": example.input}]
    def score_response(self, example, text):
        """Does what the text says."""
        names = {**globals(), "self": self}
        exec(f"def does():\\n    {text}", names)
        return names["does"]()

def load_environment():
    return Single()
'''

THINKING = """
from envsdk import EnvironmentSingleTurn, RewardResult

class Thinking(EnvironmentSingleTurn):
    def build_prompt_messages(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]
    def score_response(self, example, text):
        return RewardResult(score=0.0, metadata={"answer": str(text), "thinking": text.thinking, "raw": text.raw})

def load_environment():
    return Thinking()
"""

RUBRIC = """
import math
import verifiers as vf

def given(completion):
    return eval(completion[-1]["content"])

def group(completions):
    return [given(completion) for completion in completions]

def load_environment(grouped=False, weight=1.0):
    rubric = vf.Rubric(funcs=[group if grouped else given, lambda completion: 0.25], weights=[weight, 1.0])
    return vf.SingleTurnEnv(dataset=[{"question": "q", "answer": "a"}], rubric=rubric)
"""

KEEPING = '''
import os, subprocess, threading, time
from pathlib import Path
from envsdk import EnvironmentMultiTurn, EnvironmentSingleTurn, EnvironmentStepResult, RewardResult

def is_running(number):
    """A process that sleeps for so long."""
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    return any(line.split(b"\\0")[:2] == [b"sleep", number] for line in lines)

class Keeping:
    """Does what `do ...` says, and is worth what `= ...` says."""
    max_score_concurrency = 1
    def __init__(self, loading, isolation):
        self.isolation = isolation
        exec(loading)
    def told(self, example, text):
        if text.startswith("do "):
            exec(text[3:])
            return 0.0
        return float(bool(eval(text[2:])))

class Single(Keeping, EnvironmentSingleTurn):
    def build_prompt_messages(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]
    def score_response(self, example, text):
        return self.told(example, text)

class Multi(Keeping, EnvironmentMultiTurn):
    def start_episode(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]
    def max_episode_turns(self, example):
        return 3
    def step_episode(self, example, messages, text):
        said = {"role": "user", "content": str(self.told(example, text))}
        return EnvironmentStepResult(done=False, messages=(said,))
    def score_episode(self, example, episode):
        return self.told(example, episode.response_text)

def load_environment(loading="", isolation="group", turns="Single"):
    return globals()[turns](loading, isolation)
'''

TMPDIR = "os.environ['TMPDIR']"
ALIVE = "[thread for thread in threading.enumerate() if thread.name == 'kept']"
BEGUN = "threading.Thread(target=time.sleep, args=(60,), name='kept', daemon=True).start()"

KEPT: dict[str, tuple[str, str, str]] = {
    "made while loading: `__init__`, module level": ("self.x = 1", "pass", "hasattr(self, 'x')"),
    "on `self`, in a call": ("", "self.x = 1", "hasattr(self, 'x')"),
    "in a module global, in a call": ("", "globals()['X'] = 1", "'X' in globals()"),
    "on `example.metadata`, in `step_episode`": ("", "example.metadata['x'] = 1", "'x' in example.metadata"),
    "in a file below `TMPDIR`, in a call": (
        "", f"open({TMPDIR} + '/x', 'w').close()", f"os.path.exists({TMPDIR} + '/x')",
    ),
    "in a file below `TMPDIR`, while loading": (
        f"self.path = {TMPDIR} + '/x'; open(self.path, 'w').close()", "pass", "os.path.exists(self.path)",
    ),
    "a thread or process, begun in a call": (
        "", f"{BEGUN}; subprocess.Popen(['sleep', '61.25'])", f"bool({ALIVE}) == is_running(b'61.25') == True",
    ),
    "a thread, begun while loading": (BEGUN, "pass", ALIVE),
    'with `isolation = "call"`: on `self`, in a call': ("", "self.x = 1", "hasattr(self, 'x')"),
}  # fmt: skip
"""What is done while loading, what in a call, and what is true where it is still there."""

StartHost = Callable[..., Awaitable[Host]]


@pytest.fixture
async def host_of(tmp_path: Path) -> AsyncIterator[StartHost]:
    hosts: list[Host] = []

    async def begin(code: str, files: dict[str, str] | None = None, **params: Any) -> Host:
        folder = tmp_path / f"env-{len(hosts)}"
        for name, content in {"environment.py": code, **(files or {})}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
        hosts.append(await Host.start(HostSpec(folder=folder, params=params, limits=Limits(slots=1))))
        return hosts[-1]

    yield begin
    for host in hosts:
        await host.close()


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".jsonl", '{"input": "a"}\n\n"b"\n'),
        (".json", '["a", {"input": "b"}]'),
        (".json", '{"data": [{"input": "a"}, "b"]}'),
        (".csv", "output,input\n,a\n1,b\n"),
        (".txt", "a\n\nb\n"),
        (".bson", "\x12\0\0\0\x02input\0\x02\0\0\0a\0\0\x12\0\0\0\x02input\0\x02\0\0\0b\0\0"),
    ],
)
async def test_each_format_of_the_table_is_read(
    host_of: StartHost, tables: Any, suffix: str, content: str, tmp_path: Path
) -> None:
    host = await host_of(SINGLE, {f"rows{suffix}": content}, dataset_path=f"rows{suffix}")

    page = await host.rows("train", 0, 10, "")

    assert [example.input for example in page.examples] == ["a", "b"]
    assert suffix in [row[0] for row in tables("environments.md", "Rows")[0]]


async def test_what_is_wrong_with_rows_is_said_as_the_table_shows(host_of: StartHost, tables: Any) -> None:
    found = tables("environments.md", "Rows")[1]
    assert len(found) == 10

    for cell, said in found:
        named = re.fullmatch(r"`(.*)`: `(.*)`", cell)
        place, content = named.groups() if named else ("dataset/train.jsonl", cell if cell != "nothing" else "")
        host = await host_of(SINGLE, {place: content})
        with pytest.raises(LoadFailed) as failed:
            await host.check("train", "")
        assert said in str(failed.value)
        await host.close()


async def test_each_deed_of_the_table_is_the_fault_that_it_says(host_of: StartHost, tables: Any) -> None:
    host = await host_of(SINGLE)
    (deeds,) = tables("environments-scoring.md", "Faults")

    verdicts = await host.score(EXAMPLE, [deed for deed, _ in deeds], deadline_s=5.0)

    assert len(deeds) == 11
    assert [verdict.fault and verdict.fault.kind for verdict in verdicts] == [kind for _, kind in deeds]


async def test_each_thought_of_the_table_is_split_as_it_says(host_of: StartHost, tables: Any) -> None:
    host = await host_of(THINKING)
    (cases,) = tables("environments-scoring.md", "Thinking")

    assert len(cases) == 8
    for opened, wrote, answer, thinking in cases:
        (verdict,) = await host.score(EXAMPLE, [wrote], deadline_s=5.0, thinking=True, prompt_opened=opened == "yes")
        wanted = thinking.replace(r"\n", "\n") or None
        assert verdict.metadata == {"answer": answer, "thinking": wanted, "raw": wrote}, wrote


@pytest.mark.parametrize("place", KEPT)
async def test_what_is_kept_stays_as_long_as_the_table_says(host_of: StartHost, tables: Any, place: str) -> None:
    (found,) = tables("environments-scoring.md", "What stays, and for how long")
    rows = {name: cells for name, *cells in found}
    assert rows.keys() == KEPT.keys()
    loading, keep, is_kept = KEPT[place]
    given = {"loading": loading, "isolation": "call" if "isolation" in place else "group"}

    single = await host_of(KEEPING, turns="Single", **given)
    if "step_episode" not in place:
        _, other = await single.score(EXAMPLE, [f"do {keep}", f"= {is_kept}"], deadline_s=10.0)
        (following,) = await single.score(EXAMPLE, [f"= {is_kept}"], deadline_s=10.0)
        answers = bool(other.reward)
    multi = await host_of(KEEPING, turns="Multi", **given)
    episodes = await opened(multi, 2)
    await episodes.step(0, f"do {keep}")
    later = said(await episodes.step(0, f"= {is_kept}"))
    if "step_episode" in place:
        answers = said(await episodes.step(1, f"= {is_kept}"))
    (verdict,) = await episodes.score([0])
    await episodes.close()
    episodes = await opened(multi, 1)
    next_one = said(await episodes.step(0, f"= {is_kept}"))
    await episodes.close()

    assert verdict is not None
    assert verdict.fault is None
    if "step_episode" not in place:
        assert bool(following.reward) == next_one
    both = {(True, True): "yes", (False, False): "no", (True, False): "later turns, not the score"}
    assert [told(answers), both[later, bool(verdict.reward)], told(next_one)] == rows[place]


async def test_what_stays_for_a_group_is_a_cache_and_no_more(host_of: StartHost) -> None:
    host = await host_of(KEEPING)

    cut_short = await host.score(EXAMPLE, ["do self.x = 1", "do os._exit(3)", "= hasattr(self, 'x')"], deadline_s=10.0)
    groups = [(EXAMPLE, ["do self.x = 1"]), (EXAMPLE, ["= hasattr(self, 'x')"])]
    shared = await host.score_groups(groups, deadline_s=10.0)

    assert [verdict.reward for verdict in cut_short] == [0.0, None, 0.0]
    assert shared[1][0].reward == 1.0


async def test_nothing_goes_from_the_opening_to_the_score_of_a_single_turn(host_of: StartHost) -> None:
    host = await host_of(SINGLE, {"train.jsonl": '"q"'})

    await host.rows("train", 0, 1, "")
    (verdict,) = await host.score(EXAMPLE, ["return float(hasattr(self, 'is_opened'))"], deadline_s=5.0)

    assert verdict.reward == 0.0


async def test_what_reward_functions_give_earns_what_the_table_says(host_of: StartHost, tables: Any) -> None:
    alone, beside, together = [await host_of(RUBRIC, **params) for params in ({}, {"weight": 0.0}, {"grouped": True})]

    numbers = await alone.score(EXAMPLE, ["True", "1", "'0.5'"], deadline_s=5.0)
    others = await alone.score(EXAMPLE, ["None", "'a text'", "[1.0]", "math.nan", "1 / 0", "1"], deadline_s=5.0)
    metric = await beside.score(EXAMPLE, ["1 / 0", "1"], deadline_s=5.0)
    group = await together.score(EXAMPLE, ["1 / 0", "1"], deadline_s=5.0)

    assert [verdict.reward for verdict in numbers] == [1.25, 1.25, 0.75]
    assert [verdict.reward for verdict in others] == [None] * 5 + [1.25]
    assert all(verdict.fault for verdict in others[:5])
    assert [verdict.reward for verdict in metric] == [0.25, 0.25]
    assert metric[0].metrics[-1].reason == "ZeroDivisionError: division by zero"
    assert [verdict.fault and verdict.fault.message for verdict in group] == ["ZeroDivisionError: division by zero"] * 2
    earns, _ = tables("environments-verifiers.md", "Rewards")
    assert [cells[1].split(",")[0] for cells in earns] == [
        "what `float()` makes of it", "a fault of that rollout", "a fault of that rollout",
        "its message beside the reward", "a fault of every rollout of the group",
    ]  # fmt: skip


def test_a_steps_result_has_the_fields_and_defaults_that_the_table_says(tables: Any) -> None:
    _, result, episode, *_ = tables("environments-turns.md", "The order of calls")

    defaults = {
        field.name: field.default if field.default is not MISSING else {} for field in fields(EnvironmentStepResult)
    }
    assert {name: ast.literal_eval(default) for name, default, _ in result} == defaults
    assert {name for name, _ in episode} == {field.name for field in fields(EnvironmentEpisode)}


def test_the_numbers_of_the_pages_are_those_of_the_services(page_text: Any) -> None:
    turns, scoring = page_text("environments-turns.md"), page_text("environments-scoring.md")
    settings = ScorerSettings()

    assert f"{settings.episode_lease_s:g} s after it was last heard of" in turns
    assert RESTARTS == 3
    assert "at most three times" in turns
    assert f"An answer has {settings.score_timeout_s:g} s (`FLASH_SCORE_TIMEOUT_S`" in scoring
    assert f"first {OUTPUT_BYTES >> 10} KiB" in scoring
    assert f"`max_score_concurrency` ({Environment.max_score_concurrency})" in scoring
    assert f"`train.max_faults` ({Train.model_fields['max_faults'].default:.0%}".replace("%", " %") in scoring


async def opened(host: Host, count: int) -> Episodes:
    episodes = await host.episodes(EXAMPLE, count, prompt_text="", deadline_s=10.0)
    await episodes.start()
    return episodes


def said(stepped: Any) -> bool:
    assert stepped.fault is None, stepped.fault
    return bool(json.loads(stepped.messages[0]["content"]))


def told(found: bool) -> str:
    return "yes" if found else "no"
