"""What tests with a larger model share: the model."""

from pathlib import Path


def share_models(home: Path) -> None:
    """A model is pulled once for all tests, into the home that `flash` uses anyway."""
    models = Path.home() / ".flash" / "models"
    models.mkdir(parents=True, exist_ok=True)
    (home / "models").symlink_to(models)
