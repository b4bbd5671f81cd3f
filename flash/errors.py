"""The errors of Flash, as a tree. A message says what was found, what was wanted, and what to do.

FlashError
├── ConfigError          what a person wrote cannot be used
├── EnvironmentFault     the author's package cannot be used
├── NotFound             nothing goes by that name
├── Refused              the other side understood, and says no
├── CannotOpen           what is sealed is for another key, or for something else
├── BusError             the bus cannot be used or did not answer
│   ├── NobodyAnswers    no replica took the request in time
│   ├── Unanswered       a replica took the request, and was not heard of again
│   ├── Fenced           somebody else has taken over: stop without a further word
│   └── Rejected         this message can never work
└── StoreError           the object store cannot be used
    ├── NoSuchObject     nothing lies under that key
    ├── AlreadyThere     a conditional put met an object
    └── Damaged          what was read is not what was written
"""


class FlashError(Exception):
    """The root: every error of ours that a person may read."""


class ConfigError(FlashError):
    """What a person wrote cannot be used."""


class EnvironmentFault(FlashError):
    """The author's package cannot be used."""


class NotFound(FlashError):
    """Nothing goes by that name."""


class Refused(FlashError):
    """The other side understood the request, and says no."""


class CannotOpen(FlashError):
    """What is sealed was sealed to another key, or for something else."""


class BusError(FlashError):
    """The bus cannot be used, or did not answer."""


class NobodyAnswers(BusError):
    """No replica took the request in time."""


class Unanswered(BusError):
    """A replica took the request, and was not heard of again: it may have done what was asked, or not."""


class Fenced(BusError):
    """Somebody else has taken over: stop without a further word."""


class Rejected(BusError):
    """This message can never work; it goes to the dead letters at once."""


class StoreError(FlashError):
    """The object store cannot be used."""


class NoSuchObject(StoreError):
    """Nothing lies under that key."""


class AlreadyThere(StoreError):
    """A conditional put met an object."""


class Damaged(StoreError):
    """What was read is not what was written: its digest differs."""
