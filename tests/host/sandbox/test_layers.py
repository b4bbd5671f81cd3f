"""Which layers are taken, given what works."""

from dataclasses import replace

import pytest

from flash.errors import ConfigError
from flash.host.sandbox.layers import NONE, Findings, best, chosen, decided

EVERYTHING = Findings(
    bwrap="/usr/bin/bwrap", with_uid=True, with_proc=True, landlock_abi=7, seccomp=True, cgroup=True, root=True
)
USER = replace(EVERYTHING, with_uid=False, root=False, cgroup=False)


def test_the_best_that_works_is_taken() -> None:
    assert best(EVERYTHING) is not None
    found = [
        best(EVERYTHING),
        best(USER),
        best(replace(USER, with_proc=False)),
        best(replace(USER, bwrap="")),
        best(replace(EVERYTHING, bwrap="")),
    ]

    assert [(one.walls, one.second_uid, one.proc) for one in found if one] == [
        ("bwrap", True, True),
        ("bwrap", False, True),
        ("bwrap", False, False),
        ("landlock", False, True),
        ("landlock", True, True),
    ]


def test_landlock_that_cannot_stop_signals_wants_a_second_uid() -> None:
    assert best(replace(USER, bwrap="", landlock_abi=5)) is None
    assert best(replace(EVERYTHING, bwrap="", landlock_abi=5)) is not None


def test_without_seccomp_nothing_deserves_the_name() -> None:
    assert best(replace(EVERYTHING, seccomp=False)) is None


def test_require_refuses_less_than_the_full_set_and_says_what_is_missing() -> None:
    assert decided("require", EVERYTHING).missing == []
    assert decided("require", USER).missing == []

    with pytest.raises(ConfigError, match=r"lacks namespaces.*bwrap: not permitted"):
        decided("require", replace(USER, bwrap="", refused=(("bwrap", "not permitted"),)))
    with pytest.raises(ConfigError, match="lacks /proc"):
        decided("require", replace(USER, with_proc=False))


def test_auto_refuses_on_linux_where_nothing_works_and_degrades_elsewhere() -> None:
    nothing = Findings(refused=(("bwrap", "not installed"),))

    with pytest.raises(ConfigError, match=r"no sandbox works on this machine \(bwrap: not installed\)"):
        decided("auto", nothing, "linux")
    assert decided("auto", nothing, "darwin") == NONE
    with pytest.raises(ConfigError):
        decided("require", nothing, "darwin")


def test_none_is_taken_at_its_word_and_another_word_is_refused() -> None:
    assert chosen({"FLASH_SANDBOX": "none"}) == NONE
    with pytest.raises(ConfigError, match="FLASH_SANDBOX is 'maybe'"):
        chosen({"FLASH_SANDBOX": "maybe"})


def test_layers_say_what_they_are_and_what_they_are_not() -> None:
    assert "cgroup" in decided("auto", EVERYTHING).names
    assert "memory watchdog" in decided("auto", USER).names
    assert NONE.missing == ["everything but processes, limits and deadlines: run only environments you trust"]
