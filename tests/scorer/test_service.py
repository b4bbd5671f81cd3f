"""The scorer on a bus, with real hosts: what it says to what it hears."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from flash.artifacts import pack
from flash.bus.memory import MemoryBus
from flash.contracts.base import Event
from flash.contracts.environments import EnvironmentWithdrawn
from flash.contracts.groups import GroupCancelled, GroupGenerated, GroupScored
from flash.contracts.hosting import CheckReport, EnvironmentCheck
from flash.contracts.keys import dataset_key, spec_key
from flash.contracts.preparing import DatasetPrepare, PreparedRows
from flash.contracts.runs import DatasetFailed, DatasetPrepared, DatasetRequested, RunCancelled, RunCompleted
from flash.contracts.spec import EnvironmentSpec, RunSpec
from flash.contracts.values import Example, Fault, PolicyRef, Rollout
from flash.host.requirements import Installer
from flash.host.sandbox import found
from services.scorer.service import Scorer
from services.scorer.settings import Settings
from tests.wheels import wheel

E = TypeVar("E", bound=Event)

ENVIRONMENT = """
import os, time
from envsdk import EnvironmentSingleTurn, RewardResult
class Exact(EnvironmentSingleTurn):
    def build_prompt_messages(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]
    def score_response(self, example, text):
        print("saw", text)
        if text == "die": os._exit(7)
        if text == "hang": time.sleep(3600)
        if hasattr(text, "thinking"): return RewardResult(0.5, metadata={"thinking": text.thinking, "answer": text})
        return RewardResult(score=1.0 if text == example.output else 0.0)
def load_environment(level=1): return Exact()
"""
FILES = {"environment.py": ENVIRONMENT, "dataset/train.jsonl": '{"input": "2+2", "output": "4"}\n{"input": "?"}'}

Publish = Callable[..., Any]


class World:
    """A scorer at work, and what the rest of Flash would have put in its place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bus = MemoryBus(retry_s=0.01)
        settings = Settings(home=folder / "home", replica="scorer-1", score_timeout_s=1.0, load_timeout_s=20.0)
        self.scorer = Scorer(self.bus, self.bus.store, settings)

    async def spec(self, run_id: str = "r1", files: dict[str, str] | None = None, **fields: Any) -> RunSpec:
        """A run of an environment made of these files, both in the store."""
        root = self.folder / run_id
        for name, content in (files or FILES).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
        packed = await asyncio.to_thread(pack, root)
        key = f"environments/local/exact/{packed.digest[:12]}.tar.zst"
        await self.bus.store.put(key, packed.data)
        environment = EnvironmentSpec(
            id="local/exact", version=packed.digest[:12], digest=packed.digest, key=key,
            params=fields.pop("params", {}), pip=fields.pop("pip", []), secrets=fields.pop("secrets", []),
        )  # fmt: skip
        spec = RunSpec(
            org="local", run_id=run_id, algorithm="grpo", model="tiny", pool="tiny", seed=1, split="train",
            environment=environment,
        )  # fmt: skip
        spec = msgspec.structs.replace(spec, **fields)
        await self.bus.store.put(spec_key(run_id), msgspec.json.encode(spec))
        return spec

    async def heard(self, kind: type[E], count: int = 1) -> list[E]:
        found: list[Any] = []
        async with asyncio.timeout(20):
            async for told in self.bus.replay(kind.pattern()):
                found.append(told.event)
                if len(found) == count:
                    break
        return found

    async def said(self, kind: type[E]) -> int:
        return len([told async for told in self.bus.history(kind.pattern())])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.bus.answer("scorer", made.scorer.answers(), replica=made.scorer.replica)
    await made.bus.listen(*made.scorer.subscriptions())
    yield made
    await made.bus.close(0.1)
    await made.scorer.close()


def generated(*texts: str, run_id: str = "r1", **fields: Any) -> GroupGenerated:
    given: dict[str, Any] = {
        "org": "local",
        "run_id": run_id,
        "scope": "train",
        "step": 1,
        "group": 0,
        "example": Example(index=0, id="example_000000", input="2+2", output="4", record={"input": "2+2"}),
        "policy": PolicyRef(version=3, digest="d3"),
        "prompt_ids": b"\1\0\0\0",
        "rollouts": [Rollout(text=text, token_ids=b"\2\0\0\0", logprobs=b"\0\0\0\0", mask=b"\1") for text in texts],
    }
    return GroupGenerated(**{**given, **fields})


def requested(chunk: int = 0, run_id: str = "r1") -> DatasetRequested:
    return DatasetRequested(org="local", run_id=run_id, chunk=chunk)


async def test_a_generated_group_is_told_again_with_its_rewards(world: World) -> None:
    spec = await world.spec()
    event = generated("4", "5")

    await world.bus.publish(event)
    [scored] = await world.heard(GroupScored)

    assert [verdict.reward for verdict in scored.verdicts] == [1.0, 0.0]
    assert [verdict.success for verdict in scored.verdicts] == [True, False]
    assert scored.verdicts[0].output == "saw 4\n"
    assert (scored.rollouts, scored.policy, scored.prompt_ids) == (event.rollouts, event.policy, event.prompt_ids)
    assert (scored.environment_version, scored.replica) == (spec.environment.version, "scorer-1")
    assert scored.example == event.example


async def test_faults_stand_where_they_happened_and_the_group_is_told(world: World) -> None:
    await world.spec()
    lost = Rollout(finish_reason="fault", fault=Fault(kind="generation-failed", message="engine gone"))
    event = generated("4", "die", "hang", "5", scope="eval")

    await world.bus.publish(msgspec.structs.replace(event, rollouts=[lost, *event.rollouts]))
    [scored] = await world.heard(GroupScored)

    kinds = [verdict.fault.kind if verdict.fault else verdict.reward for verdict in scored.verdicts]
    assert kinds == ["generation-failed", 1.0, "crashed", "timed-out", 0.0]
    assert scored.scope == "eval"


async def test_an_environment_that_does_not_load_makes_every_rollout_a_fault(world: World) -> None:
    await world.spec(files={"environment.py": "raise ValueError('broken')"})

    await world.bus.publish(generated("4", "5"))
    [scored] = await world.heard(GroupScored)

    assert [verdict.fault.kind for verdict in scored.verdicts if verdict.fault] == ["load-failed"] * 2
    assert "environment.py" in str(scored.verdicts[0].fault)


async def test_a_thinking_run_shows_the_author_answer_and_thoughts(world: World) -> None:
    await world.spec(thinking=True)

    await world.bus.publish(generated("why</think>4", "never closed", prompt_opened=True))
    [scored] = await world.heard(GroupScored)

    assert [verdict.metadata for verdict in scored.verdicts] == [
        {"thinking": "why", "answer": "4"},
        {"thinking": "never closed", "answer": ""},
    ]
    assert scored.prompt_opened


async def test_a_group_of_a_run_that_is_over_is_dropped(world: World) -> None:
    await world.spec()
    await world.bus.publish(RunCompleted(org="local", run_id="r1"))

    [dropped] = await world.scorer.on_group_generated(generated("4"))
    assert (type(dropped), dropped.attempt, dropped.group_id) == (GroupCancelled, 1, generated("4").group_id)
    assert await world.scorer.on_dataset_requested(requested()) == []


async def test_a_group_of_a_run_that_was_resumed_is_scored(world: World) -> None:
    await world.spec()
    await world.bus.publish(RunCancelled(org="local", run_id="r1"))

    [scored] = await world.scorer.on_group_generated(generated("4", attempt=2))

    assert [verdict.reward for verdict in scored.verdicts] == [1.0]


async def test_a_group_that_is_scored_already_is_not_scored_again_where_that_takes_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.scorer.service.QUICK_S", 0.0)
    await world.spec()
    await world.bus.publish(generated("4"))
    await world.heard(GroupScored)

    assert await world.scorer.on_group_generated(generated("4")) == []


async def test_a_group_that_nobody_can_score_is_told_with_every_rollout_a_fault(world: World) -> None:
    await world.bus.publish(generated("4", "5", run_id="no-spec"))  # nothing in the store: every try raises

    [scored] = await world.heard(GroupScored)

    assert [verdict.fault.kind for verdict in scored.verdicts if verdict.fault] == ["crashed"] * 2
    assert "could not be scored" in str(scored.verdicts[0].fault)


async def test_a_dataset_is_rendered_stored_and_counted(world: World) -> None:
    spec = await world.spec(prompt_text="be brief")

    await world.bus.publish(requested())
    [prepared] = await world.heard(DatasetPrepared)

    examples = msgspec.msgpack.decode(await world.bus.store.get(prepared.key), type=list[Example])
    assert (prepared.rows, prepared.missing_output, prepared.key) == (2, [1], dataset_key(spec, 0))
    assert [example.input for example in examples] == ["2+2", "?"]
    assert examples[0].messages[0] == {"role": "system", "content": "be brief"}
    assert (examples[0].completion, examples[1].completion) == ([{"role": "assistant", "content": "4"}], None)


async def test_rows_that_have_to_be_read_whole_are_read_once(world: World) -> None:
    lines = "input,output\n" + "".join(f"{number},{number}\n" for number in range(2_500))
    files = {"environment.py": ENVIRONMENT, "rows.csv": lines}
    spec = await world.spec(files=files, params={"dataset_path": "rows.csv"})

    await world.bus.publish(requested(1))
    await world.heard(DatasetPrepared)
    await world.scorer.close()  # a host could not be had any more
    await world.bus.publish(requested(0), requested(2))
    prepared = await world.heard(DatasetPrepared, 3)

    assert {event.key: event.rows for event in prepared} == {dataset_key(spec, chunk): 2_500 for chunk in range(3)}
    last = msgspec.msgpack.decode(await world.bus.store.get(dataset_key(spec, 2)), type=list[Example])
    assert [example.index for example in last] == list(range(2_048, 2_500))


async def test_rows_rendered_for_one_run_serve_another(world: World) -> None:
    await world.spec("r1")
    await world.spec("r2")
    await world.bus.publish(requested(run_id="r1"))
    [first] = await world.heard(DatasetPrepared)
    await world.bus.store.delete(  # were a host needed, it could not be had
        (await world.spec("r1")).environment.key
    )
    await world.scorer.close()

    await world.bus.publish(requested(run_id="r2"))
    prepared = await world.heard(DatasetPrepared, 2)

    assert {(event.key, event.rows, tuple(event.missing_output)) for event in prepared} == {(first.key, 2, (1,))}


async def test_a_dataset_that_cannot_be_rendered_is_told_with_the_fault(world: World) -> None:
    await world.spec("r1", files={"environment.py": ENVIRONMENT, "dataset/train.jsonl": '{"prompt": "a"}'})
    await world.spec("r2", params={"levle": 2})

    await world.bus.publish(requested(run_id="r1"), requested(run_id="r2"))
    failed = {event.run_id: event.fault for event in await world.heard(DatasetFailed, 2)}

    assert "rename `prompt` to `input`" in failed["r1"].message
    assert "does not take levle; it takes level" in failed["r2"].message


POLITE = {**FILES, "environment.py": "from greeting import VERSION\n" + ENVIRONMENT.replace('"saw"', "VERSION")}
"""An environment that needs a package."""


async def test_a_run_has_the_packages_that_it_asks_for(world: World, index: Path) -> None:
    wheel(index, "greeting", "1.0")
    wheel(index, "greeting", "2.0")
    await world.spec("r1", files=POLITE, pip=["greeting==1.0"])
    await world.spec("r2", files=POLITE, pip=["greeting"])

    await world.bus.publish(requested(run_id="r1"), generated("4", run_id="r1"), generated("4", run_id="r2"))
    [prepared] = await world.heard(DatasetPrepared)
    groups = {event.run_id: event.verdicts[0] for event in await world.heard(GroupScored, 2)}

    assert prepared.rows == 2
    assert {run: (verdict.reward, verdict.output) for run, verdict in groups.items()} == {
        "r1": (1.0, "1.0 4\n"), "r2": (1.0, "2.0 4\n"),
    }  # fmt: skip


async def test_packages_that_cannot_be_installed_fail_the_dataset_with_the_installers_last_lines(
    world: World, index: Path
) -> None:
    wheel(index, "greeting", "1.0")
    await world.spec("r1", files=POLITE, pip=["greeting==7.7"])

    await world.bus.publish(requested())
    [failed] = await world.heard(DatasetFailed)

    assert failed.fault.message.startswith("environment.pip [greeting==7.7] cannot be installed")
    assert "greeting==7.7" in failed.fault.traceback


async def test_while_one_run_waits_for_its_packages_the_others_go_on(
    world: World, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "uv"
    slow.write_text(f"#!/bin/sh\nwhile [ ! -e {index}/go-on ]; do sleep 0.05; done\nexit 1\n")
    slow.chmod(0o755)
    monkeypatch.setattr(Installer, "found", lambda: Installer("uv", "1", (str(slow),)))
    await world.spec("r1", files=POLITE, pip=["greeting"])
    await world.spec("r2")

    await world.bus.publish(requested(run_id="r1"), requested(run_id="r2"), generated("4", run_id="r2"))
    [prepared] = await world.heard(DatasetPrepared)
    [scored] = await world.heard(GroupScored)

    assert (prepared.run_id, scored.verdicts[0].reward) == ("r2", 1.0)
    assert await world.said(DatasetFailed) == 0
    (index / "go-on").touch()
    assert [event.run_id for event in await world.heard(DatasetFailed)] == ["r1"]


async def test_a_group_is_scored_later_where_its_packages_cannot_be_had_for_the_moment(
    world: World, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(index, "greeting", "1.0")
    real, failing = Installer.found(), Installer("uv", "1", ("/bin/false",))
    found = [failing]
    works = Installer("uv", "1", real.command)
    monkeypatch.setattr(Installer, "found", lambda: found.pop() if found else works)
    await world.spec("r1", files=POLITE, pip=["greeting"])

    await world.bus.publish(generated("4"))
    [scored] = await world.heard(GroupScored)

    assert not found
    assert (scored.verdicts[0].reward, scored.verdicts[0].fault) == (1.0, None)


async def check(world: World, files: dict[str, str], pip: Sequence[str] = (), **params: Any) -> CheckReport:
    spec = await world.spec("checked", files=files)
    request = EnvironmentCheck(key=spec.environment.key, digest=spec.environment.digest, params=params, pip=list(pip))
    report: CheckReport = await world.bus.ask(request, timeout_s=20)
    return report


async def test_a_sound_environment_is_reported_with_its_rows(world: World) -> None:
    report = await check(world, {**FILES, "dataset/eval.jsonl": '{"input": "e"}', "TRAINING_CONTRACT.md": "be brief"})

    assert report == CheckReport(rows={"train": 2, "eval": 1}, prompt_text="be brief")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"environment.py": ENVIRONMENT}, "there is no dataset/train.jsonl"),
        ({**FILES, "dataset/eval.jsonl": '{"input": "e"}\n[]'}, "split eval: .*line 2 is a list"),
        ({**FILES, "environment.py": "def load_environment(): return 1 / 0"}, "ZeroDivisionError"),
    ],
)
async def test_an_unsound_environment_is_reported_with_its_fault(
    world: World, files: dict[str, str], said: str
) -> None:
    report = await check(world, files)

    assert report.fault is not None
    assert report.fault.kind == "load-failed"
    with pytest.raises(ValueError, match=said):
        raise ValueError(report.fault.message)


async def test_a_missing_third_party_module_is_a_note_and_no_fault(world: World) -> None:
    report = await check(world, {**FILES, "environment.py": "import nowhere_to_be_found\n" + ENVIRONMENT})

    assert report == CheckReport(notes=["not validated: needs nowhere_to_be_found"])


async def test_a_missing_param_is_a_note_and_with_it_the_package_is_validated(world: World) -> None:
    wanting = ENVIRONMENT.replace("def load_environment(level=1)", "def load_environment(level, *, words)", 1)
    files = {**FILES, "environment.py": wanting}

    assert await check(world, files) == CheckReport(notes=["not validated: needs the params level, words"])
    assert (await check(world, files, level=2, words=[])).rows == {"train": 2}
    fault = (await check(world, files, level=2, words=[], typo=1)).fault
    assert fault is not None
    assert "does not take typo; it takes level, words" in fault.message


async def test_a_place_that_the_package_reaches_for_while_it_loads_is_a_note_and_no_fault(world: World) -> None:
    eager = "import urllib.request\nurllib.request.urlopen('http://judge.example/')\n" + ENVIRONMENT

    [note] = (await check(world, {**FILES, "environment.py": eager})).notes

    assert note.startswith("not validated: ")
    assert "judge.example is out of reach: an environment reaches what environment.network names" in note


@pytest.mark.skipif(not found().bwrap, reason="a way out wants walls, and bubblewrap does not work here")
async def test_a_run_reaches_what_it_names_and_a_run_that_names_nothing_does_not(world: World) -> None:
    async def judge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\n0.5")
        writer.close()

    async with await asyncio.start_server(judge, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        asks = f"float(__import__('urllib.request').request.urlopen('http://127.0.0.1:{port}/').read())"
        files = {**FILES, "environment.py": ENVIRONMENT.replace("1.0 if text == example.output else 0.0", asks)}
        for run_id, network in (("open", [f"127.0.0.1:{port}"]), ("shut", [])):
            spec = await world.spec(run_id, files)
            environment = msgspec.structs.replace(spec.environment, network=network)
            named = msgspec.structs.replace(spec, environment=environment)
            await world.bus.store.put(spec_key(run_id), msgspec.json.encode(named))
            await world.bus.publish(generated("4", run_id=run_id))
        scored = {told.run_id: told.verdicts[0] for told in await world.heard(GroupScored, 2)}

    assert scored["open"].reward == 0.5
    assert scored["shut"].fault is not None
    assert "out of reach" in scored["shut"].fault.message


async def test_with_the_packages_it_is_validated_and_without_that_is_said(world: World, index: Path) -> None:
    wheel(index, "greeting", "1.0")

    assert await check(world, POLITE) == CheckReport(notes=["not validated: needs greeting"])
    assert await check(world, POLITE, pip=["greeting"]) == CheckReport(rows={"train": 2})
    [note] = (await check(world, POLITE, pip=["greeting>1"])).notes
    assert note.startswith("not validated: environment.pip [greeting>1] cannot be installed")
    assert len(note.splitlines()) == 1


async def test_a_multi_turn_environment_is_checked_like_any_other(world: World) -> None:
    code = (
        "from envsdk import EnvironmentMultiTurn\n"
        "class Chat(EnvironmentMultiTurn):\n"
        "    dataset = ['a', 'b']\n"
        "    start_episode = lambda self, example, text: [{'role': 'user', 'content': 'hi'}]\n"
        "    max_episode_turns = lambda self, example: MOST\n"
        "    step_episode = score_episode = lambda self, *_: None\n"
        "def load_environment(): return Chat()\n"
    )

    sound = await check(world, {"environment.py": "MOST = 2\n" + code})
    unsound = await check(world, {"environment.py": "MOST = 0\n" + code})

    assert (sound.rows, sound.fault) == ({"train": 2}, None)
    assert unsound.fault is not None
    assert "row 1: max_episode_turns gave 0, wanted a whole number of at least 1" in unsound.fault.message


async def test_rows_that_were_looked_at_before_the_run_was_submitted_are_the_rows_it_finds(world: World) -> None:
    spec = await world.spec()

    looked: PreparedRows = await world.bus.ask(DatasetPrepare(spec=spec, chunk=0), 20)
    again = await world.bus.ask(DatasetPrepare(spec=spec, chunk=0), 20)

    assert (looked.rows, looked.missing_output, looked.fault) == (2, [1], None)
    assert looked == again
    stored = await world.bus.store.get(dataset_key(spec, 0))
    assert looked.digest == hashlib.sha256(stored).hexdigest()
    assert await world.said(DatasetPrepared) == 0, "nobody has submitted anything"


async def test_a_malformed_row_is_named_before_anything_is_queued(world: World) -> None:
    rows = "".join('{"input": "2+2", "output": "4"}\n' for _ in range(16)) + '{"input": \n'
    spec = await world.spec(files={"environment.py": ENVIRONMENT, "dataset/train.jsonl": rows})

    looked = await world.bus.ask(DatasetPrepare(spec=spec, chunk=0), 20)

    assert looked.rows == 0
    assert "line 17" in looked.fault.message


async def test_a_withdrawn_version_leaves_the_cache_also_if_no_scorer_was_up_then(world: World) -> None:
    spec = await world.spec()
    report = await world.bus.ask(EnvironmentCheck(key=spec.environment.key, digest=spec.environment.digest), 20.0)
    copy = world.folder / "home/cache/environments" / spec.environment.digest
    assert report.fault is None
    assert copy.is_dir()
    version = spec.environment.version
    await world.bus.publish(
        EnvironmentWithdrawn(
            org="local", slug="exact", environment="exact", version=version, digest=spec.environment.digest
        )
    )

    tidying = asyncio.create_task(world.scorer.keep_tidy())
    async with asyncio.timeout(10):
        while copy.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    tidying.cancel()
