"""What rows add up to, and the file they are kept in: cli/results.py."""

from pathlib import Path

import pytest

from cli.results import Header, Row, Saved, Tally, pass_at, read_rows
from flash.contracts.values import Fault
from flash.errors import ConfigError

HEADER = Header(
    environment="sums", digest="d", split="eval", reference="m", examples=2, rollouts_per_example=2, url="http://x/v1"
)


def row(index: int = 0, rollout: int = 0, reward: float | None = 1.0, **more: object) -> Row:
    success = None if reward is None else reward > 0
    return Row(index=index, example=f"example_{index:06d}", rollout=rollout, reward=reward, success=success, **more)  # type: ignore[arg-type]


def fault(kind: str = "raised", message: str = "no") -> Fault:
    return Fault(kind=kind, message=message)  # type: ignore[arg-type]


def test_pass_at_k_is_the_unbiased_estimate() -> None:
    # 4 rollouts with 2 successes: 1/2, then 1 - 1/6, then certain; 4 with none: nothing.
    assert pass_at([(4, 2), (4, 0)]) == {1: 0.25, 2: pytest.approx(5 / 12), 4: 0.5}


def test_pass_at_k_counts_examples_with_enough_judged_rollouts_only() -> None:
    assert pass_at([(3, 3), (1, 0)]) == {1: 0.5, 2: 1.0, 3: 1.0}
    assert pass_at([]) == {}


def test_a_tally_is_counted_by_hand() -> None:
    tally = Tally()
    for found in (
        row(0, 0, 1.0, metrics={"exact": 1.0}, completion_tokens=4, finish_reason="length"),
        row(0, 1, 0.0, metrics={"exact": 0.0}, completion_tokens=2, error="no file"),
        row(1, 0, None, fault=fault()),
        row(1, 1, None, fault=fault()),
    ):
        tally.add(found)

    summary = tally.summary(took_s=2.0)

    assert (summary["reward"], summary["reward_std"], summary["success"]) == (0.5, 0.5, 0.5)
    assert summary["error_rate"] == 0.5
    assert (summary["rollouts"], summary["faults"], summary["faults_by_kind"]) == (4, 2, {"raised": 2})
    assert summary["metrics"] == {"exact": {"mean": 0.5, "std": 0.5}}
    assert summary["pass_at"] == {"1": 0.5, "2": 1.0}
    assert (summary["truncated"], summary["completion_tokens"]) == (0.25, 1.5)
    assert (summary["timing"]["took_s"], summary["timing"]["rollouts_per_s"]) == (2.0, 2.0)
    assert len(tally.fault_samples) == 1


def test_nothing_but_faults_has_no_reward() -> None:
    tally = Tally()
    tally.add(row(reward=None, fault=fault()))

    summary = tally.summary()

    assert (summary["reward"], summary["success"], summary["pass_at"]) == (None, None, {})


def test_a_file_is_gone_on_with_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "evals/x.jsonl"
    saved = Saved.new(path, HEADER)
    saved.write([row(0, 0), row(0, 1, None, fault=fault("generation-failed"))])
    saved.close()
    with path.open("ab") as file:
        file.write(b'{"index":1,"exam')  # whoever wrote it was killed

    again, tally, done = Saved.again(path, HEADER)
    again.write([row(0, 1)])
    again.close()

    assert done == {0: 0b01}
    assert tally.rollouts == 1
    assert [(found.rollout, found.is_lost) for found in read_rows(path)] == [(0, False), (1, True), (1, False)]


def test_the_last_line_about_a_rollout_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    saved = Saved.new(path, HEADER)
    saved.write([row(0, 0, 0.0), row(0, 0, 1.0)])
    saved.close()

    _, tally, done = Saved.again(path, HEADER)

    assert (tally.rollouts, tally.reward.mean, done) == (1, 1.0, {0: 1})


def test_a_file_of_another_evaluation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    Saved.new(path, HEADER).close()
    other = Header(**{**{f: getattr(HEADER, f) for f in HEADER.__struct_fields__}, "split": "train"})

    with pytest.raises(ConfigError, match="was made with split 'eval', but now it is 'train'"):
        Saved.again(path, other)
    with pytest.raises(ConfigError, match=r"there is no .*y.jsonl"):
        Saved.again(tmp_path / "y.jsonl", HEADER)
    (tmp_path / "z.jsonl").write_text("hello\n")
    with pytest.raises(ConfigError, match="is no file of `flash env eval`"):
        Saved.again(tmp_path / "z.jsonl", HEADER)
