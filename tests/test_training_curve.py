"""The picture of a run's course: every epoch is to be seen, and stands at a whole number."""

import numpy as np
import pytest

from odmt.training_curve import training_curve


@pytest.mark.parametrize(("epochs", "marker"), [(1, "o"), (3, "")])
def test_every_epoch_is_to_be_seen(epochs, marker):
    lines = [
        {"epoch": epoch, "train/loss": 1.0, "train/ce_id": 1.0 / epoch, "valid/fused/recall@10": 0.1}
        for epoch in range(1, epochs + 1)
    ]
    figure = training_curve(lines, "valid/fused/recall@10", {"most popular": 0.05})
    figure.canvas.draw()
    for axes in figure.axes:
        assert axes.lines[0].get_xdata() == pytest.approx(np.arange(1, epochs + 1))
        assert axes.lines[0].get_marker() == marker
        low, high = axes.get_xlim()
        shown = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert shown == pytest.approx(np.arange(1, epochs + 1))
