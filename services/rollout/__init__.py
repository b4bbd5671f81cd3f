"""Rollout: plays examples with the current policy, group by group, token in, token out.

Hears    group.requested, step.finished, step.diverged, run.cancel-requested, run.completed, run.failed, run.cancelled
Says     group.generated, group.cancelled, group.scored
Answers  generate, dataset.measure
Asks     episode.start, episode.step, episode.score, episode.renew, episode.close, token.check
Keeps    nothing but a cache of adapters on this machine
"""
