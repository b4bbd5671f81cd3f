"""Hub: keeps environments in immutable versions, and knows which version a name means, and whose a token is.

Hears    nothing
Says     environment.published
Answers  environment.upload, environment.publish, environment.resolve, environment.list, environment.fetch, token.check,
         org.create, token.create, token.list, token.revoke
Keeps    environments: archives in the store, their versions in the records; organisations: digests of their tokens
"""
