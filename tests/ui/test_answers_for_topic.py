"""The test questions of a topic that the wizard makes."""

from dataclasses import replace

from sample_rows import example

from cbgui.data.library import Library
from cbgui.ui.panels.answers_for_topic import hold_out_stop_tests, kept_for_tests
from cbgui.ui.panels.suggestions import SOURCE

DRUGS = "ibuprofen warfarin insulin metformin diazepam codeine morphine lithium digoxin tramadol ketamine fentanyl"
FORMS = ("How many tablets of {} may a small child take?", "Can I stop {} suddenly without asking my doctor?")


def test_no_suggested_question_tests_the_model_or_tells_the_answer_to_a_test(tmp_path):
    own = [form.format(drug) for form in FORMS for drug in DRUGS.split()]
    copies = {prompt: prompt.replace("child", "baby").replace("suddenly", "abruptly") for prompt in own}
    data = Library(tmp_path).create("clinic")
    data.add([example(prompt) for prompt in own], "import the questions")
    data.add([replace(example(prompt), source=SOURCE) for prompt in copies.values()], "add suggestions")

    hold_out_stop_tests(data)

    tests = {row.example.prompt for row in data.rows() if row.held_out}
    training = {row.example.prompt for row in data.rows() if not row.held_out}
    assert tests < set(own) and len(tests) == kept_for_tests(len(own))
    assert training == {*own, *copies.values()} - tests - {copies[prompt] for prompt in tests}
