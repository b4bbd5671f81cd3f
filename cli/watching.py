"""Following a run on screen: a progress bar and a metric row a step on a terminal, plain lines elsewhere."""

import asyncio
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from cli import metrics, output
from flash.bus import Bus
from flash.client import RunView, follow, standing
from flash.client.view import after
from flash.contracts.requests import RecordedEvent
from flash.errors import FlashError

WAITING_ASKED_S = 2.0
"""How often it is asked what a run waits for."""


async def watch(bus: Bus, run_id: str, *, nouns: tuple[str, ...] = ()) -> RunView:
    """Show a run until it is over; gives what is then known of it."""
    seen = RunView(run_id)
    with screen() as display:
        asking = asyncio.create_task(_say_what_it_waits_for(bus, run_id, display, lambda: seen))
        try:
            async for event in follow(bus, run_id, nouns=nouns, say=display.say):
                before, seen = seen, after(seen, event)
                display.show(before, seen, event)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
    return seen


async def _say_what_it_waits_for(bus: Bus, run_id: str, display: "Lines", seen: Callable[[], RunView]) -> None:
    """A position, a pool, room on a disk: what no fact tells is asked for while the run waits."""
    told = ""
    while True:
        await asyncio.sleep(WAITING_ASKED_S)
        if not seen().waiting_for or seen().is_over:
            continue
        try:
            state = await standing(bus, run_id, patience_s=0.0)
        except FlashError:
            continue
        if state.waiting_for and state.waiting_for not in (told, seen().waiting_for):
            told = state.waiting_for
            display.say(f"waiting for {told}")


def detached(run_id: str) -> str:
    """What is said when somebody leaves while the run goes on."""
    return f"\ndetached; {run_id} goes on\n{ways_back(run_id)}"


def ways_back(run_id: str) -> str:
    """How a run that nobody follows is found again."""
    return f"  follow it: flash status {run_id} -f\n  cancel it: flash cancel {run_id}"


def screen() -> "Lines":
    """What suits the terminal, or the file, that stderr is."""
    return Bar() if sys.stderr.isatty() else Lines()


class Lines:
    """A line for whatever a person would want to see."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def say(self, text: str) -> None:
        output.note(text)

    def show(self, before: RunView, seen: RunView, event: RecordedEvent) -> None:
        if seen.state != before.state:
            self.say(f"{seen.run_id}: {seen.state}" + (f": {seen.reason}" if seen.reason else ""))
        if seen.waiting_for and seen.waiting_for != before.waiting_for:
            self.say(f"waiting for {seen.waiting_for}")
        if event.event.startswith("step.finished.") and event.body["step"]:
            self.say(metrics.row(seen.spec.get("algorithm", ""), event.body["step"], event.body["metrics"]))
        for warning in seen.warnings[len(before.warnings) :]:
            self.say(f"warning: {warning}")
        for reason in seen.retries[len(before.retries) :]:
            self.say(f"retried: {reason}")
        for each in seen.evaluations[len(before.evaluations) :]:
            self.say(f"evaluated {metrics.evaluated(each.step, each.metrics)}")
        for fault in seen.fault_samples[len(before.fault_samples) :]:
            self.say(f"fault: {fault['kind']}: {fault['message']}")
        if len(seen.saves) > len(before.saves):
            self.say(f"saved {seen.run_id}/step-{event.body['step']}")


class Bar(Lines):
    """The same above a progress bar."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self._console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), Remaining(),
            console=self._console,
        )  # fmt: skip
        self._task = self._progress.add_task("submitted", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self._console.print(text)

    def show(self, before: RunView, seen: RunView, event: RecordedEvent) -> None:
        super().show(before, seen, event)
        is_evaluation = seen.spec.get("algorithm") == "eval"
        total = seen.rows if is_evaluation else seen.steps
        state = f"waiting for {seen.waiting_for}" if seen.waiting_for and not seen.step else seen.state
        self._progress.update(self._task, description=state, completed=seen.step, total=total or None)


class Counter:
    """How far an upload or an evaluation is: a bar on a terminal, one line at the end elsewhere."""

    def __init__(self, label: str, unit: Callable[[int, int], str]) -> None:
        self._label, self._unit = label, unit
        self._progress: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"))
            self._progress = Progress(*columns, console=Console(stderr=True))
            self._task = self._progress.add_task(self._label, total=None, amount="")
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def show(self, done: int, total: int) -> None:
        amount = self._unit(done, total)
        if self._progress:
            self._progress.update(self._task, completed=done, total=total, amount=amount)
        elif done == total:
            output.note(f"{self._label} {amount}")
