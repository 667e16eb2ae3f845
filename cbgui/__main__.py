"""`python -m cbgui`, and the console script `cbgui`."""

import sys

from cbgui.cli import main
from cbgui.modeling.cpu.allocator import restart_with_settings


def run() -> int:
    if sys.argv[1:2] == ["bench"]:  # bench measures what training takes, so it has training's memory settings
        restart_with_settings("cbgui")
    return main()


if __name__ == "__main__":
    sys.exit(run())
