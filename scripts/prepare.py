"""Turn raw files into a dataset: `python scripts/prepare.py csv --help`."""

from odmt.cli import run
from odmt.prepare.csv_tables import csv

if __name__ == "__main__":
    run({"csv": csv})
