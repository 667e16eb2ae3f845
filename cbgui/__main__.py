"""`python -m cbgui`, and the console script `cbgui`."""

import sys

from cbgui.cli import main
from cbgui.modeling.cpu.allocator import restart_with_settings


def run() -> int:
    """Run the command; `bench` first restarts the process with training's memory settings."""
    if sys.argv[1:2] == ["bench"]:
        restart_with_settings("cbgui")
    return main()


if __name__ == "__main__":
    sys.exit(run())
