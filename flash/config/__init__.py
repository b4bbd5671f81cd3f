"""What people and operators write: run configs and service settings. pydantic."""
