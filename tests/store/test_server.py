"""What is true of the plan for an S3 server, and of the real one."""

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path
from random import Random

import pytest

from flash.store import StoreError
from flash.store.server import PORTS, free_ports, is_free, plan, program
from tests.store.conftest import Weed

NINE = {name: 20_001 + at for at, name in enumerate(PORTS)}


def test_secrets_are_in_private_files_and_not_in_the_arguments(tmp_path: Path) -> None:
    planned = plan(tmp_path, ports=NINE, secret="open-sesame", keys="signing-key")

    said = [*planned.argv, *planned.env.values(), repr(planned)]
    assert not [word for word in said if "open-sesame" in word or "signing-key" in word]
    for file in (tmp_path / "conf").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / "conf" / "s3.json").read_text())["identities"][0]["name"] == "flash"


def test_everything_listens_on_loopback_and_nothing_calls_home(tmp_path: Path) -> None:
    argv = plan(tmp_path, ports=NINE, secret="s", keys="k").argv

    assert {"-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"} <= set(argv)
    assert {f"-{name}={NINE[port]}" for name, port in (("s3.port", "s3"), ("filer.port", "filer"))} <= set(argv)


def test_a_port_that_is_taken_is_not_chosen() -> None:
    chosen = free_ports(["one"], random=Random(7))["one"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", chosen))
        taken.listen()

        assert not is_free(chosen)
        assert free_ports(["one"], random=Random(7))["one"] != chosen
        assert free_ports(["one"], {"one": chosen})["one"] != chosen


def test_no_port_is_chosen_twice() -> None:
    ports = free_ports(PORTS)

    assert len({*ports.values(), ports["admin"] + 10_000}) == len(PORTS) + 1


def test_ports_stay_as_they_were_where_they_are_free() -> None:
    ports = free_ports(PORTS)

    assert free_ports(PORTS, ports) == ports


def test_a_program_that_is_missing_is_named_with_what_brings_it() -> None:
    with pytest.raises(StoreError, match=r"flash-rl\[local\]"):
        program("no-such-program", wheel="no-such-wheel")


def test_the_filer_wants_a_token(weed: Weed) -> None:
    port = next(flag for flag in weed.plan.argv if flag.startswith("-filer.port=")).partition("=")[2]

    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/buckets/", timeout=5)
