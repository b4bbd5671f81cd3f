"""Requirement sets, installed by the real installers from a folder of wheels."""

import asyncio
import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from flash.config.requirements import PLATFORM
from flash.contracts.values import Example
from flash.host import Host, HostSpec, InstallFailed, Limits, RequirementSets
from flash.host.requirements import Installer
from tests.wheels import source_distribution, wheel

ENVIRONMENT = """
import sys
import msgspec
from envsdk import EnvironmentSingleTurn, RewardMetric, RewardResult
import greeting

class Env(EnvironmentSingleTurn):
    def build_prompt_messages(self, example, prompt_text): return [{"role": "user", "content": example.input}]
    def score_response(self, example, text):
        import iniconfig  # installed beside Flash, and not in the set
        where = {"greeting": greeting.__file__, "msgspec": msgspec.__file__}
        metrics = tuple(RewardMetric(name=name, reason=place) for name, place in where.items())
        return RewardResult(float(greeting.VERSION), metrics=metrics)

def load_environment():
    return Env()
"""


@pytest.fixture
def sets(tmp_path: Path) -> RequirementSets:
    return RequirementSets(tmp_path / "sets", timeout_s=60)


@pytest.fixture
async def hosts() -> Iterator[list[Host]]:
    started: list[Host] = []
    yield started
    for host in started:
        await host.close()


def use_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uv" else find(name))
    monkeypatch.setattr("shutil.which", lambda name: None)


def in_use(folder: Path) -> list[str]:
    """What lies among the sets beside locks and downloads."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock") and path.name != ".cache")


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def is_running(command: str) -> bool:
    """Somebody whose command line begins like that."""
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{entry}/cmdline").read_bytes().startswith(command.encode()):
                return True
    return False


@pytest.mark.parametrize("name", ["uv", "pip"])
async def test_a_set_has_what_was_asked_for_and_what_that_needs(
    name: str, sets: RequirementSets, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "pip":
        use_pip(monkeypatch)
    assert Installer.found().name == name
    wheel(index, "greeting", "1.0", needs=("politeness>=2",))
    wheel(index, "politeness", "2.5")

    folder = await sets.folder(["greeting"])

    assert folder is not None
    assert {path.name for path in folder.glob("*.py")} == {"greeting.py", "politeness.py"}
    assert list(folder.glob("__pycache__/greeting.*.pyc")), "else every cold start would compile it again"


async def test_nobody_may_write_to_a_set(sets: RequirementSets, index: Path) -> None:
    wheel(index, "greeting", "1.0", {"greeting/__init__.py": "", "greeting/words/one.txt": "hello"})

    folder = await sets.folder(["greeting"])

    assert folder is not None
    assert [path for path in (folder, *folder.rglob("*")) if path.stat().st_mode & 0o222] == []


async def test_the_same_requirements_are_one_set_however_they_are_written(
    sets: RequirementSets, index: Path, tmp_path: Path
) -> None:
    wheel(index, "greeting", "1.0")
    wheel(index, "politeness", "2.0")
    first = await sets.folder(["Greeting >=1,<2", "politeness"])
    shutil.rmtree(index)  # it cannot be installed again

    again = await sets.folder(["politeness", "greeting<2, >=1", "politeness"])

    assert again == first
    assert first is not None
    assert in_use(tmp_path / "sets") == [first.name]


async def test_other_requirements_are_another_set(sets: RequirementSets, index: Path) -> None:
    wheel(index, "greeting", "1.0")
    wheel(index, "greeting", "2.0")

    old, new = await sets.folder(["greeting<2"]), await sets.folder(["greeting"])

    assert old is not None
    assert new is not None
    assert ("'1.0'" in (old / "greeting.py").read_text(), "'2.0'" in (new / "greeting.py").read_text()) == (True, True)


async def test_what_is_no_requirement_reaches_no_installer(
    sets: RequirementSets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Installer, "found", lambda: pytest.fail("asked for an installer"))

    with pytest.raises(InstallFailed, match=r"names '--index-url=https://evil\.example', which is an option"):
        await sets.folder(["greeting", "--index-url=https://evil.example"])


async def test_no_requirements_are_no_set(sets: RequirementSets) -> None:
    assert await sets.folder([]) is None


async def test_those_who_want_one_set_at_once_end_with_one(index: Path, tmp_path: Path) -> None:
    wheel(index, "greeting", "1.0")
    said: list[str] = []
    others = [RequirementSets(tmp_path / "sets", timeout_s=60, say=said.append) for _ in range(4)]

    folders = await asyncio.gather(*(each.folder(["greeting"]) for each in others))

    assert len(set(folders)) == 1
    assert said == ["installing 1 requirement of environment.pip ..."]


async def test_two_processes_that_want_one_set_at_once_end_with_one(index: Path, tmp_path: Path) -> None:
    wheel(index, "greeting", "1.0")
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom flash.host import RequirementSets\n"
        "sets = RequirementSets(Path(sys.argv[1]), say=lambda text: print('installing'))\n"
        "print(asyncio.run(sets.folder(['greeting'])))\n"
    )
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(tmp_path / "sets"), stdout=asyncio.subprocess.PIPE, cwd=Path.cwd()
        )
        for _ in range(2)
    ]

    said = [(await process.communicate())[0].decode().split() for process in started]

    assert sorted(map(len, said)) == [1, 2], "one installs, the other waits"
    assert said[0][-1] == said[1][-1]


async def test_a_killed_installer_leaves_nothing_that_is_taken_for_a_set(index: Path, tmp_path: Path) -> None:
    wheel(index, "greeting", "1.0")
    sets = RequirementSets(tmp_path / "sets", timeout_s=60)
    code = (
        "import asyncio, os, signal, sys\nfrom pathlib import Path\nfrom flash.host import requirements\n"
        "requirements._seal = lambda folder: os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(requirements.RequirementSets(Path(sys.argv[1])).folder(['greeting']))\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(tmp_path / "sets"), cwd=Path.cwd())
    assert await process.wait() == -signal.SIGKILL
    [left] = in_use(tmp_path / "sets")
    assert (tmp_path / "sets" / left / "set" / "greeting.py").is_file(), "it was killed with everything but its name"

    folder = await sets.folder(["greeting"])

    assert folder is not None
    assert in_use(tmp_path / "sets") == [folder.name]


async def test_what_cannot_be_installed_says_so_with_the_installers_last_lines(
    sets: RequirementSets, index: Path, tmp_path: Path
) -> None:
    wheel(index, "greeting", "1.0")

    with pytest.raises(InstallFailed) as failed:
        await sets.folder(["greeting>=7"])

    assert failed.value.fault.kind == "load-failed"
    assert "environment.pip [greeting>=7] cannot be installed: uv ended with 1" in failed.value.fault.message
    assert "greeting>=7" in failed.value.fault.traceback
    assert in_use(tmp_path / "sets") == []


async def test_a_source_distribution_is_refused_and_its_code_never_runs(sets: RequirementSets, index: Path) -> None:
    source_distribution(index, "greeting", "1.0", "print('the code has run')\ndef do(folder, told): pass")

    with pytest.raises(
        InstallFailed, match="source distributions are not; FLASH_BUILD_SOURCES=1 of a scorer"
    ) as failed:
        await sets.folder(["greeting"])

    assert "greeting" in failed.value.fault.traceback
    assert "the code has run" not in failed.value.fault.traceback


@pytest.mark.parametrize("name", ["uv", "pip"])
async def test_where_an_operator_wants_it_a_source_distribution_is_built(
    name: str, sets: RequirementSets, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "pip":
        use_pip(monkeypatch)
    source_distribution(index, "greeting", "1.0")

    folder = await RequirementSets(tmp_path / "sets", builds=True).folder(["greeting"])

    assert folder is not None
    assert "VERSION = '1.0'" in (folder / "greeting.py").read_text()
    with pytest.raises(InstallFailed):  # another's set is not theirs who build nothing
        await sets.folder(["greeting"])


async def test_an_installer_that_takes_too_long_is_given_up(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "uv"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(Installer, "found", lambda: Installer("uv", "1", (str(slow),)))

    with pytest.raises(InstallFailed, match=r"\[greeting\] was not installed within 0\.5 s"):
        await RequirementSets(tmp_path / "sets", timeout_s=0.5).folder(["greeting"])

    assert in_use(tmp_path / "sets") == []


async def test_an_installer_that_nobody_waits_for_any_more_is_killed_with_all_it_has_started(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, length = tmp_path / "uv", f"60.{secrets.randbelow(10**6):06}"
    slow.write_text(f"#!/bin/sh\nsetsid sleep {length} &\nwait\n")
    slow.chmod(0o755)
    monkeypatch.setattr(Installer, "found", lambda: Installer("uv", "1", (str(slow),)))
    waiting = asyncio.create_task(RequirementSets(tmp_path / "sets").folder(["greeting"]))
    await until(lambda: is_running(f"sleep\0{length}"))

    waiting.cancel()
    await asyncio.wait([waiting])

    await until(lambda: not is_running(f"sleep\0{length}"))
    assert in_use(tmp_path / "sets") == []


async def test_the_installer_sees_no_secret_of_ours_and_tells_none_of_the_operators(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curious = tmp_path / "uv"
    curious.write_text("#!/bin/sh\nenv\nexit 3\n")
    curious.chmod(0o755)
    monkeypatch.setattr(Installer, "found", lambda: Installer("uv", "1", (str(curious),)))
    monkeypatch.setattr("flash.host.requirements.LINES_TOLD", 1_000)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("FLASH_NATS_URL", "nats://flash:word@localhost")
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:word@packages.example/simple")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")

    with pytest.raises(InstallFailed) as failed:
        await RequirementSets(tmp_path / "sets").folder(["greeting"])

    seen = dict(line.partition("=")[::2] for line in failed.value.fault.traceback.splitlines())
    assert seen["HTTPS_PROXY"].startswith("http://127.0.0.1:"), "the operator's proxy is asked from outside"
    assert seen["HOME"] != os.environ["HOME"]
    assert not {"OPENAI_API_KEY", "FLASH_NATS_URL"} & seen.keys()
    assert "UV_DEFAULT_INDEX=https://packages.example/simple" in failed.value.fault.traceback.splitlines()


async def test_pips_files_say_where_the_index_is_to_uv_too(
    sets: RequirementSets, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(index, "greeting", "1.0")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.delenv("PIP_NO_INDEX")
    (tmp_path / "pip.conf").write_text(f"[global]\nno-index = true\nfind-links =\n    {tmp_path}\n    {index}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))

    assert Installer.found().name == "uv"
    assert await sets.folder(["greeting"])


async def test_without_an_installer_it_is_said_what_to_install(
    sets: RequirementSets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)

    with pytest.raises(InstallFailed, match="has neither uv nor pip: install uv there"):
        await sets.folder(["greeting"])


async def test_a_set_never_has_another_version_of_what_the_platform_is_built_on(
    sets: RequirementSets, index: Path
) -> None:
    [ours] = PLATFORM
    wheel(index, ours, version(ours))
    wheel(index, ours, "999.0")
    wheel(index, "greeting", "1.0", needs=(ours,))

    folder = await sets.folder(["greeting"])

    assert folder is not None
    assert [path.name for path in folder.glob(f"{ours}-*")] == [f"{ours}-{version(ours)}.dist-info"]


async def test_an_environment_imports_from_its_set_first_and_ours_stay_ours(
    sets: RequirementSets, index: Path, tmp_path: Path, hosts: list[Host]
) -> None:
    [ours] = PLATFORM
    wheel(index, ours, version(ours))
    wheel(index, "greeting", "0.5", {"greeting.py": "raise RuntimeError('hidden by the second')\n"})
    wheel(index, "greeting", "0.75", needs=(ours,))
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "environment.py").write_text(ENVIRONMENT)
    folder = await sets.folder(["greeting>0.5"])
    spec = HostSpec(folder=tmp_path / "env", requirements=folder, limits=Limits(slots=1))
    hosts.append(await Host.start(spec))

    example = Example(index=0, id="example_000000", input="hi", record={"input": "hi"})
    [verdict] = await hosts[0].score(example, ["hello"], deadline_s=10)

    assert verdict.fault is None
    assert verdict.reward == 0.75
    where = {metric.name: str(metric.reason) for metric in verdict.metrics}
    assert where["greeting"] == f"{folder}/greeting.py"
    assert not where["msgspec"].startswith(str(folder))


async def test_a_package_of_the_set_goes_before_the_one_installed_beside_flash(
    sets: RequirementSets, index: Path, tmp_path: Path, hosts: list[Host]
) -> None:
    wheel(index, "iniconfig", "0.25")
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "environment.py").write_text(
        ENVIRONMENT.replace("import greeting", "import iniconfig as greeting")
    )
    hosts.append(
        await Host.start(HostSpec(folder=tmp_path / "env", requirements=await sets.folder(["iniconfig==0.25"])))
    )

    example = Example(index=0, id="example_000000", input="hi", record={"input": "hi"})
    [verdict] = await hosts[0].score(example, ["hello"], deadline_s=10)

    assert (verdict.fault, verdict.reward) == (None, 0.25)
