import os
import random

import numpy as np
import pytest
from PIL import Image

from odmt.errors import InputError
from odmt.prepare.hm import hm
from odmt.sequential.interactions import Interactions

COLUMNS = (
    "article_id,product_code,prod_name,product_type_name,product_group_name,graphical_appearance_name,colour_group_name,detail_desc"
)
ARTICLES = [f"0{108775015 + 8 * n}" for n in range(12)]


@pytest.fixture
def raw(tmp_path):
    rows = [f'{article},0108775,"Top, ""{n}""",Vest top,Garment Upper body,Solid,Black,"a,b"' for n, article in enumerate(ARTICLES)]
    (tmp_path / "articles.csv").write_text("\n".join([COLUMNS, *rows]) + "\n")
    for article in ARTICLES[:-1]:
        folder = tmp_path / "images" / article[:3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / f"{article}.jpg")
    write_transactions(tmp_path, purchases())
    return tmp_path


def purchases():
    """40 customers with 5 to 20 purchases and 10 with fewer usable ones."""
    rng = random.Random(0)
    customers = [f"{n:064x}" for n in range(50)]
    rows = []
    for n, customer in enumerate(customers):
        for k in range(5 + n % 16 if n < 40 else 4):
            rows.append((f"2018-09-{20 + k // 4:02d}", customer, ARTICLES[rng.randrange(11)]))
        if n >= 40:
            rows.append(("2018-09-30", customer, ARTICLES[11]))
    # By day as in the real file, customers mixed within a day.
    rng.shuffle(rows)
    return sorted(rows, key=lambda row: row[0])


def write_transactions(folder, rows, *more):
    lines = [f"{day},{customer},{article},0.0169,2" for day, customer, article in rows]
    (folder / "transactions_train.csv").write_text(
        "\n".join(["t_dat,customer_id,article_id,price,sales_channel_id", *lines, *more])
    )


def prepare(raw, **options):
    hm(raw / "transactions_train.csv", raw / "articles.csv", raw / "images", **{"out": raw / "hm", **options})
    return (raw / "hm" / "behaviours.tsv").read_text().splitlines()


def expected():
    sequences = {}
    for _, customer, article in purchases():
        if article in ARTICLES[:-1]:
            sequences.setdefault(customer, []).append(article)
    return {customer: items[-15:] for customer, items in sequences.items() if len(items) >= 5}


def test_all_users_in_the_order_of_the_file(raw, capsys):
    lines = prepare(raw)
    assert [line.split("\t") for line in lines] == [[user, " ".join(items)] for user, items in expected().items()]
    assert len(lines) == 40
    read = Interactions.load(raw / "hm")
    assert read.item_ids[0].startswith("0")
    assert read.texts[0] == 'top, "0" vest top garment upper body solid black'
    assert sorted(os.listdir(raw / "hm" / "images")) == [f"{item}.jpg" for item in sorted(read.item_ids)]
    out = capsys.readouterr().out
    assert "40 of 50 customers have 5 purchases" in out
    assert "paper, Table 1" in out


def test_users_are_drawn_with_a_seed(raw):
    everyone = expected()
    drawn = [dict(line.split("\t") for line in prepare(raw, users=15, seed=seed, overwrite=True)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) != set(drawn[2])
    for users in drawn:
        assert len(users) == 15
        assert all(items == " ".join(everyone[user]) for user, items in users.items())


def test_the_draw_does_not_depend_on_the_size_of_blocks(raw, monkeypatch):
    whole = prepare(raw, users=15)
    monkeypatch.setattr("odmt.prepare.raw_lines.BLOCK_BYTES", 1000)
    assert prepare(raw, users=15, overwrite=True) == whole


def test_a_file_cut_off_is_refused(raw):
    write_transactions(raw, purchases(), f"2018-09-30,{0:064x},01087")
    with pytest.raises(InputError, match=r"transactions_train.csv, line \d+: fewer than 5 columns"):
        prepare(raw)
    assert not (raw / "hm").exists()
    assert len(prepare(raw, skip_bad_lines=1)) == 40


@pytest.mark.parametrize("bad", ["2018-13-01,u,0108775015,0.1,2", "2018-09-20,u,0108775015,0.1,2,3", ",u,0108775015,0.1,2"])
def test_bad_lines_are_named(raw, bad):
    rows = purchases()
    write_transactions(raw, rows, bad, "2018-09-30,u,0108775015,0.1,2")
    with pytest.raises(InputError, match=rf"transactions_train.csv, line {len(rows) + 2}: "):
        prepare(raw)


def test_articles_of_another_file(raw):
    write_transactions(raw, [(day, customer, article.lstrip("0")) for day, customer, article in purchases()])
    with pytest.raises(InputError, match=r"no customer has 5 purchases of the 11 articles.*by a leading zero"):
        prepare(raw)


def test_a_missing_column_is_named(raw):
    (raw / "articles.csv").write_text("article_id,prod_name\n0108775015,Top\n")
    with pytest.raises(
        InputError, match=r"articles.csv, line 1: no column 'product_type_name'; its columns are article_id, prod_name"
    ):
        prepare(raw)
