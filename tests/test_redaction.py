"""What must not be written is masked where it is written."""

import json
import subprocess
import sys
import textwrap

import pytest

from flash.config.settings import ServiceSettings
from flash.redaction import Masks, spellings

SECRET = 'pass"word\\with/odd+signs\u00e9'
KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\nAASCBKcwggSjAgEAAoIBAQ\n-----END KEY-----\n"


@pytest.mark.parametrize(
    "written",
    [
        SECRET, json.dumps(SECRET), json.dumps(SECRET, ensure_ascii=False), repr(SECRET),
        "?key=pass%22word%5Cwith%2Fodd%2Bsigns%C3%A9",
    ],
)  # fmt: skip
def test_a_secret_is_found_however_it_is_written(written: str) -> None:
    told = Masks([SECRET]).over(f"the key: {written}.".encode())

    assert b"word" not in told
    assert len(told) == len(f"the key: {written}.".encode())
    assert told.startswith(b"the key: ")


def test_lines_of_a_long_secret_are_found_alone() -> None:
    told = Masks([KEY]).over(b"  File x, line 3\n    MIIEvQIBADANBgkqhkiG9w0BAQEF\n")

    assert told == b"  File x, line 3\n    " + b"*" * 28 + b"\n"


def test_what_is_too_short_to_be_a_secret_is_left() -> None:
    assert spellings("yes") == []
    assert Masks(["high"]).over(b"a high score") == b"a high score"


def test_output_that_was_cut_through_a_secret_does_not_tell_the_half_of_it() -> None:
    masks = Masks(["sk-4711-canary"])

    assert masks.at_the_ends(b"the key: sk-4711-ca") == b"the key: " + b"*" * 10
    assert masks.at_the_ends(b"711-canary\nnext") == b"*" * 10 + b"\nnext"
    assert masks.at_the_ends(b"fine ask") == b"fine ask"


def test_what_a_service_logs_in_with_is_masked_in_its_log() -> None:
    token = f"flash_local_operator_{'a' * 40}"
    settings = ServiceSettings(
        nats_url="nats://scorer:hunter%2F22@bus:4222",
        store_url="s3://key:s3-pass@host:9000/bucket",
        operator_token=token,
    )

    assert settings.credentials == [token, "hunter/22", "s3-pass"]
    assert ServiceSettings().credentials == [""]
    assert Masks(settings.credentials).over(settings.nats_url.encode()) == b"nats://scorer:***********@bus:4222"


LOGS = """
import resource, sys
import structlog
from flash.process import configure_logging
from flash.redaction import guard
configure_logging("info", service="scorer")
log = structlog.get_logger()
guard(["sk-4711-canary", 'quo"ted-secret'])
log.info("egress.decided", destination="sk-4711-canary.example.com", nested={"why": ['quo"ted-secret']})
try:
    raise ValueError("Bearer sk-4711-canary")
except ValueError:
    log.exception("request.failed")
print(resource.getrlimit(resource.RLIMIT_CORE)[0])
"""


def test_a_service_writes_no_secret_into_its_log_and_leaves_no_core_file() -> None:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(LOGS)], capture_output=True, text=True, check=True)

    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["egress.decided", "request.failed"]
    assert lines[0]["destination"] == "*" * 14 + ".example.com"
    assert "ValueError: Bearer ****" in lines[1]["exception"]
    assert "canary" not in done.stderr
    assert "ted-secret" not in done.stderr
    assert done.stdout.strip() in ("0", "1")
