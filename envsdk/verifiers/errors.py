"""What may go wrong in a rollout, by whose fault it is. The names are those of the `verifiers` package."""


class Error(Exception):
    """A rollout cannot go on."""


class ModelError(Error):
    """The model's endpoint failed."""


class InvalidModelResponseError(ModelError):
    """The endpoint answered with something that is no reply."""


class EmptyModelResponseError(InvalidModelResponseError):
    """The reply has neither text nor tool calls nor reasoning."""


class OverlongPromptError(Error):
    """The prompt and the tokens asked for are more than the model's context."""


class ToolError(Error):
    """A tool failed, and the environment wants the rollout to end for it."""


class ToolParseError(ToolError):
    """A tool call's arguments cannot be read."""


class ToolCallError(ToolError):
    """A tool raised."""


class InfraError(Error):
    """Something that the environment runs on failed."""


class SandboxError(InfraError):
    """A sandbox failed."""


class JudgeError(Error, RuntimeError):
    """The judge cannot be asked, so that nobody knows what the answer is worth."""


class RewardError(ValueError):
    """A reward function gave something that is no reward, or cannot be called."""
