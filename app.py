"""Open the app: `python app.py` is `cbgui app`, with the same options. Also a Space's entry point."""

import sys

from cbgui.cli import main

if __name__ == "__main__":
    sys.exit(main(["app", *sys.argv[1:]]))
