"""What is true of the files under a home folder."""

import os
import subprocess
from pathlib import Path

import pytest

from cli.stack import connection, is_starting
from cli.stack.home import Home, PartState, Stack, is_alive, started_at
from flash.errors import FlashError, NotFound, Refused


def home_in(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.make()
    return home


def stack_of(pid: int, since: float | None = None, *parts: PartState) -> Stack:
    since = started_at(pid) or 0.0 if since is None else since
    return Stack(pid=pid, started_at=since, nats_url="nats://here", store_url="s3://there", parts=parts)


def test_a_stack_runs_for_as_long_as_its_supervisor_lives(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    with subprocess.Popen(["sleep", "600"]) as supervisor:
        home.write(stack_of(supervisor.pid))
        assert connection(home.folder) == "nats://here"
        supervisor.kill()

    assert home.running() is None
    with pytest.raises(NotFound, match="flash up"):
        connection(home.folder)


def test_another_process_with_the_same_pid_is_not_the_supervisor(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    home.write(stack_of(os.getpid(), (started_at(os.getpid()) or 0.0) - 60))

    assert home.running() is None


def test_where_no_stack_ever_ran_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="flash up"):
        connection(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_state_file_that_cannot_be_read_is_no_stack(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    (home.folder / "stack.json").write_text('{"version": 0}')

    assert home.running() is None


def test_two_supervisors_cannot_hold_one_home(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    home.write(stack_of(os.getpid()))

    with home.held(), pytest.raises(Refused, match=rf"already running .*pid {os.getpid()}.*flash down"), home.held():
        pass
    with home.held():
        pass


def test_what_a_dead_supervisor_left_running_is_ended(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as left:
        since = started_at(left.pid)
        assert since
        parts = (
            PartState(name="left", pid=left.pid, started_at=since),
            PartState(name="reused", pid=os.getpid(), started_at=1.0),
            PartState(name="gone"),
        )
        home.write(stack_of(1, 1.0, *parts))

        assert home.sweep() == ["left"]
        assert not is_alive(left.pid, since)
    assert home.written() is None


def test_ports_and_passwords_stay_and_only_the_owner_reads_them(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    home.write(stack_of(os.getpid()))

    wiring = home.wiring(["nats", "s3"])

    assert home.wiring(["nats", "s3"]) == wiring
    assert len({wiring.nats_password, wiring.s3_secret, wiring.s3_keys}) == 3
    assert [(home.folder / name).stat().st_mode & 0o777 for name in ("wiring.json", "stack.json")] == [0o600] * 2


def test_a_long_log_is_put_aside(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    home.log("hub").write_bytes(b"x" * (11 << 20))

    assert not home.fresh_log("hub").exists()
    assert home.log("hub").with_suffix(".log.1").stat().st_size == 11 << 20


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").touch()

    with pytest.raises(FlashError, match="--home"):
        Home(tmp_path / "home").make()


def test_a_pool_whose_parts_are_on_the_way_is_starting(tmp_path: Path) -> None:
    names = ("hub", "rollout-my-model-1", "learner-tiny-2")
    both = ("rollout", "learner")
    home = home_in(tmp_path)
    home.write(stack_of(os.getpid(), None, *(PartState(name=name, standing="warming") for name in names)))

    found = [pool for pool in ("tiny", "my-model", "my", "model") if is_starting(home.folder, pool, both)]

    assert found == ["tiny", "my-model"]

    home.forget()

    assert not is_starting(home.folder, "tiny", ["learner"])


def test_a_pool_whose_part_dies_before_it_answers_is_not_waited_for(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    bad = PartState(name="learner-tiny-1", standing="warming", deaths=2)
    home.write(stack_of(os.getpid(), None, bad, PartState(name="rollout-tiny-1", standing="warming")))
    home.log("learner-tiny-1").write_text("loading\nMemoryError\n\n")

    with pytest.raises(FlashError, match=r"^learner-tiny-1 has died 2 times in a row .*\nloading\nMemoryError$"):
        is_starting(home.folder, "tiny", ["rollout", "learner"])
    assert is_starting(home.folder, "tiny", ["rollout"])

    home.write(stack_of(os.getpid(), None, bad, PartState(name="learner-tiny-2", standing="warming")))

    assert is_starting(home.folder, "tiny", ["learner"])
