"""Who says and hears every fact, and who answers every request. The documents are generated from here."""

from dataclasses import dataclass

from flash.contracts import environments, groups, requests, runs, steps
from flash.contracts.base import Event, Request


@dataclass(frozen=True)
class Row:
    """One kind of fact."""

    event: type[Event]
    said_by: tuple[str, ...]
    heard_by: tuple[str, ...]


EVENTS: tuple[Row, ...] = (
    Row(environments.EnvironmentPublished, ("hub",), ()),
    Row(runs.RunSubmitted, ("scheduler",), ("scheduler",)),
    Row(runs.RunPlanned, ("scheduler",), ("scheduler",)),
    Row(runs.RunStarted, ("scheduler",), ("learner", "scheduler")),
    Row(runs.RunCancelRequested, ("scheduler",), ("learner", "rollout", "scheduler")),
    Row(runs.RunCompleted, ("scheduler",), ("learner", "rollout", "scheduler")),
    Row(runs.RunFailed, ("scheduler",), ("learner", "rollout", "scheduler")),
    Row(runs.RunCancelled, ("scheduler",), ("learner", "rollout", "scheduler")),
    Row(runs.DatasetRequested, ("scheduler",), ("scorer",)),
    Row(runs.DatasetPrepared, ("scorer",), ("learner", "scheduler")),
    Row(runs.DatasetFailed, ("scorer",), ("scheduler",)),
    Row(groups.GroupRequested, ("scheduler",), ("rollout",)),
    Row(groups.GroupGenerated, ("rollout",), ("scorer",)),
    Row(groups.GroupScored, ("scorer", "rollout"), ("learner", "scheduler")),
    Row(steps.StepClaimed, ("learner",), ("scheduler",)),
    Row(steps.StepFinished, ("learner",), ("rollout", "scheduler")),
    Row(steps.StepSaved, ("learner",), ("scheduler",)),
    Row(steps.StepDiverged, ("learner",), ("rollout",)),
    Row(steps.TrainingFailed, ("learner",), ("scheduler",)),
)

REQUESTS: tuple[type[Request], ...] = (
    requests.EnvironmentUpload,
    requests.EnvironmentPublish,
    requests.EnvironmentResolve,
    requests.EnvironmentList,
    requests.EnvironmentFetch,
    requests.EnvironmentCheck,
    requests.EpisodeStart,
    requests.EpisodeStep,
    requests.EpisodeScore,
    requests.EpisodeRenew,
    requests.RunSubmit,
    requests.RunCancel,
    requests.RunList,
    requests.EventsFind,
    requests.Generate,
)

BY_NAME: dict[str, type[Event]] = {row.event.name: row.event for row in EVENTS}


def kind_of(subject: str) -> type[Event]:
    """Which fact is told on a subject. Raises LookupError for one that the catalogue does not know."""
    name = ".".join(subject.split(".")[1:4])
    if name not in BY_NAME:
        raise LookupError(f"{subject} is no fact of the catalogue")
    return BY_NAME[name]


def noun_pattern(noun: str, org: str, run_id: str) -> list[str]:
    """The subjects of every fact of one noun about one run."""
    return [
        row.event.pattern(org=org, run_id=run_id)
        for row in EVENTS
        if row.event.name.split(".")[0] == noun and "run_id" in row.event.address
    ]
