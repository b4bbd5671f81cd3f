"""A run's record as whoever reads it finds it."""

import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from flash.store import Store
from services.recorder.parquet import Kind
from services.recorder.shelf import Shelf


async def recorded(store: Store, kind: Kind, run_id: str = "r1") -> list[dict[str, Any]]:
    """Every row, in the order of the segments, which may be merged meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        async with Shelf(store, Path(folder), 1 << 30).copies(run_id, kind) as (_, paths):
            return [row for path in paths for row in pq.read_table(path).to_pylist()]
