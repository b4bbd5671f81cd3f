"""`flash env test`: everything that can be known about an environment before it is published and trained on.

The author's code runs in the host that a run uses, unpacked from the archive that a run gets; `cli.findings` judges.
"""

import asyncio
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from cli import authoring, findings, output
from cli.authoring import Package, Setup
from cli.episodes import Said, play
from cli.findings import Finding, Scored
from cli.replies import GOLD, JUNK, Reply, gold_text, gold_turns, junk_for, wrapped
from cli.watching import Counter
from envsdk.thinking import CLOSE, OPEN
from flash.contracts.values import Example, Message, Verdict
from flash.errors import FlashError
from flash.host import Host, LoadFailed

FAILED = 1
PAGE = 8_192
MOST_SCORED = 10_000
"""Rows that are kept in memory to be scored."""
SAMPLED = 4
"""Rows that get every odd reply; the others get a few."""
BATCH = 64
"""Rows that are scored at once."""
ANOTHERS = "the expected answer of another row"
MOST_TURNS = 20
"""An odd reply is not repeated more often than this in an episode."""


@dataclass
class Report:
    """What was looked at, and what was found."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    covered: dict[str, Any] = field(default_factory=dict)
    say: Callable[[str], object] = output.line

    def tell(self, check: str, covered: str, found: Sequence[Finding] = ()) -> None:
        """A line for each finding, or one on what is all right."""
        self.findings += found
        for finding in found:
            self.say(f"FAIL  {check:<9}{finding.message}")
            for line in finding.traceback.rstrip().splitlines():
                self.say(f"        {line}")
        if not found:
            self.say(f"PASS  {check:<9}{covered}")

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.say(f"note  {text}")


async def test(options: Namespace) -> int | None:
    as_json = output.wants_json(options)
    report = Report(say=output.note if as_json else output.line)
    setup = authoring.setup(options.path, options)
    if setup.config:
        report.say(f"      {'config':<9}{setup.config}")
    if setup.secrets.complaint:
        report.tell("secrets", "", [Finding("secrets", setup.secrets.complaint)])
    elif places := setup.secrets.places:
        report.tell("secrets", ", ".join(f"{name} from {place}" for name, place in places.items()))
    try:
        async with authoring.package(options.path, options) as package:
            await _tested(package, setup, report, options)
    except LoadFailed as failed:
        fault = failed.fault
        report.tell("loads", "", [Finding("loads", authoring.missing(failed) or fault.message, fault.traceback)])
    except FlashError as error:
        report.tell("package", "", [Finding("package", str(error))])
    passed = not report.findings
    report.say("PASS" if passed else f"FAIL: {len(report.findings)} found")
    if as_json:
        found = [asdict(finding) for finding in report.findings]
        output.data({"passed": passed, "findings": found, "notes": report.notes, "covered": report.covered})
    if passed and "files" in report.covered:  # it lies here, and was packed
        output.note(f"next: flash env push --name NAME {options.path}")
    return None if passed else FAILED


async def _tested(package: Package, setup: Setup, report: Report, options: Namespace) -> None:
    if package.packed:
        manifest = package.packed.manifest
        report.covered["files"] = [file.path for file in manifest.included]
        report.tell("package", f"{len(manifest.included)} files, {package.packed.num_bytes:,} bytes packed")
        for left in manifest.left_out:
            report.note(f"left out {left.path}: {left.reason}")
    began = time.perf_counter()
    async with authoring.host(package, setup, options.home) as host:
        took_s = time.perf_counter() - began
        report.tell("loads", f"{host.about.name}, unpacked and in a clean process, in {took_s:.1f} s")
        examples = await _rows(host, setup, report)
        if examples:
            await _Trial(host, setup, report, options).run(examples[: options.rows or None])


async def _rows(host: Host, setup: Setup, report: Report) -> list[Example]:
    """Every row of every split as a run gets it, and as SFT would learn it; gives those of the run's own split."""
    about = host.about
    own: list[Example] = []
    counts: dict[str, int] = report.covered.setdefault("rows", {})
    found: list[Finding] = []
    for split in about.splits:
        targets = findings.Targets()
        try:
            async for page in host.every_page(split, PAGE, about.prompt_text):
                targets.add(page.examples)
                if split == about.split:
                    own += page.examples[: MOST_SCORED - len(own)]
        except LoadFailed as failed:
            found.append(Finding("rows", f"split {split}: {failed.fault.message}", failed.fault.traceback))
            continue
        counts[split] = targets.rows
        missing, notes = findings.of_targets(targets, setup.algorithm)
        found += [Finding("rows", f"split {split}: {one.message}") for one in missing]
        if setup.thinking and (without := targets.thoughtless):
            notes.append(f"{len(without)} outputs have no {OPEN} and {CLOSE}, the first in row {without[0]}")
        for note in notes:
            report.note(f"split {split}: {note}")
    if counts.get(about.split, 0) > len(own):
        report.note(f"of split {about.split} the first {len(own):,} rows are scored, all of them are opened")
    report.covered["algorithms"] = ["grpo", "sft"]
    told = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    report.tell("rows", f"{told}: opened for GRPO, with their targets for SFT", found)
    return own


class _Trial:
    """The scorer, asked about right and about odd answers."""

    def __init__(self, host: Host, setup: Setup, report: Report, options: Namespace) -> None:
        self._host, self._thinking, self._report = host, setup.thinking, report
        self._deadline_s: float = options.deadline
        self._format: Callable[[str, Example], str] = lambda text, example: text
        self._scored: list[Scored] = []

    async def run(self, examples: Sequence[Example]) -> None:
        sampled = _spread(examples, SAMPLED)
        if not self._host.about.multi_turn:
            await self._find_format(sampled)
        hangs = await self._every_reply(sampled)
        if hangs:
            self._report.note("the other rows were left out: waiting for what hangs would take too long")
        else:
            await self._every_row(examples)
        order = [] if hangs else await self._orders(sampled[:2])
        self._tell(order)

    def _tell(self, order: Sequence[Finding]) -> None:
        """The rows have been looked at."""
        report, scored = self._report, self._scored
        slowest_s, what = findings.slowest(scored)
        report.covered |= {
            "answers": len(scored),
            "adversarial": [reply.name for reply in JUNK],
            "slowest_s": slowest_s,
            "deadline_s": self._deadline_s,
            "metrics": findings.metric_names(scored),
        }
        faults = findings.of_faults(scored)
        late = [finding for finding in faults if "hangs" in finding.message]
        report.tell("deadline", f"{self._deadline_s:g} s, the slowest took {slowest_s * 1e3:.1f} ms, {what}", late)
        others = [finding for finding in faults if finding not in late]
        report.tell("faults", f"none in {len(scored):,} answers, {len(JUNK)} kinds of odd ones among them", others)
        report.tell("order", "the same answers earn the same in any order", order)
        rewards = [one.reward for one in scored if one.reward is not None]
        told = (
            f"from {min(rewards):g} to {max(rewards):g}, nothing odd above the expected answer" if rewards else "none"
        )
        report.tell("rewards", told, findings.of_rewards(scored))

    async def _find_format(self, examples: Sequence[Example]) -> None:
        """The outputs may be labels where the scorer wants them in a format that the prompt asks for."""
        golds = [(example, text) for example in examples if (text := gold_text(example)) is not None]
        if not golds or any((reward or 0.0) > 0 for reward in await self._rewards(golds)):
            return
        for number, (name, _) in enumerate(list(wrapped(golds[0][1], golds[0][0]))):
            formed = partial(_formed, number)
            rewards = await self._rewards([(example, formed(text, example)) for example, text in golds])
            best = max(reward or 0.0 for reward in rewards)
            if best > 0:
                self._format = formed
                self._report.note(
                    f"an expected output earns nothing as it is, but {best:g} {name}: SFT would teach it as it is, "
                    "unless sft_completion writes it so"
                )
                return

    async def _rewards(self, answers: Sequence[tuple[Example, str]]) -> list[float | None]:
        verdicts = await self._score([(example, [text]) for example, text in answers])
        return [verdict.reward for [verdict] in verdicts]

    async def _every_reply(self, examples: Sequence[Example]) -> bool:
        """Every odd reply to a few rows; True where one of them hangs."""
        hung: set[str] = set()
        for example in examples:
            gold = self._gold(example)
            replies = [*([Reply(GOLD, gold)] if gold is not None else []), *junk_for(example, self._wanted(example))]
            await self._ask([(example, [reply for reply in replies if reply.name not in hung])])
            hung |= {one.reply for one in self._scored if one.verdict.fault and one.verdict.fault.kind == "timed-out"}
        return bool(hung)

    async def _every_row(self, examples: Sequence[Example]) -> None:
        """The expected answer of each row, that of its neighbour, and nothing at all."""
        asked: list[tuple[Example, list[Reply]]] = []
        for place, example in enumerate(examples):
            gold, another = self._gold(example), self._gold(examples[place - 1])
            replies = [Reply("an empty answer", "")]
            if gold is not None:
                replies.insert(0, Reply(GOLD, gold))
            # In several turns, what another row comes to may be a short cut that is meant to be found.
            if another is not None and another != gold and not self._host.about.multi_turn:
                replies.append(Reply(ANOTHERS, another))
            asked.append((example, replies))
        with Counter("Rows:", lambda done, total: f"{done:,}/{total:,}") as counter:
            for start in range(0, len(asked), BATCH):
                await self._ask(asked[start : start + BATCH])
                counter.show(min(start + BATCH, len(asked)), len(asked))

    async def _orders(self, examples: Sequence[Example]) -> list[Finding]:
        """The same replies forwards, backwards, twice, and alone."""
        for example in examples:
            gold = self._gold(example)
            replies = [
                *([Reply(GOLD, gold)] if gold is not None else []),
                *junk_for(example, self._wanted(example))[:5],
            ]
            forwards = [*range(len(replies)), 0]
            orders = [forwards, forwards[::-1], *([] if self._host.about.scores_groups else [[n] for n in forwards])]
            groups = [(example, [replies[place].text for place in order]) for order in orders]
            verdicts = [(await self._score([group]))[0] for group in groups]
            names = [reply.name for reply in replies]
            if found := findings.of_order(example.index + 1, names, zip(orders, verdicts, strict=True)):
                return found
        return []

    async def _ask(self, groups: Sequence[tuple[Example, Sequence[Reply]]]) -> None:
        groups = [(example, replies) for example, replies in groups if replies]
        verdicts = await self._score([(example, [reply.text for reply in replies]) for example, replies in groups])
        for (example, replies), found in zip(groups, verdicts, strict=True):
            told = zip(replies, found, strict=True)
            self._scored += [Scored(example.index + 1, reply.name, verdict) for reply, verdict in told]

    async def _score(self, groups: Sequence[tuple[Example, list[str]]]) -> list[list[Verdict]]:
        if self._host.about.multi_turn:
            return list(await asyncio.gather(*(self._play(example, texts) for example, texts in groups)))
        return await self._host.score_groups(groups, deadline_s=self._deadline_s, thinking=self._thinking)

    async def _play(self, example: Example, texts: Sequence[str]) -> list[Verdict]:
        """Episodes in which the policy says its text every time; the expected answer is said turn by turn."""
        golds, before = gold_turns(example), len(example.messages)

        async def say(index: int, messages: list[Message]) -> Said:
            turn = sum(message.get("role") == "assistant" for message in messages[before:])
            is_gold = bool(golds) and texts[index] == golds[-1]
            return Said(golds[min(turn, len(golds) - 1)] if is_gold else texts[index])

        if (example.max_turns or 1) > MOST_TURNS:
            example = Example(
                **{**{f: getattr(example, f) for f in example.__struct_fields__}, "max_turns": MOST_TURNS}
            )
        episodes = await play(
            self._host, example, len(texts), say,
            prompt_text=self._host.about.prompt_text, deadline_s=self._deadline_s, thinking=self._thinking,
        )  # fmt: skip
        return [episode.verdict for episode in episodes]

    def _gold(self, example: Example) -> str | None:
        text = gold_text(example)
        return None if text is None else self._format(text, example)

    def _wanted(self, example: Example) -> list[str]:
        return [text for text in (gold_text(example), self._gold(example)) if text is not None]


def _spread(examples: Sequence[Example], count: int) -> list[Example]:
    """A few of them, from all over."""
    if len(examples) <= count:
        return list(examples)
    return [examples[len(examples) * place // count] for place in range(count)]


def _formed(number: int, text: str, example: Example) -> str:
    """The text in one of the formats of `wrapped`; as it is, where the row's prompt does not name so many."""
    found = [formed for _, formed in wrapped(text, example)]
    return found[number] if number < len(found) else text
