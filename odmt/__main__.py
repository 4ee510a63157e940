"""`python -m odmt --version`, and where the commands are."""

import sys

from odmt import __version__

COMMANDS = """usage: python -m odmt [--version]

The commands:
  python -m odmt.train --help          train a model and evaluate it
  python scripts/NAME.py --help        prepare data, extract features, recommend, compare, reproduce a paper's tables: README.md
  python run_arts.py --help            train a grid
"""


def main(args: list[str]) -> int:
    """Print the version or the commands; returns the exit status."""
    if args == ["--version"]:
        print(f"odmt {__version__}")
        return 0
    print(COMMANDS, end="", file=sys.stdout if set(args) <= {"-h", "--help"} else sys.stderr)
    return 0 if set(args) <= {"-h", "--help"} else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
