"""The hub on a bus, with a scorer that answers what the test wants: services/hub/service.py."""

import asyncio

import pytest

from flash.bus.memory import MemoryBus
from flash.contracts.environments import (
    ArchiveLimits,
    EnvironmentLimits,
    EnvironmentPublished,
    EnvironmentVersions,
)
from flash.contracts.hosting import CheckReport
from flash.contracts.keys import UPLOAD_PART_BYTES
from flash.contracts.requests import (
    EnvironmentFetch,
    EnvironmentList,
    EnvironmentPublish,
    EnvironmentResolve,
    EnvironmentUpload,
    EnvironmentVersion,
)
from flash.contracts.values import Fault
from flash.errors import EnvironmentFault, NobodyAnswers, NotFound, Refused
from services.hub.settings import Settings
from services.hub.uploads import Uploads
from tests.hubs import ARCHIVE, Clock, digest_of, keys, offer, only, push, scorer, upload


async def test_a_push_becomes_a_version_that_is_kept_told_and_found(bus: MemoryBus) -> None:
    notes = ["not validated: needs openai"]
    fake = await scorer(bus, CheckReport(rows={"train": 3}, prompt_text="Be kind.", notes=notes))

    version = await push(bus)

    assert version == EnvironmentVersion(
        id="local/sums", version=digest_of(ARCHIVE)[:12], digest=digest_of(ARCHIVE),
        key=f"environments/local/sums/{digest_of(ARCHIVE)[:12]}.tar.zst", packed_bytes=len(ARCHIVE), published_at=7.0,
        rows={"train": 3}, prompt_text="Be kind.", notes=notes,
    )  # fmt: skip
    assert fake.seen == [ARCHIVE]
    assert await bus.store.get(version.key) == ARCHIVE
    assert await bus.ask(EnvironmentResolve(reference="local/sums")) == version
    told = await bus.last(EnvironmentPublished.pattern())
    assert told is not None
    assert told.event == EnvironmentPublished(
        org="local", slug="sums", environment="sums", version=version.version, digest=version.digest, key=version.key,
        packed_bytes=len(ARCHIVE),
    )  # fmt: skip


async def test_the_parts_are_gone_once_the_version_is_there(bus: MemoryBus) -> None:
    await scorer(bus)

    await push(bus)

    assert await keys(bus, "uploads/") == []


async def test_the_same_content_is_the_same_version_and_is_checked_once(bus: MemoryBus) -> None:
    fake = await scorer(bus)
    first = await push(bus)

    again = await push(bus)

    assert again == first
    assert len(fake.seen) == 1
    assert await keys(bus, "uploads/") == []


async def test_a_publish_whose_reply_was_lost_can_be_asked_again_without_its_parts(bus: MemoryBus) -> None:
    await scorer(bus)
    first = await push(bus)

    again = await bus.ask(EnvironmentPublish(org="local", environment="sums", digest=first.digest, parts=2))

    assert again == first


async def test_it_is_checked_with_the_params_and_packages_of_whoever_pushes(bus: MemoryBus) -> None:
    fake = await scorer(bus)

    await push(bus, params={"level": 2, "contract_path": "mine.md", "contract_text": "mine"}, pip=["nltk"])

    [asked] = fake.asked
    assert (asked.params, asked.pip) == ({"level": 2}, ["nltk"]), "its system text is its own, whoever pushes"


async def test_what_could_not_be_validated_is_looked_at_again_by_the_next_push(bus: MemoryBus) -> None:
    fake = await scorer(bus, CheckReport(notes=["not validated: needs nltk"]))
    first = await push(bus)
    fake.report = CheckReport(rows={"train": 3}, prompt_text="Be kind.")

    second = await push(bus, pip=["nltk"])
    third = await push(bus)

    assert (first.notes, first.rows) == (["not validated: needs nltk"], {})
    assert second == third == await bus.ask(EnvironmentResolve(reference="local/sums"))
    assert (second.notes, second.rows, second.prompt_text) == ([], {"train": 3}, "Be kind.")
    assert (second.version, second.published_at) == (first.version, first.published_at)
    assert [request.pip for request in fake.asked] == [[], ["nltk"]], "and then it is known"


async def test_what_was_published_stays_when_a_second_look_finds_a_fault(bus: MemoryBus) -> None:
    fake = await scorer(bus, CheckReport(notes=["not validated: needs nltk"]))
    first = await push(bus)
    fake.report = CheckReport(fault=Fault(kind="load-failed", message="NameError: x"))

    with pytest.raises(EnvironmentFault, match="sums cannot be loaded: NameError: x"):
        await push(bus, pip=["nltk"])

    assert await bus.ask(EnvironmentResolve(reference="local/sums")) == first
    assert await keys(bus, "uploads/") == []


async def test_pushing_old_content_makes_it_the_newest_again(bus: MemoryBus) -> None:
    await scorer(bus)
    first = await push(bus)
    await push(bus, b"other" * 10)

    await push(bus)

    assert await bus.ask(EnvironmentResolve(reference="local/sums")) == first


async def test_a_package_that_does_not_load_is_refused_with_the_authors_traceback(bus: MemoryBus) -> None:
    fault = Fault(
        kind="load-failed", message="NameError: name 'x' is not defined", traceback="environment.py, line 3\n"
    )
    await scorer(bus, CheckReport(fault=fault))

    with pytest.raises(EnvironmentFault) as raised:
        await push(bus)

    assert str(raised.value) == ("sums cannot be loaded: NameError: name 'x' is not defined\nenvironment.py, line 3")
    assert await keys(bus, "") == []
    with pytest.raises(NotFound):
        await bus.ask(EnvironmentResolve(reference="local/sums"))


async def test_without_a_scorer_the_push_is_told_to_wait_and_loses_nothing(bus: MemoryBus) -> None:
    digest = await upload(bus)
    publish = EnvironmentPublish(org="local", environment="sums", digest=digest, parts=2)

    with pytest.raises(NobodyAnswers, match="no scorer is up to check the environment"):
        await bus.ask(publish)
    await scorer(bus)
    version = await bus.ask(publish)

    assert version.digest == digest


async def test_a_part_that_never_came_is_named(bus: MemoryBus) -> None:
    await scorer(bus)
    digest = await upload(bus, parts=1)

    with pytest.raises(Refused, match=r"part 2 of 2 was never uploaded\): push again"):
        await bus.ask(EnvironmentPublish(org="local", environment="sums", digest=digest, parts=2))


async def test_an_archive_of_another_digest_is_refused_and_forgotten(bus: MemoryBus) -> None:
    await scorer(bus)
    digest = "0" * 64
    await bus.ask(EnvironmentUpload(org="local", environment="sums", digest=digest, part=0, data=b"x"))

    with pytest.raises(Refused, match="the uploaded archive has the digest 2d7116"):
        await bus.ask(EnvironmentPublish(org="local", environment="sums", digest=digest, parts=1))
    assert await keys(bus, "uploads/") == []


@pytest.mark.parametrize(
    ("digest", "part", "data", "sentence"),
    [
        ("../x", 0, b"x", "64 hex digits"),
        ("0" * 64, 0, b"", "a part has 0 bytes"),
        ("0" * 64, 0, bytes(512 * 1024 + 1), "a part has 524,289 bytes, but 1 to 524,288 are wanted"),
        ("0" * 64, 2, b"x", "more than 600,000 bytes packed"),
        ("0" * 64, -1, b"x", "part -1 of an archive cannot be"),
    ],
)
async def test_an_upload_that_cannot_be_is_refused(
    bus: MemoryBus, digest: str, part: int, data: bytes, sentence: str
) -> None:
    with pytest.raises(Refused, match=sentence):
        await bus.ask(EnvironmentUpload(org="local", environment="sums", digest=digest, part=part, data=data))


async def test_who_packs_is_told_the_limits_and_hears_at_the_offer_that_an_archive_is_over_them(bus: MemoryBus) -> None:
    limits = await bus.ask(EnvironmentLimits())

    assert limits == ArchiveLimits(packed_bytes=600_000, unpacked_bytes=256 << 20, members=70)
    with pytest.raises(Refused, match="is more than 600,000 bytes packed"):
        await bus.ask(offer(bytes(700_000)))


async def test_an_offer_is_answered_with_the_parts_that_have_not_come(bus: MemoryBus) -> None:
    archive = bytes(UPLOAD_PART_BYTES + 10)
    digest, where = digest_of(archive), {"org": "local", "environment": "sums"}
    await scorer(bus)
    assert (await bus.ask(offer(archive))).parts == [0, 1]

    await bus.ask(EnvironmentUpload(**where, digest=digest, part=1, data=bytes(10)))
    assert (await bus.ask(offer(archive))).parts == [0]

    await bus.ask(EnvironmentUpload(**where, digest=digest, part=0, data=bytes(UPLOAD_PART_BYTES)))
    await bus.ask(EnvironmentPublish(**where, digest=digest, parts=2))
    assert (await bus.ask(offer(archive))).parts == [], "the version is known"
    assert (await bus.ask(offer(archive, name="other"))).parts == [0, 1]


async def test_what_nobody_goes_on_with_is_forgotten_after_a_day(bus: MemoryBus, clock: Clock) -> None:
    uploads = Uploads(bus.store, bus.records("uploads"), Settings(), now=clock)
    await bus.ask(offer(ARCHIVE, name="some.sums"))
    await upload(bus, name="some.sums")

    clock.now += 80_000
    await uploads.tidy()
    assert len(await keys(bus, "uploads/local/some.sums/")) == 2
    clock.now += 80_000
    await uploads.tidy()

    assert await keys(bus, "uploads/") == []
    assert await bus.records("uploads").all() == {}


async def test_two_pushes_of_one_name_at_once_are_two_versions(bus: MemoryBus) -> None:
    await scorer(bus)
    contents = [bytes([number]) * 2_000 for number in range(8)]

    versions = await asyncio.gather(*(push(bus, content) for content in contents))

    page = await only(bus.stream(EnvironmentVersions(reference="local/sums")))
    assert {v.version for v in page.versions} == {v.version for v in versions}
    assert len(page.versions) == 8
    assert page.newest in {v.version for v in versions}
    assert [await bus.store.get(v.key) for v in versions] == contents
    assert await keys(bus, "uploads/") == []


async def test_two_pushes_of_the_same_content_at_once_are_one_version(bus: MemoryBus) -> None:
    await scorer(bus)

    first, *others = await asyncio.gather(*(push(bus) for _ in range(4)))

    assert {v.version for v in others} == {first.version}
    assert len((await only(bus.stream(EnvironmentVersions(reference="local/sums")))).versions) == 1


async def test_the_list_holds_the_newest_version_of_each_environment_without_long_texts(bus: MemoryBus) -> None:
    await scorer(bus)
    await push(bus, name="sums")
    newest = await push(bus, b"newer" * 10, name="sums")
    other = await push(bus, name="dots.and.dots")

    listing = await only(bus.stream(EnvironmentList(org="local")))

    assert [(v.id, v.version, v.prompt_text) for v in listing.environments] == [
        (other.id, other.version, ""), (newest.id, newest.version, ""),
    ]  # fmt: skip
    assert [page async for page in bus.stream(EnvironmentList(org="elsewhere"))] == []


async def test_an_archive_is_given_in_stretches_from_wherever_one_asks(bus: MemoryBus) -> None:
    await scorer(bus)
    version = await push(bus)

    for start in (0, 1, 4_000, len(ARCHIVE)):
        parts = [part.data async for part in bus.stream(EnvironmentFetch(reference=version.id, start=start))]
        assert b"".join(parts) == ARCHIVE[start:]


async def test_what_is_no_id_is_refused(bus: MemoryBus) -> None:
    with pytest.raises(Refused, match="'sums' is no environment: an id is org/name or org/name@version"):
        await bus.ask(EnvironmentResolve(reference="sums"))
