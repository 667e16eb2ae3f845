import os
import sys

from cbgui.cli import main
from cbgui.runs import training_environment

environment = training_environment()
if sys.argv[1:2] == ["bench"] and sys.platform == "linux" and not environment.items() <= os.environ.items():
    # bench measures what training takes; the C library reads at its start what a training process has.
    os.execve(sys.executable, [sys.executable, "-m", "cbgui", *sys.argv[1:]], os.environ | environment)
sys.exit(main())
