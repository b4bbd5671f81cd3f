"""Whose turn it is, and what a run waits for."""

from dataclasses import replace

import msgspec

from flash.contracts.spec import RunSpec
from services.scheduler.queue import Surroundings, admitted, described
from services.scheduler.runs import Run, after
from tests.scheduler.said import claimed, prepared, run_after, spec, started

EVERYBODY = Surroundings(
    serving={"scorer": frozenset({""}), "learner": frozenset({"tiny"}), "rollout": frozenset({"tiny"})}
)


def waiting(name: str, place: int, **more: object) -> Run:
    found: RunSpec = msgspec.structs.replace(spec(), run_id=name, **more)
    return Run(spec=found, submitted_at=float(place), place=place)


def begun(run: Run) -> Run:
    return replace(run, admitted=True)


def told(run: Run, live: list[Run], around: Surroundings = EVERYBODY, most: int = 1) -> tuple[int, str]:
    line = described(run, live, around, most=most)
    return line.position, line.waiting_for


def test_runs_of_an_organisation_go_on_in_the_order_they_were_queued_so_many_at_a_time() -> None:
    live = [waiting("c", 3), waiting("a", 1), waiting("b", 2), waiting("other", 4, org="theirs")]

    assert admitted(live, EVERYBODY, most=2) == {"a", "b", "other"}
    assert admitted([begun(live[0]), *live[1:]], EVERYBODY, most=2) == {"c", "a", "other"}


def test_evaluations_wait_for_nobody_and_take_nobodys_turn() -> None:
    evaluation = Run(spec=msgspec.structs.replace(spec("eval"), run_id="e"), submitted_at=0.0)

    assert admitted([evaluation, waiting("a", 1)], EVERYBODY, most=1) == {"e", "a"}


def test_a_queued_run_says_its_position() -> None:
    live = [begun(waiting("a", 1)), waiting("b", 2), waiting("c", 3)]

    assert told(live[2], live) == (2, "its turn: position 2 in the queue of local, of which 1 run at a time")
    assert told(live[1], live, most=2) == (0, "a scorer to prepare its dataset")


def test_a_full_disk_lets_nobody_begin_and_the_run_says_so() -> None:
    full = Surroundings(free_bytes=2**29, wanted_bytes=2**30)
    live = [begun(waiting("a", 1)), waiting("b", 2)]

    assert admitted(live, full, most=9) == {"a"}
    assert told(live[1], live, full)[1].startswith("disk: 0.5 GiB are free and 1.0 GiB are wanted")


def test_a_run_that_no_replica_serves_says_how_to_start_one() -> None:
    nobody = Surroundings(serving={})
    run = run_after(prepared(), started())

    assert told(run, [run], nobody) == (
        1, "a learner of pool tiny, and none is running: `flash up --model tiny` starts one",
    )  # fmt: skip
    assert told(after(claimed(1), run), [run], nobody)[1].startswith("a rollout of pool tiny, and none is running")
    assert told(after(claimed(1), run), [run]) == (0, "")


def test_a_run_whose_pool_is_only_starting_says_so() -> None:
    coming = Surroundings(serving={}, coming={"learner": frozenset({"tiny"})})
    run = run_after(prepared(), started())

    assert told(run, [run], coming) == (1, "a learner of pool tiny, and one is warming up")


def test_a_run_whose_learner_is_busy_says_its_position_in_the_pool() -> None:
    first = run_after(prepared(), started())
    second = replace(first, spec=msgspec.structs.replace(first.spec, run_id="r2"), started_at=5.0, place=9)

    assert told(second, [first, second]) == (2, "a learner of pool tiny: position 2")


def test_what_could_not_be_said_is_what_the_run_waits_for() -> None:
    run = run_after(prepared(), started(), claimed(1))

    assert told(run, [run], Surroundings(obstacles={"r1": "storage, which says: full"}))[1].endswith("says: full")
