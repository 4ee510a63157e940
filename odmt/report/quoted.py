"""Numbers that papers report, quoted, in CSV files beside this module; those of the datasets lie in `odmt.prepare`."""

from importlib.resources import files
from importlib.resources.abc import Traversable

import pandas as pd

TABLES = files("odmt.report") / "paper_tables"
DATASETS = files("odmt.prepare") / "table1.csv"


def read(table: str | Traversable) -> pd.DataFrame:
    """A file of `paper_tables`, or one that lies elsewhere."""
    path = TABLES / table if isinstance(table, str) else table
    with path.open(encoding="utf-8") as file:
        return pd.read_csv(file)
