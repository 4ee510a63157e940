"""What several test files share: the folder of goldens, and tiny datasets on disk."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from odmt.sequential.interactions import Interactions

# Tensors are tiny here: more threads would only wait for one another. Processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

OWN_GOLDENS = Path(__file__).parent / "golden"


def pytest_addoption(parser):
    parser.addoption(
        "--golden-dir",
        type=Path,
        default=OWN_GOLDENS,
        help="folder of NAME.json + NAME.safetensors made by the official code (default: the project's own)",
    )
    parser.addoption(
        "--storage",
        metavar="URL",
        help="server for the tests of the launchers' queue, such as postgresql://USER@localhost/postgres (default: SQLite)",
    )


def pytest_generate_tests(metafunc):
    """Run tests of a `golden_name` on every golden of ODMT, those of a `sgfd_path` on every golden of SGFD's hosts.

    A mark `official(host="bm3", sgfd=True)` leaves one host's, and those with SGFD.
    """
    if "sgfd_path" in metafunc.fixturenames:
        wanted = metafunc.definition.get_closest_marker("official")
        paths = sgfd_goldens(metafunc.config.getoption("golden_dir"), **(wanted.kwargs if wanted else {}))
        metafunc.parametrize("sgfd_path", paths, ids=[path.stem for path in paths], scope="module")
    if "golden_name" in metafunc.fixturenames:
        folder = metafunc.config.getoption("golden_dir")
        names = sorted(path.stem for path in folder.glob("*.json") if path.with_suffix(".safetensors").exists())
        if not names:
            raise pytest.UsageError(f"--golden-dir {folder}: no NAME.json with its NAME.safetensors")
        metafunc.parametrize("golden_name", names, scope="module")


@pytest.fixture(scope="session")
def golden_dir(request) -> Path:
    return request.config.getoption("golden_dir")


def sgfd_goldens(folder: Path, host: str = "", sgfd: bool = False) -> list[Path]:
    """The goldens of SGFD's hosts in a folder or in its folder `sgfd`: of one host, or of those with SGFD alone."""
    folder = folder / "sgfd" if (folder / "sgfd").is_dir() else folder
    paths = sorted(path for path in folder.glob("*.json") if path.with_suffix(".safetensors").exists())
    titles = {path: json.loads(path.read_text()) for path in paths}
    titles = {path: title for path, golden in titles.items() if (title := golden.get("host") or golden.get("model"))}
    if not titles:
        raise pytest.UsageError(f"--golden-dir {folder}: no NAME.json of a host of SGFD with its NAME.safetensors")
    return [path for path, title in titles.items() if host.upper() in title and (not sgfd or has_sgfd(path))]


def has_sgfd(path: Path) -> bool:
    """Whether a golden is of a host with SGFD: plain ones have no classifiers."""
    with safe_open(path.with_suffix(".safetensors"), "np") as file:
        return any("classifi" in name for name in file.keys())  # noqa: SIM118 (a file is no dict)


@pytest.fixture(scope="module")
def sgfd_golden(sgfd_path):
    from sgfd_goldens import SgfdGolden  # imports torch, which must come after the setting above

    return SgfdGolden.load(sgfd_path)


@pytest.fixture(scope="module")
def golden(golden_name, golden_dir, interactions_of):
    from goldens import Golden  # imports torch, which must come after the setting above

    return Golden.load(golden_dir, golden_name, interactions_of)


@pytest.fixture(scope="session", autouse=True)
def _empty_curves():
    """Curves of runs in this process are empty pictures: to draw one takes longer than to train what a test trains."""
    from matplotlib.figure import Figure

    from odmt import training_curve
    from odmt.files import written_whole

    def draw(path: Path, *_):
        with written_whole(path) as partial:
            Figure((1, 1)).savefig(partial, format="png")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_curve, "draw_training_curve", draw)
        yield


def make_interactions(windows: list[list[int]], num_items: int, max_seq_len: int) -> Interactions:
    """Interactions with given windows of item numbers; each window ends with the two held-out items."""
    return Interactions(
        user_ids=[f"u{user}" for user in range(len(windows))],
        item_ids=[f"i{number}" for number in range(1, num_items + 1)],
        texts=[f"text {number}" for number in range(1, num_items + 1)],
        items=np.concatenate([np.asarray(window, np.int32) for window in windows]),
        offsets=np.cumsum([0, *map(len, windows)]),
        max_seq_len=max_seq_len,
    )


@pytest.fixture(scope="session")
def interactions_of():
    """The function that makes `Interactions` of windows of item numbers."""
    return make_interactions


NUM_RING_ITEMS = 31


@pytest.fixture(scope="session")
def ring_root(tmp_path_factory) -> Path:
    """A folder with the dataset `ring`: 31 users of 8 items, text and image features."""
    from ring_dataset import write_ring  # imports torch, which must come after the setting above

    root = tmp_path_factory.mktemp("ring")
    write_ring(root / "ring", NUM_RING_ITEMS, 8)
    return root


@pytest.fixture
def arguments(ring_root, tmp_path):
    """The function that makes the arguments of a small run on the ring; its run folder is `tmp_path/ring/NAME`."""

    def make(*overrides: str) -> list[str]:
        places = [f"data.root={ring_root}", "data.dataset=ring", f"runs={tmp_path}", "name=run"]
        sizes = ["data.max_seq_len=5", "model.dim=8", "model.num_layers=1", "model.backbone_layers=1"]
        steps = ["train.batch_size=8", "train.epochs=3", "train.lr=0.003", "train.device=cpu"]
        return [*places, *sizes, *steps, *overrides]

    return make
