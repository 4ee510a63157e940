"""Configurations from YAML files and `key=value` pairs, and back.

A YAML file holds only what differs from the defaults; files and pairs are applied from left to right, so that
`configs/arts.yaml configs/models/sasrec.yaml train.lr=1e-3` is SASRec on Arts with another step size.
"""

import dataclasses
import difflib
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from odmt.config import RunConfig
from odmt.errors import InputError
from odmt.families import DEFAULT, config_class, family_names
from odmt.files import write_text


@functools.cache
def config_parser(family: str = DEFAULT) -> ArgumentParser:
    """The parser whose help lists every key of a family with its type and default."""
    parser = ArgumentParser(
        prog="python -m odmt.train",
        usage="python -m odmt.train [CONFIG.yaml ...] [KEY=VALUE ...] [--resume | --overwrite]",
        description="Train a model and evaluate it. Every key below can stand in a YAML file or be given as KEY=VALUE, the later "
        "ones winning. --resume goes on with a run of this configuration after its last epoch, or starts it; --overwrite replaces "
        f"what is there. These are the keys of family={family}; there is also "
        f"{', '.join(f'family={name} --help' for name in family_names() if name != family) or 'no other'}.",
        exit_on_error=False,
    )
    parser.add_class_arguments(config_class(family), fail_untyped=True)
    return parser


def config_help(args: Sequence[str] = ()) -> str:
    """The help of the family that the arguments name, its keys written as they are given: without dashes."""
    family = _family(args)
    text = re.sub(r"^  --\w+ CONFIG +Path to a configuration file\.\n", "", config_parser(family).format_help(), flags=re.MULTILINE)
    text = re.sub(r", --[\w.]+\+ \S+", "", text)  # a way to add to lists that `load_config` does not have
    return re.sub(r"^  --", "    ", text, flags=re.MULTILINE)


def load_config(args: Sequence[str]) -> RunConfig:
    """Build the configuration from YAML files and `key=value` pairs, the later ones winning.

    The family's name, wherever it stands, decides which keys there are; without one it is `sequential`.

    Raises:
        InputError: a file that is missing or no YAML mapping, an unknown key (with the valid ones), a value of the wrong type or
            a combination that does not fit.
    """
    family = _family(args)
    tree = config_class(family)
    merged: dict = {}
    for arg in args:
        if _is_file(arg):
            pairs = _flatten(_read_yaml(Path(arg)))
        elif "=" in arg:
            pairs = [parse_override(arg, family)]
        else:
            raise InputError(f"argument {arg!r} is neither a .yaml file nor KEY=VALUE; --help lists the keys")
        for key, value in pairs:
            check_key(key, arg, family)
            _check_null(key, value, arg, family)
            _set(merged, key.split("."), value)
    parser = config_parser(family)
    try:
        return tree(**vars(parser.instantiate(parser.parse_object(merged))))
    except ArgumentError as error:
        raise InputError(f"configuration: {_without_jargon(str(error))}") from error


def parse_override(pair: str, family: str = DEFAULT) -> tuple[str, object]:
    """Split `key=value`: the text itself where the key holds text, else YAML or a number as Python writes it.

    (YAML takes 1e-3 for a word.)

    Raises:
        InputError: no `=`, no YAML, or a key that the family does not have (with the ones that it has).
    """
    key, equals, text = pair.removeprefix("--").partition("=")
    if not equals:
        raise InputError(f"{pair}: expected KEY=VALUE")
    check_key(key, pair, family)
    if text and isinstance(_defaults(family)[key], str):  # name=1 is the text 1, not the number
        return key, text
    value = _parse_yaml(text, pair)
    try:
        return key, float(value) if isinstance(value, str) else value
    except ValueError:
        return key, value


def save_config(config: RunConfig, path: Path):
    """Write every key with its value as YAML, whole or not at all; `load_config` of the file gives the same configuration."""
    write_text(path, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))


def flatten(config: RunConfig) -> Iterator[tuple[str, object]]:
    """Every key in dotted form with its value."""
    return _flatten(dataclasses.asdict(config))


def valid_keys(family: str = DEFAULT) -> list[str]:
    """All keys of a family in dotted form."""
    return list(_defaults(family))


@functools.cache
def _defaults(family: str) -> dict[str, object]:
    return dict(flatten(config_class(family)()))


def _is_file(arg: str) -> bool:
    # A run's folder may be named after its values: RUNS/arts/odmt,dim=128/config.yaml is a file.
    key, equals, _ = arg.partition("=")
    return arg.endswith((".yaml", ".yml")) and (not equals or "/" in key)


def _family(args: Sequence[str]) -> str:
    """The family that files and pairs name, the last one winning."""
    family = DEFAULT
    for arg in args:
        if _is_file(arg):
            family = _read_yaml(Path(arg)).get("family", family)
        elif arg.removeprefix("--").startswith("family="):
            family = arg.partition("=")[2]
    return family


def _without_jargon(message: str) -> str:
    """The parser's message in the words of the configuration: `one of ['id', 'text']` for `a typing.Literal['id', 'text']`."""
    message = message.replace("Parser key", "key").replace("NoneType", "null")
    if union := re.match(r"(.*?):\s+Does not validate.*?Subtypes: \[([^\n]*)\]\n.*Given value: (.*)$", message, re.DOTALL):
        message = f"{union[1]}: Expected one of {union[2]}. Got value: {union[3]}"
    message = re.sub(r"<class '(\w+)'>", r"\1", message).replace("a typing.Literal", "one of ").replace("typing.Literal", "")
    message = message.replace("Expected a list.", "Expected a list, such as [id, text].")
    return re.sub(r":\n\s+", ": ", message)


def _read_yaml(path: Path) -> dict:
    if not path.is_file():
        raise InputError(f"{path}: no such configuration file; configs/ holds the project's own")
    content = _parse_yaml(path.read_text(encoding="utf-8"), str(path)) or {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected lines of `key: value`, found {type(content).__name__}")
    return content


def _parse_yaml(text: str, place: str):
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{place}: not valid YAML: {error}") from error


def _flatten(tree: dict, prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _set(tree: dict, keys: list[str], value):
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
    tree[keys[-1]] = value


def _check_null(key: str, value, place: str, family: str):
    """Refuse null where there is none: the parser takes it for "not given"."""
    section, _, field = key.rpartition(".")
    tree = type(getattr(config_class(family)(), section)) if section else config_class(family)
    if value is None and type(None) not in get_args(get_type_hints(tree)[field]):
        raise InputError(f"{place}: {key} must have a value; leave it out for its default")


def check_key(key: str, place: str, family: str = DEFAULT):
    """Raise an `InputError` that names the valid keys, unless the key is one.

    Args:
        key: dotted.
        place: where it stands, for the message.
        family: whose key it is to be.
    """
    valid = valid_keys(family)
    if key in valid:
        return
    section = key.split(".")[0] + "."
    near = [k for k in valid if k.split(".")[-1] == key.split(".")[-1]] or difflib.get_close_matches(key, valid, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    if others := [name for name in family_names() if name != family and key in valid_keys(name)]:
        hint = f": it is one of family={others[0]}, and this run is of family={family}."
    listed = [k for k in valid if k.startswith(section)] or valid
    raise InputError(f"{place}: unknown key {key!r}{hint} Valid keys: {', '.join(listed)}")
