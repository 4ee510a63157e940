import gzip
import json
import os

import numpy as np
import pytest
from PIL import Image

from odmt.errors import InputError
from odmt.prepare.amazon import amazon
from odmt.prepare.amazon_metadata import clean_html
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


ASINS = [f"B00000000{n}" for n in range(6)]
TITLES = {asin: f'Joe\'s "thing" {n}' for n, asin in enumerate(ASINS)}


def small(raw, metadata, reviews="reviews", **options):
    """Prepare six items that three users had in their order; returns the items' texts and their URLs."""
    if reviews == "reviews":
        write_lines(raw / "reviews", ratings_as_objects())
    write_lines(raw / "meta", metadata) if isinstance(metadata, list) else (raw / "meta").write_text(metadata)
    histories = prepare(raw, reviews, "meta", **options)
    assert histories == {f"A{user}00000000X": ASINS for user in range(3)}
    urls = [line.split("\t") for line in (raw / "arts" / "image_urls.tsv").read_text().splitlines()]
    return (raw / "arts" / "unfinished" / "items.tsv").read_text().splitlines(), {item: links for item, *links in urls}


def ratings_as_objects():
    return [
        {"reviewerID": f"A{user}00000000X", "asin": asin, "unixReviewTime": 1500000000 + n}
        for user in range(3)
        for n, asin in enumerate(ASINS)
    ]


def metadata_2014():
    return [
        {"asin": asin, "title": title, "imUrl": f"http://img.example/{asin}.jpg", "categories": [["Arts", "Sewing"], ["Home"]]}
        for asin, title in TITLES.items()
    ]


@pytest.mark.parametrize("write", [repr, json.dumps])
def test_2014(raw, write, capsys):
    items, urls = small(raw, "".join(write(row) + "\n" for row in metadata_2014()))
    assert items[0] == 'B000000000\tJoe\'s "thing" 0\t\tArts Sewing Home\t'
    assert urls == {asin: [f"http://img.example/{asin}.jpg"] for asin in ASINS}
    assert "meta: metadata of 2014" in capsys.readouterr().out


def test_python_code_is_not_run(raw, tmp_path):
    lines = [repr(row) for row in metadata_2014()]
    marker = tmp_path / "run"
    lines[1:1] = [f"{{'asin': __import__('os').mkdir({str(marker)!r})}}", "[" * 5000]
    with pytest.raises(InputError, match=r"meta, line 2: not a JSON object"):
        small(raw, "\n".join(lines) + "\n")
    assert len(small(raw, "\n".join(lines) + "\n", skip_bad_lines=2)[0]) == 6
    assert not marker.exists()


def metadata_2023(images):
    return [{"parent_asin": asin, "title": title, "images": images(asin), "categories": []} for asin, title in TITLES.items()]


@pytest.mark.parametrize(
    ("images", "sizes"),
    [
        (
            lambda asin: {"hi_res": [None], "large": [f"{IMAGE}{asin}"], "thumb": [f"{IMAGE}{asin}t"], "variant": ["MAIN"]},
            ["", "t"],
        ),
        (lambda asin: {"large": [f"{IMAGE}no", f"{IMAGE}{asin}"], "variant": ["PT01", "MAIN"]}, [""]),
        (lambda asin: {"large": f"{IMAGE}{asin}"}, [""]),
        (lambda asin: [f"{IMAGE}{asin}"], [""]),
        (lambda asin: f"{IMAGE}{asin}", [""]),
    ],
)
def test_forms_of_images(raw, images, sizes):
    _, urls = small(raw, metadata_2023(images))
    assert urls == {asin: [f"{IMAGE}{asin}{size}" for size in sizes] for asin in ASINS}


def test_images_of_an_unknown_form_are_shown(raw, capsys):
    with pytest.raises(InputError, match="none of the 6 items with interactions and text has an image"):
        small(raw, metadata_2023(lambda asin: [{"link": f"{IMAGE}{asin}"}]))
    assert '6 items with a title have no image URL, B000000000 for one: images is \'[{"link":' in capsys.readouterr().out


def test_not_a_number_and_an_array(raw):
    rows = [{**row, "price": float("nan")} for row in metadata_2014()]
    assert len(small(raw, rows)[0]) == 6
    for indent in (None, 1):
        items, urls = small(raw, json.dumps(rows, indent=indent), overwrite=True)
        assert (len(items), len(urls)) == (6, 6)


@pytest.mark.parametrize(
    ("header", "order", "said"),
    [
        ("", "user,item,rating,time", "read as user,item,rating,time (2014)"),
        ("", "item,user,rating,time", "read as item,user,rating,time (2018)"),
        ("user_id,parent_asin,rating,timestamp", "user,item,rating,time", "by their header: user_id, parent_asin, timestamp"),
        ("rating,timestamp,asin,reviewerID", "rating,time,item,user", "by their header: reviewerID, asin, timestamp"),
    ],
)
def test_forms_of_ratings(raw, capsys, header, order, said):
    rows = [
        {"user": row["reviewerID"], "item": row["asin"], "rating": 5.0, "time": row["unixReviewTime"]}
        for row in ratings_as_objects()
    ]
    lines = [header] if header else []
    lines += [",".join(str(row[column]) for column in order.split(",")) for row in rows]
    (raw / "ratings.csv").write_text("\n".join(lines) + "\n")
    small(raw, metadata_2014(), "ratings.csv")
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("name", ["U{}", "{:010}x", "A{:013}"])
def test_users_who_come_first_are_seen_by_the_items_beside_them(raw, name):
    rows = [f"{name.format(user)},{asin},5.0,{10**9 + place}" for user in range(3) for place, asin in enumerate(ASINS)]
    (raw / "ratings.csv").write_text("\n".join(rows) + "\n")
    write_lines(raw / "meta", metadata_2014())
    assert prepare(raw, "ratings.csv", "meta") == {name.format(user): ASINS for user in range(3)}


def test_other_forms_are_named(raw):
    (raw / "ratings.csv").write_text("who,what,stars,when\nu,a,5,today\n")
    with pytest.raises(InputError, match=r"ratings.csv: neither of the keys user_id, .*; it has who, what, stars, when"):
        prepare(raw, "ratings.csv")
    (raw / "ratings.csv").write_text("u,a,1500000000\n")
    with pytest.raises(InputError, match=r"ratings.csv, line 1: 3 columns without a header; ratings have four"):
        prepare(raw, "ratings.csv")
    write_lines(raw / "meta", [{"id": 1, "name": "x"}])
    with pytest.raises(InputError, match=r"meta: no metadata of Amazon: .*; it has id, name"):
        prepare(raw, metadata="meta")


def test_items_that_lost_their_leading_zero_in_the_reviews(raw):
    rows = [{**row, "asin": row["asin"].replace("B", "0")} for row in metadata_2014()]
    write_lines(raw / "reviews", [{**row, "asin": row["asin"].lstrip("B0") or "0"} for row in ratings_as_objects()])
    write_lines(raw / "meta", rows)
    with pytest.raises(InputError, match=r"is in it: '1' for one; it has '0000000001', which differs by a leading zero"):
        prepare(raw, "reviews", "meta")


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
    assert "bad lines left out: 3, the first: line 3" in capsys.readouterr().out


def test_a_review_without_a_time_is_named(raw):
    (raw / "Arts.csv").write_text("B1,u,5.0,1400000000\nB2,u,5.0,\n")
    with pytest.raises(InputError, match=r"Arts.csv, line 2: no valid time: 'B2,u,5.0,'"):
        prepare(raw, reviews="Arts.csv")


def test_metadata_of_another_category(raw):
    write_lines(raw / "meta_Arts.json.gz", [{"asin": "Z1", "title": "Other"}])
    with pytest.raises(InputError, match="none of 9 items of the reviews is in it: 'B1' for one; it has 'Z1'"):
        prepare(raw)


def test_no_user_with_enough_reviews(raw):
    with pytest.raises(InputError, match=r"Arts.json.gz: no user has 12 reviews"):
        prepare(raw, min_length=12)
    assert not (raw / "arts").exists()


def test_clean_html():
    text = "<script type='x'>var a = 1 < 2;</script>A <b>B</b> &amp;amp; C&nbsp;D <3 5 < 6 > 4 <!-- no --> &lt;i&gt;E<style>p{"
    assert clean_html(text) == "A B & C D <3 5 < 6 > 4 E"
