"""Another model says whether an answer is right."""

import asyncio
from typing import Any

from envsdk.verifiers.clients import Client
from envsdk.verifiers.errors import JudgeError
from envsdk.verifiers.messages import text_of
from envsdk.verifiers.parsers import Parser
from envsdk.verifiers.rubrics import Rubric, settled
from envsdk.verifiers.states import State

DEFAULT_JUDGE_PROMPT = """Given a ground truth answer \
and a response, determine if the response is correct.

Question:
```
{question}
```

Ground truth answer:
```
{answer}
```

Response:
```
{response}
```

Respond either "yes" or "no" only."""

_CACHED = 4096


class JudgeRubric(Rubric):
    """Gives reward functions a `judge`; earns nothing by itself.

    `await judge(prompt, completion, answer, state)` is what the judge model says to `judge_prompt`, whose fields are
    `{question}` (the last message of the prompt), `{answer}` and `{response}` (what the parser reads). At most
    `max_concurrent` questions are out at once, a question is asked once however many answers raise it, and one that
    cannot be asked raises JudgeError: such an answer is a fault, and no wrong one.

    Without a `judge_client`, `OPENAI_BASE_URL` and `OPENAI_API_KEY` say where it is.
    """

    def __init__(
        self,
        parser: Parser | None = None,
        parallelize_scoring: bool = False,
        judge_client: Any = None,
        judge_model: str = "gpt-4.1-nano",
        judge_sampling_args: dict[str, Any] | None = None,
        judge_prompt: str = DEFAULT_JUDGE_PROMPT,
        *,
        max_concurrent: int = 16,
        timeout_s: float = 60.0,
        max_retries: int = 3,
    ) -> None:
        super().__init__(parser=parser)
        self.judge_client = judge_client or Client(
            timeout=timeout_s, max_retries=max_retries, max_concurrent=max_concurrent
        )
        self.judge_model, self.judge_prompt = judge_model, judge_prompt
        self.judge_sampling_args = dict(judge_sampling_args or {})
        self._max_concurrent = max_concurrent
        self._said: dict[tuple[str, str, str], str] = {}
        self._asking: dict[tuple[str, str, str], asyncio.Task[str]] = {}
        self._bound: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None
        self.class_objects.update(
            judge=self.judge,
            judge_client=self.judge_client,
            judge_model=self.judge_model,
            judge_prompt=self.judge_prompt,
            judge_sampling_args=self.judge_sampling_args,
        )

    async def judge(self, prompt: Any, completion: Any, answer: Any, state: State | None = None) -> str:
        """What the judge says of an answer."""
        question = prompt if isinstance(prompt, str) else text_of(prompt[-1].get("content")) if prompt else ""
        response = self.parser.parse_answer(completion)
        asked = self.judge_prompt.format(question=question, answer=answer, response=response)
        said = await self._once(asked)
        if state is not None:
            state["judge_response"] = {**(state.get("judge_response") or {}), asked: said}
        return said

    async def _once(self, asked: str) -> str:
        key = (self.judge_model, repr(sorted(self.judge_sampling_args.items())), asked)
        if key in self._said:
            return self._said[key]
        task = self._asking.get(key)
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            task = self._asking[key] = asyncio.create_task(self._ask(asked))
            task.add_done_callback(lambda done: self._asking.pop(key, None))
        said = await asyncio.shield(task)
        while len(self._said) >= _CACHED:
            self._said.pop(next(iter(self._said)))
        self._said[key] = said
        return said

    async def _ask(self, asked: str) -> str:
        async with self._bound_of_this_loop():
            try:
                reply = await settled(
                    self.judge_client.chat.completions.create(
                        model=self.judge_model, messages=[{"role": "user", "content": asked}], **self._sampling()
                    )
                )
            except Exception as error:
                raise JudgeError(f"the judge {self.judge_model!r} cannot be asked: {error}") from error
        return str(reply.choices[0].message.content)

    def _sampling(self) -> dict[str, Any]:
        given = dict(self.judge_sampling_args)
        if "max_tokens" in given:
            given["max_completion_tokens"] = given.pop("max_tokens")
        return {name: value for name, value in given.items() if value is not None}

    def _bound_of_this_loop(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        if self._bound is None or self._bound[0] is not loop:
            self._bound = loop, asyncio.Semaphore(self._max_concurrent)
        return self._bound[1]
