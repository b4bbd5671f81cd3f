"""Run as a script: become another program that cannot outlive its supervisor.

    python -I -S leash.py SUPERVISOR PROGRAM ARGUMENT...

On Linux the kernel kills a leashed program when its supervisor dies, even by SIGKILL. Elsewhere the next `flash up` or
`flash down` ends what is left.
"""

import os
import sys

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9


def main(supervisor: int, argv: list[str]) -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL)
        # It may have died before the kernel was told.
        if os.getppid() != supervisor:
            sys.exit("the supervisor is gone")
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        sys.exit(f"{argv[0]} cannot be started: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
