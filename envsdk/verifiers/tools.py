"""Python functions as tools: what the policy is told of them, the calls that it writes, and calling them."""

import inspect
import json
import re
import types
from collections.abc import Callable, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from envsdk.verifiers.environments import MultiTurnEnv
from envsdk.verifiers.errors import ToolCallError, ToolParseError
from envsdk.verifiers.marks import stop
from envsdk.verifiers.messages import Message, Messages, ToolCall, ToolMessage, as_message
from envsdk.verifiers.rubrics import Rubric, name_of, settled
from envsdk.verifiers.states import State

Tool = Callable[..., Any]

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_FUNCTION = re.compile(r"<function=([^>\s]+)>(.*)</function>", re.DOTALL)
_ARGUMENT = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_BARE = {"parameters", "arguments"}
"""One of them makes an object without marks a call, and not an answer that happens to have a name."""
_SECTION = re.compile(r"^\s*(args|arguments|params|parameters):\s*$", re.IGNORECASE)
_OTHER_SECTION = re.compile(r"^\s*(returns?|raises|yields|examples?|notes?):\s*$", re.IGNORECASE)
_PARAMETER = re.compile(r"^\s*\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", tuple: "array",
          dict: "object", type(None): "null"}  # fmt: skip


class ToolEnv(MultiTurnEnv):
    """The policy may call functions; the rollout ends with a turn that calls none, or after `max_turns`.

    A tool that raises answers with `error_formatter(error)`, unless the error is one of `stop_errors`, which end the
    rollout as an error. Metrics: `total_tool_calls` and `<tool>_calls`.
    """

    def __init__(
        self,
        tools: Sequence[Tool] | None = None,
        max_turns: int = 10,
        error_formatter: Callable[[Exception], str] = lambda error: f"{error}",
        stop_errors: Sequence[type[Exception]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(max_turns=max_turns, **options)
        self.tools: list[Tool] = []
        self.tool_map: dict[str, Tool] = {}
        self.error_formatter, self.stop_errors = error_formatter, tuple(stop_errors or ())
        self._counts = Rubric()
        self._counts.add_metric(_calls("total_tool_calls", None))
        self.add_rubric(self._counts)
        for tool in tools or ():
            self.add_tool(tool)

    def add_tool(self, tool: Tool) -> None:
        name = name_of(tool)
        self.tools.append(tool)
        self.tool_map[name] = tool
        self.tool_defs.append(tool_def(tool))
        self._counts.add_metric(_calls(f"{name}_calls", name))

    def remove_tool(self, tool: Tool) -> None:
        name = name_of(tool)
        self.tools.remove(tool)
        del self.tool_map[name]
        self.tool_defs = [known for known in self.tool_defs if known["name"] != name]
        at = self._counts._names().index(f"{name}_calls")
        del self._counts.funcs[at], self._counts.weights[at]

    @stop
    async def no_tools_called(self, state: State) -> bool:
        return bool(state["trajectory"]) and not state["trajectory"][-1]["completion"][-1].tool_calls

    async def env_response(self, messages: Messages, state: State, **options: Any) -> Any:
        return [await self._answered(call, messages, state) for call in messages[-1].tool_calls or ()]

    async def call_tool(self, tool_name: str, tool_args: dict[str, Any], tool_call_id: str, **options: Any) -> Message:
        """Override it to give tools more than the policy wrote."""
        result = await settled(self.tool_map[tool_name](**tool_args))
        content = result if _is_parts(result) else str(result)
        return ToolMessage(role="tool", content=content, tool_call_id=tool_call_id)

    def _arguments(self, name: str, written: dict[str, Any], messages: Messages, state: State) -> dict[str, Any]:
        """What the tool is called with."""
        return written

    async def _answered(self, call: ToolCall, messages: Messages, state: State) -> Message:
        try:
            arguments = json.loads(call.arguments) if isinstance(call.arguments, str) else dict(call.arguments)
            if not isinstance(arguments, dict):
                raise TypeError(f"the arguments of {call.name} are {call.arguments}, wanted an object")
        except Exception as error:
            return self._failed(error, call, ToolParseError)
        arguments = self._arguments(call.name, arguments, messages, state)
        try:
            if call.name not in self.tool_map:
                raise KeyError(call.name)
            return as_message(await settled(self.call_tool(call.name, arguments, call.id)))
        except Exception as error:
            return self._failed(error, call, ToolCallError)

    def _failed(self, error: Exception, call: ToolCall, ending: type[Exception]) -> Message:
        if isinstance(error, self.stop_errors):
            raise ending(f"{call.name}: {error}") from error
        return ToolMessage(role="tool", content=self.error_formatter(error), tool_call_id=call.id)


def tool_def(tool: Tool, without: Sequence[str] = ()) -> dict[str, Any]:
    """Name, description and JSON schema of a function, from its signature and docstring, `without` some arguments."""
    described, parameters = _documented(inspect.getdoc(tool) or "")
    try:
        hints = get_type_hints(tool)
    except Exception:  # a hint that names what is not imported
        hints = {}
    properties: dict[str, Any] = {}
    required = []
    for name, parameter in inspect.signature(tool).parameters.items():
        if name in without or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        properties[name] = _schema(hints.get(name, Any))
        if note := parameters.get(name):
            properties[name]["description"] = note
        if parameter.default is parameter.empty:
            required.append(name)
        else:
            properties[name]["default"] = parameter.default
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"name": name_of(tool), "description": described, "parameters": schema}


def read_calls(text: str, before: int = 0) -> tuple[str, list[ToolCall]]:
    """The text without its calls, and the calls, numbered on from `before`. What is no call stays in the text.

    <tool_call>{"name": ..., "arguments": {...}}</tool_call>                           Qwen3, Hermes
    <tool_call><function=name><parameter=key>value</parameter></function></tool_call>  Qwen3.5
    {"name": ..., "parameters": {...}}                                                 Llama 3, the whole text
    """
    calls: list[ToolCall] = []

    def add(name: str, arguments: Any) -> None:
        written = arguments if isinstance(arguments, str) else json.dumps(arguments)
        calls.append(ToolCall(id=f"call_{before + len(calls)}", name=name, arguments=written))

    def take(match: re.Match[str]) -> str:
        try:
            add(*_read_call(match.group(1)))
        except (ValueError, KeyError, AttributeError):
            return match.group(0)
        return ""

    rest = _CALL.sub(take, text)
    if not calls and text.lstrip().startswith("{"):
        try:
            name, arguments = _read_call(text.strip())
        except (ValueError, KeyError, AttributeError):
            return text, []
        if isinstance(arguments, dict) and not _BARE.isdisjoint(json.loads(text)):
            add(name, arguments)
            rest = ""
    return (rest.strip() if calls else rest), calls


def _read_call(text: str) -> tuple[str, Any]:
    if function := _FUNCTION.fullmatch(text):
        found = {name: _value(value) for name, value in _ARGUMENT.findall(function.group(2))}
        return function.group(1), found
    call = json.loads(text)
    arguments = call["arguments"] if "arguments" in call else call.get("parameters", {})
    return str(call["name"]), arguments


def _value(text: str) -> Any:
    """JSON where it is some; else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _calls(metric: str, tool: str | None) -> Callable[..., int]:
    """A metric: how often a tool, or any, is called in a completion."""

    def count(completion: Messages) -> int:
        calls = [call for message in completion for call in message.tool_calls or ()]
        return sum(tool is None or call.name == tool for call in calls)

    count.__name__ = metric
    return count


def _is_parts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(part, dict) and part.get("type") in ("text", "image_url") for part in value
    )


def _schema(hint: Any) -> dict[str, Any]:
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(part) for part in inside]}
    if origin is Literal:
        kinds = {type(value) for value in inside}
        kind = {"type": _TYPES[kinds.pop()]} if len(kinds) == 1 else {}
        return {"enum": list(inside), **kind}
    base = origin or hint
    if base in (list, tuple) and inside:
        return {"type": "array", "items": _schema(inside[0])}
    return {"type": _TYPES[base]} if base in _TYPES else {}


def _documented(text: str) -> tuple[str, dict[str, str]]:
    """The description of a Google-style docstring, and what it says of each parameter."""
    described: list[str] = []
    parameters: dict[str, str] = {}
    section = name = ""
    for line in text.splitlines():
        if _SECTION.match(line):
            section, name = "parameters", ""
        elif _OTHER_SECTION.match(line):
            section = "other"
        elif not section:
            described.append(line)
        elif section == "parameters" and (found := _PARAMETER.match(line)):
            name = found.group(1)
            parameters[name] = found.group(2).strip()
        elif section == "parameters" and name and line.strip():
            parameters[name] += f" {line.strip()}"
    return "\n".join(described).strip(), parameters
