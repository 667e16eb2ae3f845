"""Export: merge with progress, then download from the run's folder."""

from __future__ import annotations

import gradio as gr

from cbgui import export
from cbgui.config import InputError
from cbgui.ui.common import need_run, pick


def _files(name: str | None):
    """The run's merged model, if it has one."""
    run = pick(name)
    merged = run.path / "merged" if run else None
    if merged is None or not merged.is_dir():
        words = "Nothing is merged yet. Press **Merge** once a run is done." if run else "No run yet; train one first."
        return words, gr.File(value=None, visible=False)
    paths = sorted(str(path) for path in merged.iterdir())
    size = sum(path.stat().st_size for path in merged.iterdir()) / 1e6
    return f"**{run.name}** is merged: {size:.0f} MB in `{merged}`.", gr.File(value=paths, visible=True)


def _merge(name: str | None, progress=gr.Progress()):  # noqa: B008 (gradio finds it by the default)
    run = need_run(name)
    if not (run.path / "merged").is_dir():
        try:
            difference = export.export_run(
                run, run.path / "merged", progress=lambda share, words: progress(share, desc=words)
            )
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None
        gr.Info(f"Merged and checked: no token's probability differs by more than {difference:.2g}.")
    return _files(name)


def build(page: gr.Blocks, run_name: gr.Dropdown) -> None:
    gr.Markdown(
        "Merge the adapter into the base model's original weights: ordinary safetensors, nothing added at inference. "
        "The merged model is compared with base + adapter before it is offered."
    )
    merge = gr.Button("Merge", variant="primary", elem_id="merge")
    words = gr.Markdown(min_height=60)
    files = gr.File(label="Download", file_count="multiple", interactive=False, visible=False, elem_id="downloads")
    merge.click(_merge, run_name, [words, files], concurrency_limit=1)
    for trigger in (run_name.change, page.load):
        trigger(_files, run_name, [words, files], show_progress="hidden")
