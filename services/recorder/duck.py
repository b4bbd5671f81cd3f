"""The process that works at questions about rollouts: `python -m services.recorder.duck`. Alone imports duckdb.

A condition is somebody's SQL. It is read as an expression that may ask `rollouts` again and nothing else, and run by a
DuckDB that opens no file but the run's own, loads nothing, and whose settings are locked; in a process of its own,
whose address space is limited, since DuckDB's own limit does not bound what functions allocate.
"""

import json
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import duckdb
import msgspec

from services.recorder.query import SHOWN, TOKENS, Found, Query

GRACE_S = 5
"""How much longer than it is asked to it may work before it ends itself: then nobody is there to end it."""


class NotAllowed(Exception):
    """A condition that is not to be run."""


def main() -> None:
    memory_mib = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while (asked := _read(source)) is not None:
        signal.alarm(int(asked.within_s) + GRACE_S)
        _write(sink, answer(asked, memory_mib // (4 if asked.into else 8)))
        signal.alarm(0)


def answer(asked: Query, memory_mib: int) -> Found:
    """Never raises for what a condition may bring about."""
    try:
        with connect(asked, memory_mib) as database:
            if asked.where:
                check(database, asked.where)
            return _found(database, asked)
    except NotAllowed as error:
        return Found(refused=str(error))
    except (MemoryError, duckdb.OutOfMemoryException):
        return Found(refused="this takes more memory than a question may: narrow it, or ask unsorted")
    except duckdb.Error as error:
        return Found(refused=_sentence(str(error)))


def connect(asked: Query, memory_mib: int) -> duckdb.DuckDBPyConnection:
    """A DuckDB with the view `rollouts` and no way to anything else."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": 2, "memory_limit": f"{memory_mib}MiB",
        "temp_directory": f"{asked.into}.sorting" if asked.into else "",  # an answer is sorted in memory
        "python_enable_replacements": False, "autoinstall_known_extensions": False, "autoload_known_extensions": False,
    }  # fmt: skip
    database = duckdb.connect(":memory:", config=config)
    readable = ", ".join(_quoted(path) for path in asked.files)
    writable = f", {_quoted(asked.into)}" if asked.into else ""
    database.execute(f"SET allowed_paths = [{readable}{writable}]")
    database.execute("SET enable_external_access = false")
    database.execute(f"CREATE VIEW rollouts AS SELECT * FROM read_parquet([{readable}])")
    database.execute("SET lock_configuration = true")
    return database


def check(database: duckdb.DuckDBPyConnection, where: str) -> None:
    """Raises NotAllowed for what is no single expression over `rollouts`."""
    text = f"SELECT 1 FROM rollouts WHERE (\n{where}\n)"
    [[told]] = database.execute("SELECT json_serialize_sql(?::VARCHAR)", [text]).fetchall()
    tree = json.loads(told)
    if tree.get("error"):
        raise NotAllowed(f"the condition cannot be read: {tree.get('error_message')}")
    statements = tree["statements"]
    node = statements[0]["node"]
    more = [node.get(part) for part in ("modifiers", "group_expressions", "having", "qualify", "sample")]
    if len(statements) != 1 or node["type"] != "SELECT_NODE" or any(more) or node["cte_map"]["map"]:
        raise NotAllowed("the condition is more than one expression: write what would stand after WHERE")
    for source in _sources(node):
        if source != "rollouts":
            raise NotAllowed(f"the condition may ask `rollouts` and nothing else, but it asks {source}")


def _found(database: duckdb.DuckDBPyConnection, asked: Query) -> Found:
    order = f" ORDER BY {asked.order}" if asked.order else ""
    chosen = f"SELECT {asked.columns} FROM rollouts WHERE {asked.condition}{order}"
    if asked.into:
        how = "FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 2048, USE_TMP_FILE false"
        database.execute(f"COPY ({chosen}) TO {_quoted(asked.into)} ({how})", asked.values)
        return Found()
    rows = database.execute(f"{chosen} LIMIT {asked.limit} OFFSET {asked.offset}", asked.values).fetchall()
    counted = f"SELECT count(*) FROM rollouts WHERE {asked.condition}"
    [[total]] = database.execute(counted, asked.values).fetchall()
    return Found(rows=[list(row) for row in rows], total=total)


def _sources(node: Any) -> Iterator[str]:
    """What a parsed statement reads from, itself and in all its parts."""
    if isinstance(node, list):
        for part in node:
            yield from _sources(part)
    elif isinstance(node, dict):
        match node.get("type"):
            case "BASE_TABLE":
                path = (node["catalog_name"], node["schema_name"], node["table_name"])
                yield ".".join(part for part in path if part)
            case "TABLE_FUNCTION":
                yield f"{node['function'].get('function_name', 'a function')}()"
            case "SHOW_REF" | "PIVOT":
                yield node["type"]
        for part in node.values():
            yield from _sources(part)


def _sentence(error: str) -> str:
    """DuckDB's reason without its kind and without the picture of the place."""
    reason = error.partition("\n")[0]
    kind, separator, rest = reason.partition(": ")
    said = rest if separator and kind.endswith("Error") else reason
    there = f" The columns are {', '.join(SHOWN + TOKENS)}" if said.startswith("Referenced column") else ""
    return f"the condition cannot be used: {said}{there}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _read(source: BinaryIO) -> Query | None:
    head = source.read(8)
    if len(head) < 8:
        return None
    return msgspec.msgpack.decode(source.read(int.from_bytes(head, "little")), type=Query)


def _write(sink: BinaryIO, found: Found) -> None:
    body = msgspec.msgpack.encode(found)
    sink.write(len(body).to_bytes(8, "little") + body)
    sink.flush()


if __name__ == "__main__":
    main()
