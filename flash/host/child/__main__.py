"""The package that this file lies in, run as a script under a name that no author uses.

python -I -S -B __main__.py WHAT FD FOLDER...      WHAT: `starting` or `installing`; FD: our end of the channel;
                                                   FOLDERs: where msgspec and envsdk are
"""

import importlib
import importlib.util
import os
import sys

NAME = "_flash_child"


def run() -> None:
    what = sys.argv.pop(1)
    sys.path[:0] = sys.argv[2:]
    folder = os.path.dirname(os.path.abspath(__file__))
    spec = importlib.util.spec_from_file_location(NAME, f"{folder}/__init__.py", submodule_search_locations=[folder])
    assert spec is not None
    sys.modules[NAME] = importlib.util.module_from_spec(spec)
    importlib.import_module(f"{NAME}.{what}").main()


if __name__ == "__main__":
    run()
