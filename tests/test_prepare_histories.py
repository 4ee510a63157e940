import polars as pl
import pytest

from odmt.errors import InputError
from odmt.prepare.histories import histories_by_time, read_histories


def test_equal_times_keep_the_row_order_and_users_that_of_their_first_row():
    events = pl.DataFrame(
        [("u", "c", 5.0), ("v", "a", 1.0), ("u", "b", 5.0), ("u", "d", 2.0), ("v", "b", 1.0), ("u", "a", 5.0)],
        schema=["user", "item", "time"],
        orient="row",
    )
    assert histories_by_time(events).rows() == [("u", ["d", "c", "b", "a"]), ("v", ["a", "b"])]


def test_stable_over_many_rows():
    events = pl.DataFrame({"user": ["u"] * 10_000, "item": [str(n) for n in range(10_000)], "time": [n % 2 for n in range(10_000)]})
    expected = [str(n) for n in (*range(0, 10_000, 2), *range(1, 10_000, 2))]
    assert histories_by_time(events)["items"].to_list() == [expected]


def test_a_line_a_user(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(b'\xef\xbb\xbfu 1\t a  b a \r\nv\t\xe5\xa4\x8f "q\nw\tc')
    assert read_histories(path).rows() == [("u 1", ["a", "b", "a"]), ("v", ["夏", '"q']), ("w", ["c"])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("u\ta b\nv", "line 2: another number of columns than expected: 'v'"),
        ("u\ta b\nv\ta\tb\nw\ta", "line 2: another number of columns than expected"),
        ("u\ta\nv\tb\nu\tc\n", "line 3: user 'u' stands in line 1 already"),
        ("\ta\nv\tb\n", "line 1: no valid user"),
    ],
)
def test_bad_lines_are_named(tmp_path, content, message):
    path = tmp_path / "pairs.tsv"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_histories(path)


def test_bad_lines_are_left_out_and_counted(tmp_path, capsys):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(b"u\ta b\nv\nw\tc\n\xff\ta\nx\td e\n")
    assert read_histories(path, skip_bad_lines=2)["user"].to_list() == ["u", "w", "x"]
    assert "bad lines left out: 2, the first: line 2" in capsys.readouterr().out
