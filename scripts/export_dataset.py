"""Write a dataset for RecBole or MMRec: `python scripts/export_dataset.py --dataset data/NAME --to recbole --out DIR`."""

from odmt.cli import run
from odmt.prepare.export import export_dataset

if __name__ == "__main__":
    run(export_dataset)
