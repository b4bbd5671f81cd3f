"""Where a service's settings come from."""

from pathlib import Path

import pytest

from flash.config.settings import ServiceSettings
from flash.errors import ConfigError


def test_a_setting_may_lie_in_a_file_that_a_variable_names(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("nats://flash:word@bus:4222\n")

    settings = ServiceSettings.from_env({"FLASH_NATS_URL_FILE": str(tmp_path / "url")})

    assert settings.nats_url == "nats://flash:word@bus:4222"


def test_a_file_that_cannot_be_read_is_named_with_its_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"FLASH_NATS_URL_FILE is '.*/none', which cannot be read: No such file"):
        ServiceSettings.from_env({"FLASH_NATS_URL_FILE": str(tmp_path / "none")})


def test_a_setting_said_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="FLASH_NATS_URL and FLASH_NATS_URL_FILE are both set"):
        ServiceSettings.from_env({"FLASH_NATS_URL": "nats://here", "FLASH_NATS_URL_FILE": str(tmp_path)})
