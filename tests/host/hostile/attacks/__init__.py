"""Attacks, each bounded, each a function that gives its loot: what it got, or did, and should not have; or None.

Runs where an author's code runs, and once without walls as the positive control. `world` says where the prizes are.
"""

from attacks.kernel import *  # noqa: F403
from attacks.reaching import *  # noqa: F403
from attacks.speaking import *  # noqa: F403
from attacks.taking import *  # noqa: F403

CONTAINED = (OSError, MemoryError, RuntimeError, ValueError)
"""What walls say no with."""
