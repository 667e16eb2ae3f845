import sys

from cbgui.cli import main

sys.exit(main())
