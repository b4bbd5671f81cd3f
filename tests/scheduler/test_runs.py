"""The run's state machine."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash.contracts.base import RunEvent
from flash.contracts.runs import (
    DatasetFailed,
    DatasetRequested,
    RunCancelled,
    RunCancelRequested,
    RunCompleted,
    RunEvaluated,
    RunFailed,
    RunPlanned,
    RunRetried,
    RunStarted,
)
from flash.contracts.steps import StepFinished, StepSaved, TrainingFailed
from flash.contracts.values import Fault, PolicyRef
from services.scheduler.following import CHUNKS_ASKED, follows, wanted_groups
from services.scheduler.queue import Surroundings, described
from services.scheduler.runs import after
from tests.scheduler.said import (
    RAISED,
    cancelled,
    claimed,
    evaluated_run,
    finished,
    flat,
    planned,
    prepared,
    resumed,
    run_after,
    scored,
    spec,
    started,
)


def test_a_submitted_run_asks_for_the_first_chunk_of_its_dataset() -> None:
    assert follows(run_after()) == [DatasetRequested(org="local", run_id="r1", chunk=0)]
    assert run_after().state == "queued"


def test_a_counted_dataset_gives_a_plan_clamped_to_its_rows() -> None:
    run = run_after(prepared(rows=1), of=spec(batch_size=64))

    assert RunPlanned(org="local", run_id="r1", rows=1, prompts_per_step=1, steps=4) in follows(run)


def test_a_run_starts_once_and_asks_for_no_group_before_the_start_policy_is_out() -> None:
    run = planned(run_after(prepared()))

    assert [type(event) for event in follows(run)] == [RunStarted]
    run = after(started(), run)
    assert follows(run) == []
    assert list(wanted_groups(run, eval_window=4)) == []
    assert run.state == "planning"
    assert after(claimed(1), run).state == "running"


def test_groups_are_asked_for_as_far_ahead_as_max_lag_allows_with_the_oldest_policy_that_will_do() -> None:
    run = after(finished(0), after(started(), planned(run_after(prepared()))))
    wanted = list(wanted_groups(run, eval_window=4))
    assert [(w.step, w.group, w.policy.version) for w in wanted] == [(1, 0, 0), (1, 1, 0), (2, 0, 0), (2, 1, 0)]

    run = after(finished(1), run)
    wanted = list(wanted_groups(run, eval_window=4))
    assert [(w.step, w.policy.version) for w in wanted] == [(2, 0), (2, 0), (3, 1), (3, 1)]


def test_strictly_on_policy_runs_ask_for_one_step_at_a_time() -> None:
    run = run_after(prepared(), started(), finished(0), finished(1), of=spec(max_lag=0))

    assert {(w.step, w.policy.version) for w in wanted_groups(planned(run), eval_window=4)} == {(2, 1)}


def test_no_group_is_asked_for_beyond_the_last_step() -> None:
    run = planned(run_after(prepared(), started(), *(finished(s) for s in range(4))))

    assert {w.step for w in wanted_groups(run, eval_window=4)} == {4}


def test_the_final_save_completes_a_run_with_its_last_metrics() -> None:
    final = StepSaved(org="local", run_id="r1", attempt=1, step=4, key="k", policy=PolicyRef(version=4), final=True)
    run = run_after(prepared(), started(), finished(4, metrics={"reward": 0.5}), final)

    assert follows(run) == [RunCompleted(org="local", run_id="r1", metrics={"reward": 0.5})]
    assert follows(after(follows(run)[0], run)) == []  # type: ignore[arg-type]


def test_a_cancelled_run_says_so_at_once_and_whatever_comes_later_changes_nothing() -> None:
    run = run_after(prepared(), started(), RunCancelRequested(org="local", run_id="r1"))

    assert follows(run) == [RunCancelled(org="local", run_id="r1")]
    assert run_after(
        prepared(), started(), RunCancelRequested(org="local", run_id="r1"), finished(1)
    ).state == "cancelled"  # fmt: skip


def test_a_dataset_that_cannot_be_prepared_fails_the_run_with_the_authors_traceback() -> None:
    run = run_after(DatasetFailed(org="local", run_id="r1", chunk=0, fault=RAISED))

    [event] = follows(run)
    assert isinstance(event, RunFailed)
    assert event.fault == RAISED
    assert "ZeroDivisionError" in event.reason


def test_an_empty_dataset_fails_the_run() -> None:
    [event] = follows(run_after(prepared(rows=0)))

    assert isinstance(event, RunFailed)
    assert "has no rows" in event.reason


def test_sft_without_gold_output_fails_the_run_naming_the_rows() -> None:
    [event] = follows(run_after(prepared(missing_output=[2, 5]), of=spec("sft", epochs=1)))

    assert isinstance(event, RunFailed)
    assert "rows 2, 5 have none" in event.reason


def test_rows_beyond_max_examples_need_no_gold_output() -> None:
    run = run_after(prepared(missing_output=[2, 5]), of=spec("sft", epochs=1, max_examples=2))

    assert run.ending is None


def test_few_chunks_of_a_long_dataset_are_asked_for_at_a_time() -> None:
    run = run_after(prepared(rows=100_000), of=spec("sft", epochs=1))

    asked = [event.chunk for event in follows(run) if isinstance(event, DatasetRequested)]

    assert asked == list(range(1, 1 + CHUNKS_ASKED))


def test_sft_starts_when_every_chunk_is_prepared() -> None:
    run = planned(run_after(prepared(rows=2_000), of=spec("sft", epochs=1)))
    assert follows(run) == [DatasetRequested(org="local", run_id="r1", chunk=1)]

    run = after(prepared(rows=2_000, chunk=1), run)
    assert [type(event) for event in follows(run)] == [RunStarted]


def test_faults_beyond_the_limit_over_three_steps_fail_the_run() -> None:
    bad = [finished(s, rollouts=10, faults=3, fault_samples=[RAISED]) for s in (1, 2, 3)]
    assert run_after(prepared(), started(), *bad[:2]).ending is None

    [event] = follows(run_after(prepared(), started(), *bad))
    assert isinstance(event, RunFailed)
    assert event.reason.startswith("9 of the last 30 rollouts were faults")
    assert event.fault == RAISED


def test_learners_that_die_without_a_step_fail_the_run_after_five_takeovers() -> None:
    deaths = [claimed(n) for n in range(1, 7)]
    assert run_after(prepared(), started(), *deaths[:5]).ending is None
    assert run_after(prepared(), started(), *deaths[:5], finished(1), deaths[5]).ending is None

    assert run_after(prepared(), started(), *deaths).state == "failed"


def test_training_that_cannot_work_fails_the_run() -> None:
    run = run_after(
        prepared(), started(), TrainingFailed(org="local", run_id="r1", attempt=1, reason="all rows too long")
    )

    assert follows(run) == [RunFailed(org="local", run_id="r1", reason="all rows too long")]


def test_an_evaluation_asks_in_a_window_and_sums_up_when_all_is_scored() -> None:
    run = planned(run_after(prepared(rows=3), of=spec("eval")))
    assert [w.group for w in wanted_groups(run, eval_window=2)] == [0, 1]

    for group, rewards in enumerate([[1.0, 0.0], [1.0, None], [1.0, 1.0]]):
        run = after(scored(group, rewards), run)  # type: ignore[arg-type]
    [event] = follows(run)
    assert isinstance(event, RunCompleted)
    assert event.metrics["reward"] == pytest.approx(0.8)
    assert event.metrics["reward_std"] == pytest.approx(0.4)
    assert (event.metrics["rollouts"], event.metrics["faults"], event.metrics["completion_tokens"]) == (6, 1, 2.0)


def test_a_group_scored_twice_counts_once() -> None:
    run = planned(run_after(prepared(rows=3), of=spec("eval")))

    once = after(scored(0, [1.0]), run)
    assert after(scored(0, [1.0]), once) == once


def test_an_evaluation_whose_every_rollout_is_a_fault_fails() -> None:
    run = run_after(prepared(rows=1), scored(0, [None, None]), of=spec("eval"))

    assert run.state == "failed"


def test_each_takeover_is_told_once_with_its_reason() -> None:
    run = run_after(prepared(), started(), claimed(1), finished(0), claimed(2))

    [retried] = [event for event in follows(run) if isinstance(event, RunRetried)]
    assert (retried.claim, retried.step) == (2, 0)
    assert retried.reason == "the learner was lost, and l took the run over"
    assert not [event for event in follows(after(retried, run)) if isinstance(event, RunRetried)]


def test_a_resumed_run_is_queued_and_starts_anew_where_it_was() -> None:
    before = planned(run_after(prepared(), started(), claimed(1), finished(0), finished(1)))
    run = after(resumed(), after(cancelled(), before))

    assert run.state == "queued"
    [again] = follows(run)
    assert isinstance(again, RunStarted)
    assert again.attempt == 2
    assert {w.step for w in wanted_groups(run, eval_window=4)} == {2, 3}


def test_a_resumed_run_has_a_clean_slate() -> None:
    bad = [finished(s, rollouts=10, faults=3, fault_samples=[RAISED]) for s in (1, 2, 3)]
    failed = run_after(prepared(), started(), claimed(1), *bad)
    [word] = follows(failed)

    run = after(resumed(), after(word, failed))  # type: ignore[arg-type]

    assert (run.ending, run.recent, run.claims) == (None, (), 0)
    again = after(claimed(2), run)
    assert again.retries == (), "the first learner of an attempt takes nothing over"


def test_what_an_earlier_attempt_still_says_ends_no_later_one() -> None:
    run = after(resumed(), run_after(prepared(), started(), cancelled()))
    late: list[RunEvent] = [
        cancelled(), RunCancelRequested(org="local", run_id="r1"), RunFailed(org="local", run_id="r1", reason="no"),
        TrainingFailed(org="local", run_id="r1", attempt=1, reason="no"),
        DatasetFailed(org="local", run_id="r1", chunk=0, fault=RAISED), resumed(2), resumed(9),
    ]  # fmt: skip

    for event in late:
        assert after(event, run).ending is None
    assert after(cancelled(2), run).state == "cancelled"


def test_a_package_that_cannot_be_loaded_any_more_fails_the_run_at_once() -> None:
    gone = Fault(kind="load-failed", message="ModuleNotFoundError: openai")
    run = run_after(prepared(), started(), finished(1, rollouts=4, faults=4, fault_samples=[gone]))

    [event] = follows(run)
    assert isinstance(event, RunFailed)
    assert event.reason == "the environment cannot be loaded any more: ModuleNotFoundError: openai"
    assert event.fault == gone


def test_policies_are_evaluated_at_the_start_every_so_many_steps_and_at_the_end() -> None:
    run = planned(evaluated_run(*(finished(step) for step in range(5))))

    assert list(run.evaluating) == [0, 2, 4]
    wanted = [w for w in wanted_groups(run, eval_window=1) if w.scope == "eval"]
    assert [(w.step, w.group, w.policy.version) for w in wanted] == [(0, 0, 0)], "the oldest first, in a window"


def test_policies_of_an_sft_run_are_evaluated_too() -> None:
    run = run_after(
        prepared(), prepared(rows=2, scope="eval"), started(), claimed(1), finished(0), of=spec("sft", eval_every=2)
    )

    assert [(w.scope, w.step, w.group) for w in wanted_groups(run, eval_window=9)] == [("eval", 0, 0), ("eval", 0, 1)]


def test_an_evaluated_policy_is_summed_up_once() -> None:
    run = evaluated_run(finished(0), scored(0, [1.0], step=0), scored(1, [0.0], step=0), scored(1, [0.0], step=0))

    [told] = [event for event in follows(run) if isinstance(event, RunEvaluated)]
    assert (told.step, told.metrics["reward"], told.metrics["rollouts"]) == (0, 0.5, 2)
    assert not [event for event in follows(after(told, run)) if isinstance(event, RunEvaluated)]


def test_a_run_is_done_when_its_last_policy_is_evaluated_too() -> None:
    final = StepSaved(org="local", run_id="r1", attempt=1, step=4, key="k", policy=PolicyRef(version=4), final=True)
    run = evaluated_run(finished(4), final)

    assert run.ending is None
    told = RunEvaluated(org="local", run_id="r1", step=4, metrics={})
    assert after(told, run).state == "done"


def test_the_evaluation_split_is_asked_for_beside_the_other_and_one_that_is_missing_fails_the_run() -> None:
    run = run_after(of=spec(eval_every=2))

    assert [(e.scope, e.chunk) for e in follows(run) if isinstance(e, DatasetRequested)] == [("train", 0), ("eval", 0)]
    [word] = follows(after(prepared(rows=0, scope="eval"), run))
    assert isinstance(word, RunFailed)
    assert "the eval split of local/sort has no rows" in word.reason


FACTS: list[RunEvent] = [
    prepared(), prepared(rows=0), started(), claimed(1), finished(0), finished(1), finished(2, rollouts=4, faults=4),
    RunCancelRequested(org="local", run_id="r1"), TrainingFailed(org="local", run_id="r1", attempt=1, reason="no"),
    DatasetFailed(org="local", run_id="r1", chunk=0, fault=RAISED), scored(0, [1.0, None]),
    StepSaved(org="local", run_id="r1", attempt=1, step=4, key="k", policy=PolicyRef(version=4), final=True),
    RunCompleted(org="local", run_id="r1"), RunFailed(org="local", run_id="r1", reason="no"),
    RunCancelled(org="local", run_id="r1"), resumed(), cancelled(2), prepared(scope="eval"), scored(0, [1.0], step=2),
    RunEvaluated(org="local", run_id="r1", step=2, metrics={}), flat(3, rollouts=900), flat(4, rollouts=900),
]  # fmt: skip


def steps_in_order(facts: list[Any]) -> list[Any]:
    """The fence lets a run's steps into the stream in order only."""
    kept: list[Any] = []
    for fact in facts:
        done = sum(isinstance(earlier, StepFinished) for earlier in kept)
        if not isinstance(fact, StepFinished) or fact.step == done:
            kept.append(fact)
    return kept


@given(st.sampled_from(["grpo", "sft", "eval"]), st.lists(st.sampled_from(FACTS), max_size=12))
def test_whatever_the_order_of_facts_a_run_ends_once_and_asks_for_nothing_after(
    algorithm: str, facts: list[Any]
) -> None:
    run = run_after(*steps_in_order(facts), of=spec(algorithm))

    said = follows(run)
    list(wanted_groups(run, eval_window=4))
    if run.ending:
        assert len(said) == (0 if run.ending.told else 1)
        assert list(wanted_groups(run, eval_window=4)) == []
    for event in said:  # hearing what one has said changes neither state nor mind
        again = after(event, run)  # type: ignore[arg-type]
        assert event not in [e for e in follows(again) if not isinstance(e, DatasetRequested)]
    assert described(run, [run], Surroundings(), most=1).state == run.state


def test_a_run_describes_itself_in_one_line() -> None:
    run = run_after(prepared(), started(), claimed(1), finished(0))
    line = described(run, [run], Surroundings(), most=1)

    assert (line.state, line.step, line.steps, line.waiting_for) == ("running", 0, 4, "")
