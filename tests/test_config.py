import pytest

from cbgui.config import RunConfig, load_config, override, parse_config, preset_names
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


@pytest.mark.parametrize("assignment", ["training.steps", "training.stepz=3", "nothing.at.all=1", "training.steps=[1"])
def test_bad_overrides(assignment):
    with pytest.raises(InputError):
        override(load_config("demo"), [assignment])


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(InputError, match="demo"):
        load_config("no-such-preset")
