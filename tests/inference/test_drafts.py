"""Drafted questions, the separator that sorts them, and everyday questions with cached answers."""

import re

import pytest
import torch

from cbgui.config import PRESETS, ModelConfig, override
from cbgui.data.near_duplicates import normalised
from cbgui.data.reading import read_examples
from cbgui.data.split import differ_in_one_word
from cbgui.data.suggest import Suggestion, stems, telling_stems
from cbgui.data.things import things
from cbgui.inference import drafts, general_keep, translations
from cbgui.inference import prompt_states as prompt_states_module
from cbgui.inference.batch_answers import load_for_answers
from cbgui.inference.model_suggestions import suggest_with_model
from cbgui.inference.nearest_things import questions_about_near_things
from cbgui.inference.neighbours import VARIANTS, neighbours, varied_questions
from cbgui.inference.prompt_states import Separator, prompt_states
from cbgui.inference.streaming import in_model_thread
from cbgui.inference.translations import says_the_same, translate_questions
from cbgui.modeling import full
from cbgui.modeling.decoder import decoder_layers, text_decoder
from cbgui.runs.folder import create_run

DEMO = PRESETS / "demo"
BREAKS = [example.prompt for example in read_examples(DEMO / "break.jsonl", "break")]
KEEPS = [example.prompt for example in read_examples(DEMO / "retain.jsonl", "retain")]


@pytest.fixture(scope="module")
def loaded(demo):
    return load_for_answers(ModelConfig(name="demo"))


def test_hidden_states_tell_unseen_questions_of_a_topic_from_others(loaded):
    held_out = read_examples(DEMO / "held_out.jsonl", "retain")
    states = in_model_thread(prompt_states, *loaded, BREAKS[:60] + KEEPS[:60] + [e.prompt for e in held_out])
    separator = Separator(states[:60], states[60:120])
    right = [
        (score > 0) == (example.kind == "break")
        for score, example in zip(separator.scores(states[120:]), held_out, strict=True)
    ]
    assert sum(right) / len(right) > 0.9


def test_the_state_of_a_prompt_does_not_depend_on_its_neighbours(loaded):
    together = in_model_thread(prompt_states, *loaded, ["Why is the sky blue?", BREAKS[0] * 5])
    alone = in_model_thread(prompt_states, *loaded, ["Why is the sky blue?"])
    assert together[0] @ alone[0] > 0.999
    assert together[0] @ together[1] < 0.99


def test_reading_a_layer_does_not_run_those_above(loaded):
    model, tokenizer = loaded
    ran = []
    layers = decoder_layers(text_decoder(model))
    hooks = [layers[place].register_forward_hook(lambda *_, place=place: ran.append(place)) for place in (0, -1)]
    in_model_thread(prompt_states, model, tokenizer, ["Why is the sky blue?"])
    for hook in hooks:
        hook.remove()
    assert ran == [0]


def test_long_questions_do_not_fill_the_memory(loaded):
    """64 lists of eight questions of a page each took 28 GB."""
    model, tokenizer = loaded
    page = "How do I prune roses in the rain? " * 300
    share, drafted = next(drafts.draft_questions(model, tokenizer, [page] * 8, KEEPS[:8]))
    assert share == 0.9 and drafted == drafts.Drafts()  # the model was shown none of them
    long = [page[: drafts.LONGEST_SHOWN]] * 8
    tokens = drafts.SHOWN * len(tokenizer(long[0]).input_ids)
    assert drafts._lists_at_once(model, tokenizer, long) * tokens <= full.BATCH_TOKENS
    assert drafts._lists_at_once(model, tokenizer, BREAKS[:8]) == drafts.ROWS
    states = in_model_thread(prompt_states, model, tokenizer, [page, page + "Why?"])
    assert states[0] @ states[1] > 0.9999  # the first LONGEST tokens are read


def test_what_all_prompts_begin_with_is_computed_once_and_changes_nothing(loaded, monkeypatch):
    model, tokenizer = loaded
    read, asked = [], BREAKS[:3]
    hook = text_decoder(model).register_forward_pre_hook(
        lambda _, __, named: read.append(named["input_ids"].numel()), with_kwargs=True
    )
    once = in_model_thread(prompt_states, model, tokenizer, asked)
    tokens, read[:] = sum(read), []
    monkeypatch.setattr(prompt_states_module, "has_plain_cache", lambda body: False)
    each_time = in_model_thread(prompt_states, model, tokenizer, asked)
    hook.remove()
    assert tokens < 0.7 * sum(read)
    assert torch.nn.functional.cosine_similarity(once, each_time).min() > 0.999


def test_the_model_drafts_questions_inside_and_beside_the_topic(loaded, monkeypatch):
    monkeypatch.setattr(drafts, "ROWS", 24)
    tests, config = BREAKS[40:], ModelConfig(name="demo")
    *progress, (_, share, found) = suggest_with_model(
        loaded, config, BREAKS[:40], KEEPS[:60], known=tests, held_out=tests, drafts=8, translations=0
    )
    assert share == 1.0 and [share for _, share, _ in progress] == sorted(share for _, share, _ in progress)
    inside = [one.prompt for one in found if one.kind == "break"]
    beside = [one.prompt for one in found if one.reason.startswith("drafted by the model, beside")]
    near = [one.prompt for one in found if one.prompt not in inside + beside]
    assert 0 < len(inside) <= 8 and len(beside) <= 8 and 0 < len(near) <= drafts.NEAR
    assert not set(normalised([*inside, *beside])) & set(normalised(BREAKS + KEEPS[:60]))
    assert not any(differ_in_one_word(inside, tests))
    told = telling_stems(BREAKS[:40])
    assert not any(stems(text) & set(told) for text in beside + near)
    assert sum("potion" in text.lower() or "spell" in text.lower() for text in inside) > len(inside) / 2


def test_a_model_needs_some_questions_to_go_by(loaded):
    few = suggest_with_model(loaded, ModelConfig(name="demo"), BREAKS[:7], KEEPS, translations=0)
    assert [*few] == []


def test_things_beside_a_topic_are_found(loaded):
    def about(*breaks):
        return in_model_thread(questions_about_near_things, *loaded, breaks, 12)

    games = [t.name for t in things() if t.forms[0] in ("What are the rules of {}?", "How do you play {}?")]
    found = about("Who will win Arsenal against Chelsea?", "Bet on goals by Ronaldo?", "Analyse Juventus tactics.")
    assert len(found) == 12 and sum(any(name in question for name in games) for question in found) > 6
    assert not any(stems(question) & {"win", "goal", "bet"} for question in found)
    assert about("Wie pflanze ich Tomaten?", "Wann soll ich den Rasen mähen?", "Was ist guter Dünger?") == []


def test_questions_about_things_are_well_formed():
    names = [thing.name for thing in things()]
    assert len(names) > 800 and len({(thing.name, thing.forms) for thing in things()}) == len(names)
    asked = [thing.asked(form) for thing in things() for form in thing.forms]
    assert all(question[-1] in ".?" and "{" not in question and " a a" not in question for question in asked)
    assert not any(re.search(r"\ba (?!uni|use|eu|one)[aeiou]", question) for question in asked)


def test_words_are_replaced_by_their_neighbours(loaded):
    near = in_model_thread(neighbours, *loaded, ["tomatoes", "Germany", "zzyzx"])
    assert "potatoes" in near["tomatoes"] and "France" in near["Germany"] and "zzyzx" not in near
    found = in_model_thread(varied_questions, *loaded, ["How do I plant tomatoes?"])
    assert 0 < len(found) <= VARIANTS and "How do I plant tomatoes?" not in found
    assert all(len(question.split()) == 5 and question.startswith("How do I ") for question in found)


def test_a_model_that_cannot_translate_suggests_no_translation(loaded):
    config, asked = ModelConfig(name="demo"), [Suggestion(text, "break", "") for text in BREAKS[:3]]
    *progress, (share, found) = translate_questions(loaded, config, asked)
    assert share == 1.0 and progress and found == []
    assert says_the_same("How do I plant tomatoes?", "How can I plant tomatoes?")
    assert not says_the_same("How do I plant tomatoes?", "This is a small commission for tomatoes of the city.")


def test_a_model_that_translates_suggests_what_comes_back_the_same(monkeypatch):
    words = {"How do I brew a potion?": "Wie braue ich einen Trank?", "Who stirs a snake?": "Das Wetter ist gut."}
    back = {"Wie braue ich einen Trank?": "How can I brew a potion?", "Das Wetter ist gut.": "The weather is fine."}

    def answer(config, prompts, **settings):
        questions = [messages[0]["content"].partition("\n\n")[2] for messages in prompts]
        yield 1.0, {index: (words | back)[question] for index, question in enumerate(questions)}

    monkeypatch.setattr(translations, "write_answers", answer)
    asked = [Suggestion(text, "break", "") for text in words]
    *_, (share, found) = translate_questions((None, None), ModelConfig(), asked)
    assert share == 1.0
    assert [(one.prompt, one.kind, one.reason) for one in found] == [
        ("Wie braue ich einen Trank?", "break", "translated by the model into German")
    ]


@pytest.mark.parametrize(("known", "asked_for"), [("the first", 14), ("none", 12)])
def test_a_model_that_translates_none_of_the_first_questions_is_asked_no_more(known, asked_for, monkeypatch):
    orders = []

    def answer(config, prompts, **settings):
        orders.extend(messages[0]["content"] for messages in prompts)
        texts = [messages[0]["content"].partition("\n\n")[2] for messages in prompts]
        swapped = {f"Where is lake number {n}?": f"Wo ist See {n}?" for n in range(14)}
        back = {text: question for question, text in swapped.items()} if known == "the first" else {}
        yield 1.0, {index: (swapped | back).get(text, "") for index, text in enumerate(texts)}

    monkeypatch.setattr(translations, "write_answers", answer)
    asked = [Suggestion(f"Where is lake number {n}?", "break", "") for n in range(14)]
    *progress, (share, found) = translate_questions((None, None), ModelConfig(), asked)
    assert share == 1.0 and [s for s, _ in progress] == sorted(s for s, _ in progress)
    assert len(found) == (14 if known == "the first" else 0)
    assert sum("Where is lake" in text for text in orders) == asked_for


def test_everyday_questions_are_answered_once_for_each_model(short_config, tmp_path, monkeypatch):
    monkeypatch.setattr(general_keep, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(general_keep, "MAX_NEW_TOKENS", 4)
    monkeypatch.setattr(general_keep, "_cache_file", lambda config: tmp_path / "cache" / "answers.json")
    config = override(short_config, ["data.general_keep=5"])
    first, second = (create_run(tmp_path / name, config) for name in ("first", "second"))
    general_keep.add_general_keep(first)
    assert len(first.examples("general")) == 5
    assert any("everyday questions" in event["text"] for event in first.events()[0])

    def never(*arguments, **more):
        raise AssertionError("asked again")

    monkeypatch.setattr(general_keep, "write_answers", never)
    general_keep.add_general_keep(second)
    assert second.examples("general") == first.examples("general")
    off = create_run(tmp_path / "off", override(short_config, ["data.general_keep=0"]))
    general_keep.add_general_keep(off)
    assert off.examples("general") == []


def test_everyday_questions_leave_out_the_topic_and_what_is_there():
    breaks = read_examples(DEMO / "break.jsonl", "break")
    first = general_keep.general_questions(breaks, [], 50)
    assert len(set(first)) == 50 and not any("potion" in line.lower() for line in first)
    known = [e for e in read_examples(DEMO / "retain.jsonl", "retain")]
    assert not set(normalised(general_keep.general_questions(breaks, known, 200))) & set(
        normalised([example.prompt for example in known])
    )
