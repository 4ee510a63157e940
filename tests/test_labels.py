import pytest

from odmt.errors import InputError
from odmt.features.labels import read_labels


@pytest.fixture
def write(tmp_path):
    def write(*lines: str):
        (tmp_path / "labels.tsv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return tmp_path / "labels.tsv"

    return write


def test_integers_keep_their_order(write):
    labels = read_labels(write("a\t10", "b\t9", "c\t0", "d\t10"), ["d", "b", "a"])
    assert labels.names == ["0", "9", "10"]  # of the whole file
    assert labels.numbers.tolist() == [2, 1, 2]
    assert str(labels.numbers.dtype) == "int64"


def test_names_stand_in_the_order_of_the_alphabet(write):
    labels = read_labels(write("a\tSci-Fi", "b\tDrama of manners", "c\t7"), ["a", "b", "c"])
    assert labels.names == ["7", "Drama of manners", "Sci-Fi"]
    assert labels.numbers.tolist() == [2, 1, 0]


def test_what_is_missing_names_the_command(write, tmp_path):
    with pytest.raises(InputError, match=r"labels.tsv: no such file, .*scripts/prepare.py csv --label-column COLUMN"):
        read_labels(tmp_path / "labels.tsv", ["a"])
    with pytest.raises(InputError, match=r"labels.tsv: 2 items have no category, 'b' the first; .*--label-column"):
        read_labels(write("a\t1"), ["a", "b", "c"])


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["a\t1", "b"], "line 2: 1 columns, expected 2: item<TAB>category"),
        (["a\t1", "b\t1\t2"], "line 2: 3 columns"),
        (["a\t1", "", "b\t1"], "line 2: 1 columns"),
        (["a\t1", "b\t "], "line 2: item 'b' has no category"),
        (["a\t1", "b\t1", "a\t2"], "line 3: item 'a' stands in line 1 already"),
        ([], "the file is empty"),
    ],
)
def test_bad_lines_are_named(write, lines, problem):
    with pytest.raises(InputError, match=f"labels.tsv(:|,) {problem}"):
        read_labels(write(*lines), ["a"])
