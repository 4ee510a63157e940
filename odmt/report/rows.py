"""What a report is made of: rows, which are models, and what is shown of them. Knows no paper and no family of models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

RECALL_AND_NDCG = ("recall@10", "ndcg@10", "recall@20", "ndcg@20")  # as ODMT's tables have them

Axis = tuple[Mapping[str, object], ...]  # what a search tries in turn: settings by key, in each point of the axis the same keys


def axis(key: str, *values: object) -> Axis:
    """The values of one key."""
    return tuple({key: value} for value in values)


@dataclass(frozen=True)
class Row:
    """One model of a table or figure.

    Attributes:
        key: its name in the paper's numbers and in the CSV files.
        label: its name for readers.
        model: the file in configs/models.
        overrides: `key=value` pairs on top of it: what makes the row what it is.
        published: by dataset, the settings that its paper has there; what is asked for on the command line wins over them.
        grid: what a search tries of this row, beside what it tries of all.
    """

    key: str
    label: str
    model: str
    overrides: tuple[str, ...] = ()
    published: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    grid: tuple[Axis, ...] = ()


@dataclass(frozen=True)
class Report:
    """A table or figure.

    Attributes:
        title: `Table 2: overall performance`.
        rows: its models; none where it is counted and not trained.
        metrics: of the test set, by the fused scores; comparisons are made of the first two.
        comparisons: keys of two rows each, the first minus the second, over the same users.
        grid: what a search tries of every row.
        quoted: gives the paper's numbers, where it has some: dataset, key, metric, value.
        quoted_as: what stands over them.
        count: of a report that is counted: datasets and their root -> lines as `quoted` has them, with their `origin`.
        numbers: what a figure draws, where that is not the metrics; measurements -> a long table.
        as_text: how `numbers` is laid out for readers, where it is shown to them too.
        painters: one a panel of the figure.
        notes: lines below the table that only this report has; the datasets' measurements -> lines.
        in_all: whether `all` makes it.
    """

    title: str
    rows: tuple[Row, ...] = ()
    metrics: tuple[str, ...] = ("recall@10", "ndcg@10")
    comparisons: tuple[tuple[str, str], ...] = ()
    grid: tuple[Axis, ...] = ()
    quoted: Callable[[], pd.DataFrame] | None = None
    quoted_as: str = "paper"
    count: Callable[[Sequence[str], Path], pd.DataFrame] | None = None
    numbers: Callable[[Sequence], pd.DataFrame] | None = None
    as_text: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    painters: tuple[Callable, ...] = ()
    notes: Callable[[Sequence], list[str]] | None = None
    in_all: bool = False


def against(reference: str, rows: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    """Compare one row with each other one."""
    return tuple((reference, row.key) for row in rows if row.key != reference)
