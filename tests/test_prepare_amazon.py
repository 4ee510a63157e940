import gzip
import json
import os

import numpy as np
import pytest
from PIL import Image

from odmt.errors import InputError
from odmt.prepare.amazon import amazon, clean_html
from odmt.prepare.unfinished import finish
from odmt.sequential.interactions import Interactions

USERS = {
    # Item and day; v's reviews of one day keep the file's order, w reviews B2 twice.
    "u": [("B5", 9), ("B1", 1), ("B2", 2), ("B3", 3), ("B4", 4)],
    "v": [("B4", 7), ("B1", 7), ("B3", 7), ("B2", 7), ("B5", 7), ("NOMETA", 8), ("EMPTY", 8), ("SCRIPT", 8), ("NOURL", 8)],
    "w": [("B2", 1), ("B1", 2), ("B2", 3), ("B3", 4), ("B4", 5)],
    "x": [("B1", 1), ("B2", 2), ("B3", 3), ("B4", 4)],
    "y": [("B1", 1), ("B2", 2), ("B3", 3), ("B4", 4), ("NOMETA", 5)],
}
IMAGE = "https://images-na.ssl-images-amazon.com/images/I/"


def metadata_2018():
    def item(asin, title, **more):
        high = [f"{IMAGE}{asin}.jpg", f"{IMAGE}{asin}b.jpg"]
        return {"asin": asin, "title": title, "imageURLHighRes": high, "imageURL": [f"{IMAGE}{asin}._US40_.jpg"], **more}

    return [
        item(
            "B1",
            "Thread &amp; <b>Needle</b>, 12&quot;",
            category=["Arts, Crafts &amp; Sewing", "Sewing"],
            brand="Dritz",
            description=["<p>Fine</p>", "5 < 6<br/>"],
        ),
        item("B2", "[Pack of 2] Yarn", description="a text, no list", category=[], imageURLHighRes=[]),
        item("B3", "Glue", description=[], brand=None, price="\n  .a-box-inner{background-color:#fff}"),
        item("B1", "repeated"),
        item("B4", "Paint\t&amp;lt;b&amp;gt;red&amp;lt;/b&amp;gt;\n"),
        item("B5", "Paper"),
        item("EMPTY", " <br> "),
        item("SCRIPT", "<script>var aPageStart = (new Date()).getTime();</script>"),
        {"asin": "NOURL", "title": "No picture", "imageURL": []},
        item("UNSEEN", "never reviewed"),
    ]


def write_lines(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    with gzip.open(path, "wt", encoding="utf-8") if path.suffix == ".gz" else path.open("w", encoding="utf-8") as file:
        file.write(text)


def events():
    """User by user and backwards within u, so that only the time can tell the order."""
    return [(user, item, 1400000000 + 86400 * day) for user, reviews in USERS.items() for item, day in reviews]


@pytest.fixture
def raw(tmp_path):
    write_lines(
        tmp_path / "Arts.json.gz",
        [
            {
                "reviewerID": user,
                "asin": item,
                "unixReviewTime": time,
                "overall": 5.0,
                "style": {"Size:": " 1"},
                "reviewText": 'a "b"\n',
            }
            for user, item, time in events()
        ],
    )
    write_lines(tmp_path / "meta_Arts.json.gz", metadata_2018())
    return tmp_path


def prepare(raw, reviews="Arts.json.gz", metadata="meta_Arts.json.gz", **options):
    amazon(raw / reviews, raw / metadata, raw / "arts", **options)
    lines = (raw / "arts" / "unfinished" / "behaviours.tsv").read_text().splitlines()
    return {user: items.split() for user, items in (line.split("\t") for line in lines)}


def add_images(raw, *items):
    (raw / "arts" / "images").mkdir()
    for item in items:
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(raw / "arts" / "images" / f"{item}.jpg")


EXPECTED = {
    "u": ["B1", "B2", "B3", "B4", "B5"],
    "v": ["B4", "B1", "B3", "B2", "B5"],
    "w": ["B2", "B1", "B2", "B3", "B4"],
}


def test_2018(raw, capsys):
    assert prepare(raw) == EXPECTED
    out = capsys.readouterr().out
    assert "4 of 5 users have 5 reviews" in out
    assert "metadata of 8 of 9 items; 1 repeated lines, 1 items with a script for a title and 1 with an empty one dropped" in out
    assert "dropped: 1 items that are not in the item table ('NOMETA' for one), 2 items without text, 1 items without image" in out
    assert "1 users with fewer than 5 interactions" in out
    assert (raw / "arts" / "unfinished" / "items.tsv").read_text().splitlines() == [
        'B1\tThread & Needle , 12"\tDritz\tArts, Crafts & Sewing Sewing\tFine 5 < 6',
        "B2\t[Pack of 2] Yarn\t\t\ta text, no list",
        "B3\tGlue\t\t\t",
        "B4\tPaint red\t\t\t",
        "B5\tPaper\t\t\t",
    ]
    assert (raw / "arts" / "image_urls.tsv").read_text().splitlines()[:2] == [
        f"B1\t{IMAGE}B1.jpg\t{IMAGE}B1._US40_.jpg",
        f"B2\t{IMAGE}B2._US40_.jpg",
    ]


def test_ratings_only(raw):
    (raw / "Arts.csv").write_text("".join(f"{item},{user},5.0,{time}\n" for user, item, time in events()))
    assert prepare(raw, reviews="Arts.csv") == EXPECTED


def test_2023(raw):
    rows = [{"user_id": user, "asin": "variant", "parent_asin": item, "timestamp": time * 1000} for user, item, time in events()]
    write_lines(raw / "Arts.jsonl.gz", rows)
    pictures = [
        {"thumb": IMAGE + "t2", "large": IMAGE + "l2", "variant": "PT01", "hi_res": None},
        {"thumb": IMAGE + "t", "large": IMAGE + "l", "variant": "MAIN", "hi_res": None},
    ]
    rows = [
        {
            "parent_asin": row["asin"],
            "title": row["title"],
            "store": row.get("brand"),
            "categories": row.get("category", []),
            "description": row.get("description", []),
            "images": pictures if row.get("imageURL") else [],
            "videos": [],
            "details": {"Brand": "x"},
        }
        for row in metadata_2018()
    ]
    write_lines(raw / "meta_Arts.jsonl.gz", rows)
    assert prepare(raw, "Arts.jsonl.gz", "meta_Arts.jsonl.gz") == EXPECTED
    items = (raw / "arts" / "unfinished" / "items.tsv").read_text().splitlines()
    assert items[0] == 'B1\tThread & Needle , 12"\tDritz\tArts, Crafts & Sewing Sewing\tFine 5 < 6'
    assert (raw / "arts" / "image_urls.tsv").read_text().splitlines()[0] == f"B1\t{IMAGE}l\t{IMAGE}t"


def test_of_repeated_reviews_the_first_may_be_kept(raw, capsys):
    assert prepare(raw, duplicates="first") == {user: EXPECTED[user] for user in "uv"}
    assert "1 repeated reviews" in capsys.readouterr().out


def test_histories_stay_uncut_until_finished(raw, capsys):
    assert max(map(len, prepare(raw, last=5).values())) == 5
    rows = [{"reviewerID": "u", "asin": f"B{1 + n % 5}", "unixReviewTime": n} for n in range(20)]
    write_lines(raw / "Arts.json.gz", rows)
    uncut = prepare(raw, overwrite=True)["u"]
    assert len(uncut) == 20
    assert not (raw / "arts" / "behaviours.tsv").exists()
    add_images(raw, "B1", "B2", "B3", "B5")
    capsys.readouterr()
    finish(raw / "arts")
    read = Interactions.load(raw / "arts")
    # Without B4 the window reaches further back: 16 interactions are left, the last 15 kept.
    assert [read.item_ids[n - 1] for n in read.items] == [item for item in uncut if item != "B4"][-15:]
    out = capsys.readouterr().out
    assert "dropped: 1 items without image" in out
    assert "paper, Table 1" in out


def test_finishing_again_after_more_images(raw):
    prepare(raw)
    add_images(raw, "B1", "B2", "B3", "B4")
    finish(raw / "arts")
    assert Interactions.load(raw / "arts").user_ids == ["w"]
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(raw / "arts" / "images" / "B5.png")
    finish(raw / "arts")
    assert Interactions.load(raw / "arts").user_ids == ["u", "v", "w"]
    assert sorted(os.listdir(raw / "arts")) == [
        "behaviours.tsv",
        "dataset.json",
        "image_urls.tsv",
        "images",
        "items.tsv",
        "unfinished",
    ]


def test_only_unfinished_datasets_are_finished(tmp_path):
    with pytest.raises(InputError, match="nothing to finish here"):
        finish(tmp_path)


def test_finishing_without_images(raw):
    prepare(raw)
    with pytest.raises(InputError, match="images: no such folder"):
        finish(raw / "arts")


def test_truncated_gzip(raw):
    path = raw / "Arts.json.gz"
    rows = [
        {"reviewerID": user, "asin": item, "unixReviewTime": time, "reviewText": os.urandom(99).hex()}
        for user, item, time in events()
    ]
    write_lines(path, rows)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"Arts.json.gz, line \d+: the gzip file is broken or ends early .*--skip-bad-lines 1"):
        prepare(raw)
    assert not (raw / "arts").exists()
    assert prepare(raw, skip_bad_lines=1) == {user: EXPECTED[user] for user in "uvw"}


def test_a_gzip_file_of_nothing(raw):
    path = raw / "Arts.json.gz"
    path.write_bytes(path.read_bytes()[:15])
    with pytest.raises(InputError, match=r"Arts.json.gz, line 1: the gzip file is broken"):
        prepare(raw)


def test_damaged_gzip(raw):
    path = raw / "meta_Arts.json.gz"
    content = bytearray(path.read_bytes())
    content[-8:-4] = b"\0\0\0\0"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"meta_Arts.json.gz, line 11: the gzip file is broken or ends early \(CRC check failed"):
        prepare(raw)


def test_broken_lines_are_named_or_counted(raw, capsys):
    path = raw / "meta_Arts.json.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    lines[2:2] = [b'{"asin": "B9", "title": "cut o\n', b'{"title": "no asin"}\n', b"\n", b'{"asin": "B8", "title": "\xff"}\n']
    path.write_bytes(gzip.compress(b"".join(lines)))
    with pytest.raises(InputError, match=r"meta_Arts.json.gz, line 3: "):
        prepare(raw)
    with pytest.raises(InputError, match=r"meta_Arts.json.gz, line 4: no valid asin"):
        prepare(raw, skip_bad_lines=1)
    with pytest.raises(InputError, match=r"meta_Arts.json.gz, line 6: "):
        prepare(raw, skip_bad_lines=2)
    assert prepare(raw, skip_bad_lines=3) == EXPECTED
    assert "3 bad lines left out, the first: line 3" in capsys.readouterr().out


def test_a_review_without_a_time_is_named(raw):
    (raw / "Arts.csv").write_text("B1,u,5.0,1400000000\nB2,u,5.0,\n")
    with pytest.raises(InputError, match=r"Arts.csv, line 2: no valid time: 'B2,u,5.0,'"):
        prepare(raw, reviews="Arts.csv")


def test_metadata_of_another_category(raw):
    write_lines(raw / "meta_Arts.json.gz", [{"asin": "Z1", "title": "Other"}])
    with pytest.raises(InputError, match="none of 9 items of the reviews is in it"):
        prepare(raw)


def test_no_user_with_enough_reviews(raw):
    with pytest.raises(InputError, match=r"Arts.json.gz: no user has 12 reviews"):
        prepare(raw, min_length=12)
    assert not (raw / "arts").exists()


def test_clean_html():
    text = "<script type='x'>var a = 1 < 2;</script>A <b>B</b> &amp;amp; C&nbsp;D <3 5 < 6 > 4 <!-- no --> &lt;i&gt;E<style>p{"
    assert clean_html(text) == "A B & C D <3 5 < 6 > 4 E"
