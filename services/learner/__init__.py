"""Learner: turns scored groups, or gold answers, into a better policy.

Hears    run.started, group.scored, dataset.prepared, run.cancel-requested, run.completed, run.failed, run.cancelled
Says     step.claimed, step.finished, step.saved, step.diverged, training.failed
Answers  nothing
Asks     token.check
Keeps    adapters and checkpoints, in the store
"""
