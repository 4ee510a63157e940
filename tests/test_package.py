"""What tools ask of a package."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import odmt
from odmt.cli import run
from odmt.features.inspection import inspect_features
from odmt.publishing import publish

ROOT = Path(__file__).parents[1]


def command(*args: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "odmt", *args], capture_output=True, text=True)


def test_the_version_is_one_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    newest = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1]
    assert newest.startswith(f"{version} (")
    said = command("--version")
    assert (said.returncode, said.stdout) == (0, f"odmt {odmt.__version__}\n")


def test_the_commands_are_named():
    assert "python -m odmt.train --help" in command("--help").stdout
    wrong = command("nonsense")
    assert wrong.returncode == 2
    assert "usage: python -m odmt" in wrong.stderr


def test_help_names_types_as_a_reader_does(capsys):
    for kind in (publish, inspect_features):
        with pytest.raises(SystemExit, match="0"):
            run(kind, ["--help"])
    said = capsys.readouterr().out
    assert "type: Path" in " ".join(said.split())
    assert "<class" not in said


def test_types_are_shipped():
    assert (Path(odmt.__file__).parent / "py.typed").is_file()
