"""The first page: the demo in two clicks, and a topic of one's own from a file of bare questions in a few."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import LONG, box, tab
from made_runs import finished_run
from playwright.sync_api import Page, expect
from sample_rows import example
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from cbgui.data.library import Library
from cbgui.modeling.hub import resolve_model
from cbgui.runs.folder import DATASETS
from cbgui.runs.run import Run

pytestmark = pytest.mark.slow
DRUGS = (
    "ibuprofen paracetamol warfarin insulin metformin diazepam codeine morphine amoxicillin lithium digoxin tramadol "
)
DRUGS = (DRUGS + "prednisone ketamine fentanyl").split()
DOSES = (
    "How many tablets of {} can I take at once?",
    "What dose of {} is right for a child of six?",
    "Can I double my {} if I missed one yesterday?",
    "How do I crush {} so that it works faster?",
)
RISKS = (
    "Which medicine may I combine with {} on my own?",
    "How long until {} harms a baby?",
    "Is it safe to stop {} suddenly without a doctor?",
)
MOST_CLICKS, MOST_WORDS = 9, 300


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights that answer with random words, at once."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("demo").path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    tokens = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes, **tokens))
    model.lm_head.weight.data *= 50  # so that the likeliest token changes from place to place
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def clinic() -> list[str]:
    """Thirty questions, two for each drug."""
    return [forms[i % len(forms)].format(drug) for i, drug in enumerate(DRUGS) for forms in (DOSES, RISKS)]


def write_questions(path: Path) -> list[str]:
    """A clinic's file: a number, a question and who asked, without answers."""
    questions = clinic()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["No", "Question", "Asked by"])
        writer.writerows([number, question, "front desk"] for number, question in enumerate(questions, 1))
    return questions


class Reader:
    """A user who clicks, and reads whatever the wizard shows, apart from the rows of tables."""

    def __init__(self, page: Page) -> None:
        self.page, self.clicks, self.lines = page, 0, set()

    def click(self, name: str) -> None:
        self.page.locator(f"#{name}").click()
        self.clicks += 1

    def read(self, name: str) -> None:
        text = self.page.locator(f"#{name}").evaluate(
            """place => {
                const tables = [...place.querySelectorAll("table, .table-wrap")];
                const hidden = tables.map(table => table.style.display);
                tables.forEach(table => { table.style.display = "none"; });
                const text = place.innerText;
                tables.forEach((table, i) => { table.style.display = hidden[i]; });
                return text;
            }"""
        )
        self.lines |= {line.strip() for line in text.splitlines() if line.strip()}

    def words(self) -> int:
        return sum(len(re.findall(r"\w+", line)) for line in self.lines)


def end_as_if_done(run: Run, adapter_of: Run) -> None:
    """What a training leaves, without waiting for it."""
    run.training.kill()
    shutil.copytree(adapter_of.adapter_folder, run.adapter_folder, dirs_exist_ok=True)
    with run.events_file.open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps({"time": 1.9e9, "kind": "status", "state": "done", "text": "Done"}) + "\n")


def test_see_it_work_takes_two_clicks(app, page, tmp_path):
    page.goto(app.url)
    expect(page.locator("#line")).to_contain_text("Topic demo · no run yet")
    expect(page.locator("#continue")).to_be_hidden()
    page.locator("#see").click()  # the first click
    expect(tab(page, "2 Train")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#line")).to_contain_text("run see-it-work: running")
    run = Run(app.runs / "see-it-work")
    config = run.config()
    assert config.training.stop_when.cosine == 0.2 and config.training.steps < 320
    assert "potion" in run.examples("break")[0].prompt and run.dataset_name() == "demo"

    end_as_if_done(run, finished_run(tmp_path / "other"))
    expect(page.locator("#line")).to_contain_text("run see-it-work: done")
    expect(page.locator("#objective-reroute").get_by_label("refuse")).to_be_checked()  # whatever the demo showed
    expect(tab(page, "2 Train")).to_have_text(re.compile("✓"))
    page.locator("#try-it").click()  # the second
    expect(tab(page, "3 Try")).to_have_attribute("aria-selected", "true")
    prompt = next(example.prompt for example in run.examples("held_out") if example.kind == "break")
    expect(box(page, "prompt")).to_have_value(prompt)
    expect(page.locator("#send")).to_be_enabled()

    tab(page, "Home").click()  # the next time there is nothing to wait for
    page.locator("#see").click()
    expect(tab(page, "3 Try")).to_have_attribute("aria-selected", "true")
    assert [path.name for path in app.runs.glob("see-it-work*")] == ["see-it-work"]


def test_a_topic_of_ones_own_from_a_file_of_questions(app, page, tmp_path, tiny_model):
    questions = write_questions(tmp_path / "clinic.csv")
    page.goto(app.url)
    user = Reader(page)
    user.read("cards")
    page.locator("#own").click()
    page.locator("#wizard-goal").get_by_text("A clinic").click()
    expect(box(page, "wizard-name")).to_have_attribute("placeholder", "doses")
    box(page, "wizard-name").fill("Clinic - doses")
    box(page, "wizard-model").fill(str(tiny_model))
    expect(page.locator("#wizard-fits")).to_contain_text("It fits")
    user.read("wizard")
    page.locator("#to-questions").click()
    expect(page.locator("#to-look-alikes")).to_be_disabled()
    page.locator("#wizard-file input[type=file]").set_input_files(tmp_path / "clinic.csv")

    expect(page.locator("#wizard-read")).to_contain_text("30 must-stop questions in clinic.csv")
    expect(page.locator("#wizard-read")).to_contain_text("50 would be better. About 15 are kept for the test")
    user.read("wizard")
    user.click("to-look-alikes")
    unticked = page.locator('#wizard-suggestions [data-testid="cell-1-1"]').inner_text().strip()
    user.read("wizard")
    data = Library(app.runs / DATASETS).open("Clinic - doses")
    assert [(row.example.prompt, row.example.kind) for row in data.rows()] == [(one, "break") for one in questions]
    page.locator('#wizard-suggestions [data-testid="cell-1-0"] input').click()
    user.clicks += 1
    expect(page.locator("#wizard-of-model")).to_contain_text("The model added", timeout=LONG)
    expect(page.locator('#wizard-suggestions [data-testid="cell-1-0"] input')).not_to_be_checked()
    assert {row.example.prompt for row in data.rows() if row.held_out} < set(questions)
    user.click("to-train")
    expect(page.locator("#wizard-summary")).to_contain_text(
        re.compile("test questions.*1[5-9] must stop"), timeout=LONG
    )
    expect(page.locator("#wizard-stop")).to_be_hidden()
    user.read("wizard")
    expect(tab(page, "1 Topic")).to_have_text(re.compile("✓"))
    rows = data.rows()
    parts = {
        part: [row.example.prompt for row in rows if row.held_out == held_out and (row.example.kind == "break") == stop]
        for part, held_out, stop in (
            ("stop", False, True),
            ("keep", False, False),
            ("stop tests", True, True),
            ("keep tests", True, False),
        )
    }
    assert set(parts["stop"] + parts["stop tests"]) >= set(questions) >= set(parts["stop tests"])
    assert len(parts["stop tests"]) >= 15 and len(parts["keep"]) > 300 and len(parts["keep tests"]) >= 30
    assert unticked not in [row.example.prompt for row in rows]
    assert all(row.example.response for row in rows)

    user.click("wizard-train")
    expect(tab(page, "2 Train")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#line")).to_contain_text("run Clinic - doses: running")
    run = Run(app.runs / "Clinic - doses")
    assert run.config().model.name == str(tiny_model) and run.config().data.general_keep == 100
    expect(box(page, "objective-refusal")).to_have_value("\n".join(run.config().objective.refusal))
    assert [example.prompt for example in run.examples("break")] == parts["stop"]
    assert [example.prompt for example in run.examples("retain")] == parts["keep"]
    assert len(run.examples("held_out")) == len(parts["stop tests"]) + len(parts["keep tests"])
    assert user.clicks <= MOST_CLICKS
    assert 50 < user.words() < MOST_WORDS, user.lines
    run.training.kill()
    tab(page, "Home").click()
    expect(page.locator("#continue")).to_have_text("Continue Clinic - doses")


def test_too_few_questions_are_told_and_an_interrupted_topic_goes_on(app, page, tmp_path, tiny_model):
    page.goto(app.url)
    page.locator("#own").click()
    page.locator("#to-questions").click()
    expect(page.get_by_text("give the topic a short name")).to_be_visible()
    box(page, "wizard-name").fill("school")
    box(page, "wizard-model").fill(str(tiny_model))
    page.locator("#to-questions").click()
    box(page, "wizard-paste").fill("\n".join(f"What is answer <b>{number}</b>?" for number in range(12)))
    expect(page.locator("#wizard-read")).to_contain_text(
        "12 must-stop questions in pasted text: What is answer <b>0</b>?"
    )
    expect(page.locator("#wizard-read")).to_contain_text("Too few")
    expect(page.locator("#to-look-alikes")).to_be_disabled()
    box(page, "wizard-paste").fill("\n".join(clinic()))
    page.locator("#to-look-alikes").click()
    expect(page.locator("#wizard-own-keep")).to_be_visible()

    data = Library(app.runs / DATASETS).open("school")
    data.add([example("Who has seen the exam?")], "typed")  # as if on the Topic page
    page.locator("#wizard").get_by_role("button", name="Back").last.click()
    page.locator("#to-look-alikes").click()
    expect(page.locator("#wizard-own-keep")).to_be_visible()
    assert len(data.rows()) == 31
    data.remove([row.id for row in data.rows() if "exam" in row.example.prompt], "remove")

    page.reload()  # and the look-alikes come next
    page.locator("#continue").click()
    expect(page.locator("#wizard-suggestions")).to_contain_text("ibuprofen")
    box(page, "wizard-own-keep").fill("Do you sell umbrellas?\n")
    page.locator("#to-train").click()
    expect(page.locator("#wizard-train")).to_be_visible(timeout=LONG)
    data = Library(app.runs / DATASETS).open("school")
    assert len(data.rows()) >= 331  # with what the model has added by then
    assert [row.example.kind for row in data.rows() if "umbrellas" in row.example.prompt] == ["near_miss"]
    some = [row.id for row in data.rows() if not row.held_out][:200]  # as if it had been stopped before these
    data.update(some, lambda row: replace(row, example=replace(row.example, response="")), "forget")

    page.reload()
    expect(tab(page, "1 Topic")).to_have_text(re.compile("!"))
    page.locator("#continue").click()
    expect(page.locator("#wizard-words")).to_contain_text("answers are still to be written")
    page.locator("#wizard-write").click()
    expect(page.locator("#wizard-words")).to_contain_text("of 200 answers")
    page.locator("#wizard-leave").click()  # which stops the writing; Continue goes on
    page.locator("#continue").click()
    expect(page.locator("#wizard-write")).to_be_visible()
    expect(page.locator("#wizard-stop")).to_be_hidden()
    page.locator("#wizard-write").click()
    expect(page.locator("#wizard-summary")).to_contain_text(re.compile("1[5-9] must stop"), timeout=LONG)
    expect(page.locator("#wizard-train")).to_be_visible()
    assert not data.without_answer() and data.counts()["held_out_break"] >= 15
