"""`flash chat`: talk to a base model or to any checkpoint."""

import asyncio
import sys
from argparse import Namespace

from cli import output
from cli.session import stack
from flash import client
from flash.bus import Bus
from flash.client import Reference
from flash.contracts.requests import Generate
from flash.contracts.values import Message
from flash.errors import NobodyAnswers

PIECE_S = 120.0
"""How long the next piece of an answer may take: a pool may have to load the adapter, or finish a batch, first."""


async def chat(options: Namespace) -> None:
    async with stack(options) as bus:
        reference = await client.resolve_reference(bus, options.reference)
        if reference.note:
            output.note(reference.note)
        if not any(replica.metadata.get("pool") == reference.pool for replica in await bus.replicas()):
            output.note(f"no rollout serves {reference.model} yet; waiting for one")
        messages: list[Message] = [{"role": "system", "content": options.system}] if options.system else []
        if options.message is not None:
            await _turn(bus, reference, messages, options.message, options)
            return
        output.note(f"{reference.text}; an empty line or Ctrl-D ends the conversation")
        while text := await asyncio.to_thread(_typed):
            await _turn(bus, reference, messages, text, options)


async def _turn(bus: Bus, reference: Reference, messages: list[Message], text: str, options: Namespace) -> None:
    """Say `text`, print the answer as it comes, and remember both in `messages`."""
    messages.append({"role": "user", "content": text})
    request = Generate(
        pool=reference.pool,
        policy=reference.policy,
        messages=messages,
        temperature=options.temperature,
        max_tokens=options.max_tokens,
        seed=len(messages),
        thinking=reference.thinking,
    )
    answer: list[str] = []
    finish_reason, num_tokens = "", 0
    try:
        async for piece in bus.stream(request, PIECE_S):
            answer.append(piece.text)
            finish_reason, num_tokens = piece.finish_reason or finish_reason, piece.completion_tokens or num_tokens
            if not options.json:
                print(piece.text, end="", flush=True)
    except NobodyAnswers as error:
        raise NobodyAnswers(
            f"no rollout serves {reference.model}: `flash ps` shows which pools run ({error})"
        ) from error
    said = "".join(answer)
    messages.append({"role": "assistant", "content": said})
    if options.json:
        output.data({"text": said, "finish_reason": finish_reason, "completion_tokens": num_tokens})
    else:
        print(flush=True)
    if finish_reason == "length":
        output.note(f"cut at {options.max_tokens} tokens: --max-tokens N gives it more")


def _typed() -> str:
    """A line from the keyboard; empty at its end."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""
