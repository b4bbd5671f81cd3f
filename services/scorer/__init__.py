"""Scorer: the only place where authors' code runs; renders datasets, and gives every rollout its reward.

Hears    group.generated, dataset.requested, environment.withdrawn
Says     group.scored, group.cancelled, dataset.prepared, dataset.failed
Answers  environment.check, dataset.prepare, key.fetch, episode.start, episode.step, episode.score, episode.renew,
         episode.close
Asks     token.check
Keeps    nothing: unpacked environments and warm hosts are a cache, and an open episode that is lost begins anew
"""
