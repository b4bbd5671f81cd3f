"""Scheduler: turns run configs into facts, asks for groups, and watches over every run until its last word.

Hears    run.submitted, run.planned, run.started, run.retried, run.warned, run.evaluated, run.resumed,
         run.cancel-requested, run.completed, run.failed, run.cancelled, run.deleted, dataset.requested,
         dataset.prepared, dataset.failed, group.scored, step.claimed, step.finished, step.saved, training.failed,
         record.closed
Says     run.submitted, run.planned, run.started, run.retried, run.warned, run.evaluated, run.resumed,
         run.cancel-requested, run.completed, run.failed, run.cancelled, run.deleted, dataset.requested, group.requested
Answers  run.submit, run.cancel, run.resume, run.delete, run.get, run.list
Asks     environment.resolve, token.check
Keeps    nothing: it folds the stream when it starts
"""
