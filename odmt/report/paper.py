"""The numbers that the paper reports, quoted; they lie as CSV files beside this module."""

from importlib.resources import files

import pandas as pd

TABLES = files("odmt.report") / "paper_tables"


def quoted(target: str) -> pd.DataFrame:
    """The paper's numbers of a table: dataset, key of the row, metric, value.

    Table 1's rows are the datasets themselves; figures carry no numbers.
    """
    match target:
        case "table1":
            table = _read("table1_datasets").melt("dataset", var_name="metric")
            return table.assign(key=table["dataset"])
        case "table2":
            return _read("table2_overall").rename(columns={"model": "key"})
        case "table3":
            return _read("table3_ablation").rename(columns={"variant": "key"}).melt(["dataset", "key"], var_name="metric")
        case "table4":
            table = _read("table4_distillation")
            value = table.pop("value")
            table["key"] = (table.pop("swept") + ":" + value).where(value != "none", "none")
            return table.melt(["dataset", "key"], var_name="metric").drop_duplicates()
    raise ValueError(f"{target} has no numbers")


def _read(name: str) -> pd.DataFrame:
    with (TABLES / f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)
