"""The families of models: the one place that knows which there are. What a family has is imported when it is asked for.

A family is a package with `config.Config`, the tree of its settings, and `task.load`, which makes its `Task`.
"""

import importlib
from importlib.util import find_spec

from odmt.config import RunConfig
from odmt.distributed import World
from odmt.errors import InputError
from odmt.task import Task

DEFAULT = "sequential"
PACKAGES = {"sequential": "odmt.sequential", "graph": "odmt.graph"}


def family_names() -> list[str]:
    """The families that are installed."""
    return [name for name, package in PACKAGES.items() if find_spec(package) and find_spec(f"{package}.config")]


def config_class(family: str) -> type[RunConfig]:
    """The tree of a family's settings.

    Raises:
        InputError: there is no such family.
    """
    if family not in (names := family_names()):
        raise InputError(f"config key family: {family!r} is none of {', '.join(names)}")
    return importlib.import_module(f"{PACKAGES[family]}.config").Config


def load_task(config: RunConfig, world: World, build=None) -> Task:
    """Read the data of a run and build its model.

    Args:
        config: the run.
        world: the processes.
        build: makes the model instead of the family's own builder, which has the same arguments.
    """
    return importlib.import_module(f"{PACKAGES[config.family]}.task").load(config, world, build)
