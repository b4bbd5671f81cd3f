"""What the kernel says about this machine; nothing where it is no Linux."""

from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_COUNTERS = Path("/proc/vmstat")


def boot_id(path: Path = _BOOT_ID) -> str:
    """Another after every start of the machine; containers on it share it. Empty: unknown."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def memory_kills(path: Path = _COUNTERS) -> int:
    """How many processes it has killed since then because memory was full."""
    try:
        counters = dict(line.split() for line in path.read_text().splitlines())
        return int(counters.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0
