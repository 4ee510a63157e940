"""Tables of this project's own: the recommended model beside all of Table 2 of ODMT's paper, and without one of its parts each."""

from dataclasses import replace

from odmt.report import odmt_paper
from odmt.report.odmt_paper import TABLE_2
from odmt.report.rows import RECALL_AND_NDCG, Report, Row, against, axis

RECOMMENDED = Row("recommended", "recommended", "recommended")
WITHOUT = tuple(
    Row(f"recommended:{key}", f"recommended, {label}", "recommended", overrides)
    for key, label, overrides in (
        ("alone", "one model", ("model.ensemble=1",)),
        ("two", "two models", ("model.ensemble=2",)),
        ("dnn", "DNNs for adaptors", ("model.item_encoder=dnn",)),
        ("early", "the mean of the vectors", ("model.fusion=early",)),
        ("steps", "steps of one size", ("train.decay=none",)),
        ("shown", "no ID hidden", ("model.id_dropout=0",)),
        ("no_id", "without IDs", ("model.sources=[text,image]", "model.id_dropout=0")),
    )
)
ROWS = (*TABLE_2, RECOMMENDED, *WITHOUT)
# The same search for every model.
GRID = (axis("model.dim", 64), axis("train.lr", 3e-3, 1e-3), axis("model.dropout", 0.1, 0.3, 0.5))

REPORTS = {
    "recommended": Report(
        "The recommended model beside those of Table 2, and without one of its parts each",
        ROWS,
        metrics=RECALL_AND_NDCG,
        comparisons=against("recommended", ROWS),
        grid=GRID,
    ),
    "recommended_by_popularity": replace(
        odmt_paper.REPORTS["figure4"],
        title="The recommended model beside those of Table 2, by popularity of the target; group 0 never occurs in training",
        rows=(*TABLE_2, RECOMMENDED),
        grid=GRID,
        in_all=False,
    ),
}
