import pytest
from cli_process import ROOT

from cbgui.config import RunConfig, load_config, override, parse_config, preset_names, settings
from cbgui.errors import InputError


def test_yaml_round_trip(tmp_path):
    config = load_config("demo")
    path = tmp_path / "run.yaml"
    path.write_text(config.to_yaml(), "utf-8")
    assert load_config(str(path)) == config


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads(name):
    assert isinstance(load_config(name), RunConfig)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"trainning": {}}, "'trainning'"),
        ({"training": {"step": 3}}, "'training.step'"),
        ({"training": {"steps": 0}}, "training.steps = 0"),
        ({"objective": {"retain": "l1"}}, "objective.retain = 'l1'"),
        ([1, 2], "expected a mapping"),
    ],
)
def test_a_mistake_is_one_sentence_naming_the_field(values, words):
    with pytest.raises(InputError) as error:
        parse_config(values)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_override():
    config = override(load_config("demo"), ["training.steps=7", "objective.target_layers=[3, 0.5]"])
    assert config.training.steps == 7
    assert config.objective.target_layers == [3, 0.5]


def test_one_refusal_needs_no_brackets():
    config = override(load_config("demo"), ["objective.refusal=That stays a secret, sorry."])
    assert config.objective.refusal == ["That stays a secret, sorry."]


@pytest.mark.parametrize("assignment", ["training.steps", "training.stepz=3", "nothing.at.all=1", "training.steps=[1"])
def test_bad_overrides(assignment):
    with pytest.raises(InputError):
        override(load_config("demo"), [assignment])


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(InputError, match="demo"):
        load_config("no-such-preset")


def test_settings_of_earlier_versions_keep_their_meaning():
    old = {"objective": {"without_request": 0.25}, "training": {"probe_every": 5, "stop_when": {"probes": 2}}}
    config = parse_config(old)
    assert config.objective.without_prompt == 0.25
    assert config.training.validate_every == 5 and config.training.stop_when.validations == 2


def test_every_setting_is_described_in_the_yaml_and_in_the_docs():
    text, page = (
        " ".join(RunConfig().to_yaml().replace("#", " ").split()),
        (ROOT / "docs" / "cli.md").read_text("utf-8"),
    )
    for setting in settings():
        assert setting.title and setting.description
        assert " ".join(setting.description.split()) in text
        assert f"| `{setting.path}` |" in page and setting.description in page, "run python dev/write_settings_table.py"
