"""examples/gym, with the real package: its rows, and what its judge lets through is not paid for."""

from pathlib import Path

import pytest

from flash.config.run import load
from flash.host import Host, HostSpec, Limits, RequirementSets

GYM = Path(__file__).parents[2] / "examples" / "gym"

pytestmark = pytest.mark.long  # 320 MB to fetch, three packages to build


async def test_a_task_of_the_package_is_drawn_rendered_and_judged(tmp_path: Path) -> None:
    (tmp_path / "rl.toml").write_text((GYM / "configs" / "rl.toml").read_text().replace('id = ""', 'id = "local/gym"'))
    pip = load(tmp_path / "rl.toml").environment.pip
    requirements = await RequirementSets(tmp_path / "sets", builds=True).folder(pip)
    host = await Host.start(HostSpec(folder=GYM, requirements=requirements, limits=Limits(slots=1)))
    try:
        pages = {split: await host.rows(split, 0, 1_000, "") for split in ("train", "eval")}
        ways = {example.input.split(":")[0]: example for example in pages["train"].examples}
        up, down = ways["Sort"], ways["Sort down"]
        rewards = {}
        for example in (up, down):
            gold = str(example.record["answer"])
            off_by_one = " ".join(str(int(digit) + 1) for digit in gold.split())
            said = [gold, f"{gold}\n", off_by_one, " ".join(reversed(gold.split())), f"[{gold}]", gold[:-1], "", "x y"]
            verdicts = await host.score(example, said, deadline_s=10.0)
            rewards[example.input] = [verdict.reward for verdict in verdicts]
            assert not [verdict.fault for verdict in verdicts if verdict.fault]
    finally:
        await host.close()

    assert pages["train"].total == 512
    assert pages["eval"].total == 64
    train, held_out = ({example.input for example in pages[split].examples} for split in ("train", "eval"))
    assert not train & held_out
    for example in (up, down):
        assert example.completion == [{"role": "assistant", "content": example.record["answer"]}]
    assert rewards == dict.fromkeys(rewards, [1.0, 1.0] + [0.0] * 6)
