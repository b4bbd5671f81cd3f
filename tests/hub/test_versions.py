"""What a publish does to an environment's document: services/hub/versions.py."""

from typing import Any

import pytest

from flash.contracts.requests import EnvironmentVersion
from flash.errors import NotFound, Refused
from services.hub.versions import chosen, known, newest, opened, published, record_id, version_of


def version(digest: str, **fields: Any) -> EnvironmentVersion:
    given = {"id": "local/sums", "key": "k", "packed_bytes": 1, "published_at": 1.0, **fields}
    return EnvironmentVersion(digest=digest, version=version_of(digest), **given)


A, B = version("a" * 64), version("b" * 64)


def test_the_first_twelve_digits_of_the_digest_name_a_version() -> None:
    assert version_of("0123456789abcdef" + "0" * 48) == "0123456789ab"


def test_a_publish_adds_a_version_and_makes_it_the_newest() -> None:
    document = published(published(None, A), B)

    assert [there.digest for there in opened(document).versions] == [A.digest, B.digest]
    assert chosen(document, "local/sums") == B


def test_the_same_content_again_is_the_same_version_and_the_newest() -> None:
    document = published(published(None, A), B)

    again = published(document, version(A.digest, published_at=99.0))

    assert len(opened(again).versions) == 2
    assert chosen(again, "local/sums") == A


def test_another_archive_that_goes_by_the_same_version_is_refused() -> None:
    twin = version(A.digest[:12] + "f" * 52)

    with pytest.raises(Refused, match="another archive with the same first 12 digits"):
        published(published(None, A), twin)


def test_content_is_known_by_its_whole_digest() -> None:
    document = published(None, A)

    assert known(document, A.digest) == A
    assert known(document, A.digest[:12] + "f" * 52) is None
    assert known(None, A.digest) is None


def test_a_reference_may_name_an_older_version() -> None:
    document = published(published(None, A), B)

    assert chosen(document, f"local/sums@{A.version}") == A


def test_a_version_that_is_not_there_is_met_with_those_that_are() -> None:
    with pytest.raises(NotFound, match=f"local/sums has no version 123; the newest are {B.version}, {A.version}"):
        chosen(published(published(None, A), B), "local/sums@123")


def test_an_environment_that_is_not_there_is_met_with_the_nearest_one_or_the_way_to_push() -> None:
    with pytest.raises(NotFound, match=r"there is no environment local/sum: did you mean local/sums\?"):
        chosen(None, "local/sum", others=["local/sums"])
    with pytest.raises(NotFound, match="there is no environment local/sum: `flash env push --name sum` makes one"):
        chosen(None, "local/sum", others=[])


def test_the_newest_of_each_environment_is_the_last_published() -> None:
    documents = [published(published(published(None, A), B), A), published(None, version("c" * 64, id="local/other"))]

    assert [(v.id, v.digest[0]) for v in newest(documents)] == [("local/sums", "a"), ("local/other", "c")]


def test_names_with_dots_lie_under_an_id_that_records_can_keep() -> None:
    assert record_id("local", "sums.v2") == "local/sums_2Ev2"
