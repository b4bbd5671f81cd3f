"""The speeds of runs that were followed from this machine: what `--cost` reckons with while no stack is there."""

from pathlib import Path

import msgspec

from flash.client.speed import Speed

_FILE = "speeds.json"


def last_measured(home: Path, model: str, algorithm: str) -> Speed | None:
    return _read(home).get(_key(model, algorithm))


def remember(home: Path, model: str, algorithm: str, speed: Speed) -> None:
    """Nothing hangs on it: written whole or not at all, and the last one wins."""
    home.mkdir(parents=True, exist_ok=True)
    coming = home / f".{_FILE}.{speed.run_id}"
    coming.write_bytes(msgspec.json.encode({**_read(home), _key(model, algorithm): speed}))
    coming.replace(home / _FILE)


def _read(home: Path) -> dict[str, Speed]:
    try:
        return msgspec.json.decode((home / _FILE).read_bytes(), type=dict[str, Speed])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


def _key(model: str, algorithm: str) -> str:
    return f"{algorithm} {model}"
