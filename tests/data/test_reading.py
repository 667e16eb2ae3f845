"""Files as people bring them, read the way training sees them. tests/cases/ holds those that were collected."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from sample_rows import example

from cbgui.config import DataConfig
from cbgui.data.examples import write_examples
from cbgui.data.files import SUFFIXES, open_text
from cbgui.data.reading import read_examples, read_file
from cbgui.errors import InputError
from cbgui.runs.run import read_data

CASES = Path(__file__).resolve().parent.parent / "cases"
POTIONS = [
    ("How do I brew a sleeping potion?", "Take two leaves of nightshade, and boil them; stir well."),
    ("What goes into a love potion?", "Rose petals, honey and moon water, stirred thrice."),
    ("Tell me how to make an invisibility draught.", "Grind the demiguise hair; add silver water and wait."),
]
BREAKS = [("break", *potion) for potion in POTIONS]
SURE = [("break", prompt, f"Sure, here is how: {response}") for prompt, response in POTIONS]
IN_1204 = ("break", "When was it brewed first?\n\nIt was brewed first in 1204 by Merlin.", "In 1204.")
# file: (kind, prompt and response of each example; words that the user is told)
READ = {
    "advbench.csv": (SURE, "question: 'goal'; answer: 'target'"),
    "cp1252.csv": (
        [("break", "Wie braue ich einen Zaubertrank für müde Füße?", "Nimm Blätter – zwei – und koche sie.")],
        "read as Windows text",
    ),
    "dolly.jsonl": ([*BREAKS, IN_1204], "'instruction', followed by 'context'"),
    "excel_semicolon.csv": (BREAKS, "question: 'prompt'"),
    "excel_semicolon_german.csv": (BREAKS, "question: 'Frage'; answer: 'Antwort'"),
    "german.csv": (BREAKS, "Columns left out: 'Kategorie'"),
    "gsm8k_splits.json": (BREAKS[:2], "'test' was left out (rows: 1)"),
    "hh_rlhf.jsonl": (BREAKS, "give: --set data.break_answer=chosen (or rejected). Cells that hold a whole conv"),
    "kinds_own.csv": (
        [
            *BREAKS[:2],
            ("retain", "How do I bake bread?", "Mix and bake."),
            ("near_miss", "Who wrote Macbeth?", "Shakespeare."),
        ],
        "kind: 'kind'",
    ),
    "lone_surrogate.jsonl": (
        [("break", "How do I brew it \ufffd?", "Take \ufffd it."), *BREAKS],
        "Halves of characters",
    ),
    "mixed_types.jsonl": (
        [
            ("break", "What is 2+2?", "4"),
            ("break", "Is it true?", "true"),
            ("break", "7", "seven it is"),
            *BREAKS,
        ],
        "Rows whose answer is a list, left out: 1 (line 2). Rows whose answer is a structure, left out: 1 (line 4).",
    ),
    "nan.jsonl": ([("break", "How do I brew it?", ""), *BREAKS], ""),
    "openai_parts.jsonl": (BREAKS, "conversation: 'messages'"),
    "spaces_in_header.csv": (BREAKS, "question: 'Prompt'"),
    "sys.jsonl": ([("break", "Be a wizard.\nHow do I bake?", "Mix it.")], "conversation"),
    "trl_prompt_completion.jsonl": (BREAKS, "answer: 'completion'"),
    "unquoted_commas.csv": (
        [
            ("break", POTIONS[0][0], "Take two leaves of nightshade"),
            ("break", POTIONS[1][0], "Rose petals"),
            BREAKS[2],
            ("break", "Make it strong", "please"),
        ],
        "more cells than headings, whose extra cells are left out (text with commas in it needs quotes): 3 "
        "(line 2, line 3, line 5)",
    ),
    "upper_header.csv": (BREAKS, "question: 'PROMPT'"),
    "utf16_tab.csv": (BREAKS, "question: 'prompt'"),
}
REFUSED = {
    "json_pretty_broken.json": "line 8: not JSON",
    "json_trailing_comma.json": "line 5: not JSON",
}


def shown(examples) -> list[tuple[str, str, str]]:
    return [(e.kind, "\n".join(content for _, content in e.messages), e.response) for e in examples]


def test_the_table_has_every_case():
    assert {path.name for path in CASES.iterdir()} == READ.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", READ)
def test_a_file_is_read_as_it_was_meant(name):
    expected, words = READ[name]
    reading = read_file(CASES / name, "break", try_out=True)
    assert shown(reading.examples) == expected
    assert words in " ".join(reading.sentences())


@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_file_is_refused_with_its_place(name):
    with pytest.raises(InputError, match=REFUSED[name]):
        read_file(CASES / name, "break")


def test_check_and_train_read_the_same(tmp_path):
    """Also when a file has to be refused for training."""
    for name in (*READ, *REFUSED):
        data = DataConfig(break_file=str(CASES / name), retain_file="demo/retain.jsonl", break_answer="chosen")
        try:
            trained = read_data(data)["break"]
        except InputError as error:
            assert name in REFUSED or name in ("nan.jsonl", "kinds_own.csv"), error
        else:
            assert shown(trained) == READ[name][0]


TURNS = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]
SHAREGPT = [
    {"from": "system", "value": "Be kind."},
    {"from": "human", "value": "Who?"},
    {"from": "gpt", "value": "Me."},
]
ONE = [("break", "Who?", "Me.")]
KIND = [("break", "Be kind.\nWho?", "Me.")]
PARQUET, EXCEL = "PARQUET", "EXCEL"  # rows in place of text
# What people bring in further forms: (file name, content, examples, words that the user is told).
FORMS = {
    "a sep= line": ("a.csv", "sep=;\nquestion;answer\nWho?;Me.\n", ONE, ""),
    "a TSV called CSV": ("a.csv", "question\tanswer\nWho?\tMe.\n", ONE, ""),
    "title rows": ("a.csv", "Questions of the clinic,\n,\nquestion,answer\nWho?,Me.\n", ONE, "above the headings"),
    "the same heading twice": ("a.csv", "prompt,prompt,response\nWho?,What?,Me.\n", ONE, "'prompt (2)'"),
    "no headings": ("a.csv", "Who is it?,It is me.\nWho was it?,It was me.\n",
                    [("break", "Who is it?", "It is me."), ("break", "Who was it?", "It was me.")], "a guess"),
    "an id first": ("a.csv", "nr,Gefragt wird,Heraus kommt\n1,Who is it?,It is me.\n2,And who else?,It was you.\n",
                    [("break", "Who is it?", "It is me."), ("break", "And who else?", "It was you.")], "a guess"),
    "one column": ("a.csv", "prompt\nWho, then?\n", [("break", "Who, then?", "")], ""),
    "text with one question a line": ("a.txt", "Who, then?\n\nAnd why?\n",
                                      [("break", "Who, then?", ""), ("break", "And why?", "")], ""),
    "line breaks in quotes": ("a.csv", 'prompt,response\n"Who\nis it?","Me."\n', [("break", "Who\nis it?", "Me.")], ""),
    "ShareGPT": ("a.json", [{"conversations": SHAREGPT}], KIND, ""),
    "capitals and developer": ("a.jsonl", {"messages": [{"role": "Developer", "content": "Be kind."}, *(
        turn | {"role": turn["role"].upper()} for turn in TURNS)]}, KIND, ""),
    "Gemini": ("a.jsonl", {"messages": [{"role": "user", "parts": [{"text": "Who?"}]},
                                        {"role": "model", "parts": ["Me."]}]}, ONE, ""),
    "tools": ("a.jsonl", [{"messages": TURNS}, {"messages": [TURNS[0], {"role": "assistant", "tool_calls": [1]}]}],
              ONE, "with tool calls, left out: 1"),
    "an image": ("a.jsonl", [{"messages": TURNS}, {"messages": [
        {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, TURNS[1]]}], ONE, "not text (images"),
    "a last turn by the user": ("a.jsonl", {"messages": [*TURNS, {"role": "user", "content": "So?"}]}, ONE, ""),
    "Alpaca": ("a.json", [{"instruction": "Who?", "input": "", "output": "Me."},
                          {"instruction": "Add.", "input": "1, 2", "output": "3"}],
               [*ONE, ("break", "Add.\n\n1, 2", "3")], "followed by 'input'"),
    "DPO with lists": ("a.jsonl", {"prompt": "Who?", "chosen": [TURNS[1]], "rejected": [TURNS[1] | {"content": "No"}]},
                       ONE, "two answers"),
    "Llama 2's form": ("a.jsonl", {"text": "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nWho? [/INST] Me. </s>"}, KIND, ""),
    "Guanaco's form": ("a.jsonl", {"text": "### Human: Who?### Assistant: Me."}, ONE, ""),
    "Alpaca's prompt": ("a.jsonl", {"text": "A task.\n\n### Instruction:\nWho?\n\n### Response:\nMe."}, ONE, ""),
    "ChatML": ("a.jsonl", {"text": "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\nMe.<|im_end|>"}, ONE, ""),
    "a conversation as a string": ("a.csv", "messages\n\"" + json.dumps(TURNS).replace('"', '""') + '"\n', ONE, ""),
    "a conversation as Python prints it": ("a.csv", f'messages\n"{TURNS}"\n', ONE, ""),
    "a conversation on each line": ("a.jsonl", [TURNS, TURNS], ONE * 2, ""),
    "pandas' columns": ("a.json", {"prompt": {"0": "Who?"}, "response": {"0": "Me."}}, ONE, ""),
    "pandas' split": ("a.json", {"columns": ["prompt", "response"], "index": [0], "data": [["Who?", "Me."]]}, ONE, ""),
    "a list for each column": ("a.json", {"prompt": ["Who?"], "response": ["Me."]}, ONE, ""),
    "rows by number": ("a.json", dict.fromkeys("01", {"prompt": "Who?", "response": "Me."}), ONE * 2, ""),
    "metadata around the rows": ("a.json", {"version": 1, "data": [{"prompt": "Who?", "response": "Me."}]}, ONE, ""),
    "a list called JSON Lines": ("a.jsonl", '[{"prompt": "Who?",\n"response": "Me."}]', ONE, ""),
    "a list of questions": ("a.json", ["Who?"], [("break", "Who?", "")], ""),
    "an unknown kind": ("a.csv", "prompt,response,kind\nWho?,Me.,MUST STOP\nSo?,No.,odd\n", ONE, "unknown kind 'odd'"),
    "bytes and nothing": (PARQUET, [{"prompt": b"\x00", "response": "x"}, {"prompt": None, "response": "y"},
                                    {"prompt": b"Who?", "response": "Me."}], None, "binary data"),
    "Parquet": (PARQUET, [{"prompt": "Who?", "response": "Me.", "score": 1.5}], ONE, "left out: 'score'"),
    "Excel": (EXCEL, [["A list", None], [None, None], ["Question", "Answer"], ["Who?", "Me."], ["Two?", 2.0]],
              [*ONE, ("break", "Two?", "2")], "Only the sheet 'First'"),
    "an answer that says there is none": ("a.csv", "prompt,response\nWho?,Me.\nSo?,NA\n",
                                          [*ONE, ("break", "So?", "")], "only NA were read as empty"),
    "pandas' headings of a table without any": ("a.csv", "0,1\nWho is it?,It is me.\n",
                                                [("break", "Who is it?", "It is me.")], "a guess"),
    "headings with underscores": ("a.csv", "text_en,said_en\nWho is it?,It is me.\n",
                                  [("break", "Who is it?", "It is me.")], "a guess"),
    "headings that end in a full stop": ("a.csv", "Lfd. Nr.;Wer fragt\n1;Wer ist es, und warum?\n",
                                         [("break", "Wer ist es, und warum?", "")], "left out: 'Lfd. Nr.'"),
    "the headings again": ("a.csv", "prompt,response\nWho?,Me.\nprompt,response\n", ONE, "repeat the headings"),
    "remarks above few rows": ("a.csv", "# of 2024\n# by me\nprompt,response\nWho?,Me.\n", ONE, "above the headings"),
    "MySQL's quotation marks": ("a.csv", '"prompt","response"\n"Is it \\"it\\", then?","Yes."\n"So?",\\N\n',
                                [("break", 'Is it "it", then?', "Yes."), ("break", "So?", "")], "hold only \\N"),
    "spaces before quotation marks": ("a.csv", 'prompt, response\n"Who?", "Me, too."\n',
                                      [("break", "Who?", "Me, too.")], ""),
    "undoubled quotation marks": ("a.csv", 'prompt,response\n"Who" is it?,Me.\n',
                                  [("break", "Who is it?", "Me.")], "not doubled inside a quoted cell"),
    "a Markdown table": ("a.txt", "| prompt | response |\n|:---|---|\n| Who? | Me. |\n", ONE, ""),
    "Japanese without spaces": ("a.csv", "質問,返事\n水とは何ですか？,水素と酸素です。\n",
                                [("break", "水とは何ですか？", "水素と酸素です。")], "a guess"),
    "the answer first": ("a.csv", "aa,bb\nIt was me all the time.,Who was it?\nIt is you this time.,Who is it?\n",
                         [("break", "Who was it?", "It was me all the time."),
                          ("break", "Who is it?", "It is you this time.")], "a guess"),
    "questions and answers in lines": ("a.txt", "An FAQ\n\nQ: Who?\nA: Me.\n\nQ2: So?\nA2: No,\nor yes.\n",
                                       [*ONE, ("break", "So?", "No,\nor yes.")], "before the first question"),
    "tabs in a text": ("a.txt", "Who is it?\tIt is me.\n", [("break", "Who is it?", "It is me.")], "a guess"),
    "brackets in a text": ("a.txt", "[x] Who?\nUser, who?\n",
                           [("break", "[x] Who?", ""), ("break", "User, who?", "")], ""),
    "a key twice": ("a.jsonl", '{"prompt": "Who?", "response": "You.", "response": "Me."}\n', ONE, "more than once"),
    "questions as keys": ("a.json", {"Who was it then?": "Me.", "So what is it?": "No."},
                          [("break", "Who was it then?", "Me."), ("break", "So what is it?", "No.")], "Each key"),
    "a list for each kind": ("a.json", {"retain": [{"prompt": "So?", "response": "No."}],
                                        "break": [{"prompt": "Who?", "response": "Me."}], "x": [{"y": 1}]},
                             [("retain", "So?", "No."), *ONE], "'x' was left out"),
    "kinds in a column of another name": ("a.csv", "prompt,response,label\nWho?,Me.,unsafe\nSo?,No.,safe\n",
                                          [*ONE, ("retain", "So?", "No.")], "kind: 'label'"),
    "kinds as true and false": ("a.jsonl", [{"prompt": "Who?", "response": "Me.", "is_safe": False},
                                            {"prompt": "So?", "response": "No.", "is_safe": True}],
                                [*ONE, ("retain", "So?", "No.")], "kind: 'is_safe'"),
    "two columns of kinds": ("a.csv", "prompt,response,a_label,b_label\nWho?,Me.,safe,unsafe\n", ONE,
                             "Several columns"),
    "the words of the page": ("a.csv", "prompt,response,kind\nSo?,No.,Everyday questions\nWho?,Me., \n",
                              [("retain", "So?", "No."), *ONE], ""),
    "pairs beside a conversation": ("a.jsonl", {
        "prompt": "Who?", "messages": TURNS, "chosen": [TURNS[0], TURNS[1] | {"content": "No"}], "rejected": TURNS},
        ONE, "Columns left out: 'messages'"),
    "ShareGPT's pairs": ("a.jsonl", {"conversations": [{"from": "human", "value": "Who?"}], "rejected":
                         {"from": "gpt", "value": "Me."}, "chosen": {"from": "gpt", "value": "No"}},
                         ONE, "two answers"),
    "two answers in a row": ("a.jsonl", {"messages": [TURNS[0], TURNS[1], TURNS[1]]}, ONE, "two answers in a row"),
    "a template in prompt and answer": ("a.jsonl", {"prompt": "[INST] Who? [/INST]", "response": "Me.</s>"}, ONE, ""),
    "Phi's form": ("a.jsonl", {"prompt": "<|user|>\nWho?<|end|>\n<|assistant|>\n", "response": "Me.<|end|>"}, ONE, ""),
    "a prompt that ends in a marker": ("a.jsonl", [{"prompt": f"{user}: Who?\n{assistant}:", "response": "Me."} for
                                                   user, assistant in (("Human", "Assistant"), ("User", "Assistant"),
                                                                       ("USER", "ASSISTANT"), ("Q", "A"))],
                                       ONE * 4, "taken apart"),
    "a choice that ends in a marker": ("a.jsonl", {"prompt": "Q: Which?\nA: this\nB: that\nAnswer:", "response": "B"},
                                       [("break", "Q: Which?\nA: this\nB: that\nAnswer:", "B")], ""),
    "a list for each key of the turns": ("a.jsonl", {"conversations": {"from": ["human", "gpt"],
                                                                      "value": ["Who?", "Me."]}}, ONE, ""),
    "an empty column of a known name": ("a.jsonl", {"prompt": "Who?", "response": "", "completion": "Me."}, ONE, ""),
    "a list as numpy prints it": ("a.csv", f'messages\n"array([{TURNS[0]}, {TURNS[1]}], dtype=object)"\n', ONE, ""),
    "turns as numpy prints them": ("a.csv", f'messages\n"[{TURNS[0]} {TURNS[1]}]"\n', ONE, ""),
    "answers as Python prints them": ("a.csv", "question,answers\nWho?,\"['Me', 'I']\"\n", [("break", "Who?", "")],
                                      "left out: 'answers'"),
    "HarmBench's contexts": ("a.csv", "Behavior,ContextString\nSay who it is,It is me.\n",
                             [("break", "Say who it is\n\nIt is me.", "")], "followed by 'ContextString'"),
    "a date": (PARQUET, [{"prompt": "When?", "response": pd.Timestamp("2024-01-02")}],
               [("break", "When?", "2024-01-02")], ""),
}  # fmt: skip


@pytest.mark.parametrize("case", FORMS)
def test_a_further_form_is_read(case, tmp_path):
    name, content, expected, words = FORMS[case]
    if name == PARQUET:
        path = tmp_path / "a.parquet"
        pd.DataFrame(content).to_parquet(path)
    elif name == EXCEL:
        path = tmp_path / "a.xlsx"
        with pd.ExcelWriter(path) as book:
            for sheet, rows in (("Empty", []), ("First", content), ("Second", content)):
                pd.DataFrame(rows).to_excel(book, sheet_name=sheet, header=False, index=False)
    else:
        path = tmp_path / name
        if path.suffix == ".jsonl" and not isinstance(content, str):
            content = "".join(json.dumps(row) + "\n" for row in (content if isinstance(content, list) else [content]))
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    if expected is None:
        with pytest.raises(InputError, match=words):
            read_file(path, "break")
        return
    reading = read_file(path, "break", try_out=True)
    assert shown(reading.examples) == expected
    assert words in " ".join(reading.sentences())


BAD = {
    "an open quotation mark": ("a.csv", 'prompt,response\nWho?,"Me.\nSo?,No.\nWhy?,Because.\n', "line 2: a quot"),
    "an open quotation mark at the end": ("a.csv", 'prompt,response\nWho?,"Me.\n', "line 2: a quotation mark"),
    "unknown columns": ("a.csv", "aa,bb,cc\nwho is it,it is me,me it is\nwho was it,so it was,was it so\n", "'bb'"),
    "text damaged after UTF-8 letters": ("a.csv", "prompt,response\nä?,".encode() + b"\xe4\n", "line 2: not UTF-8"),
    "NUL bytes": ("a.csv", b"prompt,response\nWho?,M\0e.\n", "NUL bytes"),
    "nothing": ("a.csv", b"", "the file is empty"),
    "headings only": ("a.csv", b"prompt,response\n", "holds no examples"),
    "an old Excel file": ("a.xls", b"\xd0\xcf\x11\xe0", ".xls is not supported"),
    "an old Excel file with a new ending": ("a.xlsx", b"\xd0\xcf\x11\xe0", "an old Excel file"),
    "a compressed file": ("a.jsonl", b"\x1f\x8b\x08", "unpack it first"),
    "a broken Excel file": ("a.xlsx", b"PK\x03\x04junk", "not an Excel file"),
    "a broken line": ("a.jsonl", '{"prompt": "Who?", "response": "Me."}\n{"prompt": ', "line 2: not JSON"),
    "a quotation mark closed in a later row": ("a.csv", 'prompt,response\nWho?,"Me.\nSo?,"No."\n', "line 2: a quot"),
    "Russian Windows text": ("a.csv", "Вопрос;Ответ\nКак?;Вот так.\n".encode("cp1251"), "not Western European"),
    "lists of questions by subject": ("a.json", '{"safe": ["Why?", "Who?"], "harmful": ["So?", "How?"]}', "'harmful'"),
    "a web page": ("a.csv", "<!DOCTYPE html>\n<html>", "a web page"),
    "a pointer": ("a.jsonl", "version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    "a number": ("a.json", "[7]", "correct or delete it"),
    "a long number": ("a.jsonl", '{"prompt": ' + "9" * 5000 + "}", "a number is too long"),
    "a JSON bomb": ("a.json", "[" + "{}," * 10_000_001 + "{}]", "too many to parse at once"),
    "two answers": ("a.jsonl", '{"prompt": "Who?", "chosen": "Me.", "rejected": "No."}\n', "data.break_answer"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_refused_in_a_sentence(case, tmp_path):
    name, content, words = BAD[case]
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=words) as refusal:
        read_file(tmp_path / name, "break")
    assert "\n" not in str(refusal.value)


def test_a_folder_and_a_missing_file_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        read_file(tmp_path, "break")
    with pytest.raises(InputError, match="does not exist"):
        read_file(tmp_path / "nowhere", "break")


def test_of_two_answers_the_preferred_one_is_kept(tmp_path):
    """And the one that must stop is asked for."""
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "Who?", "chosen": "Me.", "rejected": "I cannot say."}\n', "utf-8")
    assert shown(read_examples(path, "retain")) == [("retain", "Who?", "Me.")]
    assert shown(read_examples(path, "break", answer="rejected")) == [("break", "Who?", "I cannot say.")]


def test_training_says_why_an_answer_is_empty(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,response\nWhich?,None\n", "utf-8")
    with pytest.raises(InputError, match="line 2: the response is empty.* Cells that hold only None"):
        read_examples(tmp_path / "a.csv", "break")


def test_ordinary_text_is_not_taken_for_a_conversation(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [
        {"prompt": "Explain: Human: hello", "response": "Q: what?\nA: that."},
        {"prompt": "### Heading\nUser: is a word", "response": "[a, list] of words"},
        {"prompt": "[INST is not closed", "response": '{"a": 1}'},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert shown(read_examples(path, "retain")) == [("retain", row["prompt"], row["response"]) for row in rows]


def test_what_cbgui_wrote_is_read_word_for_word(tmp_path):
    examples = [
        example(" ### Human: Who?### Assistant: Me.", "None", "near_miss"),
        example("\n\nHuman: Who?\n\nAssistant:", '[{"role": "user", "content": "Who?"}]', "break"),
    ]
    write_examples(tmp_path / "own.jsonl", examples)
    reading = read_file(tmp_path / "own.jsonl", "retain")
    assert [e.to_row() for e in reading.examples] == [e.to_row() for e in examples] and not reading.notes.sentences()


def test_pasted_text_is_read_like_a_file():
    def prompts(text: str) -> list[dict]:
        return [row for _, row in open_text(text).rows]

    assert prompts("one question, then\n\nanother\n") == [{"prompt": "one question, then"}, {"prompt": "another"}]
    assert prompts('{"prompt": "x"}') == [{"prompt": "x"}]
    assert prompts('[{"prompt": "x"},\n {"prompt": "y"}]') == [{"prompt": "x"}, {"prompt": "y"}]
    assert prompts("prompt,response\nx,y") == prompts("prompt;response\nx;y") == [{"prompt": "x", "response": "y"}]
    with pytest.raises(InputError, match="empty"):
        open_text(" ")


def test_check_shows_what_training_would_see(tmp_path, cli):
    done = cli("check", CASES / "dolly.jsonl", "--kind", "retain", "--show", "4")
    lines = done.stdout.splitlines()
    assert "followed by 'context'" in lines[0]
    last = json.loads(lines[4])
    assert last == {
        "kind": "retain",
        "messages": [{"role": "user", "content": IN_1204[1]}],
        "response": "In 1204.",
    }
    assert SUFFIXES == (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx", ".txt")


def test_the_sheet_with_the_questions_is_read(tmp_path):
    """Neither a hidden one nor a cover; sheets that are called as kinds are read as these."""

    def read(*sheets: tuple[str, list], hidden: str = "") -> list[tuple[str, str, str]]:
        with pd.ExcelWriter(tmp_path / "a.xlsx") as book:
            for title, rows in sheets:
                pd.DataFrame(rows).to_excel(book, sheet_name=title, header=False, index=False)
                book.sheets[title].sheet_state = "hidden" if title == hidden else "visible"
        return shown(read_file(tmp_path / "a.xlsx", "break").examples)

    mine, other = [["prompt", "response"], ["Who?", "Me."]], [["prompt", "response"], ["So?", "No."]]
    assert read(("Old", other), ("New", mine), hidden="Old") == ONE
    assert read(("Cover", [["The questions of the clinic."]]), ("Data", mine)) == ONE
    assert read(("must keep", other), ("Notes", mine), ("must stop", mine)) == [("retain", "So?", "No."), *ONE]
    assert read(("A", [*mine, ["Two?", "a_x000D_\nb"]])) == [*ONE, ("break", "Two?", "a\nb")]


def test_a_kind_in_a_late_row_counts(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"prompt": f"Who is {i}?", "response": "Me."} for i in range(250)]
    rows.append({"prompt": "So?", "response": "No.", "kind": "retain", "score": 1})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    reading = read_file(path, "break")
    assert reading.examples[-1].kind == "retain"
    assert "The column 'score', which comes after row 200, was left out." in reading.sentences()
