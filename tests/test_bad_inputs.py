"""Bad input of every kind: each is refused in one sentence that says what to do, before a model is loaded."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from cbgui import cli, space
from cbgui.config import PRESETS
from cbgui.data import files
from cbgui.data.columns import Mapping, to_example
from cbgui.data.dataset_store import DatasetStore
from cbgui.data.hub_datasets import hub_rows
from cbgui.data.library import Library
from cbgui.data.notes import Notes
from cbgui.errors import InputError
from cbgui.export.upload import check_repo
from cbgui.runs import folder

ROOT = Path(__file__).resolve().parents[1]
GOOD = '{"prompt": "How?", "response": "So."}\n'
PARQUET = b"PAR1 this is no parquet PAR1"


def _files(folder: Path) -> None:
    """Make one bad file, model or run of each kind, under the names that COMMANDS uses."""
    texts = {
        "good.jsonl": GOOD,
        "empty.jsonl": "",
        "broken.jsonl": GOOD + "{oops\n",
        "list.jsonl": "[1, 2]\n",
        "number.jsonl": "17\n",
        "no_response.jsonl": '{"prompt": "How?"}\n',
        "empty_response.jsonl": '{"prompt": "How?", "response": "  "}\n',
        "response_list.jsonl": '{"prompt": "How?", "response": [3]}\n',
        "no_assistant.jsonl": '{"messages": [{"role": "user", "content": "How?"}]}\n',
        "turns_text.jsonl": '{"messages": "How?"}\n',
        "bad_kind.jsonl": '{"prompt": "How?", "response": "So.", "kind": "evil"}\n',
        "deep.jsonl": "[" * 100_000 + "\n",
        "deep.json": "[" * 100_000,
        "words.csv": "just,some\n",
        "no_columns.jsonl": '{"a": 1}\n',
        "notes.doc": "hello",
        "list.yaml": "- 1\n- 2\n",
        "broken.yaml": "training: [1, 2\n",
        "aliases.yaml": "a: &a [x, x]\nb: &b [*a, *a]\ntraining: [*b, *b]\n",
        "deep.yaml": "[" * 100_000,
        "date.yaml": "training: 2001-13-45\n",
        "object.yaml": "!!python/object/apply:os.system ['true']\n",
        "wrong_type.yaml": "training: 7\n",
        "unknown.yaml": "trainings: {steps: 3}\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    (folder / "damaged.jsonl").write_bytes('{"prompt": "Où?", "response": "Là."}\n'.encode() + b"\xe0\n")
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    (folder / "bad.parquet").write_bytes(PARQUET)
    (folder / "zip.jsonl").write_bytes(b"PK\x03\x04" + bytes(range(256)))
    with (folder / "huge.csv").open("wb") as file:  # a sparse file
        file.truncate(10 * 10**9)
    with (folder / "huge.jsonl").open("wb") as file:
        file.truncate(10 * 10**9)
    (folder / "one_line.jsonl").write_bytes(b"{" + b"x" * (files.MAX_LINE + 5))
    (folder / "a_folder.jsonl").mkdir()
    _models(folder)
    run = folder / "no_adapter"
    run.mkdir()
    (run / "run.yaml").write_text("{}", "utf-8")
    (folder / "bad_run").mkdir()
    (folder / "bad_run" / "run.yaml").write_text("training: {steps: -1}", "utf-8")
    cut = folder / "cut_adapter"
    (cut / "adapter").mkdir(parents=True)
    (cut / "run.yaml").write_text("{}", "utf-8")
    (cut / "adapter" / "adapter_model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (cut / "adapter" / "adapter_config.json").write_text('{"r": 16, "lora_alpha": 16}', "utf-8")
    (folder / "yaml_run").mkdir()
    (folder / "yaml_run" / "run.yaml").write_text("training: [", "utf-8")


def _models(folder: Path) -> None:
    def model(name: str, config: str | dict, weights: bytes | None = b"\x02\0\0\0\0\0\0\0{}") -> Path:
        path = folder / name
        path.mkdir()
        (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config), "utf-8")
        if weights is not None:
            (path / "model.safetensors").write_bytes(weights)
        return path

    (folder / "m_empty").mkdir()
    (model("m_pickle", {"model_type": "llama"}, None) / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    model("m_code", {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}})
    model("m_unknown", {"model_type": "mine"})
    model("m_broken", "{oops")
    model("m_list", "[]")
    model("m_bert", {"model_type": "bert"})
    model("m_layers", {"model_type": "llama", "num_hidden_layers": 4000})
    model("m_words", {"model_type": "llama", "num_hidden_layers": "many"})
    model("m_sizes", {"model_type": "llama", "hidden_size": -1})
    model("m_endless", '{"model_type": "llama", "x": "' + "x" * 5_000_000 + '"}')
    model("m_cut", {"model_type": "llama"}, struct.pack("<Q", 10**6) + b"{")
    model("m_bomb", {"model_type": "llama"}, struct.pack("<Q", 2**62) + b"{}")
    climbing = model("m_climbs", {"model_type": "llama"}, None)
    (climbing / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../good.jsonl"}}', "utf-8")
    lacking = model("m_lacks", {"model_type": "llama"}, None)
    (lacking / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-9.safetensors"}}', "utf-8")
    no_index = model("m_index", {"model_type": "llama"}, None)
    (no_index / "model.safetensors.index.json").write_text("[1]", "utf-8")


def train(*arguments: str) -> list[str]:
    return ["train", "demo", "--output", "@out", *arguments]


def with_set(assignment: str) -> list[str]:
    return train("--set", assignment)


# Arguments ("@x" is a path in the test's folder) and what the sentence must contain.
COMMANDS: dict[str, tuple[list[str], str]] = {
    "preset unknown": (["train", "nothing", "--output", "@out"], "'nothing'"),
    "preset missing": (["train", "--output", "@out"], "PRESET_OR_YAML"),
    "preset is a list": (["train", "@list.yaml", "--output", "@out"], "mapping"),
    "preset is broken": (["train", "@broken.yaml", "--output", "@out"], "YAML"),
    "preset is binary": (["train", "@binary.yaml", "--output", "@out"], "YAML"),
    "preset with aliases": (["train", "@aliases.yaml", "--output", "@out"], "aliases such as *name"),
    "preset nested too deeply": (["train", "@deep.yaml", "--output", "@out"], "nested too deeply"),
    "preset with a date that does not exist": (["train", "@date.yaml", "--output", "@out"], "month"),
    "preset makes objects": (["train", "@object.yaml", "--output", "@out"], "YAML"),
    "preset of a wrong type": (["train", "@wrong_type.yaml", "--output", "@out"], "training"),
    "preset with an unknown key": (["train", "@unknown.yaml", "--output", "@out"], "trainings"),
    "output missing": (["train", "demo"], "--output"),
    "option unknown": (train("--no-such-option"), "--no-such-option"),
    "command unknown": (["fly"], "fly"),
    "steps negative": (with_set("training.steps=-1"), "training.steps"),
    "steps without bound": (with_set("training.steps=10000000000"), "less than or equal to 1000000"),
    "batch without bound": (with_set("training.retain_batch_size=99999"), "less than or equal to 4096"),
    "examples without bound": (with_set("data.max_tokens=99999999"), "less than or equal to 1048576"),
    "rank without bound": (with_set("lora.r=1000000"), "less than or equal to 4096"),
    "layers without bound": (with_set(f"objective.target_layers={[1] * 2000}"), "at most 1000 items"),
    "a setting of aliases": (with_set("objective.target_layers=[&a [1, 1], *a, *a]"), "not valid YAML"),
    "a setting of endless digits": (with_set("training.steps=" + "9" * 5000), "not valid YAML"),
    "steps a word": (with_set("training.steps=many"), "'many'"),
    "learning rate zero": (with_set("training.learning_rate=0"), "learning_rate"),
    "learning rate not a number": (with_set("training.learning_rate=.nan"), "learning_rate"),
    "batch zero": (with_set("training.break_batch_size=0"), "break_batch_size"),
    "schedule unknown": (with_set("objective.schedule=up"), "'up'"),
    "scheduler unknown": (with_set("training.lr_scheduler=up"), "'up'"),
    "rank zero": (with_set("lora.r=0"), "lora.r"),
    "dropout over one": (with_set("lora.lora_dropout=2"), "lora_dropout"),
    "quantization unknown": (with_set("model.quantization=int3"), "'int3'"),
    "dtype unknown": (with_set("model.dtype=float8"), "'float8'"),
    "max_tokens tiny": (with_set("data.max_tokens=2"), "max_tokens"),
    "layers empty": (with_set("objective.target_layers=[]"), "target_layers"),
    "layer zero": (with_set("objective.target_layers=[0]"), "target_layers"),
    "layer too high": (with_set("objective.target_layers=[99]"), "30 layers"),
    "set without =": (with_set("training.steps"), "'='"),
    "set of an unknown key": (with_set("training.stepz=3"), "training.stepz"),
    "set unreadable": (with_set("training.steps=[1"), "training.steps"),
    "break file missing": (train("--break", "@nowhere.jsonl"), "nowhere.jsonl"),
    "break file empty": (train("--break", "@empty.jsonl"), "empty.jsonl"),
    "break file broken": (train("--break", "@broken.jsonl"), "line 2"),
    "break file a list": (train("--break", "@list.jsonl"), "entry 1"),
    "break file a number": (train("--break", "@number.jsonl"), "line 1"),
    "break file a folder": (train("--break", "@a_folder.jsonl"), "a_folder.jsonl"),
    "break file without response": (train("--break", "@no_response.jsonl"), "response is empty"),
    "break file with an empty response": (train("--break", "@empty_response.jsonl"), "empty"),
    "break file with a list as response": (train("--break", "@response_list.jsonl"), "answer is a list"),
    "break file without assistant": (train("--break", "@no_assistant.jsonl"), "response is empty"),
    "break file with turns as text": (train("--break", "@turns_text.jsonl"), "'messages'"),
    "break file of an unknown kind": (train("--break", "@bad_kind.jsonl"), "'evil'"),
    "break file nested too deeply": (train("--break", "@deep.jsonl"), "nested"),
    "break file damaged": (train("--break", "@damaged.jsonl"), "UTF-8"),
    "break file a zip": (train("--break", "@zip.jsonl"), "Excel"),
    "break file of 10 GB": (train("--break", "@huge.jsonl"), "10.0 GB"),
    "retain file missing": (train("--retain", "@nowhere.jsonl"), "nowhere.jsonl"),
    "held-out file missing": (train("--held-out", "@nowhere.jsonl"), "nowhere.jsonl"),
    "model folder empty": (train("--model", "@m_empty"), "config.json"),
    "model with pickles only": (train("--model", "@m_pickle"), "safetensors"),
    "model with code of its own": (train("--model", "@m_code"), "trust_remote_code"),
    "model of an unknown type": (train("--model", "@m_unknown"), "transformers"),
    "model with a broken config": (train("--model", "@m_broken"), "config.json"),
    "model with a list as config": (train("--model", "@m_list"), "config.json"),
    "model that is not a decoder": (train("--model", "@m_bert"), "decoder"),
    "model of 4,000 layers": (train("--model", "@m_layers"), "num_hidden_layers = 4000"),
    "model of text as layers": (train("--model", "@m_words"), "choose another model"),
    "model of impossible sizes": (train("--model", "@m_sizes"), "choose another model"),
    "model with an endless config": (train("--model", "@m_endless"), "config.json"),
    "model cut off": (train("--model", "@m_cut"), "cut off"),
    "model with an enormous header": (train("--model", "@m_bomb"), "cut off"),
    "model whose index leaves the folder": (train("--model", "@m_climbs"), "damaged"),
    "model whose index names a missing file": (train("--model", "@m_lacks"), "model-9"),
    "model with a broken index": (train("--model", "@m_index"), "index"),
    "model path that does not exist": (train("--model", "./nowhere"), "./nowhere"),
    "model path that leaves the folder": (train("--model", "../../../etc"), "../../../etc"),
    "model name with spaces": (train("--model", "no such model"), "no such model"),
    "resume of nothing": (["train", "--resume", "--output", "@nowhere"], "run.yaml"),
    "run of bad settings": (["generate", "@bad_run", "--prompt", "x"], "training.steps"),
    "run of broken settings": (["generate", "@yaml_run", "--prompt", "x"], "run.yaml"),
    "run without adapter": (["generate", "@no_adapter", "--prompt", "x"], "adapter"),
    "run that is a file": (["evaluate", "@good.jsonl"], "run.yaml"),
    "evaluate without adapter": (["evaluate", "@no_adapter"], "adapter"),
    "limit zero": (["evaluate", "@no_adapter", "--limit", "0"], "--limit"),
    "export without adapter": (["export", "@no_adapter", "--output", "@out"], "adapter"),
    "upload without merge": (["upload", "@no_adapter", "--repo", "a/b"], "not merged"),
    "prompt not in UTF-8": (["generate", "@no_adapter", "--prompt", "caf\udce9"], "UTF-8"),
    "settings nested too deeply": (with_set("model.name=" + "[" * 100_000), "nested too deeply"),
    "micro-batch of nothing": (with_set("training.micro_batch_size=0"), "training.micro_batch_size = 0 is not"),
    "training a number": (with_set("training=7"), "training = 7 is not accepted: it should hold settings"),
    "run.yaml with a mistake": (["generate", "@yaml_run", "--prompt", "x"], "run.yaml: line 2, column"),
    "run with a cut adapter": (["evaluate", "@cut_adapter"], "its adapter is damaged or cut off"),
    "output with a name of 300 letters": (["train", "demo", "--output", "@" + "a" * 300], "File name too long"),
    "output with a name of Windows": (["train", "demo", "--output", "@con"], "such as CON"),
    "output among the special folders": (["train", "demo", "--output", "@_trash"], "begin with '_'"),
    "negative seed": (train("--set", "training.seed=-1"), "training.seed"),
    "enormous seed": (train("--set", "training.seed=99999999999"), "training.seed"),
    "infinite learning rate": (train("--set", "training.learning_rate=.inf"), "training.learning_rate"),
    "run in the current folder": (["train", "demo", "--output", ""], "--output"),
    "estimate with nothing": (["estimate", "demo", "--memory", "0GB"], "'0GB'"),
    "estimate of no memory": (["estimate", "demo", "--memory", "six"], "'six'"),
    "estimate for no device": (["estimate", "demo", "--device", "tpu"], "'tpu'"),
    "bench of no model": (["bench", "@m_empty"], "config.json"),
    "check of nothing": (["check", "@nowhere.jsonl"], "nowhere.jsonl"),
    "check of an unknown ending": (["check", "@notes.doc"], ".doc"),
    "check of an unknown kind": (["check", "@good.jsonl", "--kind", "evil"], "'evil'"),
    "check of a bad Parquet": (["check", "@bad.parquet"], "Parquet"),
    "check of 10 GB": (["check", "@huge.csv"], "10.0 GB"),
    "check of an overlong line": (["check", "@one_line.jsonl"], "characters"),
    "check of JSON nested too deeply": (["check", "@deep.json"], "nested"),
    "check of a file without questions": (["check", "@no_columns.jsonl"], "question"),
}  # fmt: skip


@pytest.fixture(scope="module")
def bad(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    _files(folder)
    return folder


def is_a_sentence(text: str) -> bool:
    """Whether the text is one line that ends like a sentence and shows no traceback or Python class."""
    text = text.strip()
    strange = r"Traceback|Error\(|<class|constrained|Unexpected error|trainingconfig"  # Python's and pydantic's names
    return "\n" not in text and text.endswith((".", "?")) and not re.search(strange, text)


@pytest.mark.parametrize("case", COMMANDS)
def test_the_command_line_refuses_bad_arguments_in_a_sentence(case, bad, tmp_path, monkeypatch, capsys):
    arguments, words = COMMANDS[case]
    arguments = [str((tmp_path if a == "@out" else bad) / a[1:]) if a.startswith("@") else a for a in arguments]
    monkeypatch.setattr(sys, "argv", ["cbgui", *arguments])
    before = sorted(bad.rglob("*"))
    assert cli.main() == 2
    said = capsys.readouterr().err
    assert is_a_sentence(said), said
    assert words in said, said
    assert not (tmp_path / "out").exists() and sorted(bad.rglob("*")) == before


LAUNCHES = {
    "a host without a password": (["--host", "0.0.0.0"], "--auth"),
    "share without a password": (["--share"], "--auth"),
    "a password without a name": (["--auth", ":secret"], "name:password"),
    "a name without a password": (["--auth", "me"], "name:password"),
    "a port that is too high": (["--port", "99999"], "99999"),
    "a runs folder that cannot be made": (["--runs", "/dev/null/runs"], "/dev/null/runs"),
}


@pytest.mark.parametrize("case", LAUNCHES)
def test_the_app_refuses_to_start(case):
    arguments, words = LAUNCHES[case]
    environment = {key: value for key, value in os.environ.items() if key != "SPACE_ID"}
    command = [sys.executable, "app.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 2 and words in done.stderr and is_a_sentence(done.stderr), done.stderr
    assert "secret" not in done.stderr


def test_a_busy_port_is_told_before_the_app_is_loaded(capsys):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert cli.main(["app", "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert is_a_sentence(said) and f"--port {port} is in use" in said and "GRADIO" not in said
    assert cli.main(["app", "--host", "192.0.2.1", "--open-to-network"]) == 2
    assert "--host '192.0.2.1' is not an address of this machine" in capsys.readouterr().err


NAMES = [
    "../../etc", "/etc/passwd", "..", "a/b", "a\\b", "C:\\x", "<script>alert(1)</script>", "x\0y", "new\nline",
    "\x1b[31m", "-rf", "con:", "~", "$(id)", "名前", "é" * 200, "Ä\u2028b", "‮gnp", "." * 300, "a" * 300,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_become_harmless_or_are_refused(name, tmp_path, monkeypatch):
    """A run or data set of that name stays inside its folder."""
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path / "runs"))
    free = folder.free_name(name)
    assert re.fullmatch(r"\w[\w -]*", free) and len(free.encode()) <= 100 and free.strip() == free
    library = Library(tmp_path / "data")
    library.folder.mkdir()
    try:
        data = library.create(name)
    except InputError as error:
        assert is_a_sentence(str(error).replace("\n", " ")) and "topic" in str(error)
    else:
        assert data.folder.parent == library.folder and re.fullmatch(r"\w[\w -]*", data.name)
    if name not in library.names():
        with pytest.raises(InputError):
            library.open(name)
    if name != "a/b":  # a valid hub id
        with pytest.raises(InputError):
            check_repo(name)


def test_a_bad_import_leaves_the_data_as_it_was(bad, tmp_path):
    data = DatasetStore.make(tmp_path / "set")
    row = {"prompt": "How?", "response": "So."}
    data.add([to_example(row, Mapping("prompt", "response"), "break", "typed", Notes())], "type")
    before = data.version()
    for name in ("broken.jsonl", "damaged.jsonl", "bad.parquet", "huge.csv"):
        with pytest.raises(InputError):
            list(files.read_rows(bad / name))
    assert data.version() == before


@pytest.mark.parametrize("name", ["owner", "owner/", "/name", "a b/c", "owner/name/more", "../../x", ""])
def test_dataset_names_are_checked_before_the_hub_is_asked(name):
    with pytest.raises(InputError, match="owner/name") as refusal:
        next(iter(hub_rows(name)))
    assert is_a_sentence(str(refusal.value))


def test_a_space_refuses_folders_and_enforces_its_limits(bad, tmp_path, monkeypatch):
    from cbgui.modeling.hub import resolve_model

    monkeypatch.setenv("SPACE_ID", "owner/space")
    with pytest.raises(InputError, match="folders cannot be used"):
        resolve_model(str(bad / "m_bert"))
    with pytest.raises(InputError, match="folders cannot be used"):
        Library(tmp_path).load(bad, "mine")
    with pytest.raises(InputError, match="rows = 60,000"):
        space.refuse_over("rows", 60_000, space.MAX_ROWS)
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "0")  # so that monkeypatch restores it
    space.forget_owner_token()
    assert "HF_TOKEN" not in os.environ and os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] == "1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["train", "demo", "--output", "{tmp}/run", "--break", "{tmp}", "--retain", "x"],
            "is a folder; give the data file",
        ),
        (
            ["train", "demo", "--output", "{tmp}/run", "--model", "{tmp}/plain"],
            "is a file; give the folder of the model",
        ),
        (["suggest", "{break}", "--output", "{tmp}/plain/keep.jsonl"], "keep.jsonl' cannot be written"),
        (["evaluate", "{run}", "--judge-label", "unsafe"], "--judge-label 'unsafe' needs a classifier"),
        (["generate", "{run}", "--prompt", " "], "--prompt is empty"),
        (["export", "{run}", "--output", "{tmp}/plain/merged"], "merged' cannot be written"),
    ],
)
def test_what_exists_or_cannot_be_written_is_told_before_the_work(arguments, words, trained, tmp_path, cli):
    (tmp_path / "plain").write_text("")
    places = {"tmp": tmp_path, "run": trained.path, "break": PRESETS / "demo" / "break.jsonl"}
    done = cli(*(argument.format(**places) for argument in arguments))
    assert done.returncode == 2 and words in done.stderr, done.stderr
