"""Configurations from YAML files and `key=value` pairs, and back.

A YAML file holds only what differs from the defaults; files and pairs are applied from left to right, so that
`configs/arts.yaml configs/models/sasrec.yaml train.lr=1e-3` is SASRec on Arts with another step size.
"""

import dataclasses
import difflib
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import xxhash
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from odmt.config import MAX_NAME_BYTES, RunConfig, require
from odmt.errors import InputError
from odmt.families import DEFAULT, config_class, family_names
from odmt.files import read_text, reading, write_text

MAX_INT, MAX_LIST = 2**31 - 1, 1000
LIMITS = {("dim", "width"): 2**16, ("layers", "heads"): 2**10, ("seq_len",): 2**20}  # the largest number by the end of a key


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML in which no key stands twice: the first would be forgotten without a word."""

    def construct_mapping(self, node, deep=False):
        """Make a dict, as SafeLoader does."""
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} stands twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


@functools.cache
def config_parser(family: str = DEFAULT) -> ArgumentParser:
    """The parser whose help lists every key of a family with its type and default."""
    parser = ArgumentParser(
        prog="python -m odmt.train",
        usage="python -m odmt.train [CONFIG.yaml ...] [KEY=VALUE ...] [--resume | --overwrite] [--processes N]",
        description="Train a model and evaluate it. Every key below can stand in a YAML file or be given as KEY=VALUE, the later "
        "ones winning. --resume goes on with a run of this configuration after its last epoch, or starts it; --overwrite replaces "
        "what is there; --processes trains in N processes of this machine, each on a GPU of its own where there are GPUs. "
        f"These are the keys of family={family}; there is also "
        f"{', '.join(f'family={name} --help' for name in family_names() if name != family) or 'no other'}.",
        exit_on_error=False,
    )
    parser.add_class_arguments(config_class(family), fail_untyped=True)
    return parser


def config_help(args: Sequence[str] = ()) -> str:
    """The help of the family that the arguments name, its keys written as they are given: without dashes."""
    family = _family(_read(args))
    text = re.sub(r"^  --\w+ CONFIG +Path to a configuration file\.\n", "", config_parser(family).format_help(), flags=re.MULTILINE)
    text = re.sub(r", --[\w.]+\+ \S+", "", text)  # a way to add to lists that `load_config` does not have
    return re.sub(r"^  --", "    ", text, flags=re.MULTILINE)


def load_config(args: Sequence[str], anywhere: bool = False) -> RunConfig:
    """Build the configuration from YAML files and `key=value` pairs, the later ones winning.

    The family's name, wherever it stands, decides which keys there are; without one it is `sequential`.

    Args:
        args: files and pairs.
        anywhere: take a run's own file as it is, wherever its folder has been brought: to read the run, not to go on with it.

    Raises:
        InputError: a file that is missing or no YAML mapping, an unknown key (with the valid ones), a value of the wrong type or
            a combination that does not fit.
    """
    contents = _read(args)
    family = _family(contents)
    tree = config_class(family)
    merged: dict = {}
    for arg, content in contents:
        if content is not None:
            pairs = _pairs(Path(arg), content, anywhere)
        elif "=" in arg:
            pairs = [parse_override(arg, family)]
        else:
            raise InputError(f"argument {arg!r} is neither a .yaml file nor KEY=VALUE; --help lists the keys")
        for key, value in pairs:
            check_key(key, arg, family)
            _check_null(key, value, arg, family)
            _check_size(key, value)
            _set(merged, key.split("."), value)
    parser = config_parser(family)
    try:
        config = tree(**vars(parser.instantiate(parser.parse_object(merged))))
    except ArgumentError as error:
        raise InputError(f"configuration: {_without_jargon(str(error))}") from error
    for key, value in flatten(config):
        _check_size(key, value)
    return config


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
    write_text(path, _as_yaml(config))


def is_saved(config: RunConfig, path: Path) -> bool:
    """Whether `save_config` wrote this very configuration there: to compare texts is a tenth of the work of reading them."""
    with reading(path):
        return path.is_file() and path.read_bytes() == _as_yaml(config).encode()


def _as_yaml(config: RunConfig) -> str:
    return yaml.safe_dump(_as_dict(config), sort_keys=False)


def _as_dict(config: RunConfig) -> dict[str, Any]:
    return dataclasses.asdict(config)  # type: ignore[call-overload]  # the base is none, every family's tree is a dataclass


def flatten(config: RunConfig) -> Iterator[tuple[str, Any]]:
    """Every key in dotted form with its value."""
    return _flatten(_as_dict(config))


def valid_keys(family: str = DEFAULT) -> list[str]:
    """All keys of a family in dotted form."""
    return list(_defaults(family))


def type_of(key: str, family: str = DEFAULT) -> Any:
    """The annotation of a key in dotted form."""
    section, _, field = key.rpartition(".")
    tree = type(getattr(config_class(family)(), section)) if section else config_class(family)
    return get_type_hints(tree)[field]


@functools.cache
def _defaults(family: str) -> dict[str, object]:
    return dict(flatten(config_class(family)()))


def _is_file(arg: str) -> bool:
    # A run's folder may be named after its values: RUNS/arts/odmt,dim=128/config.yaml is a file.
    key, equals, _ = arg.partition("=")
    return arg.endswith((".yaml", ".yml")) and (not equals or "/" in key)


def _read(args: Sequence[str]) -> list[tuple[str, dict | None]]:
    """The arguments, those that are files with what they hold."""
    return [(arg, read_yaml(Path(arg)) if _is_file(arg) else None) for arg in args]


def _family(contents: Sequence[tuple[str, dict | None]]) -> str:
    """The family that files and pairs name, the last one winning."""
    family = DEFAULT
    for arg, content in contents:
        if content is not None:
            family = content.get("family", family)
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


def name_with(name: str, values: Mapping[str, object]) -> str:
    """The name of a run with values that it differs by, `odmt,dim-128,lr-0.001`; cut, with a hash, where it would be too long."""
    full = ",".join([name, *(f"{key.rpartition('.')[2]}-{_in_name(value)}" for key, value in values.items())])
    if len(full.encode()) <= MAX_NAME_BYTES:
        return full
    return f"{full.encode()[:200].decode(errors='ignore')},{xxhash.xxh3_64_hexdigest(full.encode())}"


def in_yaml(value: object) -> str:
    """A value as `KEY=VALUE` has it."""
    return value if isinstance(value, str) else json.dumps(value)


def _in_name(value: object) -> str:
    if isinstance(value, list | tuple):
        return "+".join(map(_in_name, value))
    return f"{value:.12g}" if isinstance(value, float) else in_yaml(value).replace("/", "+")


def read_yaml(path: Path) -> dict:
    """Read a mapping from a YAML file.

    Raises:
        InputError: no such file, one that cannot be read, no YAML, or no mapping.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such configuration file; configs/ holds the project's own")
    content = _parse_yaml(read_text(path), str(path))
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected lines of `key: value`, found {type(content).__name__}")
    return content


def _pairs(path: Path, content: dict, anywhere: bool) -> list[tuple[str, object]]:
    """The keys of a file with their values; those that name the run are its folder's own, where a run's folder has been moved."""
    try:
        pairs = dict(_flatten(content))
    except RecursionError as error:
        raise InputError(f"{path}: an alias (*NAME) that holds itself") from error
    return list((pairs | ({} if anywhere else _moved(path, pairs))).items())


def _moved(path: Path, pairs: dict[str, object]) -> dict[str, object]:
    """Where a run's configuration lies, if that is not where it says: its folder was moved, copied or renamed.

    Raises:
        InputError: no RUNS/DATASET/NAME is made of where it lies.
    """
    if path.name != "config.yaml" or not (path.parent / "environment.json").is_file():
        return {}
    folder, dataset = path.parent.absolute(), pairs.get("data.dataset")
    noted = Path(str(pairs.get("runs")), str(dataset), str(pairs.get("name")))
    if noted.exists() and noted.samefile(folder):
        return {}
    if folder.parent.name != dataset:
        raise InputError(
            f"{path}: its run began in {noted} and the folder was moved or copied; a run of dataset {dataset} lies in "
            f"RUNS/{dataset}/NAME: move it to {folder.parent / str(dataset) / folder.name}"
        )
    return {"runs": str(path.parent.parent.parent), "name": folder.name}


def _parse_yaml(text: str, place: str):
    place = place if len(place) < 200 else f"{place[:60]}..."
    try:
        return yaml.load(text, UniqueKeyLoader)
    except RecursionError as error:
        raise InputError(f"{place}: nested deeper than any configuration") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise InputError(f"{place}: not valid YAML: {where}{error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # a ValueError of numbers and dates that Python does not take
        said = "a number of thousands of digits" if "digits" in str(error) else " ".join(str(error).split())
        raise InputError(f"{place}: not valid YAML: {said}") from error


def _check_size(key: str, value):
    """Refuse numbers and lists beyond reason, before anything of that size is made."""
    field = key.rpartition(".")[2]
    if isinstance(value, list):
        require(len(value) <= MAX_LIST, key, f"a list of {len(value)} values: {MAX_LIST} at most")
    most = next((most for endings, most in LIMITS.items() if field.endswith(endings)), MAX_INT)
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, int) and field != "seed":  # which has a range of its own
            require(abs(number) <= most, key, f"{number:.12g} is beyond reason: {most:,} at most")


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
    if value is not None:
        return
    if type(None) not in get_args(type_of(key, family)):
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
