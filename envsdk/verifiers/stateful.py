"""Tools that are given more than the policy writes: arguments that it does not see, from the rollout's state."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from envsdk.verifiers.messages import Messages
from envsdk.verifiers.rubrics import name_of
from envsdk.verifiers.states import State
from envsdk.verifiers.tools import Tool, ToolEnv, tool_def


class StatefulToolEnv(ToolEnv):
    """`update_tool_args` sees each call before its tool does."""

    def __init__(self, tools: Sequence[Tool] | None = None, **options: Any) -> None:
        self.skipped_args: dict[str, list[str]] = {}
        super().__init__(tools=tools, **options)

    def add_tool(self, tool: Tool, args_to_skip: Sequence[str] = ()) -> None:
        """A tool, some arguments of which the policy is not told of."""
        super().add_tool(tool)
        self.skipped_args[name_of(tool)] = list(args_to_skip)
        self.tool_defs[-1] = tool_def(tool, args_to_skip)

    def remove_tool(self, tool: Tool) -> None:
        super().remove_tool(tool)
        del self.skipped_args[name_of(tool)]

    @abstractmethod
    def update_tool_args(
        self, tool_name: str, tool_args: dict[str, Any], messages: Messages, state: State, **options: Any
    ) -> dict[str, Any]:
        """The arguments that the tool is called with. What it raises ends the rollout as an error."""

    def _arguments(self, name: str, written: dict[str, Any], messages: Messages, state: State) -> dict[str, Any]:
        return self.update_tool_args(name, written, messages, state)
