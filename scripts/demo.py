"""Train ODMT, or another family's model, on generated data and show its test metrics: `python scripts/demo.py`, or `make demo`."""

from odmt.cli import run
from odmt.demo.run import demo

if __name__ == "__main__":
    run(demo)
