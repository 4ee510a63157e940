"""What `scripts/reproduce.py` is asked for."""

from dataclasses import dataclass, field
from pathlib import Path

from odmt.config_files import parse_override
from odmt.errors import InputError


@dataclass
class Request:
    """One table or figure, or all of a paper, on some datasets.

    Attributes:
        datasets: names of datasets; a name with a file in configs/ has the settings of that file, another the defaults.
        epochs: passes over the training data, instead of the dataset's setting.
        seeds: a trial a seed; several give mean and standard deviation.
        overrides: KEY=VALUE for every trial, such as model.dim=64.
        search: choose settings by validation with the first seed, for every model and dataset: those of `grid`.
        grid: KEY=[VALUE,...] to search instead of what the report has for the key (--dry-run --search lists it), or beside it.
        dims: the same for model.dim.
        lrs: the same for train.lr.
        gpus: GPUs for trials to run on side by side, as CUDA_VISIBLE_DEVICES names them; one named twice takes two trials. None:
            one trial at a time on the GPU that is there or, without any, a trial on every CPU core.
        runs: folder of all run folders.
        data: folder of the datasets.
        reports: folder to write to; a report of the same name there is replaced.
        page: HTML file for all of it as one page to look at; of `all` it is REPORTS/index.html if none is named.
        dry_run: count the trials, do nothing.
        render_only: train nothing, show what has been measured.
    """

    datasets: list[str]
    epochs: int | None = None
    seeds: list[int] = field(default_factory=lambda: [1])
    overrides: list[str] = field(default_factory=list)
    search: bool = False
    grid: list[str] = field(default_factory=list)
    dims: list[int] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)
    gpus: list[str] = field(default_factory=list)
    runs: Path = Path("runs")
    data: Path = Path("data")
    reports: Path = Path("reports")
    page: Path | None = None
    dry_run: bool = False
    render_only: bool = False

    def __post_init__(self):
        self.gpus = [gpu for names in self.gpus for gpu in names.split(",")]  # 0,1 and 0 1 alike
        # What is named twice is measured once.
        self.datasets, self.seeds = list(dict.fromkeys(self.datasets)), list(dict.fromkeys(self.seeds))


def check_search(request: Request):
    """Refuse values to search where nothing is searched.

    Raises:
        InputError: naming them, and how one value is given without a search.
    """
    asked: dict[tuple[str, str], list] = {
        ("--dims", "model.dim"): request.dims,
        ("--lrs", "train.lr"): request.lrs,
        ("--grid", "KEY"): request.grid,
    }
    for (option, key), values in asked.items():
        if values and not request.search:
            value = values[0] if len(values) == 1 and values is not request.grid else "VALUE"
            raise InputError(
                f"{option} {' '.join(map(str, values))}: values to choose from by --search, which is not given; add it, or give "
                f"every trial one value: --overrides {key}={value}"
            )


def grid_values(request: Request, family: str) -> dict[str, list]:
    """The values to search that were asked for, by key.

    Raises:
        InputError: no such key, or no list of values.
    """
    asked: dict[str, list] = {"model.dim": request.dims, "train.lr": request.lrs}
    for pair in request.grid:
        key, values = parse_override(pair, family)
        if not isinstance(values, list):
            raise InputError(f"--grid {pair}: expected KEY=[VALUE,...]")
        asked[key] = [parse_override(f"{key}={value}", family)[1] for value in values]  # YAML takes 1e-3 for a word
    return {key: values for key, values in asked.items() if values}
