"""Questions to keep that are made from the must-stop questions, and the pool of everyday questions."""

from __future__ import annotations

import json
import random
import re
from collections import Counter

import pytest
from sample_rows import example

from cbgui.config import PRESETS
from cbgui.data.examples import write_examples
from cbgui.data.hurried import hurried
from cbgui.data.reading import read_examples
from cbgui.data.rephrased import rephrased
from cbgui.data.suggest import (
    LANGUAGES,
    closings,
    language_of,
    openings,
    pool,
    stems,
    subjects,
    suggest,
    telling_stems,
    usual_at,
)

BREAKS = read_examples(PRESETS / "demo" / "break.jsonl", "break")


def test_the_pool_is_large_and_varied():
    assert len(pool()) >= 2000 and all(len(pool(language)) >= 100 for language in LANGUAGES)
    assert len({line.lower() for line in pool()}) == len(pool())
    openings_of_two = Counter(tuple(line.lower().split()[:2]) for line in pool())
    assert openings_of_two.most_common(1)[0][1] < len(pool()) / 5 and len(openings_of_two) > 500


def test_each_place_has_questions_of_its_own_in_the_users_language():
    german = ["Wie viele Tabletten darf ein Kind nehmen?", "Was ist die richtige Dosis von Ibuprofen für mich?"]
    for goal in ("clinic", "school", "game", "company"):
        english, found = usual_at(goal, ["How many tablets may I take?"]), usual_at(goal, german)
        assert len(english) > len(found) >= 15 and not {one.prompt for one in english} & {one.prompt for one in found}
        assert all(one.kind == "near_miss" and one.prompt[-1] in "?." for one in english + found)
    assert "Wann haben Sie geöffnet?" in [one.prompt for one in usual_at("clinic", german)]
    assert usual_at("own", german) == []


def test_a_question_in_the_topics_form_ends_like_a_question():
    found = suggest([example("Should I crush ibuprofen?"), example("Could you prescribe codeine?")], [], 200)
    forms = [one.prompt for one in found if one.reason.startswith("asked in the same way")]
    assert forms and all(prompt.endswith("?") for prompt in forms)


def test_subjects_and_openings_are_found():
    assert subjects(["How do I plant tomatoes?", "When should I prune my apple tree?"])[:2] == [
        "plant tomatoes",
        "prune",
    ]
    assert subjects([e.prompt for e in BREAKS])[0] == "potion"
    assert openings(["How do I plant tomatoes?", "How do I prune roses?"]) == ["How do I"]
    two = ["My basil wilts. What should I do?", "Do roses need chalk? Do figs?"]
    assert closings(two) == ["What should I do?"] and closings(["How do I prune roses?"]) == []
    assert closings(["My basil wilts. What can I do?"]) == ["What can I do?", "What should I do?"]
    assert closings(["My basil turned yellow. How do I save it?"]) == ["What should I do?"]
    found = [suggestion.prompt for suggestion in suggest([example(prompt) for prompt in two], [], 100)]
    assert sum(prompt.endswith(". What should I do?") for prompt in found) > 10


@pytest.mark.parametrize(
    ("language", "prompt"),
    [
        ("en", "How do I plant tomatoes in the garden?"),
        ("de", "Wie pflanze ich Tomaten in meinem Garten?"),
        ("fr", "Comment planter des tomates dans le jardin ?"),
        ("es", "¿Cómo planto tomates en el jardín?"),
    ],
)
def test_suggestions_are_in_the_language_of_the_questions(language, prompt):
    assert language_of([prompt]) == language
    found = suggest([example(prompt)], [], 20)
    assert any("omat" in suggestion.prompt for suggestion in found)
    assert len(found) == 20


def test_nothing_is_suggested_twice_or_that_is_there_already():
    first = suggest(BREAKS, [], 300)
    prompts = [suggestion.prompt for suggestion in first]
    assert len(set(prompts)) == 300 and not set(prompts) & {e.prompt for e in BREAKS}
    assert Counter(suggestion.kind for suggestion in first) == {"near_miss": 255, "retain": 45}
    again = suggest(BREAKS, [example(prompt, kind="retain") for prompt in prompts], 300)
    assert not {suggestion.prompt for suggestion in again} & set(prompts)
    assert suggest(BREAKS, [], 300) == first


def test_the_command_writes_answered_rows(cli, tmp_path):
    output, few = tmp_path / "keep.jsonl", tmp_path / "break.jsonl"
    write_examples(few, BREAKS[:6])
    done = cli("suggest", few, "--output", output, "--count", "3", "--no-drafts")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert len(rows) == 3 and all(row["response"] for row in rows)
    assert len(read_examples(output, "retain")) == 3
    again = cli("suggest", few, "--output", output)
    assert again.returncode == 2 and "exists already" in again.stderr


def test_hurried_prompts_stay_readable_and_the_same():
    text = "Could you please explain to me how people brew a potion?"
    assert hurried(text) == hurried(text) != text
    assert hurried(text) == hurried(text).lower() and "potion"[0] in hurried(text)
    changed = sum(hurried(e.prompt).split()[-3:] != e.prompt.lower().split()[-3:] for e in BREAKS)
    assert changed > len(BREAKS) / 2


def test_a_rephrased_question_still_asks_the_same():
    shuffle = random.Random(0)
    asked = [rephrased(BREAKS[0], shuffle) for _ in range(200)]
    assert len({example.prompt for example in asked}) > 60
    words = {word for word in re.findall(r"\w+", BREAKS[0].prompt.lower()) if len(word) > 5}
    kept = [words & set(re.findall(r"\w+", example.prompt.lower())) for example in asked]
    assert sum(found == words for found in kept) > 160 and {example.response for example in asked} == {
        BREAKS[0].response
    }
    assert not any("{" in example.prompt for example in asked)


def test_the_words_that_tell_a_topic_are_those_that_everyday_questions_lack():
    told = telling_stems([example.prompt for example in BREAKS])
    assert {"potio", "brew"} <= set(told) and not {"how", "do", "what", "the"} & set(told)
    assert stems("Potions and composting") == {"potio", "and", "compo"}
