"""The examples in the verifiers dialect, loaded and scored as a run does it."""

from pathlib import Path

import pytest

from flash.artifacts import pack, unpack
from flash.host import Host, HostSpec, Limits

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "split", "rows", "answers", "rewards"),
    [
        (
            "reversal", "train", 192,
            ["<reversed_text>\n{gold}\n</reversed_text>", "<reversed_text>{gold}</reversed_text>!", "{gold}", ""],
            [1.2, 1.16, 0.04, 0.04],
        ),
        ("reversal", "eval", 48, ["<reversed_text>{gold}</reversed_text>"], [1.2]),
        ("arithmetic", "train", 320, ["{gold}", "It is {gold}", "1{gold}", "dunno"], [1.3, 1.2, None, 0.0]),
        ("arithmetic", "eval", 64, ["{gold}"], [1.3]),
    ],
)  # fmt: skip
async def test_an_example_is_packed_loaded_rendered_and_scored(
    tmp_path: Path, name: str, split: str, rows: int, answers: list[str], rewards: list[float | None]
) -> None:
    packed = pack(EXAMPLES / name)
    unpack(packed.file, tmp_path / "env", packed.digest)
    host = await Host.start(HostSpec(folder=tmp_path / "env", limits=Limits(slots=1)))
    try:
        page = await host.rows(split, 0, 1_000, "")
        example = page.examples[0]
        gold = example.record["answer"]
        verdicts = await host.score(example, [text.format(gold=gold) for text in answers], deadline_s=10.0)
        (of_gold,) = await host.score(example, [(example.completion or [{}])[0]["content"]], deadline_s=10.0)
    finally:
        await host.close()

    assert page.total == rows
    assert set(host.about.splits) == {"train", "eval"}
    assert not [verdict.fault for verdict in verdicts if verdict.fault]
    for verdict, reward in zip(verdicts, rewards, strict=True):
        assert reward is None or verdict.reward == pytest.approx(reward)
    assert of_gold.reward == max(verdict.reward or 0.0 for verdict in verdicts)
    assert of_gold.success is True


async def test_a_param_of_the_factory_reaches_it(tmp_path: Path) -> None:
    host = await Host.start(HostSpec(folder=EXAMPLES / "arithmetic", params={"largest": 9}, limits=Limits(slots=1)))
    try:
        page = await host.rows("train", 0, 1_000, "")
    finally:
        await host.close()

    assert 0 < page.total < 320
    assert all(max(example.metadata["terms"]) <= 9 for example in page.examples)
