"""The whole suite on a fresh machine: python tests/run.py [pytest arguments]

Makes .venv-tests, installs the requirements, fetches the demo model and a Chromium, then runs ruff and pytest.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

# Two tests at a time, each computing on one core: much of a test is the import of torch, which uses one anyway.
TWO_AT_A_TIME = ["-n", "2", "--dist", "worksteal"]
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-tests"


def run(*command: str | Path) -> None:
    print("+", *command, flush=True)
    subprocess.run([str(part) for part in command], cwd=ROOT, check=True)


def has_chromium() -> bool:
    return any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))


def main() -> int:
    binaries = VENV / ("Scripts" if os.name == "nt" else "bin")
    python = binaries / "python"
    if not python.exists() and not python.with_suffix(".exe").exists():
        venv.create(VENV, with_pip=True)
    files = ["-r", "requirements.txt", "-r", "tests/requirements.txt"]
    run(python, "-m", "pip", "install", "-q", "--only-binary", ":all:", *files)  # no package's own setup code
    if not has_chromium():
        if shutil.which("apt-get") and os.geteuid() == 0:
            run("apt-get", "update", "-qq")
            run("apt-get", "install", "-y", "-qq", "chromium")
        else:
            run(python, "-m", "playwright", "install", "chromium")
    run(python, "-c", "from cbgui.modeling.hub import resolve_model; print(resolve_model('demo').label)")
    run(python, "-m", "ruff", "check", ".")
    run(python, "-m", "ruff", "format", "--check", ".")
    command = [str(python), "-m", "pytest", "--durations=25", *TWO_AT_A_TIME, *sys.argv[1:]]
    return subprocess.run(command, cwd=ROOT, env={"OMP_NUM_THREADS": "1", **os.environ}).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"failed: {' '.join(error.cmd)}")
