"""What was not made here is neither replaced nor removed, whatever place a command is told to write to."""

from pathlib import Path

import pandas as pd
import pytest

from odmt.errors import InputError
from odmt.exports import check_suffix, write_table
from odmt.outputs import check_page, whole_folder
from odmt.pages.rendering import write_page
from odmt.report.page import Page, check_replaced

PARTS = ("a", "b")


def fill(folder: Path, content: str, names=PARTS) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_text(content)
    return folder


def read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def replace(folder: Path, content: str):
    with whole_folder(folder, PARTS) as partial:
        for name in PARTS:
            (partial / name).write_text(content)


def test_a_folder_appears_whole_and_replaces_its_own_alone(tmp_path):
    replace(tmp_path / "new", "1")
    replace(tmp_path / "new", "2")
    assert read(tmp_path / "new") == {"a": "2", "b": "2"}
    (tmp_path / "empty").mkdir()
    replace(tmp_path / "empty", "3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new"]


@pytest.mark.parametrize(("names", "words"), [(("a", "b", "c"), "holds c"), (("a",), "has no b"), (("x",), "holds x")])
def test_a_folder_with_more_less_or_else_is_left_alone(tmp_path, names, words):
    fill(tmp_path / "mine", "dear", names)
    with pytest.raises(InputError, match=f"mine: {words}, so this command has not made it"):
        replace(tmp_path / "mine", "1")
    assert read(tmp_path / "mine") == dict.fromkeys(names, "dear")


def test_a_folder_can_be_where_one_is(tmp_path, monkeypatch):
    fill(tmp_path / "here", "1")
    monkeypatch.chdir(tmp_path / "here")
    replace(Path(), "2")
    assert read(tmp_path / "here") == {"a": "2", "b": "2"}


@pytest.mark.parametrize("ending", [".partial", ".replaced"])
def test_names_that_are_needed_meanwhile_may_be_somebodys(tmp_path, ending):
    mine = fill(tmp_path / f"new{ending}", "dear", ("thesis",))
    with pytest.raises(InputError, match=f"new{ending}: holds thesis"):
        replace(tmp_path / "new", "1")
    assert read(mine) == {"thesis": "dear"}


def test_a_kill_between_the_renames_loses_nothing(tmp_path):
    fill(tmp_path / "new.replaced", "old")
    fill(tmp_path / "new.partial", "half", ("a", "b.partial", ".tmpA1b2C3"))
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "new", PARTS):
        raise ZeroDivisionError
    assert read(tmp_path / "new") == {"a": "old", "b": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_table_replaces_a_table_of_its_kind_alone(tmp_path):
    table = pd.DataFrame({"user": ["u"], "rank": [1], "item": ["i"], "score": [0.5]})
    for suffix in (".csv", ".jsonl", ".parquet"):
        path = tmp_path / f"table{suffix}"
        check_suffix(path)
        write_table(table, path)
        check_suffix(path)
        write_table(table.rename(columns={"rank": "time"}), path)
        with pytest.raises(InputError, match="not made by this command, at least not of this version; name another file"):
            check_suffix(path)
        path.write_bytes(b"\0\xff")
        with pytest.raises(InputError, match="not made by this command"):
            check_suffix(path)


def test_a_page_replaces_a_page_alone(tmp_path):
    path = tmp_path / "page.html"
    check_page(path)
    write_page(path, "comparison.html", title="two", about="", tables={}, groups=[])
    check_page(path)
    path.write_text("<html>my home</html>")
    with pytest.raises(InputError, match=r"page.html: not made by this command"):
        check_page(path)


def test_a_report_replaces_its_own_files_alone(tmp_path):
    check_replaced(tmp_path, "table2", "Table 2: x")
    Page("Table 2: x", [], []).write(tmp_path, {"table2": pd.DataFrame({"a": [1]})})
    check_replaced(tmp_path, "table2", "Table 2: x")
    for name in ("table3.csv", "table4.md", "table5_differences.csv"):
        (tmp_path / name).write_text("# my own\n")
        with pytest.raises(InputError, match=rf"{name}: not of this report, which would replace it; move it away, or name"):
            check_replaced(tmp_path, name[:6], "Table 3: y")
