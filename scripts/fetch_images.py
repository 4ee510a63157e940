"""Fetch the images of a dataset that brings URLs: `python scripts/fetch_images.py --dataset data/NAME`."""

from odmt.cli import run
from odmt.prepare.fetch import fetch_images

if __name__ == "__main__":
    run(fetch_images)
