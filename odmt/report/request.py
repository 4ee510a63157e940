"""What `scripts/reproduce.py` is asked for."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Request:
    """One or all of the paper's tables and figures, on some datasets.

    Attributes:
        datasets: names of datasets; a name with a file in configs/ has the settings of that file, another the defaults.
        epochs: passes over the users, instead of the dataset's setting.
        seeds: a trial a seed; several give mean and standard deviation.
        overrides: KEY=VALUE for every trial, such as model.dim=64.
        search: choose model.dim and train.lr by validation recall@10, with the first seed, for every model and dataset.
        dims: values of model.dim that are searched.
        lrs: values of train.lr that are searched.
        gpus: GPUs for trials to run on side by side, as CUDA_VISIBLE_DEVICES names them; one named twice takes two trials. None:
            one trial at a time on the GPU that is there or, without any, a trial on every CPU core.
        runs: folder of all run folders.
        data: folder of the datasets.
        reports: folder to write to; a report of the same name there is replaced.
        dry_run: count the trials, do nothing.
        render_only: train nothing, show what has been measured.
    """

    datasets: list[str]
    epochs: int | None = None
    seeds: list[int] = field(default_factory=lambda: [1])
    overrides: list[str] = field(default_factory=list)
    search: bool = False
    dims: list[int] = field(default_factory=lambda: [128, 256, 512, 768])
    lrs: list[float] = field(default_factory=lambda: [1e-3, 1e-4, 1e-5])
    gpus: list[str] = field(default_factory=list)
    runs: Path = Path("runs")
    data: Path = Path("data")
    reports: Path = Path("reports")
    dry_run: bool = False
    render_only: bool = False

    def __post_init__(self):
        self.gpus = [gpu for names in self.gpus for gpu in names.split(",")]  # 0,1 and 0 1 alike
        # What is named twice is measured once.
        self.datasets, self.seeds = list(dict.fromkeys(self.datasets)), list(dict.fromkeys(self.seeds))
