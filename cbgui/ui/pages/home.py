"""Home: three ways to begin. Each opens what it is about; nothing on this page is needed later."""

from __future__ import annotations

from typing import Any

import gradio as gr

from cbgui.config import RunConfig, load_config
from cbgui.data.dataset_store import DatasetStore
from cbgui.data.library import DEMO
from cbgui.errors import InputError
from cbgui.runs import folder
from cbgui.runs.run import Run
from cbgui.settings import StopWhen
from cbgui.training.diagnostics import DERAILS
from cbgui.ui.common import library, pick, run_choices, sentences
from cbgui.ui.fragments import plain
from cbgui.ui.pages import wizard
from cbgui.ui.panels import progress
from cbgui.ui.panels import start as start_run
from cbgui.ui.words import on_page, say

SEE = "see-it-work"  # the name of the run
# Of the demo's settings: only as much as it takes until answers derail. Nobody judges the model that comes out.
# A keep loss of less weight lets it happen in 30 steps; the must-keep answers then still make sense.
SEE_STEPS, SEE_BREAKS, SEE_KEEPS, SEE_TOKENS, SEE_RETAIN, SEE_DRIFT = 60, 2, 4, 48, 300, 0.2


def see_config() -> RunConfig:
    """The demo, ended as soon as must-stop answers derail."""
    config = load_config("demo")
    config.data.general_keep, config.data.max_tokens = 0, SEE_TOKENS
    config.objective.retain_coefficient = SEE_RETAIN
    config.objective.reroute = "spread"  # answers fall apart within fewer steps than they turn into a refusal
    training = config.training
    training.steps, training.validate_every, training.sample_every = SEE_STEPS, 5, 0
    training.break_batch_size, training.retain_batch_size = SEE_BREAKS, SEE_KEEPS
    training.trials = training.calibrate = False
    training.stop_when = StopWhen(cosine=DERAILS, drift=SEE_DRIFT, validations=1)
    return config


def _seen() -> Run | None:
    """The newest such run that can be tried, or that will be."""
    runs = [run for run in folder.list_runs() if run.name.startswith(SEE)]
    usable = (run for run in runs if run.adapter_file.is_file() or run.state() in ("running", "waiting"))
    return next(usable, None)


@sentences
def _see() -> tuple:
    """Start it, or open the one that is there."""
    run = _seen()
    if run is None:
        config = see_config()
        start_run.check(config)
        run = start_run.start(config, SEE, DEMO)
    tab = "try" if run.adapter_file.is_file() else "train"
    return gr.Dropdown(choices=run_choices(), value=run.name), gr.Tabs(selected=tab)


def _cards() -> tuple:
    """Show *Continue* if the user has a topic, and a choice if there are several."""
    names = [data.name for data in progress.own_topics()]
    if not names:
        return gr.Column(visible=False), gr.skip(), "", gr.skip()
    choice = gr.Dropdown(choices=names, value=names[0], visible=len(names) > 1)
    return gr.Column(visible=True), choice, *_card(names[0])


@sentences
def _card(name: str | None) -> tuple:
    """How far the topic is, and the button that goes on with it."""
    data = _own_topic(name)
    words = say("home.continue_card", name=plain(data.name), next_step=progress.next_step(data)[1])
    return words, gr.Button(say("home.continue_topic", name=data.name))


def _own_topic(name: str | None) -> DatasetStore:
    """Raises InputError if it was deleted in another browser tab."""
    for data in progress.own_topics():
        if data.name == name:
            return data
    raise InputError(say("home.gone", name=repr(name)))


@sentences
def _continue(name: str | None, run_name: str | None) -> tuple:
    """Open the topic, its newest run, and the place where it goes on."""
    data = _own_topic(name)
    library().choose(data.name)
    place, _ = progress.next_step(data)
    run = progress.run_of(data.name) or pick(run_name)
    tab = gr.skip() if place == "wizard" else gr.Tabs(selected=place)
    return data.version(), gr.Dropdown(choices=run_choices(), value=run.name if run else None), tab


def build(
    page: gr.Blocks, tab: gr.Tab, tabs: gr.Tabs, run_name: gr.Dropdown, model: gr.Textbox, topic: gr.State
) -> Any:
    """Returns the event after *See it work* has opened its run."""
    with gr.Column(elem_id="cards") as cards:
        gr.Markdown(on_page("home.heading"))
        with gr.Row(equal_height=True):
            with gr.Column(min_width=260, elem_classes="card"):
                gr.Markdown(on_page("home.see_card"))
                see = gr.Button(on_page("home.see"), variant="primary", elem_id="see")
            with gr.Column(min_width=260, elem_classes="card"):
                gr.Markdown(on_page("home.own_card"))
                own = gr.Button(on_page("home.own"), variant="primary", elem_id="own")
            with gr.Column(min_width=260, elem_classes="card", visible=False) as more:
                choice = gr.Dropdown([], label=on_page("home.which"), visible=False, elem_id="continue-which")
                words = gr.Markdown(elem_id="continue-words")
                go_on = gr.Button(on_page("home.continue"), variant="primary", elem_id="continue")
    guide = wizard.build(tabs, cards, run_name, model, topic)
    seen = see.click(_see, None, [run_name, tabs], concurrency_limit=1)
    opened = own.click(wizard.begin, guide.made, guide.begun)
    opened.then(wizard.whether_it_fits, guide.model, guide.fits, show_progress="hidden")
    continued = go_on.click(_continue, [choice, run_name], [topic, run_name, tabs])
    guide.let_model_add(continued.success(wizard.resume, topic, guide.resumed))
    for trigger in (page.load, tab.select, topic.change):
        trigger(_cards, None, [more, choice, words, go_on], show_progress="hidden")
    choice.input(_card, choice, [words, go_on], show_progress="hidden")
    return seen.success
