"""Reproduce a table or figure of the paper: `python scripts/reproduce.py table2 --datasets arts`; `--help` lists them."""

from odmt.report.reproduce import main

if __name__ == "__main__":
    main()
