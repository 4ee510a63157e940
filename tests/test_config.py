"""The configuration: files and pairs, what is refused with which words, and the way back to YAML."""

import dataclasses
from pathlib import Path

import pytest

from odmt.config_files import config_help, flatten, load_config, save_config, valid_keys
from odmt.errors import InputError
from odmt.sequential.config import Config, DistillationConfig, ModelConfig
from odmt.sequential.models.parts import BACKBONES

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture
def write(tmp_path):
    """Write a YAML file; returns its path as an argument."""

    def write(text: str, name: str = "own.yaml") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def test_the_defaults_are_the_papers():
    config = load_config([])
    assert config == Config()
    assert (config.model.dim, config.train.lr, config.train.weight_decay, config.train.clip_norm) == (768, 1e-4, 0.1, 5.0)
    assert (config.train.batch_size, config.train.seed, config.model.dropout, config.train.patience) == (128, 1, 0.1, None)
    assert (config.data.max_seq_len, config.data.min_seq_len, config.data.popularity_power) == (12, 5, 1.0)
    assert (config.model.num_layers, config.model.backbone_layers, config.model.backbone_heads) == (2, 2, 2)


@pytest.mark.parametrize(
    ("dataset", "temperature", "ramp_up_epochs", "epochs"),
    [("arts", 0.3, 20, 30), ("office", 0.4, 40, 30), ("hm", 0.5, 60, 30), ("stream", 0.5, 50, 40)],
)
def test_the_datasets_settings_are_the_papers(dataset, temperature, ramp_up_epochs, epochs):
    config = load_config([str(CONFIGS / f"{dataset}.yaml")])
    assert config.distillation == DistillationConfig(temperature, ramp_up_epochs)
    assert (config.data.dataset, config.train.epochs, config.train.patience) == (dataset, epochs, None)


def test_warm_up_ends_before_the_run():
    with pytest.raises(InputError, match=r"train.warm_up_epochs: 5 is not from 0 to less than train.epochs, 5"):
        load_config(["train.epochs=5", "train.warm_up_epochs=5"])


def test_later_arguments_win(write):
    first = write("train:\n  lr: 0.1\n  epochs: 3\nname: one\n", "first.yaml")
    second = write("train:\n  lr: 0.2\n", "second.yaml")
    config = load_config([first, "train.epochs=4", second, "--name=two", "train.patience=5"])
    assert (config.train.lr, config.train.epochs, config.name, config.train.patience) == (0.2, 4, "two", 5)
    assert load_config([first, "train.patience=5", "train.patience=null"]).train.patience is None


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("train.lr=1e-3", 1e-3),
        ("train.lr=1", 1.0),
        ("model.sources=[text, image]", ["text", "image"]),
        ("distillation.constant_weight=0.02", 0.02),
        ("distillation.detach_teacher=true", True),
        ("model.id_init=text", "text"),
        ("data.root=/some/where=else", "/some/where=else"),
        ("name=007x", "007x"),
    ],
)
def test_values_have_the_type_of_their_key(pair, value):
    found = dict(flatten(load_config([pair])))[pair.partition("=")[0]]
    assert found == value
    assert type(found) is type(value)


def test_yaml_round_trip(tmp_path):
    config = load_config(["model.sources=[image,id]", "train.lr=1e-5", "train.patience=3", "model.id_visible_to_modalities=true"])
    config.name = "1: two # three"
    save_config(config, tmp_path / "config.yaml")
    assert load_config([str(tmp_path / "config.yaml")]) == config
    save_config(Config(), tmp_path / "defaults.yaml")
    assert load_config([str(tmp_path / "defaults.yaml")]) == Config()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model.dmi=3"], ["model.dmi=3: unknown key 'model.dmi'", "did you mean model.dim?", "model.num_layers"]),
        (["lr=3"], ["unknown key 'lr'", "did you mean train.lr?"]),
        (["trian.lr=3"], ["unknown key 'trian.lr'", "did you mean train.lr?"]),
        (["model=3"], ["unknown key 'model'", "model.dim"]),
        (["zzz=3"], ["unknown key 'zzz'", *valid_keys()]),
        (["train.lr.deep=3"], ["unknown key 'train.lr.deep'", "train.lr"]),
    ],
)
def test_an_unknown_key_names_the_valid_ones(arguments, words):
    with pytest.raises(InputError) as error:
        load_config(arguments)
    assert all(word in str(error.value) for word in words)


def test_an_unknown_key_in_a_file_names_the_file(write):
    path = write("train:\n  learning_rate: 3\n")
    with pytest.raises(InputError, match=r"own.yaml: unknown key 'train.learning_rate'.* Valid keys: train.epochs, "):
        load_config([path])


def test_the_value_of_a_text_is_taken_as_it_is():
    assert load_config(["name=1"]).name == "1"


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("model.dim=wide", ["model.dim", "wide"]),
        ("model.dim=1.5", ["model.dim", "Expected a int. Got value: 1.5"]),
        ("train.lr=fast", ["train.lr", "fast"]),
        ("train.epochs=null", ["train.epochs=null: train.epochs must have a value"]),
        ("name=", ["name=: name must have a value"]),
        ("model.sources=id", ["model.sources", "id"]),
        ("model.sources=[id,audio]", ["model.sources", "audio"]),
        ("model.backbone=lstm", ["model.backbone", f"Expected one of {list(BACKBONES)}. Got value: lstm"]),
        ("distillation.detach_teacher=perhaps", ["distillation.detach_teacher", "perhaps"]),
        ("train.patience=x", ['train.patience": Expected one of int, null. Got value: x']),
        ("model.id_init=foo", ["model.id_init", "'mean'", "null. Got value: foo"]),
        ("train.precision=fp8", ["train.precision", "fp8", "bf16"]),
    ],
)
def test_a_value_of_the_wrong_type(pair, words):
    with pytest.raises(InputError) as error:
        load_config([pair])
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "pair",
    [
        "data.max_seq_len=1",
        "data.min_seq_len=2",
        "model.dim=0",
        "model.num_layers=0",
        "model.backbone_layers=0",
        "model.dropout=1",
        "model.dropout=-0.1",
        "distillation.temperature=0",
        "distillation.ramp_up_epochs=0",
        "distillation.constant_weight=-1",
        "train.epochs=0",
        "train.batch_size=0",
        "train.lr=0",
        "train.lr=-1",
        "train.clip_norm=0",
        "train.weight_decay=-1",
        "train.seed=-1",
        "train.patience=0",
    ],
)
def test_a_value_out_of_range(pair):
    with pytest.raises(InputError, match=f"config key {pair.partition('=')[0]}: "):
        load_config([pair])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("train: [1\n", "own.yaml: not valid YAML: line 2: expected ',' or ']'"),
        ("train: {lr: 1}\ntrain: {lr: 2}\n", "own.yaml: not valid YAML: line 2: the key train stands twice"),
        ("train: {seed: " + "9" * 5000 + "}\n", "own.yaml: not valid YAML: a number of thousands of digits"),
        ("- train\n", "own.yaml: expected lines of `key: value`, found list"),
        ("train\n", "own.yaml: expected lines of `key: value`, found str"),
        ("train: 3\n", "own.yaml: unknown key 'train'"),
    ],
)
def test_files_that_are_no_configuration(write, content, words):
    with pytest.raises(InputError) as error:
        load_config([write(content)])
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_arguments_that_are_none(write):
    with pytest.raises(InputError, match=r"none.yaml: no such configuration file"):
        load_config(["none.yaml"])
    with pytest.raises(InputError, match=r"argument '--resum' is neither a .yaml file nor KEY=VALUE"):
        load_config(["--resum"])
    assert load_config([write("")]) == Config()


def test_the_help_lists_every_key_with_its_default():
    text = " ".join(config_help().split())
    for flag in ("--help", "--resume", "--overwrite", "--processes"):
        text = text.replace(flag, "")
    assert "--" not in text, "keys have no dashes"
    starts = {text.index(f" {key} "): (key, value) for key, value in flatten(Config())}
    assert len(starts) == len(valid_keys())
    order = sorted(starts)
    for start, end in zip(order, [*order[1:], len(text)]):
        key, value = starts[start]
        assert f"default: {'null' if value is None else value})" in text[start:end], key


def test_the_run_folder():
    assert load_config(["runs=out", "data.dataset=arts", "name=mine"]).folder == Path("out/arts/mine")
    assert load_config(["data.root=there", "data.dataset=arts"]).data.folder == Path("there/arts")


def test_flatten_has_every_field():
    leaves = sum(
        len(dataclasses.fields(field.default_factory)) if dataclasses.is_dataclass(field.default_factory) else 1
        for field in dataclasses.fields(Config)
    )
    assert len(valid_keys()) == leaves == len(set(valid_keys()))


@pytest.mark.parametrize(
    ("settings", "noisy"),
    [
        ({}, True),
        ({"dropout": 0.0}, False),
        ({"item_encoder": "transformer"}, True),
        ({"item_encoder": "dnn"}, False),
        ({"item_encoder": "moe", "dropout": 0.0}, True),  # its gate is noisy
        ({"item_encoder": "moe", "sources": ["id"]}, False),
        ({"item_encoder": "dnn", "fusion": "sum", "id_dropout": 0.5}, True),
    ],
)
def test_noisy_items(settings, noisy):
    """Repeats of an item may share a vector only where encoding them again would give the same one."""
    assert ModelConfig(**settings).noisy_items == noisy
