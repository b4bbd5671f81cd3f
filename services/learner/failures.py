"""Why a learner stops before the last step."""

from flash.errors import FlashError


class CannotTrain(FlashError):
    """What the run asks for can never work: it is told as `training.failed`, and nobody tries again."""


class RunOver(Exception):
    """The run was cancelled, or ended otherwise, while we worked at it."""
