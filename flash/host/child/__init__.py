"""What runs inside the sandbox beside author code: the standard library, msgspec and envsdk, nothing else of ours.

These files also run where there is no `flash` to import, so they know each other by relative imports only.
"""
