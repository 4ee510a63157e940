"""Take ready features into a dataset: `python scripts/import_features.py --help`."""

from odmt.cli import run
from odmt.features.importing import import_features

if __name__ == "__main__":
    run(import_features)
