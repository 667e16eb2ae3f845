"""The house rules of docs/architecture.md: imports run one way, gradio stays in the ui, --help answers at once."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_process import ROOT

# From the bottom to the top; a module imports from its own room and from those before it.
ROOMS = [
    "errors",
    "naming",
    "plain_yaml",
    "space",
    "parsing",
    "settings",
    "config",
    "pypi",
    "hardware",
    "data",
    "runs",
    "modeling",
    "training",
    "inference",
    "evaluation",
    "export",
    "ui",
    "printing",
    "cli_evaluate",
    "cli_export",
    "cli_readonly",
    "cli_suggest",
    "cli_train",
    "cli",
    "worker",
    "__main__",
]
LONGEST_FILE = 400  # lines
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "cbgui").rglob("*.py"))
}


def imports(path: Path, *, lazy: bool) -> Iterator[str]:
    """Modules that a file imports; `lazy` includes imports inside functions and for type checkers."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = ast.walk(tree) if lazy else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` imports the module
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in FILES else node.module


def room(module: str) -> str:
    return module.split(".")[1]


def test_imports_run_downwards_only():
    wrong = [
        f"{module} imports {imported}"
        for module, path in FILES.items()
        for imported in imports(path, lazy=True)
        if imported.startswith("cbgui.") and "." in module
        if ROOMS.index(room(imported)) > ROOMS.index(room(module))
    ]
    assert wrong == []


def test_there_is_no_import_cycle():
    graph = {
        module: {imported for imported in imports(path, lazy=False) if imported in FILES} - {module}
        for module, path in FILES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_only_the_ui_imports_gradio():
    wrong = [
        module
        for module, path in FILES.items()
        if not module.startswith("cbgui.ui")
        and any(name.split(".")[0] == "gradio" for name in imports(path, lazy=True))
    ]
    assert wrong == []


def test_no_file_is_too_long_to_read():
    lengths = {str(path): len(path.read_text("utf-8").splitlines()) for path in FILES.values()}
    assert {path: lines for path, lines in lengths.items() if lines > LONGEST_FILE} == {}


def loaded_modules(*command: str) -> set[str]:
    """The modules that a Python process imports, by -X importtime."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "cbgui", "--help"),
        (
            "-c",
            "import cbgui.data.checks, cbgui.data.library, cbgui.data.hub_datasets, cbgui.runs.jobs, cbgui.runs.queue",
        ),
    ],
)
def test_help_and_data_and_runs_load_neither_torch_nor_transformers(command):
    assert not loaded_modules(*command) & {"torch", "transformers", "bitsandbytes", "gradio"}


def test_the_command_line_and_the_trainer_load_no_pandas():
    """It takes 60 MiB, which the memory estimate does not count, and a fifth of a second."""
    code = "import sys, cbgui.cli, cbgui.worker, cbgui.training.session; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
