import os
import sys

from cbgui.cli import main
from cbgui.runs import training_environment

AGAIN = "CBGUI_BENCH"  # set in the second start
if sys.argv[1:2] == ["bench"] and sys.platform == "linux" and AGAIN not in os.environ:
    # bench measures what training takes; the C library reads at its start what a training process has.
    environment = os.environ | training_environment() | {AGAIN: "1"}
    os.execve(sys.executable, [sys.executable, "-m", "cbgui", *sys.argv[1:]], environment)
sys.exit(main())
