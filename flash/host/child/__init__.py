"""What runs inside the sandbox beside author code: the standard library, msgspec and envsdk, nothing else of ours.

    starting       what the script does: shut itself in, load the environment, and begin
    installing     what it does instead where a requirement set is installed
    zygote         the loop: questions in, forks, answers out
    slot           the place of a fork
    strays         processes that somebody has left behind
    polling        waiting for several descriptors, on every system
    answering      what a fork does
    frames         what goes over the channels
    confinement    the layers that a process puts on itself; `seccomp`, `landlock`
    relay          the way out, for environments that declare one

These files run where there is no `flash` to import, so they know each other by relative imports only.
"""
