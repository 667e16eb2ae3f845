"""Open the app: `python app.py [--host 127.0.0.1] [--port 7860] [--runs runs]`. Also a Space's entry point."""

import argparse
import os
import sys


def main() -> int:
    from cbgui import space

    parser = argparse.ArgumentParser(description="cbgui: short-circuit a language model by representation rerouting")
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=None, help="7860, or the next free one")
    parser.add_argument("--runs", default=space.default_runs(), help="where runs are kept")
    parser.add_argument("--share", action="store_true", help="a public address through gradio.live, for 72 hours")
    parser.add_argument("--auth", metavar="NAME:PASSWORD", default=os.environ.get("CBGUI_AUTH"), help="ask for these")
    parser.add_argument("--open-to-network", action="store_true", help="let others in without --auth")
    arguments = parser.parse_args()
    name, _, password = (arguments.auth or "").partition(":")
    if arguments.auth is not None and not (name and password):
        print("--auth needs a name and a password; write it as --auth name:password.", file=sys.stderr)
        return 2
    if arguments.port is not None and not 0 < arguments.port < 65536:
        print(f"--port {arguments.port} is not a port; use a number from 1 to 65535.", file=sys.stderr)
        return 2
    local = arguments.host in ("127.0.0.1", "localhost", "::1")
    if (not local or arguments.share) and not (arguments.auth or arguments.open_to_network or space.on_space()):
        option = f"--host {arguments.host!r}" if not local else "--share"
        print(
            f"{option} lets others use this machine and see its runs; add --auth name:password, or --open-to-network "
            "if everyone may.",
            file=sys.stderr,
        )
        return 2
    try:
        os.makedirs(arguments.runs, exist_ok=True)
    except OSError as error:
        print(f"--runs {arguments.runs!r} cannot be written ({error.strerror}); name another folder.", file=sys.stderr)
        return 2
    os.environ["CBGUI_RUNS"] = arguments.runs
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    space.forget_owner_token()
    print("Starting cbgui ...", flush=True)
    from cbgui.ui.build import launch

    launch(arguments.host, arguments.port, share=arguments.share, auth=(name, password) if arguments.auth else None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
