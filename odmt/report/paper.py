"""The numbers that the paper reports, quoted, in CSV files beside this module; those of the datasets lie in `odmt.prepare`."""

from importlib.resources import files
from importlib.resources.abc import Traversable

import pandas as pd

TABLES = files("odmt.report") / "paper_tables"
DATASETS = files("odmt.prepare") / "table1.csv"


def quoted(target: str) -> pd.DataFrame:
    """The paper's numbers of a table: dataset, key of the row, metric, value.

    Table 1's rows are the datasets themselves; figures carry no numbers.
    """
    match target:
        case "table1":
            table = _read(DATASETS).melt("dataset", var_name="metric")
            return table.assign(key=table["dataset"])
        case "table2":
            return _read(TABLES / "table2_overall.csv").rename(columns={"model": "key"})
        case "table3":
            return (
                _read(TABLES / "table3_ablation.csv").rename(columns={"variant": "key"}).melt(["dataset", "key"], var_name="metric")
            )
        case "table4":
            table = _read(TABLES / "table4_distillation.csv")
            value = table.pop("value")
            table["key"] = (table.pop("swept") + ":" + value).where(value != "none", "none")
            return table.melt(["dataset", "key"], var_name="metric").drop_duplicates()
    raise ValueError(f"{target} has no numbers")


def _read(path: Traversable) -> pd.DataFrame:
    with path.open(encoding="utf-8") as file:
        return pd.read_csv(file)
