"""What is true of the processes that a stack consists of."""

import sys
from pathlib import Path
from typing import Any

from cli.stack.parts import Part, environment, service_parts


def services(**options: Any) -> dict[str, Part]:
    told: dict[str, Any] = {
        "home": Path("/home/ada/.flash"),
        "nats_url_of": "nats://{}:hush@127.0.0.1:4222".format,
        "store_url": "s3://flash:hush@127.0.0.1:8333/flash",
        "models": ["tiny"],
        "rollouts": 1,
        "scorers": 1,
        "learners": 1,
    }
    return {part.name: part for part in service_parts(**told | options)}


def test_a_stack_has_one_of_each_service_and_model_services_for_each_model() -> None:
    assert list(services()) == ["hub", "scheduler", "recorder", "scorer-1", "rollout-tiny-1", "learner-tiny-1"]
    assert [name for name in services(models=["tiny", "smollm2-135m"], rollouts=2, scorers=2) if "-" in name] == [
        "scorer-1", "scorer-2", "rollout-tiny-1", "rollout-tiny-2", "learner-tiny-1",
        "rollout-smollm2-135m-1", "rollout-smollm2-135m-2", "learner-smollm2-135m-1",
    ]  # fmt: skip


def test_whoever_starts_a_stack_is_its_operator_and_lets_its_scorers_build_packages() -> None:
    found = services(scorers=2)

    assert [name for name, part in found.items() if part.env.get("FLASH_BUILD_SOURCES")] == ["scorer-1", "scorer-2"]
    assert found["scorer-1"].env["FLASH_REPLICA"] == "scorer-1"
    assert found["scorer-1"].env["FLASH_NATS_URL"] == "nats://scorer:hush@127.0.0.1:4222"


def test_a_model_named_twice_is_served_once() -> None:
    assert services(models=["tiny", "tiny"]) == services()


def test_each_service_is_told_who_it_is_and_where_the_others_are() -> None:
    rollout = services()["rollout-tiny-1"]

    assert rollout.argv == (sys.executable, "-P", "-m", "services.rollout")
    assert rollout.env["FLASH_REPLICA"] == "rollout-tiny-1"
    assert rollout.env["FLASH_MODEL"] == "tiny"
    assert rollout.env["FLASH_NATS_URL"] == "nats://rollout:hush@127.0.0.1:4222"
    assert rollout.env["FLASH_HOME"] == "/home/ada/.flash"
    assert rollout.env["OMP_NUM_THREADS"] == "1"


def test_no_password_stands_where_others_can_read_it() -> None:
    for part in services().values():
        assert "hush" not in " ".join(part.argv)
        assert "hush" not in repr(part)


def test_only_what_takes_requests_is_needed_and_comes_before_the_models() -> None:
    parts = services().values()

    assert [part.name for part in parts if part.needed] == ["hub", "scheduler"]
    assert {part.rank for part in parts if part.warms} == {2}
    assert {part.rank for part in parts if not part.warms} == {1}


def test_a_process_sees_what_we_see_but_for_what_changes_its_imports() -> None:
    seen = environment(Part("one", (), {"A": "ours"}), {"A": "theirs", "B": "theirs", "PYTHONPATH": "/tmp"})

    assert seen == {"A": "ours", "B": "theirs"}
