import gzip
import os

import numpy as np
import pytest
from PIL import Image

from odmt.errors import InputError
from odmt.prepare.microlens import microlens, read_titles
from odmt.sequential.interactions import Interactions

TITLES = '''item,title
1,Cats
2,"Dogs, and ""cats"""
3,He said "no", twice
4,"two
lines, one title"
5,"unbalanced, quote
6,
7,猫，和狗
8,""
'''


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "titles.csv").write_text(TITLES, encoding="utf-8")
    (tmp_path / "covers").mkdir()
    for name in (1, 2, 3, 4, 5, 6, 8):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "covers" / f"{name}.jpg")
    return tmp_path


def test_titles_with_commas_and_quotes_survive(raw):
    assert dict(read_titles(raw / "titles.csv").rows()) == {
        "1": "Cats",
        "2": 'Dogs, and "cats"',
        "3": 'He said "no", twice',
        "4": "two lines, one title",
        "5": '"unbalanced, quote',
        "6": "",
        "7": "猫，和狗",
        "8": "",
    }


def test_a_quoted_title_may_hold_a_line_that_looks_like_an_item(raw, capsys):
    (raw / "titles.csv").write_text('1,"Top\n10, the best"\n2,Dogs\n3,"Count:\n1,2,3\ngo"\n4,"open\n5,no "end\n')
    assert dict(read_titles(raw / "titles.csv").rows()) == {
        "1": "Top 10, the best",
        "2": "Dogs",
        "3": "Count: 1,2,3 go",
        "4": '"open',
        "5": 'no "end',
    }
    assert "2 lines look like an item but lie within the quotation marks of a title, line 2 for one in the title of item 1" in (
        capsys.readouterr().out
    )


def test_titles_as_the_official_reader_takes_them(raw):
    titles = dict(read_titles(raw / "titles.csv", quoted=False).rows())
    assert titles["2"] == '"Dogs, and ""cats"""'
    assert titles["3"] == 'He said "no", twice'


@pytest.mark.parametrize("form", ["tsv", "csv", "tsv.gz", "csv.gz"])
def test_both_forms_of_the_pairs_give_the_same(raw, form, capsys):
    sequences = {"10": "3 1 2 4 5 1", "7": "1 2 3 7 4 6", "8": "5 4 3 2 1"}
    if form.startswith("tsv"):
        lines = [f"{user}\t{items}" for user, items in sequences.items()]
    else:
        events = [(user, item, 1600000000000 + n) for user, items in sequences.items() for n, item in enumerate(items.split())]
        # Not in the order of time, users mixed.
        events.sort(key=lambda event: (event[2] % 2, -event[2]))
        lines = ["user,item,timestamp", *(",".join(map(str, event)) for event in events)]
    content = "".join(f"{line}\n" for line in lines).encode()
    (raw / f"pairs.{form}").write_bytes(gzip.compress(content) if form.endswith("gz") else content)
    microlens(raw / f"pairs.{form}", raw / "titles.csv", raw / "covers", raw / "stream")
    read = Interactions.load(raw / "stream")
    users = {
        user: [read.item_ids[n - 1] for n in read.items[start:end]]
        for user, start, end in zip(read.user_ids, read.offsets, read.offsets[1:])
    }
    assert users == {"10": ["3", "1", "2", "4", "5", "1"], "8": ["5", "4", "3", "2", "1"]}
    assert read.texts[1] == 'dogs, and "cats"'
    assert sorted(os.listdir(raw / "stream" / "images")) == [f"{n}.jpg" for n in range(1, 6)]
    out = capsys.readouterr().out
    assert "dropped: 1 items without text, 1 items without image ('7' for one), 1 users with fewer than 5" in out
    assert "paper, Table 1" in out


def test_a_title_that_stands_twice_is_refused(raw):
    (raw / "titles.csv").write_text("1,a\n2,b\n1,c\n")
    with pytest.raises(InputError, match=r"titles.csv, line 3: item '1' stands in line 1 already"):
        read_titles(raw / "titles.csv")


def test_other_files_are_refused(raw):
    (raw / "titles.csv").write_text("title\nCats\n")
    with pytest.raises(InputError, match=r"titles.csv, line 1: no line begins with an item number"):
        read_titles(raw / "titles.csv")
