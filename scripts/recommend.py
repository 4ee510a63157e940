"""Show or write what a trained run recommends: `python scripts/recommend.py RUNS/DATASET/NAME --users all`; `--help` for more."""

from odmt.cli import run
from odmt.recommend_command import recommend

if __name__ == "__main__":
    run(recommend, positional=True)
