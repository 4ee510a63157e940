"""Search a graph model's hyper-parameters on Office: edit GRID, then `python scripts/run_graph.py`; `--help` lists the options.

GRID is the published setting of GRCN with SGFD. Any key of `python -m odmt.train family=graph --help` can be added; settings of a
host's own (`bm3.reg_weight`) need that host alone. Another dataset: --set data.dataset=NAME.
"""

from odmt.launch.sweep import launch

GRID = {
    "model.host": ["grcn"],  # "bm3", "grcn", "maml", and without features "lightgcn", "bprmf"
    "model.extractor": ["sgfd"],  # "plain", "sgfd"
    "model.modalities": [["image", "text"]],  # ["text"] where there are no images
    "sgfd.class_weight": [1.0],  # 0.01, 0.1, 1
    "sgfd.response_weight": [1.0],  # 0.01, 0.1, 1; officially the weight of the features too
    "sgfd.feature_weight": [1.0],
    "sgfd.temperature": [100.0],  # 5, 10, 50, 100
    "train.lr": [1e-3],  # 1e-1, 1e-2, 1e-3, 1e-4
}

if __name__ == "__main__":
    launch("configs/sgfd-office.yaml", GRID)
