"""Who says and hears every fact, who asks and answers every request, and who keeps what beside the stream.

The documents are generated from here, and what each service may do on a NATS server: `flash.bus.jetstream.roles`.
"""

from dataclasses import dataclass

from flash.contracts import access, environments, groups, hosting, preparing, record, requests, runs, steps, usage
from flash.contracts.base import Event, Request


@dataclass(frozen=True)
class Row:
    """One kind of fact."""

    event: type[Event]
    said_by: tuple[str, ...]
    heard_by: tuple[str, ...]


EVENTS: tuple[Row, ...] = (
    Row(environments.EnvironmentPublished, ("hub",), ()),
    Row(environments.EnvironmentWithdrawn, ("hub",), ("scorer",)),
    Row(runs.RunSubmitted, ("scheduler",), ("hub", "recorder", "scheduler")),
    Row(runs.RunPlanned, ("scheduler",), ("recorder", "scheduler")),
    Row(runs.RunStarted, ("scheduler",), ("learner", "recorder", "scheduler")),
    Row(runs.RunRetried, ("scheduler",), ("recorder", "scheduler")),
    Row(runs.RunWarned, ("scheduler",), ("recorder", "scheduler")),
    Row(runs.RunEvaluated, ("scheduler",), ("recorder", "scheduler")),
    Row(runs.RunResumed, ("scheduler",), ("hub", "recorder", "scheduler")),
    Row(runs.RunCancelRequested, ("scheduler",), ("learner", "recorder", "rollout", "scheduler")),
    Row(runs.RunCompleted, ("scheduler",), ("hub", "learner", "recorder", "rollout", "scheduler")),
    Row(runs.RunFailed, ("scheduler",), ("hub", "learner", "recorder", "rollout", "scheduler")),
    Row(runs.RunCancelled, ("scheduler",), ("hub", "learner", "recorder", "rollout", "scheduler")),
    Row(runs.RunDeleted, ("scheduler",), ("hub", "recorder", "scheduler")),
    Row(runs.DatasetRequested, ("scheduler",), ("recorder", "scheduler", "scorer")),
    Row(runs.DatasetPrepared, ("scorer",), ("learner", "recorder", "scheduler")),
    Row(runs.DatasetFailed, ("scorer",), ("recorder", "scheduler")),
    Row(groups.GroupRequested, ("scheduler",), ("recorder", "rollout")),
    Row(groups.GroupGenerated, ("rollout",), ("recorder", "scorer")),
    Row(groups.GroupScored, ("scorer", "rollout"), ("learner", "recorder", "scheduler")),
    Row(groups.GroupCancelled, ("rollout", "scorer"), ("recorder",)),
    Row(steps.StepClaimed, ("learner",), ("recorder", "scheduler")),
    Row(steps.StepFinished, ("learner",), ("recorder", "rollout", "scheduler")),
    Row(steps.StepSaved, ("learner",), ("hub", "recorder", "scheduler")),
    Row(steps.StepDiverged, ("learner",), ("recorder", "rollout")),
    Row(steps.TrainingFailed, ("learner",), ("recorder", "scheduler")),
    Row(record.RecordClosed, ("recorder",), ("recorder", "scheduler")),
)

REQUESTS: tuple[type[Request], ...] = (
    access.TokenCheck,
    access.OrgCreate,
    access.TokenCreate,
    access.TokenList,
    access.TokenRevoke,
    environments.EnvironmentLimits,
    environments.EnvironmentOffer,
    requests.EnvironmentUpload,
    requests.EnvironmentPublish,
    requests.EnvironmentResolve,
    requests.EnvironmentList,
    requests.EnvironmentFetch,
    environments.EnvironmentShow,
    environments.EnvironmentVersions,
    environments.EnvironmentRollback,
    environments.EnvironmentWithdraw,
    environments.EnvironmentDelete,
    hosting.EnvironmentCheck,
    hosting.ScorerKey,
    preparing.DatasetPrepare,
    hosting.EpisodeStart,
    hosting.EpisodeStep,
    hosting.EpisodeScore,
    hosting.EpisodeRenew,
    hosting.EpisodeClose,
    requests.RunSubmit,
    requests.RunCancel,
    requests.RunResume,
    requests.RunDelete,
    requests.RunGet,
    requests.RunList,
    requests.RecorderKey,
    requests.EventsFind,
    record.RolloutsFind,
    record.RolloutsExport,
    record.AdapterFetch,
    usage.UsageSum,
    preparing.DatasetMeasure,
    requests.Generate,
)

ASKS: dict[str, tuple[type[Request], ...]] = {
    "hub": (access.TokenCheck, hosting.EnvironmentCheck),
    "scheduler": (access.TokenCheck, requests.EnvironmentResolve),
    "rollout": (
        access.TokenCheck,
        hosting.EpisodeStart,
        hosting.EpisodeStep,
        hosting.EpisodeScore,
        hosting.EpisodeRenew,
        hosting.EpisodeClose,
    ),
    "scorer": (access.TokenCheck,),
    "learner": (access.TokenCheck,),
    "recorder": (access.TokenCheck,),
}
"""What services ask of each other; everything else people ask."""

RECORDS: dict[str, tuple[str, ...]] = {
    "hub": ("environments", "organisations", "uploads", "versions"),
    "recorder": ("recorder", "usage"),
}
"""Who keeps small state, in which buckets, that nobody else sees."""

KEEPER = "scheduler"
"""Who takes the streams along to a newer Flash."""

FORGETS = ("recorder",)
"""Who takes facts out of the stream: those that are written down, and those of runs that are deleted."""

SERVICES: tuple[str, ...] = tuple(ASKS)

BY_NAME: dict[str, type[Event]] = {row.event.name: row.event for row in EVENTS}


def kind_of(subject: str) -> type[Event]:
    """Which fact is told on a subject. Raises LookupError for one that the catalogue does not know."""
    name = ".".join(subject.split(".")[1:4])
    if name not in BY_NAME:
        raise LookupError(f"{subject} is no fact of the catalogue")
    return BY_NAME[name]


def noun_pattern(noun: str, org: str, run_id: str, step: int | None = None) -> list[str]:
    """The subjects of every fact of one noun about one run, or about one of its steps."""
    known = {"org": org, "run_id": run_id} | ({} if step is None else {"step": step})
    return [
        row.event.pattern(**known)
        for row in EVENTS
        if row.event.name.split(".")[0] == noun and known.keys() <= set(row.event.address)
    ]
