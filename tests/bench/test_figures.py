"""What the benches measure with. Nothing here is timed."""

import json
import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from bench import cli, engine, rollouts, step, transport
from bench.engine_parts import asked
from bench.figures import cpu_s, interleaved, last_line, median_ratio
from bench.parts import Part, python
from bench.peers import atropos
from bench.transport import Turn, split
from bench.transport_parts import ANSWER_TOKENS, PROMPT_TOKENS, ROLLOUTS, generated, sample, unsampled
from flash.contracts.groups import GroupGenerated
from flash.contracts.packing import unpack_floats, unpack_ids


@pytest.mark.parametrize("bench", [cli, engine, rollouts, step, transport])
def test_a_bench_can_be_run_without_arguments(bench: object) -> None:
    given = bench.arguments().parse_args([])  # type: ignore[attr-defined]

    assert given.rounds >= 3


def test_every_side_runs_in_every_round_and_none_always_runs_first() -> None:
    order: list[tuple[str, int]] = []
    sides = {name: lambda number, name=name: order.append((name, number)) or number for name in "abc"}

    found = interleaved(3, sides)

    assert found == {"a": [0, 1, 2], "b": [0, 1, 2], "c": [0, 1, 2]}
    assert [order[3 * number][0] for number in range(3)] == ["a", "b", "c"]


def test_a_ratio_is_the_median_over_pairs_that_ran_beside_each_other() -> None:
    assert median_ratio([10.0, 20.0, 90.0], [1.0, 4.0, 10.0]) == 9.0


def test_the_last_line_is_json_with_the_name_of_the_bench() -> None:
    assert json.loads(last_line("cli", cpu_ms=123.456789)) == {"bench": "cli", "cpu_ms": 123.5}


def test_the_seconds_of_a_process_include_those_of_children_that_have_ended() -> None:
    before = cpu_s(os.getpid())

    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)

    assert cpu_s(os.getpid()) - before > 0.02


def test_a_turn_names_what_each_process_spent_a_group() -> None:
    turn = Turn(groups=100, wall_s=0.5, cpu_s={"scorer": 0.02, "learner": 0.03})

    assert turn.groups_per_s == 200
    assert turn.cpu_ms_per_group == pytest.approx(0.5)
    assert split([turn]) == "scorer 0.20, learner 0.30"


def test_our_group_and_the_peers_hold_as_many_rollouts_and_tokens() -> None:
    rng = random.Random(0)

    ours = GroupGenerated.decode(generated(unsampled("run", 0, rng), sample(rng)).encode())
    theirs = atropos.group(0, rng)

    assert len(ours.rollouts) == len(theirs["tokens"]) == ROLLOUTS
    assert len(unpack_ids(ours.prompt_ids)) == PROMPT_TOKENS
    assert {len(unpack_ids(rollout.token_ids)) for rollout in ours.rollouts} == {ANSWER_TOKENS}
    assert {len(unpack_floats(rollout.logprobs)) for rollout in ours.rollouts} == {ANSWER_TOKENS}
    assert {len(ids) for ids in theirs["tokens"]} == {PROMPT_TOKENS + ANSWER_TOKENS}


def test_a_part_that_ends_is_told_apart_from_one_that_says_nothing() -> None:
    with pytest.raises(RuntimeError, match="ended with 3"):
        Part("broken", [sys.executable, "-c", "raise SystemExit(3)"])


def test_parts_run_modules_of_this_repository() -> None:
    assert python("bench.cli", interpreter="py") == ["py", "-m", "bench.cli"]


def test_every_engine_draws_rows_of_mixed_lengths_in_groups_that_share_a_prompt() -> None:
    rows = asked()

    assert Counter(Counter(row.prompt for row in rows).values()) == {8: 8}
    assert {len(row.prompt) for row in rows} <= set(range(96, 161))
    assert Counter(row.length for row in rows) == dict.fromkeys(range(16, 129, 16), 8)
