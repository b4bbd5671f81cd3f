"""Where an environment may connect to."""

import pytest

from flash.errors import ConfigError
from flash.host.sandbox.destinations import Barred, Operator, chosen, is_public, operator, parsed

PUBLIC = "93.184.215.14"


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [
        ("judge.example", "judge.example", None),
        ("Judge.Example.:8443", "judge.example", 8443),
        ("127.0.0.1:8000", "127.0.0.1", 8000),
        ("[::1]:8000", "::1", 8000),
        ("::1", "::1", None),
    ],
)
def test_a_destination_is_a_host_and_perhaps_a_port(written: str, host: str, port: int | None) -> None:
    assert parsed(written) == (host, port)


@pytest.mark.parametrize(
    "written", ["", "http://judge.example", "a b", "judge.example:http", "x:0", "x:65536", "*", "-x"]
)
def test_what_is_none_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parsed(written)


def test_only_what_is_named_is_reached_and_by_the_address_that_was_looked_at() -> None:
    assert chosen(["judge.example"], "judge.example", 443, [PUBLIC], "named") == PUBLIC
    with pytest.raises(Barred, match=r"other\.example:443 is not in environment\.network"):
        chosen(["judge.example"], "other.example", 443, [PUBLIC], "named")
    with pytest.raises(Barred):
        chosen(["judge.example:443"], "judge.example", 80, [PUBLIC], "named")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "::1", "fd00::1", "fe80::1%eth0", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "ff02::1", "nonsense"],
)  # fmt: skip
def test_a_name_that_leads_to_no_public_address_is_refused(address: str) -> None:
    assert not is_public(address)
    with pytest.raises(Barred, match="no public address"):
        chosen(["judge.example"], "judge.example", 443, [address], "named")


def test_of_a_names_addresses_a_public_one_is_taken() -> None:
    assert chosen(["judge.example"], "judge.example", 443, ["127.0.0.1", PUBLIC], "public") == PUBLIC


def test_a_private_address_is_reached_where_it_is_named_itself_with_its_port_and_the_operator_has_no_objection() -> (
    None
):
    assert chosen(["127.0.0.1:8000"], "127.0.0.1", 8000, ["127.0.0.1"], "named") == "127.0.0.1"
    assert chosen(["localhost:8000"], "localhost", 8000, ["127.0.0.1"], "named") == "127.0.0.1"
    for network, allows in ((["127.0.0.1"], "named"), (["127.0.0.1:8000"], "public"), (["127.0.0.1:8000"], "none")):
        with pytest.raises(Barred):
            chosen(network, "127.0.0.1", 8000, ["127.0.0.1"], allows)  # type: ignore[arg-type]
    with pytest.raises(Barred):
        chosen(["169.254.169.254:80"], "169.254.169.254", 80, ["169.254.169.254"], "named")


@pytest.mark.parametrize("said", ["named", "public", "none"])
def test_the_operator_says_one_of_three(said: Operator) -> None:
    assert operator({"FLASH_EGRESS": said}) == said
    with pytest.raises(ConfigError, match="FLASH_EGRESS is 'all'"):
        operator({"FLASH_EGRESS": "all"})
