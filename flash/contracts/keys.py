"""Where things lie in the store. Keys read like paths and are derived, never invented."""

import hashlib
from typing import Literal

import msgspec

from flash.contracts.spec import RunSpec

DATASET_CHUNK = 1_024
"""Rows in one object of a prepared dataset."""

UPLOAD_PART_BYTES = 512 * 1024
"""Of an archive, in one `environment.upload`."""


def environment_key(org: str, name: str, version: str) -> str:
    return f"environments/{org}/{name}/{version}.tar.zst"


def environment_org(key: str) -> str:
    """Whose archive lies under a key; empty where no archive of an environment does."""
    match key.split("/"):
        case ["environments", org, _, _]:
            return org
    return ""


def orgs_of(spec: RunSpec) -> tuple[str, ...]:
    """The organisations whose things a run is about."""
    return (spec.org, spec.environment.id.partition("/")[0], environment_org(spec.environment.key))


def upload_folder(org: str, name: str, digest: str) -> str:
    """Where the parts of an archive lie until it is published."""
    return f"uploads/{org}/{name}/{digest}/"


def upload_key(org: str, name: str, digest: str, part: int) -> str:
    return f"{upload_folder(org, name, digest)}{part:06d}"


def run_prefix(run_id: str) -> str:
    return f"runs/{run_id}/"


def spec_key(run_id: str) -> str:
    return f"runs/{run_id}/spec.json"


def sealed_key(run_id: str, service: str) -> str:
    """What only that service can open of what a run was given."""
    return f"runs/{run_id}/sealed/{service}"


def dataset_key(spec: RunSpec, chunk: int) -> str:
    return f"{dataset_folder(spec)}{chunk:06d}"


def dataset_folder(spec: RunSpec) -> str:
    """The same for every run that renders the same rows in the same way.

    Rows that a secret may have opened are shared within the organisation that has it.
    """
    way = [spec.environment.digest, spec.environment.params, spec.environment.pip, spec.split, spec.prompt_text]
    if spec.environment.worker_env:
        way += ["worker_env", spec.environment.worker_env]
    if spec.environment.secrets:
        way += [spec.org, spec.environment.secrets]
    digest = hashlib.sha256(msgspec.json.encode(way, order="sorted")).hexdigest()
    return f"datasets/{digest}/"


def adapter_key(run_id: str, digest: str) -> str:
    """A folder in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`."""
    return f"runs/{run_id}/adapters/{digest}"


def run_of_adapter(key: str) -> str:
    """The run in whose folder an adapter lies; empty where it is in no run's."""
    parts = key.split("/")
    return parts[1] if len(parts) == 4 and (parts[0], parts[2]) == ("runs", "adapters") else ""


def checkpoint_key(run_id: str, step: int) -> str:
    return f"runs/{run_id}/checkpoints/step-{step}"


def blob_key(run_id: str, digest: str) -> str:
    return f"runs/{run_id}/blobs/{digest}"


def record_folder(run_id: str, kind: Literal["events", "rollouts"]) -> str:
    """Where the segments of a run's record lie, named by positions of the stream, so that their order is their age."""
    return f"runs/{run_id}/record/{kind}/"


def record_key(run_id: str, kind: Literal["events", "rollouts"], first: int, last: int) -> str:
    """What a run's facts from one position of the stream to another left in its record, as Parquet."""
    return f"{record_folder(run_id, kind)}{first:012d}-{last:012d}.parquet"
