"""Show what a dataset's feature stores hold, with a contact sheet: `python scripts/inspect_features.py --dataset data/NAME`."""

from odmt.cli import run
from odmt.features.inspection import inspect_features

if __name__ == "__main__":
    run(inspect_features)
