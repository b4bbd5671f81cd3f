"""What an author's code may do, and what becomes of it. Real children everywhere."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from flash.contracts.values import Example, Verdict
from flash.errors import EnvironmentFault
from flash.host import Host, HostSpec, Limits, LoadFailed, sandbox
from flash.host.sandbox import Layers

OBEDIENT = '''
import ctypes, multiprocessing, os, subprocess, sys, tempfile, threading, time
from envsdk import EnvironmentSingleTurn, RewardMetric, RewardResult

COUNT = [0]

def daemon():
    """A process that nobody waits for, in a session of its own."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", "3600.25"])
        os._exit(0)
    os.wait()

class Obedient(EnvironmentSingleTurn):
    """Scores 1.0 for `ok`, runs `do ...`, and gives what `= ...` says."""
    def build_prompt_messages(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]
    def score_response(self, example, text):
        if text.startswith("do "):
            exec(text[3:])
        elif text.startswith("= "):
            return eval(text[2:])
        return RewardResult(score=1.0, success=True, metrics=(RewardMetric("length", score=len(text)),))

def load_environment(**attributes):
    env = Obedient()
    for name, value in attributes.items():
        setattr(env, name, value)
    return env
'''

EXAMPLE = Example(index=0, id="example_000000", input="q", output="a", record={"input": "q", "output": "a"})

TWO_SLOTS = Limits(slots=2)

StartHost = Callable[..., Awaitable[Host]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[StartHost]:
    """Start hosts, which are closed after the test."""
    hosts: list[Host] = []

    async def begin(
        code: str = OBEDIENT,
        *,
        files: dict[str, str] | None = None,
        env: dict[str, str] | None = None,
        secrets: dict[str, str] | None = None,
        limits: Limits = TWO_SLOTS,
        load_timeout_s: float = 20.0,
        layers: Layers | None = None,
        **params: Any,
    ) -> Host:
        folder = tmp_path / f"env-{len(hosts)}"
        for name, content in {"environment.py": code, **(files or {})}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
        spec = HostSpec(
            folder=folder, params=params, env=env or {}, secrets=secrets or {}, limits=limits, layers=layers
        )
        hosts.append(await Host.start(spec, load_timeout_s=load_timeout_s))
        return hosts[-1]

    yield begin
    for host in hosts:
        await host.close()


async def score(host: Host, *texts: str, deadline_s: float = 10.0, **given: Any) -> list[Verdict]:
    return await host.score(EXAMPLE, texts, deadline_s=deadline_s, **given)


def rewards(verdicts: Sequence[Verdict]) -> list[float | str | None]:
    """Rewards, and the kinds of fault."""
    return [verdict.fault.kind if verdict.fault else verdict.reward for verdict in verdicts]


def processes(marker: str) -> list[int]:
    """Living processes with this in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker in (entry / "cmdline").read_bytes().decode(errors="replace"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


async def test_every_answer_of_a_group_gets_its_verdict_in_order(start: StartHost) -> None:
    host = await start()

    verdicts = await score(host, "ok", "= 0.5", "longer")

    assert rewards(verdicts) == [1.0, 0.5, 1.0]
    assert [metric.score for metric in verdicts[2].metrics] == [6.0]
    assert verdicts[0].success is True


async def test_a_raise_costs_its_own_answer_and_shows_the_authors_frames(start: StartHost) -> None:
    host = await start()

    verdicts = await score(host, "ok", "do raise KeyError('gone')", "ok")

    assert rewards(verdicts) == [1.0, "raised", 1.0]
    fault = verdicts[1].fault
    assert fault is not None
    assert fault.message == "KeyError: 'gone'"
    assert 'File "environment.py", line ' in fault.traceback
    assert "zygote" not in fault.traceback


@pytest.mark.parametrize(
    "bad", ["float('nan')", "RewardResult(float('inf'))", "'1'", "None", "type('F',(float,),{})(1)"]
)
async def test_what_is_no_number_is_an_invalid_result(start: StartHost, bad: str) -> None:
    host = await start()

    assert rewards(await score(host, "ok", f"= {bad}")) == [1.0, "invalid-result"]


@pytest.mark.parametrize(
    ("deed", "kind", "said"),
    [
        ("os._exit(3)", "crashed", "exited with status 3"),
        ("ctypes.string_at(0)", "crashed", "SIGSEGV"),
        ("os.kill(os.getpid(), 9)", "crashed", "SIGKILL"),
        ("os.closerange(3, 64)", "crashed", ""),
        ("sys.exit(0)", "raised", "SystemExit"),
        ("exit()", "raised", "SystemExit"),
        ("bytearray(1 << 33)", "limit-exceeded", "MemoryError"),
        ("sys.stdout.write('x' * (2 << 20)); sys.stdout = None; raise OSError", "raised", "OSError"),
    ],
)
@pytest.mark.parametrize("at_once", [1, 8])
async def test_only_the_guilty_answer_faults(start: StartHost, deed: str, kind: str, said: str, at_once: int) -> None:
    host = await start(max_score_concurrency=at_once)

    verdicts = await score(host, "ok", f"do {deed}", "ok", "= 0.25")

    assert rewards(verdicts) == [1.0, kind, 1.0, 0.25]
    assert verdicts[1].fault is not None
    assert said in verdicts[1].fault.message


async def test_an_answer_that_sleeps_for_an_hour_is_cut_at_its_deadline(start: StartHost) -> None:
    host = await start()
    began = time.monotonic()

    verdicts = await score(host, "ok", "do time.sleep(3600)", "ok", deadline_s=0.5)

    assert rewards(verdicts) == [1.0, "timed-out", 1.0]
    assert "0.5 s" in str(verdicts[1].fault)
    assert time.monotonic() - began < 4


async def test_a_loop_that_never_lets_go_is_cut_as_well(start: StartHost) -> None:
    host = await start()

    verdicts = await score(host, "do sum(iter(int, 1))", "ok", deadline_s=0.5)

    assert rewards(verdicts) == ["timed-out", 1.0]


async def test_the_deadline_holds_for_each_answer_not_for_the_group(start: StartHost) -> None:
    host = await start(max_score_concurrency=1)

    assert rewards(await score(host, *["do time.sleep(0.3)"] * 4, deadline_s=0.7)) == [1.0] * 4


async def test_cpu_time_is_limited_too(start: StartHost) -> None:
    host = await start(limits=Limits(slots=1, cpu_s=1))

    verdicts = await score(host, "do sum(iter(int, 1))", deadline_s=30)

    assert rewards(verdicts) == ["limit-exceeded"]


async def test_what_is_printed_is_kept_up_to_a_bound(start: StartHost) -> None:
    host = await start(max_score_concurrency=1)

    quiet, short, much = await score(host, "ok", r"do print('a\x1b[1m'); os.system('echo b')", "do print('x' * 10**6)")

    assert quiet.output == ""
    assert short.output == "a\\x1b[1m\nb\n"
    assert len(much.output) == 64 << 10


async def test_answers_side_by_side_keep_what_each_has_printed(start: StartHost) -> None:
    host = await start(limits=Limits(slots=1))
    say = "do print('begun', {0}, flush=True); time.sleep(0.05); print('done', {0}); sys.stderr.write('!')"

    verdicts = await score(host, *(say.format(number) for number in range(6)))

    assert [verdict.output for verdict in verdicts] == [f"begun {number}\ndone {number}\n!" for number in range(6)]


async def test_what_was_printed_before_the_end_is_kept(start: StartHost) -> None:
    host = await start()

    [verdict] = await score(host, "do print('last words'); os._exit(1)")

    assert verdict.output == "last words\n"


async def test_an_answer_that_tells_too_much_is_a_fault(start: StartHost) -> None:
    host = await start()

    verdicts = await score(
        host,
        "= RewardResult(1.0, metadata={'m': 'x' * (2 << 20)})",
        "= RewardResult(1.0, metadata={'s': '\\ud800'})",
        "ok",
    )

    assert rewards(verdicts) == ["limit-exceeded", "invalid-result", 1.0]


async def test_nothing_leaks_from_one_group_into_the_next(start: StartHost) -> None:
    host = await start()
    leave = "do COUNT.append(1); os.environ['LEFT'] = 'x'; open(tempfile.gettempdir() + '/left', 'w').write('x')"
    look = "= float(len(COUNT) + ('LEFT' in os.environ) + len(os.listdir(tempfile.gettempdir())))"

    for _ in range(4):
        assert rewards(await score(host, leave)) == [1.0]
        assert rewards(await score(host, look)) == [1.0]


async def test_an_answer_holds_no_descriptor_of_anybody_else(start: StartHost) -> None:
    """The limit of open files does not close what is open: each is tried."""
    host = await start()
    held = "= float(sum(os.path.exists(f'/dev/fd/{fd}') for fd in range(3, 256)))"

    verdicts = await score(host, *[held] * 4)

    assert rewards(verdicts) == [1.0] * 4  # its own channel, and nothing else


async def test_answered_means_gone(start: StartHost) -> None:
    host = await start()
    left = (
        "do daemon(); subprocess.Popen(['sleep', '3600.25']); threading.Thread(target=time.sleep, args=(3600,)).start()"
    )

    verdicts = await score(host, left, "ok")

    assert rewards(verdicts) == [1.0, 1.0]
    assert processes("3600.25") == []


async def test_several_groups_get_the_verdicts_that_each_gets_alone(start: StartHost) -> None:
    host = await start()
    texts = [("ok", "= 0.5"), ("do os._exit(3)", "ok"), ("do raise KeyError('gone')",), ("= 0.25",)]
    found = await host.score_groups([(EXAMPLE, group) for group in texts], deadline_s=10.0)

    assert [rewards(group) for group in found] == [[1.0, 0.5], ["crashed", 1.0], ["raised"], [0.25]]


async def test_a_rollout_that_hangs_among_groups_costs_itself_alone(start: StartHost) -> None:
    host = await start()
    groups = [(EXAMPLE, (text,)) for text in ("ok", "do time.sleep(3600)", "= 0.5")]

    found = await host.score_groups(groups, deadline_s=0.5)

    assert [rewards(group) for group in found] == [[1.0], ["timed-out"], [0.5]]


async def test_the_same_group_draws_the_same_numbers_whatever_is_scored_beside_it(start: StartHost) -> None:
    host = await start()
    drawn = (EXAMPLE, ("= __import__('random').random()",))

    first = await host.score_groups([(EXAMPLE, ("ok",)), drawn], deadline_s=10.0)
    again = await host.score_groups([drawn, (EXAMPLE, ("= 0.5",)), (EXAMPLE, ("ok",))], deadline_s=10.0)

    assert rewards(first[1]) == rewards(again[0])


async def test_groups_whose_answers_take_long_have_a_fork_each(start: StartHost) -> None:
    host = await start()
    count = (EXAMPLE, ("= COUNT.append(0) or len(COUNT)",))
    slow = (EXAMPLE, ("do time.sleep(0.05)",))

    quick = await host.score_groups([count] * 3, deadline_s=10.0)
    await host.score_groups([slow] * 3, deadline_s=10.0)
    apart = await host.score_groups([count] * 3, deadline_s=10.0)

    assert [rewards(group) for group in quick] == [[2.0], [3.0], [4.0]]
    assert [rewards(group) for group in apart] == [[2.0]] * 3


async def test_isolation_call_gives_each_answer_a_process_of_its_own(start: StartHost) -> None:
    host = await start(isolation="call")

    verdicts = await score(host, *["do COUNT.append(1)", "= float(len(COUNT))"] * 2, "do os._exit(1)")

    assert rewards(verdicts) == [1.0, 1.0, 1.0, 1.0, "crashed"]


async def test_an_author_who_compares_answers_is_asked_once_and_all_fail_together(start: StartHost) -> None:
    ranking = OBEDIENT.replace("class Obedient(EnvironmentSingleTurn):", "class Base(EnvironmentSingleTurn):").replace(
        "def load_environment",
        "class Obedient(Base):\n"
        "    def score_responses(self, example, texts):\n"
        "        if 'die' in texts: os._exit(1)\n"
        "        return [float(len(texts))] * (1 if 'short' in texts else len(texts))\n\n"
        "def load_environment",
    )
    host = await start(ranking)

    assert host.about.scores_groups
    assert rewards(await score(host, "a", "b", "c")) == [3.0] * 3
    assert rewards(await score(host, "a", "die")) == ["crashed"] * 2
    assert rewards(await score(host, "a", "short")) == ["invalid-result"] * 2


async def test_groups_are_scored_side_by_side(start: StartHost) -> None:
    host = await start(limits=Limits(slots=4))
    began = time.monotonic()

    await asyncio.gather(*(score(host, "do time.sleep(0.4)", "ok") for _ in range(4)))

    assert time.monotonic() - began < 1.4


async def test_a_cancelled_question_does_no_harm(start: StartHost) -> None:
    host = await start()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await score(host, "do time.sleep(0.5)")

    assert rewards(await score(host, "ok")) == [1.0]
    await asyncio.sleep(0.5)
    assert rewards(await score(host, "ok")) == [1.0]


async def test_a_host_that_is_brought_down_comes_back_and_bystanders_are_scored(start: StartHost) -> None:
    host = await start(layers=sandbox.NONE)  # within walls, nobody gets that far
    bystanders = [score(host, "do time.sleep(0.3)", "ok") for _ in range(2)]

    guilty, *others = await asyncio.gather(score(host, "ok", "do os.kill(os.getppid(), 9); time.sleep(9)"), *bystanders)

    assert rewards(guilty) == [1.0, "crashed"]
    assert [rewards(verdicts) for verdicts in others] == [[1.0, 1.0]] * 2
    assert rewards(await score(host, "ok")) == [1.0]


async def test_a_stopped_host_is_noticed_and_killed(start: StartHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flash.host.link.GRACE_S", 0.5)
    host = await start(layers=sandbox.NONE)

    [verdict] = await score(host, "do os.kill(os.getppid(), 19)", deadline_s=0.5)

    assert verdict.fault is not None
    assert rewards(await score(host, "ok")) == [1.0]


async def test_forged_frames_bring_the_host_down_and_nothing_else(start: StartHost) -> None:
    forge = OBEDIENT + (
        "\nimport socket, struct, msgspec\n"
        "def forge():\n"
        "    for fd in range(3, 64):\n"
        "        try: channel = socket.socket(fileno=fd)\n"
        "        except OSError: continue\n"
        "        body = msgspec.msgpack.encode(['answer', 1, b'x', b''])\n"
        "        channel.send(struct.pack('<I', len(body)) + body)\n"
        "        channel.detach()\n"
    )
    host = await start(forge.replace("env = Obedient()", "env = Obedient(); threading.Timer(0.5, forge).start()"))

    await asyncio.sleep(0.8)

    assert host._link.lost_because
    assert rewards(await score(host, "ok")) == [1.0]


async def test_nothing_of_ours_but_the_sdk_is_imported_and_only_declared_variables_are_there(start: StartHost) -> None:
    os.environ["FLASH_CANARY"] = "secret"
    try:
        host = await start(env={"DECLARED": "yes"}, files={"cli.py": "MINE = 7", "flash.py": "MINE = 8"})
    finally:
        del os.environ["FLASH_CANARY"]
    look = (
        "= RewardResult(1.0, metadata={'env': dict(os.environ), 'modules': list(sys.modules), 'path': sys.path,"
        " 'cli': __import__('cli').MINE, 'flash': __import__('flash').MINE})"
    )

    [verdict] = await score(host, look)

    found = verdict.metadata
    assert found["env"]["DECLARED"] == "yes"
    assert "FLASH_CANARY" not in found["env"]
    assert not {"flash.host", "flash.contracts", "services", "structlog"} & set(found["modules"])
    assert (found["cli"], found["flash"]) == (7, 8)
    assert found["path"][0] == str(host.spec.folder)
    assert str(Path(__file__).parents[2]) not in found["path"]


async def test_what_a_run_declares_as_secret_is_masked_wherever_it_is_told(start: StartHost) -> None:
    host = await start(secrets={"JUDGE_KEY": "sk-4711-secret", "LEVEL": "high"})
    say = "__import__('os').environ['JUDGE_KEY']"

    noted, printed, raised = await score(
        host,
        f"= RewardResult(1.0, metadata={{'key': {say}, {say}: [1, os.environ['LEVEL']]}})",
        f"do print('the key:', {say})",
        f"do raise ValueError('bad key ' + {say})",
    )

    assert noted.metadata == {"key": "*" * 14, "*" * 14: [1, "high"]}
    assert printed.output == f"the key: {'*' * 14}\n"
    assert raised.fault is not None
    assert "sk-4711-secret" not in f"{raised.fault.message} {raised.fault.traceback}"


async def test_where_an_error_is_too_long_no_half_of_a_secret_is_told(start: StartHost) -> None:
    host = await start(secrets={"JUDGE_KEY": "sk-4711-secret"})
    key = "os.environ['JUDGE_KEY']"
    raised = [f"do raise ValueError('x' * {before} + ' ' + {key} + ' y' * 5_000)" for before in range(1_965, 2_000, 3)]

    faults = [verdict.fault for verdict in await score(host, *raised)]

    assert not [fault for fault in faults if fault is None or "sk-4" in f"{fault.message} {fault.traceback}"]
    assert all(fault and fault.message.endswith(" ...") for fault in faults)


async def test_a_secret_that_is_a_word_of_the_protocol_does_not_spoil_it(start: StartHost) -> None:
    host = await start(secrets={"MODE": "reward", "KIND": "timed-out", "ROLE": "assistant"})

    verdicts = await score(host, "ok", "= RewardResult(1.0, metadata={'mode': os.environ['MODE']})")

    assert rewards(verdicts) == [1.0, 1.0]
    assert verdicts[1].metadata == {"mode": "reward"}


async def test_rows_are_rendered_in_pages(start: StartHost) -> None:
    lines = "\n".join(json.dumps({"input": f"q{row}", "output": row} if row else {"input": "q0"}) for row in range(5))
    host = await start(files={"dataset/train.jsonl": lines, "TRAINING_CONTRACT.md": "be brief"})

    page = await host.rows("train", 3, 10, host.about.prompt_text)
    first = await host.rows("train", 0, 1, "")

    assert (page.total, [example.input for example in page.examples]) == (5, ["q3", "q4"])
    assert page.examples[0].messages[0] == {"role": "system", "content": "be brief"}
    assert page.examples[0].completion == [{"role": "assistant", "content": "3"}]
    assert first.examples[0].completion is None
    assert await host.check("train", "") == 5
    assert await host.rows("train", 99, 10, "") == type(page)([], 5)


@pytest.mark.parametrize(("name", "told"), [("train.jsonl", [1_024]), ("rows.csv", [0, 1_024, 2_048])])
async def test_a_page_costs_no_more_of_the_file_than_it_must(start: StartHost, name: str, told: list[int]) -> None:
    """Of a file of lines its own rows; what has to be read whole is read once, for all pages."""
    lines = {"jsonl": "\n".join(f'{{"input": "q{n}"}}' for n in range(2_500)), "csv": "input\n" + "q\n" * 2_500}
    host = await start(files={name: lines[name.rpartition(".")[2]]}, dataset_path=name)

    pages = [page async for page in host.pages("train", 1, 1_024, "")]

    assert [page.examples[0].index for page in pages] == told
    assert {page.total for page in pages} == {2_500}
    assert host.has_places_of("train") == (name == "train.jsonl")
    every = [page async for page in host.every_page("train", 1_024, "")]
    assert [len(page.examples) for page in every] == [1_024, 1_024, 452]
    assert [example.index for page in every for example in page.examples] == list(range(2_500))


@pytest.mark.parametrize(("name", "asked"), [("train.jsonl", 3), ("rows.csv", 1)])
async def test_rows_that_are_taken_slowly_are_read_once_all_the_same(
    start: StartHost, name: str, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = {"jsonl": "\n".join(f'{{"input": "q{n}"}}' for n in range(2_500)), "csv": "input\n" + "q\n" * 2_500}
    host = await start(files={name: lines[name.rpartition(".")[2]]}, dataset_path=name)
    told, calls = host._told, list[str]()
    monkeypatch.setattr(host, "_told", lambda method, *args: calls.append(method) or told(method, *args))

    pages = [page async for page in host.first_rows("train", 2_100, 1_024, "")]

    assert [example.index for page in pages for example in page] == list(range(2_100))
    assert [len(page) for page in pages] == [1_024, 1_024, 52]
    assert calls == ["rows"] * asked
    assert [len(page) async for page in host.first_rows("train", 3, 1_024, "")] == [3]


async def test_a_bad_row_is_named(start: StartHost) -> None:
    host = await start(files={"dataset/train.jsonl": '{"input": "a"}\n{"prompt": "b"}'})

    for ask in (host.rows("train", 0, 10, ""), host.check("train", "")):
        with pytest.raises(LoadFailed, match=r"train\.jsonl line 2 has no `input`; found `prompt`; rename"):
            await ask


@pytest.mark.parametrize(
    ("code", "said", "missing"),
    [
        ("raise ValueError('at import')", "ValueError: at import", ""),
        ("def load_environment(): return 1 / 0", "ZeroDivisionError", ""),
        ("def load_environment(): return None", "gave a NoneType", ""),
        ("x = 1", "has no load_environment", ""),
        ("import sys; sys.exit(0)", "SystemExit", ""),
        ("import os; os._exit(0)", "died while it loaded", ""),
        ("import nowhere_to_be_found.at_all", "No module named", "nowhere_to_be_found"),
        ("import os; os.environ['JUDGE_KEY']", "JUDGE_KEY", "JUDGE_KEY"),
        ("def load_environment(:", "SyntaxError", ""),
    ],
)
async def test_what_cannot_be_loaded_is_a_fault_with_the_authors_frames(
    start: StartHost, code: str, said: str, missing: str
) -> None:
    with pytest.raises(EnvironmentFault, match=said) as failed:
        await start(code)

    assert isinstance(failed.value, LoadFailed)
    assert failed.value.fault.kind == "load-failed"
    assert failed.value.missing == missing
    if said in ("ValueError: at import", "ZeroDivisionError"):
        assert 'File "environment.py", line 1' in failed.value.fault.traceback


async def test_an_import_that_never_ends_is_given_up(start: StartHost) -> None:
    began = time.monotonic()

    with pytest.raises(LoadFailed, match=r"longer than 0\.5 s"):
        await start("import time; time.sleep(3600)", load_timeout_s=0.5)

    assert time.monotonic() - began < 5


async def test_a_closed_host_leaves_nothing_behind(start: StartHost) -> None:
    host = await start()
    scoring = asyncio.create_task(score(host, "do daemon(); time.sleep(3600)", deadline_s=60))
    await asyncio.sleep(0.5)
    pid, scratch = host._link._process.pid, host._link._cell.outside

    await host.close()

    assert processes("3600.25") == []
    assert not alive(pid)
    assert not scratch.exists()
    scoring.cancel()
    await asyncio.gather(scoring, return_exceptions=True)


def test_a_host_dies_with_its_parent(tmp_path: Path) -> None:
    folder = tmp_path / "env"
    folder.mkdir()
    (folder / "environment.py").write_text(OBEDIENT)
    parent = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from flash.host import Host, HostSpec\n"
        "async def main():\n"
        "    host = await Host.start(HostSpec(folder=Path(sys.argv[1])))\n"
        "    print(host._link._process.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent, str(folder)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        zygote = int(process.stdout.readline())
        children = Path(f"/proc/{zygote}/task/{zygote}/children")
        in_time(lambda: children.read_text() != "")
        forks = children.read_text().split()
        process.send_signal(signal.SIGKILL)

    in_time(lambda: not any(alive(int(pid)) for pid in (zygote, *forks)))


def test_a_host_that_never_comes_to_itself_dies_with_its_parent_too(tmp_path: Path) -> None:
    folder = tmp_path / "env"
    folder.mkdir()
    (folder / "environment.py").write_text(
        "import ctypes, os, signal\n"
        "for number in range(1, 31):\n"
        "    try: signal.signal(number, signal.SIG_IGN)\n"
        "    except OSError: pass\n"
        "ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n"
        "    os.execvp('sleep', ['sleep', '3600.75'])\n"
        "9 ** 9 ** 9\n"  # holds the interpreter: nothing of ours is heard any more
    )
    parent = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from flash.host import Host, HostSpec\n"
        "asyncio.run(Host.start(HostSpec(folder=Path(sys.argv[1]))))\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent, str(folder)], cwd=Path(__file__).parents[2]) as process:
        in_time(lambda: processes("3600.75") != [])
        hosts = processes(str(folder))
        process.send_signal(signal.SIGKILL)

    in_time(lambda: not processes("3600.75") and not any(map(alive, hosts)))


def in_time(is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
