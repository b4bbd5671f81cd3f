"""How facts are addressed and encoded."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash.contracts.base import Event
from flash.contracts.catalogue import EVENTS
from flash.contracts.environments import slug
from flash.contracts.groups import GroupGenerated, GroupRequested
from flash.contracts.packing import pack_floats, pack_ids, unpack_floats, unpack_ids
from flash.contracts.runs import RunCancelled
from flash.contracts.steps import StepFinished
from flash.contracts.values import Example, PolicyRef, Rollout


def generated() -> GroupGenerated:
    rollout = Rollout(token_ids=pack_ids([5, 7]), logprobs=pack_floats([-0.5, -1.25]), mask=b"\x01\x01", text="hi")
    return GroupGenerated(
        org="local", run_id="r1", scope="train", step=3, group=1, example=Example(index=9, id="e9", input="x"),
        policy=PolicyRef(version=2), prompt_ids=pack_ids([1, 2, 3]), rollouts=[rollout],
    )  # fmt: skip


def test_the_subject_of_a_fact_is_its_name_and_address() -> None:
    assert generated().subject == "flash.group.generated.v1.local.r1.1.train.3.1"
    assert generated().group_id == "train-3-1"


def test_a_pattern_leaves_open_what_is_not_known() -> None:
    assert GroupRequested.pattern(pool="tiny") == "flash.group.requested.v1.tiny.*.*.*.*.*.*"
    with pytest.raises(TypeError, match="addressed by"):
        GroupRequested.pattern(planet="mars")


def test_the_fence_of_a_step_spans_every_kind_of_step_of_that_run() -> None:
    finished = StepFinished(org="local", run_id="r1", step=4, attempt=1, policy=PolicyRef(version=4))

    assert finished.fence_pattern() == "flash.step.*.v1.local.r1.>"


def test_a_fact_survives_its_encoding() -> None:
    for fact in (generated(), RunCancelled(org="local", run_id="r1")):
        assert type(fact).decode(fact.encode()) == fact


@pytest.mark.parametrize("bad", ["a.b", "", "a b", "é", "x" * 129, "*", ">"])
def test_an_id_that_could_not_stand_in_a_subject_is_refused(bad: str) -> None:
    body = msgspec.json.encode({"org": "local", "run_id": bad})

    with pytest.raises(msgspec.ValidationError):
        RunCancelled.decode(body)


def test_a_reader_of_yesterday_skips_a_field_of_tomorrow() -> None:
    assert RunCancelled.decode(b'{"org":"local","run_id":"r1","mood":"calm"}') == RunCancelled(org="local", run_id="r1")


def test_every_field_added_to_a_fact_later_must_have_a_default_so_names_are_kept_by_keyword() -> None:
    for row in EVENTS:
        assert issubclass(row.event, Event)
        assert row.event.__struct_config__.frozen
        assert not row.event.__struct_config__.array_like


@given(st.lists(st.integers(0, 2**31 - 1)))
def test_token_ids_survive_packing(ids: list[int]) -> None:
    assert unpack_ids(pack_ids(ids)) == ids
    assert len(pack_ids(ids)) == 4 * len(ids)


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_logprobs_survive_packing(values: list[float]) -> None:
    assert unpack_floats(pack_floats(values)) == values


@given(st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,20}\Z"), st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,20}\Z"))
def test_two_environment_names_never_share_a_slug(one: str, other: str) -> None:
    assert (slug(one) == slug(other)) == (one == other)
    assert "." not in slug(one)
