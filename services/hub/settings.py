"""What a hub is told."""

from pydantic import Field

from flash.config.settings import ArchiveSettings, ServiceSettings


class Settings(ServiceSettings, ArchiveSettings, frozen=True):
    """Settings of one hub."""

    check_timeout_s: float = Field(150.0, gt=0)
    """How long a scorer may take to load an environment and read its rows."""
    upload_kept_s: float = Field(86_400.0, gt=0)
    """How long the parts of an archive that was not published wait for the rest."""
    login_seed: str = Field("", repr=False, pattern="^([0-9a-f]{64})?$")
    """The secret half of the key that the NATS server's auth callout trusts; see `flash.bus.jetstream.logins`. Empty:
    the server asks nobody about who comes in, and knows them by a password."""
