"""Compare finished runs: `python scripts/compare.py RUNS/DATASET/ONE RUNS/DATASET/OTHER --page page.html`; `--help` for more."""

from odmt.cli import run
from odmt.compare_page import compare

if __name__ == "__main__":
    run(compare, positional=True)
