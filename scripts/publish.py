"""Write what the Hugging Face hub takes of a run: `python scripts/publish.py RUNS/DATASET/NAME --out FOLDER`."""

from odmt.cli import run
from odmt.publishing import publish

if __name__ == "__main__":
    run(publish, positional=True)
