"""The tables and figures of ODMT's paper (Ji et al., ACM MM 2023), and one of this project's own: rows and quoted numbers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from odmt.report.figures import LOSS, RECALL, bars, curves, lines, popularity
from odmt.report.measurements import Measurement
from odmt.report.quoted import DATASETS, read
from odmt.report.rows import RECALL_AND_NDCG, Report, Row, against, axis
from odmt.report.tables import curve_table, group_table, groups_as_text
from odmt.sequential.config import Config, DataConfig
from odmt.sequential.models.parts import BACKBONES, ITEM_ENCODERS
from odmt.sequential.task import load_interactions

SWEEP = (1, 2, 3, 4)  # Choice: the x of Figure 1 and the layers of Figure 7, which neither paper nor code names
TEMPERATURES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
RAMP_UPS = (10, 20, 30, 40, 50, 60)
BACKBONE_LABELS = {name: part.label for name, part in BACKBONES.items()}
METHODS = {"sasrec_ef": "+EF", "sasrec_lf": "+LF", "odmt": "ODMT"}
TEST_CURVE = "train.test_curve=true"
GRID = (axis("model.dim", 128, 256, 512, 768), axis("train.lr", 1e-3, 1e-4, 1e-5))
COUNTS = ("users", "items", "interactions", "avg_user_length", "density")

TABLE_2 = (
    Row("gru4rec", "GRU4Rec", "gru4rec"),
    Row("sasrec", "SASRec", "sasrec"),
    Row("nextitnet", "NextItNet", "nextitnet"),
    Row("fdsa", "FDSA", "fdsa"),
    Row("unisrec", "UniSRec", "unisrec"),
    Row("sasrec_ef", "SASRec+EF", "sasrec_ef"),
    Row("sasrec_lf", "SASRec+LF", "sasrec_lf"),
    Row("odmt", "ODMT", "odmt"),
)

TABLE_3 = (
    Row("text_initialization", "text initialization", "text_initialization"),
    Row("image_initialization", "image initialization", "image_initialization"),
    Row("no_initialization", "w/o initialization", "no_initialization"),
    Row("no_id_mask", "w/o ID mask", "no_id_mask"),
    Row("no_imt_two_layers", "w/o IMT (1)", "no_imt_two_layers"),
    Row("no_imt_one_layer", "w/o IMT (2)", "no_imt_one_layer"),
    Row("no_online_distillation", "w/o online distillation", "no_online_distillation"),
    Row("no_id", "w/o ID", "no_id"),
    Row("odmt", "ODMT", "odmt"),
)

TABLE_4 = (
    Row("none", "None", "no_distillation"),
    *(Row(f"temperature:{t}", f"T = {t}", "odmt", (f"distillation.temperature={t}",)) for t in TEMPERATURES),
    *(Row(f"ramp_up_epochs:{a}", f"α = {a}", "odmt", (f"distillation.ramp_up_epochs={a}",)) for a in RAMP_UPS),
)

# FST modules: name, label, overrides of SASRec+EF and SASRec+LF. Item encoders of one's own stand beside those of the paper.
ELSEWHERE = ("imt", "transformer", "sgfd")
FST_MODULES = {
    **{name: (part.label, (f"model.item_encoder={name}",)) for name, part in ITEM_ENCODERS.items() if name not in ELSEWHERE},
    **{f"trm{x}": (f"TRM{x}+DNNs", (f"model.num_layers={x}",)) for x in SWEEP},
}
FST_LABELS = {fst: label for fst, (label, _) in FST_MODULES.items()}
INPUTS = {"text": "text", "image": "image", "ef": "all,\nearly fusion", "lf": "all,\nlate fusion"}
TEXT, SINGLE = [f"text:{fst}" for fst in FST_MODULES], ["id", "text:dnn", "image:dnn"]


def _alone(source: str, fst: str) -> Row:
    """One modality as the only source; its test recall is noted after every epoch, for Figure 2."""
    label, overrides = FST_MODULES[fst]
    return Row(f"{source}:{fst}", f"{source}, {label}", "sasrec_ef", (f"model.sources=[{source}]", *overrides, TEST_CURVE))


# Choice: an ID has no feature to transform: alone it is SASRec's plain embedding whatever the FST module.
ID_ALONE = Row("id", "ID", "sasrec", (TEST_CURVE,))
TEXT_ALONE = tuple(_alone("text", fst) for fst in FST_MODULES)
IMAGE_ALONE = tuple(_alone("image", fst) for fst in FST_MODULES)

FIGURE_1 = (
    ID_ALONE,
    *TEXT_ALONE,
    *IMAGE_ALONE,
    *(
        Row(f"{fusion}:{fst}", f"all ({fusion}), {label}", f"sasrec_{fusion}", overrides)
        for fusion in ("ef", "lf")
        for fst, (label, overrides) in FST_MODULES.items()
    ),
)
FIGURE_2 = (ID_ALONE, *TEXT_ALONE, IMAGE_ALONE[0])
# Choice: the paper draws Figures 4 and 5 for some models each; here these, on every dataset that is asked for.
FIGURE_4 = tuple(row for row in TABLE_2 if row.key in ("sasrec", "unisrec", "sasrec_ef", "sasrec_lf", "odmt"))
FIGURE_5 = tuple(
    Row(f"{backbone}:{method}", f"{name} {label}", method, (f"model.backbone={backbone}",))
    for backbone, name in BACKBONE_LABELS.items()
    for method, label in METHODS.items()
)
DEEPENED = {"sasrec_lf": "SASRec+LF", "odmt": "ODMT"}
FIGURE_7 = tuple(
    Row(f"{method}:{layers}", f"{label}, {layers} layers", method, (f"model.num_layers={layers}",))
    for method, label in DEEPENED.items()
    for layers in SWEEP
)

SGFD_TOWERS = tuple(
    Row(f"{model}:{towers}", f"{name}, {label}", model, (f"model.item_encoder={towers}",))
    for model, name in (("sasrec_ef", "SASRec+EF"), ("sasrec_lf", "SASRec+LF"), ("no_distillation", "separate losses"))
    for towers, label in (("dnn", "DNNs"), ("sgfd", "SGFD"))
)


def quoted_table2() -> pd.DataFrame:
    """The paper's Table 2."""
    return read("table2_overall.csv").rename(columns={"model": "key"})


def quoted_table3() -> pd.DataFrame:
    """The paper's Table 3."""
    return read("table3_ablation.csv").rename(columns={"variant": "key"}).melt(["dataset", "key"], var_name="metric")


def quoted_table4() -> pd.DataFrame:
    """The paper's Table 4."""
    table = read("table4_distillation.csv")
    value = table.pop("value")
    table["key"] = (table.pop("swept") + ":" + value).where(value != "none", "none")
    return table.melt(["dataset", "key"], var_name="metric").drop_duplicates()


def quoted_table1() -> pd.DataFrame:
    """The paper's Table 1, whose rows are the datasets themselves."""
    table = read(DATASETS).melt("dataset", var_name="metric")
    return table.assign(key=table["dataset"])


def count_datasets(datasets: Sequence[str], root: Path) -> pd.DataFrame:
    """Table 1: counts of the datasets as the models see them, by default settings."""
    lines = []
    for dataset in datasets:
        counts = dict.fromkeys(COUNTS, np.nan)
        if (root / dataset).is_dir():
            found = load_interactions(DataConfig(dataset, str(root)))
            users, items, length = found.num_users, found.num_items, len(found.items)
            counts = dict(zip(COUNTS, (users, items, length, length / users, length / (users * items))))
        lines += [{"key": dataset, "origin": "measured", "metric": metric, "value": n} for metric, n in counts.items()]
    return pd.DataFrame(lines)


def table4_notes(measurements: Sequence[Measurement]) -> list[str]:
    """Say what stays as it is while temperature or ramp-up is varied."""
    standing = {m.cell.dataset: m.trials[0].config for m in measurements if m and m.cell.row.key == "none"}
    return [
        f"On {dataset}, T is varied at α = {kept.distillation.ramp_up_epochs} and α at T = {kept.distillation.temperature}."
        for dataset, kept in standing.items()
        if isinstance(kept, Config)
    ]


def _report(title: str, rows: tuple[Row, ...] = (), **settings) -> Report:
    return Report(title, rows, grid=GRID, **{"in_all": True, **settings})


REPORTS = {
    "table1": _report("Table 1: the datasets", quoted=quoted_table1, count=count_datasets),
    "table2": _report(
        "Table 2: overall performance",
        TABLE_2,
        metrics=RECALL_AND_NDCG,
        comparisons=against("odmt", TABLE_2),
        quoted=quoted_table2,
    ),
    "table3": _report("Table 3: ablations", TABLE_3, comparisons=against("odmt", TABLE_3), quoted=quoted_table3),
    "table4": _report(
        "Table 4: temperature and ramp-up",
        TABLE_4,
        comparisons=against("none", TABLE_4),
        quoted=quoted_table4,
        notes=table4_notes,
    ),
    "figure1": _report(
        "Figure 1: FST modules, inputs and fusion",
        FIGURE_1,
        painters=(bars(INPUTS, FST_LABELS, "{group}:{series}", "input", ("id", "ID alone")),),
    ),
    "figure2": _report(
        "Figure 2: training loss and test recall over epochs",
        FIGURE_2,
        numbers=curve_table,
        painters=(
            curves("loss", TEXT, "(a) text, by FST module", LOSS),
            curves("recall@10", TEXT, "(b) text, by FST module", RECALL),
            curves("loss", SINGLE, "(c) one source, DNNs", LOSS),
            curves("recall@10", SINGLE, "(d) one source, DNNs", RECALL),
        ),
    ),
    "figure4": _report(
        "Figure 4: recall by popularity of the target",
        FIGURE_4,
        numbers=group_table,
        as_text=groups_as_text,
        painters=(popularity,),
    ),
    "figure5": _report(
        "Figure 5: sequence backbones",
        FIGURE_5,
        painters=(bars(BACKBONE_LABELS, METHODS, "{group}:{series}", "sequence backbone"),),
    ),
    "figure7": _report(
        "Figure 7: number of Transformer layers",
        FIGURE_7,
        painters=(lines(SWEEP, DEEPENED, "Transformer layers of the item encoder"),),
    ),
    # SGFD's students (Liu et al. 2023) in place of the DNNs on the same CLS features: no table of either paper.
    "sgfd_towers": _report("Towers: SGFD's students beside DNNs, on datasets with labels.tsv", SGFD_TOWERS, in_all=False),
}
