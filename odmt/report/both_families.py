"""A table of this project's own: sequential models and models on the graph on one dataset of sequences, the same items held out."""

from odmt.report.rows import RECALL_AND_NDCG, Report, Row, against, axis

ROWS = (
    Row("bprmf", "BPR-MF", "bprmf"),
    Row("lightgcn", "LightGCN", "lightgcn"),
    Row("bm3", "BM3", "bm3"),
    Row("grcn", "GRCN", "grcn"),
    Row("grcn_sgfd", "GRCN+SGFD", "grcn_sgfd"),
    Row("maml", "MAML", "maml"),
    Row("sasrec", "SASRec", "sasrec"),
    Row("sasrec_ef", "SASRec+EF", "sasrec_ef"),
    Row("odmt", "ODMT", "odmt"),
)

REPORTS = {
    "families": Report(
        "Both families of models, on datasets of sequences",
        ROWS,
        metrics=RECALL_AND_NDCG,
        comparisons=against("odmt", ROWS),
        grid=(axis("train.lr", 1e-2, 1e-3, 1e-4),),
    )
}
