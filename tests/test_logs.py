"""flash.logs: what is logged where a command may listen."""

from structlog.testing import capture_logs

from flash.logs import Log, silence


def test_a_line_carries_what_its_log_is_bound_to() -> None:
    with capture_logs() as lines:
        Log(subscription="scorer").info("handler.fenced", reason="late")

    assert lines == [{"event": "handler.fenced", "reason": "late", "subscription": "scorer", "log_level": "info"}]


def test_nothing_is_written_where_nobody_wants_it() -> None:
    log = Log()
    silence()
    try:
        with capture_logs() as lines:
            log.warning("nats.disconnected")
    finally:
        silence(False)

    assert lines == []
