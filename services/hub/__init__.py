"""Hub: keeps environments in immutable versions, and knows which version a name means, and whose a token is.

Hears    run.submitted, run.resumed, run.completed, run.failed, run.cancelled, run.deleted, step.saved
Says     environment.published, environment.withdrawn
Answers  environment.limits, environment.offer, environment.upload, environment.publish, environment.resolve,
         environment.list, environment.fetch, environment.show, environment.versions, environment.rollback,
         environment.withdraw, environment.delete, token.check, org.create, token.create, token.list, token.revoke
Asks     environment.check, token.check
Keeps    environments: archives in the store; their versions, and what a bare id means, in the records; organisations:
         digests of their tokens
"""
