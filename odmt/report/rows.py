"""What stands in each table and figure of the paper, and in one of this project's own, as model files and their overrides."""

from dataclasses import dataclass

SWEEP = (1, 2, 3, 4)  # Choice: the x of Figure 1 and the layers of Figure 7, which neither paper nor code names
TEMPERATURES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
RAMP_UPS = (10, 20, 30, 40, 50, 60)
BACKBONES = {"sasrec": "SASRec", "gru4rec": "GRU4Rec", "nextitnet": "NextItNet"}
METHODS = {"sasrec_ef": "+EF", "sasrec_lf": "+LF", "odmt": "ODMT"}
TEST_CURVE = "train.test_curve=true"


@dataclass(frozen=True)
class Row:
    """One model of a table or figure.

    Attributes:
        key: its name in the paper's numbers and in the CSV files.
        label: its name for readers.
        model: the file in configs/models.
        overrides: `key=value` pairs on top of it.
    """

    key: str
    label: str
    model: str
    overrides: tuple[str, ...] = ()


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

# FST modules: name, label, overrides of SASRec+EF and SASRec+LF.
FST_MODULES = {
    "dnn": ("DNNs", ("model.item_encoder=dnn",)),
    "moe": ("MoE adaptor", ("model.item_encoder=moe",)),
    **{f"trm{x}": (f"TRM{x}+DNNs", (f"model.num_layers={x}",)) for x in SWEEP},
}


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
    for backbone, name in BACKBONES.items()
    for method, label in METHODS.items()
)
FIGURE_7 = tuple(
    Row(f"{method}:{layers}", f"{label}, {layers} layers", method, (f"model.num_layers={layers}",))
    for method, label in (("sasrec_lf", "SASRec+LF"), ("odmt", "ODMT"))
    for layers in SWEEP
)

# SGFD's students (Liu et al. 2023) in place of the DNNs on the same CLS features; no table of either paper.
SGFD_TOWERS = tuple(
    Row(f"{model}:{towers}", f"{name}, {label}", model, (f"model.item_encoder={towers}",))
    for model, name in (("sasrec_ef", "SASRec+EF"), ("sasrec_lf", "SASRec+LF"), ("no_distillation", "separate losses"))
    for towers, label in (("dnn", "DNNs"), ("sgfd", "SGFD"))
)

TITLES = {
    "table1": "Table 1: the datasets",
    "table2": "Table 2: overall performance",
    "table3": "Table 3: ablations",
    "table4": "Table 4: temperature and ramp-up",
    "figure1": "Figure 1: FST modules, inputs and fusion",
    "figure2": "Figure 2: training loss and test recall over epochs",
    "figure4": "Figure 4: recall by popularity of the target",
    "figure5": "Figure 5: sequence backbones",
    "figure7": "Figure 7: number of Transformer layers",
    "sgfd_towers": "Towers: SGFD's students beside DNNs, on datasets with labels.tsv",
}

# Table 1 tells of the datasets: nothing is trained for it.
ROWS = {
    "table1": (),
    "table2": TABLE_2,
    "table3": TABLE_3,
    "table4": TABLE_4,
    "figure1": FIGURE_1,
    "figure2": FIGURE_2,
    "figure4": FIGURE_4,
    "figure5": FIGURE_5,
    "figure7": FIGURE_7,
}
# Made when asked for by name: no part of the paper, which is what `all` makes.
OWN_ROWS = {"sgfd_towers": SGFD_TOWERS}
