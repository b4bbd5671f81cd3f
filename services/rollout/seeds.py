"""Where a rollout's chance comes from: its place in the run and nothing else. Pure."""

import hashlib

from flash.contracts.base import Scope


def rollout_seed(run_seed: int, scope: Scope, step: int, group: int, rollout: int, turn: int = 0) -> int:
    """A seed from 0 to 2^64 - 1. Two runs with one seed draw alike; no two rollouts of a run do, and no two turns."""
    place = f"{run_seed}/{scope}/{step}/{group}/{rollout}{f'/{turn}' if turn else ''}".encode()
    return int.from_bytes(hashlib.blake2b(place, digest_size=8).digest(), "big")
