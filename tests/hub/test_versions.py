"""What a publish or a withdrawal does to an environment's documents: services/hub/versions.py."""

from typing import Any

import pytest

from flash.contracts.requests import EnvironmentVersion
from flash.errors import Refused
from services.hub.versions import (
    REMEMBERED,
    Reference,
    environment,
    environment_id,
    in_order,
    kept,
    one_before,
    opened,
    pointed,
    pointed_back,
    reference_of,
    version_id,
    version_of,
    withdrawn,
)


def version(digest: str, **fields: Any) -> EnvironmentVersion:
    given = {"id": "local/sums", "key": "k", "packed_bytes": 1, "published_at": 1.0, **fields}
    return EnvironmentVersion(digest=digest, version=version_of(digest), **given)


A, B, C = version("a" * 64), version("b" * 64, published_at=2.0), version("c" * 64, published_at=3.0)


def test_the_first_twelve_digits_of_the_digest_name_a_version() -> None:
    assert version_of("0123456789abcdef" + "0" * 48) == "0123456789ab"


def test_a_version_that_is_there_stays_as_it_is_when_the_same_content_is_published_again() -> None:
    assert opened(kept(kept(None, A), version(A.digest, published_at=99.0))) == A


def test_a_version_that_was_withdrawn_is_there_again_as_it_is_published_anew() -> None:
    gone = withdrawn(kept(None, A), 5.0)
    again = version(A.digest, published_at=9.0)

    assert opened(gone) == version(A.digest, withdrawn_at=5.0)
    assert opened(kept(gone, again)) == again
    assert withdrawn(None, 5.0) is None


def test_what_could_be_validated_at_last_stands_with_the_time_of_the_first_publishing() -> None:
    noted = version(A.digest, notes=["not validated: needs nltk"])

    assert opened(kept(kept(None, noted), version(A.digest, published_at=9.0, rows={"train": 3}))) == version(
        A.digest, rows={"train": 3}
    )
    assert opened(kept(kept(None, A), noted)) == A


def test_another_archive_that_goes_by_the_same_version_is_refused() -> None:
    twin = version(A.digest[:12] + "f" * 52)

    with pytest.raises(Refused, match="another archive with the same first 12 digits"):
        kept(kept(None, A), twin)


def test_a_bare_id_remembers_what_it_meant_but_not_for_ever() -> None:
    document = pointed(pointed(pointed(None, A), B), B)
    assert environment(document).before == [A.version]

    for number in range(2 * REMEMBERED):
        document = pointed(document, version(f"{number:064x}"[::-1]))
    assert len(environment(document).before) == REMEMBERED


def test_what_a_bare_id_meant_before_leaves_out_what_cannot_be_used() -> None:
    there = environment(pointed(pointed(pointed(None, A), B), C))

    assert one_before(there, [A, B, C]) == B
    assert one_before(there, [A, version(B.digest, withdrawn_at=9.0), C]) == A
    assert one_before(there, [C]) is None


def test_without_a_memory_it_is_the_last_published() -> None:
    assert one_before(environment(pointed(None, A)), [A, C, B]) == C


def test_going_back_twice_goes_back_two_versions() -> None:
    document = pointed(pointed(pointed(None, A), B), C)

    once = pointed_back(document, B)
    assert environment(once).newest == B
    assert one_before(environment(once), [A, B, C]) == A
    assert environment(pointed_back(once, None)).newest is None


def test_listings_begin_with_the_last_published() -> None:
    assert in_order([B, A, C]) == [C, B, A]


def test_names_with_dots_lie_under_an_id_that_records_can_keep() -> None:
    assert environment_id("local", "sums.v2") == "local.sums_2Ev2"
    assert version_id("local", "sums.v2", "abc") == "local.sums_2Ev2.abc"


def test_a_reference_is_an_environment_or_one_version_of_it() -> None:
    assert reference_of("me/sums.v2") == Reference("me", "sums.v2")
    assert reference_of("me/sums@abc") == Reference("me", "sums", "abc")
    for text in ("sums", "me/", "me/Sums", "me/sums@", "me/sums@a.b", "me/sums/more", "", "me/*"):
        with pytest.raises(Refused, match=r"is no environment: an id is org/name or org/name@version"):
            reference_of(text)
