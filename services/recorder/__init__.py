"""Recorder: writes down what was said about each run, finds it again, and shows it on Weights & Biases.

Hears    run.submitted, run.planned, run.started, run.retried, run.warned, run.evaluated, run.resumed,
         run.cancel-requested, run.completed, run.failed, run.cancelled, run.deleted, dataset.requested,
         dataset.prepared, dataset.failed, group.requested, group.generated, group.scored, group.cancelled,
         step.claimed, step.finished, step.saved, step.diverged, training.failed, record.closed
Says     record.closed
Answers  key.fetch, events.find, rollouts.find, rollouts.export, adapter.fetch, usage.sum
Asks     token.check
Keeps    in the store, each run's events and rollouts as Parquet; as records, how far it has written, and what each run
         has used
"""
