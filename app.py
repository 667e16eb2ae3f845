"""Open the app: `python app.py [--host 127.0.0.1] [--port 7860] [--runs runs]`. Also a Space's entry point."""

import argparse
import os
import sys


def main() -> int:
    parser = argparse.ArgumentParser(description="cbgui: short-circuit a language model by representation rerouting")
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=None, help="7860, or the next free one")
    parser.add_argument("--runs", default="runs", help="where runs are kept")
    parser.add_argument("--open-to-network", action="store_true", help="needed for any host but this machine")
    arguments = parser.parse_args()
    local = arguments.host in ("127.0.0.1", "localhost", "::1")
    if not local and not arguments.open_to_network and "SPACE_ID" not in os.environ:
        print(
            f"--host {arguments.host!r} lets others on the network use this machine and see its runs; "
            "add --open-to-network if that is meant.",
            file=sys.stderr,
        )
        return 2
    os.environ["CBGUI_RUNS"] = arguments.runs
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    print("Starting cbgui ...", flush=True)
    from cbgui.ui.build import launch

    launch(arguments.host, arguments.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
