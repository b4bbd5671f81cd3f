"""Episodes of several turns, played in a host on this machine, with whatever answers in the policy's place."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from cli.endpoint import NoAnswer
from flash.contracts.values import Example, Fault, Message, Verdict
from flash.host import Host
from flash.host.episodes import Episodes, EpisodesLost


@dataclass(frozen=True)
class Said:
    """What answers in the policy's place."""

    text: str
    truncated: bool = False
    """It was cut before it was done: it is stepped, and then is the last."""
    tokens: int | None = None
    """How many it has; None where nobody counted."""


Say = Callable[[int, list[Message]], Awaitable[Said]]
"""Which episode, and what has been said in it; gives what the policy says next, or raises NoAnswer."""


@dataclass
class Episode:
    """One that is over."""

    messages: list[Message] = field(default_factory=list)
    """What followed the opening."""
    verdict: Verdict = field(default_factory=Verdict)


async def play(
    host: Host, example: Example, count: int, say: Say, *, prompt_text: str, deadline_s: float, thinking: bool
) -> list[Episode]:
    """Episodes of one example. When one brings the process down, each is played again alone, and says the same."""
    said: list[list[Said]] = [[] for _ in range(count)]

    async def repeat(index: int, turn: int, messages: list[Message]) -> Said:
        if turn == len(said[index]):
            said[index].append(await say(index, messages))
        return said[index][turn]

    async def together(indices: Sequence[int]) -> list[Episode]:
        episodes = await host.episodes(
            example, len(indices), prompt_text=prompt_text, deadline_s=deadline_s, thinking=thinking
        )
        try:
            return await _played(episodes, example, indices, repeat)
        finally:
            await episodes.close()

    async def alone(index: int) -> Episode:
        try:
            return (await together([index]))[0]
        except EpisodesLost as lost:
            return Episode(verdict=Verdict(fault=Fault(kind="crashed", message=str(lost))))

    if count > 1:
        try:
            return await together(range(count))
        except EpisodesLost:
            pass
    return list(await asyncio.gather(*(alone(index) for index in range(count))))


async def _played(
    episodes: Episodes,
    example: Example,
    indices: Sequence[int],
    say: Callable[[int, int, list[Message]], Awaitable[Said]],
) -> list[Episode]:
    """Raises EpisodesLost."""

    async def one(place: int, opening: list[Message]) -> Episode:
        episode, messages = Episode(), list(opening)
        for turn in range(example.max_turns or 1):
            try:
                said = await say(indices[place], turn, messages)
            except NoAnswer as error:
                episode.verdict = Verdict(fault=Fault(kind="generation-failed", message=str(error)))
                break
            stepped = await episodes.step(place, said.text, truncated=said.truncated, tokens=said.tokens)
            added = [{"role": "assistant", "content": said.text}, *stepped.messages]
            messages += added
            episode.messages += added
            if stepped.fault is not None:
                episode.verdict = Verdict(fault=stepped.fault)
            if stepped.done or said.truncated:
                break
        return episode

    openings = await episodes.start()
    begun = [place for place, opening in enumerate(openings) if opening.fault is None]
    found = [Episode(verdict=Verdict(fault=opening.fault)) for opening in openings]
    ended = await asyncio.gather(*(one(place, openings[place].messages) for place in begun))
    for place, episode in zip(begun, ended, strict=True):
        found[place] = episode
    to_score = [place for place, episode in enumerate(found) if episode.verdict.fault is None]
    for place, verdict in zip(to_score, await episodes.score(to_score) if to_score else [], strict=True):
        if verdict is None:
            raise EpisodesLost("the process that played the episodes ended while it scored them")
        found[place].verdict = verdict
    return found
