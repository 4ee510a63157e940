"""Compute a dataset's image and text features: `python scripts/extract_features.py --dataset data/NAME`; several GPUs: torchrun."""

from odmt.cli import run
from odmt.features.extraction import extract_features

if __name__ == "__main__":
    run(extract_features)
