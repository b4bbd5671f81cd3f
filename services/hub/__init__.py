"""Hub: keeps environments in immutable versions, and knows which version a name means.

Hears    nothing
Says     environment.published
Answers  environment.upload, environment.publish, environment.resolve, environment.list, environment.fetch
Keeps    environments: archives in the store, their versions in the records
"""
