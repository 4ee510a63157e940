"""Search ODMT's hyper-parameters on H&M: edit GRID, then `python run_hm.py`; `--help` lists the options.

GRID is the paper's choice, with what the paper searched beside it. Any key of `python -m odmt.train --help` can be added.
"""

from odmt.launch.sweep import launch

GRID = {
    "model.dim": [768],  # 128, 256, 512, 768
    "model.id_init": [None],  # None: the mean of image and text; "image", "text", "random"
    "distillation.temperature": [0.5],  # 0.1, 0.2, 0.3, 0.4, 0.5, 0.6
    "distillation.ramp_up_epochs": [60],  # 10, 20, 30, 40, 50, 60
    "train.lr": [1e-4],  # 1e-3, 1e-4, 1e-5
}

if __name__ == "__main__":
    launch("configs/hm.yaml", GRID)
