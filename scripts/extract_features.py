"""Compute a dataset's image and text features: `python scripts/extract_features.py --dataset data/NAME [--processes N]`."""

import sys

from jsonargparse.typing import PositiveInt

from odmt.cli import run
from odmt.features.extraction import extract_features
from odmt.local_processes import has_to_start, run_in_processes


def extract(processes: PositiveInt = 1, **options):
    """Compute the image and text features of a dataset's items and store them in DATASET/features.

    Only what is missing is computed: an extraction that was interrupted continues, and items that were added, or whose image or
    text changed, are brought up to date.

    Args:
        processes: of this machine that share the items, each on a GPU of its own as long as there are enough.
        **options: of `extract_features`.
    """
    if has_to_start(processes):
        sys.exit(run_in_processes(processes, sys.argv, "start the same command again, it continues"))
    extract_features(**options)


if __name__ == "__main__":
    run(extract)
