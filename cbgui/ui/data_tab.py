"""Data: the two sets as tables, upload, counts. What is chosen is kept on disk, so a reload shows it again."""

from __future__ import annotations

import shutil
from pathlib import Path

import gradio as gr
import pandas as pd

from cbgui import runs
from cbgui.config import DataConfig, find_data_file
from cbgui.data.examples import read_examples, write_examples
from cbgui.ui.common import sentences

TITLES = {"break": "Break: what must stop", "retain": "Keep: what must stay"}
COLUMNS = ["prompt", "response", "kind"]
SHOWN = 500  # rows in the table; counts are of all


def _chosen_folder() -> Path:
    return runs.runs_folder() / "_chosen_data"


def chosen_data() -> DataConfig:
    """The sets that the next run trains on: uploaded ones where there are any, else the demo's."""
    data = DataConfig()
    own = {name: path for name in TITLES if (path := _chosen_folder() / f"{name}.jsonl").is_file()}
    data.break_file = str(own.get("break", data.break_file))
    data.retain_file = str(own.get("retain", data.retain_file))
    if "break" in own:  # the demo's held-out examples belong to the demo's topic
        data.held_out_file = None
    return data


def _table(name: str) -> tuple[pd.DataFrame, str]:
    data = chosen_data()
    path = find_data_file(data.break_file if name == "break" else data.retain_file)
    examples = read_examples(path, name)
    origin = "yours" if path.parent == _chosen_folder() else "demo: brewing magic potions"
    near = sum(example.kind == "near_miss" for example in examples)
    words = f"**{len(examples)} examples** ({origin})" + (f", {near} of them near misses" if near else "")
    if len(examples) > SHOWN:
        words += f". The first {SHOWN} are shown."
    rows = [(example.prompt, example.response, example.kind.replace("_", " ")) for example in examples[:SHOWN]]
    return pd.DataFrame(rows, columns=COLUMNS), words


def _show_all() -> tuple:
    return *_table("break"), *_table("retain")


@sentences
def _upload(file: str, name: str) -> tuple:
    examples = read_examples(Path(file), name)
    _chosen_folder().mkdir(parents=True, exist_ok=True)
    write_examples(_chosen_folder() / f"{name}.jsonl", examples)
    gr.Info(f"{len(examples)} examples read.")
    return _show_all()


def _demo_again() -> tuple:
    shutil.rmtree(_chosen_folder(), ignore_errors=True)
    return _show_all()


def build(page: gr.Blocks) -> None:
    gr.Markdown(
        "Two sets decide what training does. **Break** holds requests whose answers must stop; **Keep** holds ordinary "
        "requests and near misses that must be answered as before. Each example is a prompt and a response."
    )
    outputs, uploads = [], []
    with gr.Row():
        for name, title in TITLES.items():
            with gr.Column(min_width=320):
                gr.Markdown(f"### {title}")
                words = gr.Markdown()
                table = gr.Dataframe(
                    headers=COLUMNS,
                    interactive=False,
                    wrap=False,
                    max_height=420,
                    label=title,
                    show_label=False,
                    column_widths=["38%", "42%", "20%"],
                    elem_id=f"{name}-table",
                )
                upload = gr.UploadButton(
                    "Upload JSONL or CSV (columns prompt, response)",
                    file_types=[".jsonl", ".csv"],
                    elem_id=f"{name}-upload",
                )
                outputs += [table, words]
                uploads.append((upload, name))
    again = gr.Button("Use the demo data again", size="sm")
    for upload, name in uploads:
        upload.upload(_upload, [upload, gr.State(name)], outputs)
    again.click(_demo_again, None, outputs)
    page.load(_show_all, None, outputs)
