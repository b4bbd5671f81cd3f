"""`flash env setup`, `push`, `list`: from an empty folder to a published environment."""

import asyncio
import re
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cli import output
from cli.scaffold import FASTEST, SHAPES, STARTER, TEMPLATES, configs_without_id, fill_in, lay_down
from flash.errors import ConfigError, NotFound

if TYPE_CHECKING:
    from cli.authoring import Setup
    from flash.contracts.requests import EnvironmentVersion

SHOWN = 12
"""How many files are named one by one."""
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
CHECK = """\
next:
  flash up -d                      the stack of this machine, unless it runs
  flash env test                   find what would go wrong in training
  flash env push --name NAME .     publish it; the id goes into the configs
  flash train configs/sft.toml     learn from the expected answers
  flash train configs/rl.toml      learn from the reward
TRAINING.md is the playbook."""


def setup(options: Namespace) -> None:
    shapes = [shape for shape in SHAPES if getattr(options, shape.replace("-", "_"))]
    template = options.template or (STARTER if options.yes or shapes else _asked())
    ensured = list(lay_down(template, Path.cwd(), shapes))
    if options.json:
        output.data({"template": template, "ensured": ensured})
        return
    for name in ensured:
        output.line(f"ensured {name}")
    output.note(CHECK)
    for model in _to_fetch(options.home):
        output.note(f"the configs train {model}, which is not here yet:\n  flash models pull {model}")
    if "README.md" in ensured:
        output.note("README.md has the commands of this one, and the number it should reach.")
    if template == STARTER:
        fastest = f"A task that learns while you watch, on a laptop: --template {FASTEST} ({TEMPLATES[FASTEST]})."
        others = f"Others: {', '.join(name for name in TEMPLATES if name not in (STARTER, FASTEST))}."
        for text in (fastest, others):
            output.note("\n".join(output.field("", text, width=0)))


async def push(options: Namespace) -> None:
    if not NAME.fullmatch(options.name):
        raise ConfigError(
            f"--name is {options.name!r}, but lower-case letters, digits, dots, dashes and underscores are wanted, "
            "a letter or digit first, 64 at most"
        )
    from cli.session import stack
    from cli.watching import Counter
    from flash import client
    from flash.artifacts import pack

    setup = _setup(options)
    if setup.secrets.missing:
        output.note(
            f"note: checked without {', '.join(setup.secrets.missing)}, which the config declares: not set here"
        )
    async with stack(options) as bus:
        packed = await asyncio.to_thread(pack, options.path, await client.archive_limits(bus, say=output.note))
        files = [file.path for file in packed.manifest.included]
        output.note(f"packed {len(files):,} files, {output.size(packed.num_bytes)}: {_some(files)}")
        left_out = packed.manifest.left_out
        for left in left_out[:SHOWN]:
            output.note(f"left out {left.path}: {left.reason}")
        if len(left_out) > SHOWN:
            output.note(f"left out {len(left_out) - SHOWN:,} more: {_some([left.path for left in left_out[SHOWN:]])}")
        with Counter("uploaded", lambda done, total: f"{output.size(done)} of {output.size(total)}") as counter:
            version = await client.publish_packed(
                bus,
                packed,
                options.name,
                params=setup.params,
                pip=setup.pip,
                worker_env=setup.worker_env,
                secrets=setup.secrets.values,
                progress=counter.show,
                say=output.note,
            )
    if options.json:
        output.data(msgspec.to_builtins(version))
    else:
        output.line(f"published {version.id}@{version.version}")
        output.line(f'[environment]\nid = "{version.id}"')
    for text in version.notes:
        output.note(f"note: {text}")
    if version.rows:
        output.note(f"rows: {rows_of(version)}")
    _offer(options, version.id)
    for config in _configs(options):
        output.note(f"next: flash train {config}")


async def listing(options: Namespace) -> None:
    from cli.session import stack
    from flash import client

    async with stack(options) as bus:
        versions = await client.environments(bus)
    if output.wants_json(options):
        output.data([msgspec.to_builtins(version) for version in versions])
        return
    now = time.time()
    output.table(
        ("ENVIRONMENT", "VERSION", "ROWS", "SIZE", "PUBLISHED"),
        [
            (v.id, v.version, rows_of(v), output.size(v.packed_bytes), f"{output.ago(now - v.published_at)} ago")
            for v in versions
        ],
    )


def full_id(reference: str, org: str) -> str:
    """`org/name` or `org/name@version` of an environment of one's own that is named without its organisation."""
    return reference if "/" in reference else f"{org}/{reference}"


def rows_of(version: "EnvironmentVersion") -> str:
    """How many rows each split has."""
    return ", ".join(f"{split} {count:,}" for split, count in sorted(version.rows.items()))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


def _setup(options: Namespace) -> "Setup":
    """What the check is to load it with. A package may be published whatever is wrong with a config beside it."""
    from cli import authoring

    try:
        return authoring.setup(str(options.path), options)
    except ConfigError as error:
        if options.config or options.params:
            raise
        output.note(f"note: checked without the config beside it, which cannot be used: {error}")
        return authoring.Setup()


def _to_fetch(home: Path) -> list[str]:
    """Models that the configs of this folder name, and that a stack here could not load."""
    from flash.config.run import read
    from flash.models import folder

    missing: dict[str, None] = {}
    for path in configs_without_id(Path.cwd()):
        model = ""
        try:
            folder(model := str(read(path).get("model", "")), home)
        except NotFound:
            missing[model] = None
        except ConfigError as error:
            output.note(f"note: {error}")
    return [model for model in missing if model]


def _asked() -> str:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return STARTER
    for name, summary in TEMPLATES.items():
        output.note(f"  {name:<12}{summary}")
    return input("template [starter]: ").strip() or STARTER


def _offer(options: Namespace, environment: str) -> None:
    """Write the id into the project's configs that wait for one, if the person wants that."""
    folder = options.path if options.path.is_dir() else options.path.parent
    for path in configs_without_id(folder):
        if options.yes or (sys.stdin.isatty() and _agreed(f"write the id into {path}? [Y/n] ")):
            fill_in(path, environment)
            output.note(f"wrote {environment} into {path}")
        else:
            output.note(f"{path} has no environment id yet; -y writes it")


def _configs(options: Namespace) -> list[Path]:
    """Those of the project, SFT first: it teaches the form that the reward then improves on."""
    folder = options.path if options.path.is_dir() else options.path.parent
    return sorted((folder / "configs").glob("*.toml"), key=lambda path: (path.stem != "sft", path.name))


def _agreed(question: str) -> bool:
    print(question, end="", file=sys.stderr, flush=True)
    return input().strip().lower() in ("", "y", "yes")
