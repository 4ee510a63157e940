import csv
import io
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from image_server import ImageServer, image_bytes
from PIL import Image
from waiting import wait_until

from odmt.errors import InputError
from odmt.prepare import downloads
from odmt.prepare.downloads import is_public
from odmt.prepare.fetch import fetch_images

ROOT = Path(__file__).parents[1]


@pytest.fixture
def server():
    server = ImageServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE_S", 0.01)


@pytest.fixture
def fetch(tmp_path, server):
    """Fetch paths of the server, or whole URLs, by item; returns the names of the image files."""

    def run(urls: dict[str, str], **options) -> list[str]:
        def whole(url: str) -> str:
            return url if re.match(r"\w+://", url) else f"{server.url}/{url}"

        lines = ["\t".join([item, *map(whole, links.split())]) for item, links in urls.items()]
        (tmp_path / "image_urls.tsv").write_text("\n".join(lines) + "\n")
        fetch_images(tmp_path, **{"allow_private": True, "retries": 2, "timeout_s": 60, **options})
        return sorted(os.listdir(tmp_path / "images"))

    return run


def failures(folder: Path) -> dict[str, tuple[str, str]]:
    with (folder / "image_failures.csv").open(newline="") as file:
        return {row["item"]: (row["reason"], row["final"]) for row in csv.DictReader(file)}


def test_images_are_named_by_item_and_content(fetch, tmp_path, capsys):
    assert fetch({"B1": "image", "B2": "png.jpg", "a.b": "image/x"}) == ["B1.jpg", "B2.png", "a.b.jpg"]
    assert (tmp_path / "images" / "B1.jpg").read_bytes() == image_bytes()
    assert Image.open(tmp_path / "images" / "B2.png").format == "PNG"
    assert failures(tmp_path) == {}
    assert "3 of 3 images are there; `prepare.py finish` will drop 0 items" in capsys.readouterr().out


def test_what_is_there_is_not_fetched_again(fetch, server):
    fetch({"B1": "image/1", "B2": "image/2"})
    assert fetch({"B1": "image/1", "B2": "image/2", "B3": "image/3"}) == ["B1.jpg", "B2.jpg", "B3.jpg"]
    assert server.hits == {"image/1": 1, "image/2": 1, "image/3": 1}


def test_a_url_that_items_share_is_fetched_once(fetch, server):
    items = {f"B{n}": f"status/404 image image/{n}" for n in range(20)}
    assert len(fetch(items)) == 20
    assert server.hits == {"status/404": 1, "image": 1}


def test_the_first_url_that_gives_an_image_is_taken(fetch, tmp_path):
    assert fetch({"B1": "status/404 html png"}) == ["B1.png"]
    assert failures(tmp_path) == {}


@pytest.mark.parametrize("status", [429, 500, 503, 522])
def test_passing_trouble_is_waited_for(fetch, server, status):
    start = time.monotonic()
    assert fetch({"B1": f"status/{status}/2"}) == ["B1.jpg"]
    assert server.hits[f"status/{status}/2"] == 3
    if status == 429:  # which asks for a pause of a second each time
        assert time.monotonic() - start >= 2


def test_a_pause_asked_for_holds_for_the_host(fetch, server):
    start = time.monotonic()
    fetch({"B1": "status/429/1", "B2": "image/2"}, per_host=1)
    assert time.monotonic() - start >= 1
    assert server.hits == {"status/429/1": 2, "image/2": 1}


def test_trouble_that_stays_is_listed_and_tried_again_next_time(fetch, server, tmp_path, capsys):
    assert fetch({"B1": "status/503", "B2": "status/404", "B3": "image"}) == ["B3.jpg"]
    assert failures(tmp_path) == {"B1": ("status 503", "no"), "B2": ("status 404", "yes")}
    assert server.hits == {"status/503": 3, "status/404": 1, "image": 1}
    out = capsys.readouterr().out
    assert "will drop 2 items without one" in out
    assert "1 x status 404" in out
    fetch({"B1": "status/503", "B2": "status/404", "B3": "image"})
    assert server.hits == {"status/503": 6, "status/404": 1, "image": 1}
    fetch({"B1": "status/503", "B2": "status/404", "B3": "image"}, retry_failed=True)
    assert server.hits == {"status/503": 9, "status/404": 2, "image": 1}
    assert len(failures(tmp_path)) == 2


def test_truncated_answers(fetch, server, tmp_path):
    assert fetch({"B1": "truncated/1", "B2": "truncated/9", "B3": "cut"}) == ["B1.jpg"]
    assert server.hits["truncated/1"] == 2
    assert server.hits["truncated/9"] == 3
    reasons = failures(tmp_path)
    assert reasons["B2"][0].startswith("connection broken")
    assert reasons["B3"][0].startswith("broken image")
    assert {final for _, final in reasons.values()} == {"no"}


def test_what_is_no_image_is_refused(fetch, tmp_path):
    assert fetch({"B1": "html", "B2": "dot"}) == []
    assert failures(tmp_path) == {
        "B1": ("not an image: it begins with b'<html>Robot check</h'", "yes"),
        "B2": ("a placeholder of 1 x 1 pixels", "yes"),
    }


def test_pictures_of_too_many_pixels_are_not_decoded(fetch, server, tmp_path):
    """What a header announces is believed, so that no memory is taken for it."""
    small = io.BytesIO()
    Image.new("1", (16, 16)).save(small, "PNG")
    header = b"IHDR" + struct.pack(">II", 13_000, 13_000) + small.getvalue()[24:29]
    server.content = small.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header)) + small.getvalue()[33:]
    assert fetch({"B1": "content"}) == []
    assert failures(tmp_path) == {"B1": ("13000 x 13000 pixels, more than the 50 million that are decoded", "yes")}


def test_names_and_passwords_are_not_written_down(fetch, server, tmp_path):
    secret = f"http://me:pass%40word@127.0.0.1:{server.port}"
    urls = {"B1": f"{secret}/status/404", "B2": "ftp://me:secret@127.0.0.1/x", "B3": "http://me:secret@[::1/x"}
    assert fetch(urls) == []
    text = (tmp_path / "image_failures.csv").read_text()
    assert "me:" not in text
    assert "secret" not in text
    assert f"http://127.0.0.1:{server.port}/status/404" in text
    # The URL is known again, so that it is not asked for a second time.
    assert fetch(urls) == []
    assert server.hits["status/404"] == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://u:p@host/a@b", "http://host/a@b"),
        ("https://token@host", "https://host"),
        ("https://host/a@b.jpg", "https://host/a@b.jpg"),
        ("cannot reach http://u:p@host here", "cannot reach http://host here"),
    ],
)
def test_credentials_are_taken_out(text, expected):
    assert downloads.without_credentials(text) == expected


def test_only_what_fetching_has_left_is_removed(fetch, tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("B1.jpg.partial", "notes.partial", "B1.tex.partial"):
        (tmp_path / "images" / name).write_text("x")
    (tmp_path / "images" / "B1.json").write_text("{}")
    (tmp_path / "images" / "folder.jpg.partial").mkdir()
    assert fetch({"B1": "image"}) == ["B1.jpg", "B1.json", "B1.tex.partial", "folder.jpg.partial", "notes.partial"]
    (tmp_path / "image_failures.csv").write_text("my,own,table\n")
    with pytest.raises(InputError, match=r"image_failures.csv: not the list that fetching writes"):
        fetch({"B1": "image"})
    assert (tmp_path / "image_failures.csv").read_text() == "my,own,table\n"


def test_redirects_within_the_scheme_are_followed(fetch, server, tmp_path):
    assert fetch({"B1": "redirect/redirect/image", "B2": "redirect/redirect/redirect/redirect/redirect/redirect/image"}) == [
        "B1.jpg"
    ]
    assert failures(tmp_path)["B2"] == ("redirected more than 5 times", "yes")


@pytest.mark.parametrize("target", ["https://127.0.0.1/x.jpg", "ftp://127.0.0.1/x.jpg", "file:///etc/hostname"])
def test_redirects_to_another_scheme_are_refused(fetch, tmp_path, target):
    assert fetch({"B1": f"redirect/?to={target}"}) == []
    assert failures(tmp_path)["B1"] == (f"redirected from http to {target.partition(':')[0]}", "yes")


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x.jpg", "http://", "http://[::1/x.jpg"])
def test_other_urls_are_refused(fetch, tmp_path, url):
    assert fetch({"B1": url}) == []
    assert failures(tmp_path)["B1"][0].startswith("not a")


@pytest.mark.parametrize("form", ["announced", "unannounced"])
def test_a_stream_of_10_gb_is_stopped(fetch, server, tmp_path, form):
    assert fetch({"B1": f"endless/{form}"}, max_mb=1) == []
    assert failures(tmp_path)["B1"] == ("longer than 1,000,000 bytes", "no")
    # What was on its way when the reader stopped lies in the sockets' buffers.
    assert server.sent_bytes < 30_000_000


def test_slow_servers(fetch, tmp_path):
    assert fetch({"B1": "slow/0.3"}, timeout_s=60, retries=0) == ["B1.jpg"]
    assert fetch({"B1": "slow/0.3", "B2": "slow/600"}, timeout_s=1, retries=1) == ["B1.jpg"]
    assert failures(tmp_path)["B2"] == ("no complete answer within 1 s", "no")


def test_connections_to_a_host_are_bounded(fetch, server):
    server.delay_s = 0.1
    assert len(fetch({f"B{n}": f"image/{n}" for n in range(30)}, per_host=3)) == 30
    assert server.most_under_way == 3


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "[::1]"])
def test_private_addresses_are_refused_unless_admitted(fetch, server, tmp_path, host):
    url = f"http://{host}:{server.port}/image"
    assert fetch({"B1": url}, allow_private=False) == []
    reason, _ = failures(tmp_path)["B1"]
    assert "not a public address" in reason or reason.startswith("not a URL")
    assert not server.hits
    if host in ("127.0.0.1", "localhost"):
        assert fetch({"B1": url}) == ["B1.jpg"]


def test_redirects_to_private_addresses_are_refused(fetch, server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "is_public", lambda address: address == "127.0.0.1")
    target = f"http://127.0.0.2:{server.port}/image"
    assert fetch({"B1": f"redirect/?to={target}", "B2": "image/2"}, allow_private=False) == ["B2.jpg"]
    assert failures(tmp_path)["B1"][0].startswith("127.0.0.2 is not a public address")
    assert server.hits["image"] == 0


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("::ffff:8.8.8.8", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("fe80::1%eth0", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::808:808", True),
        ("64:ff9b:1::7f00:1", False),
        ("64:ff9b:1::808:808", False),
        ("::127.0.0.1", False),
        ("::8.8.8.8", False),
        ("fec0::1", False),
        ("3fff::1", False),
        ("192.0.0.8", False),
        ("::ffff:192.0.0.8", False),
        ("4000::1", False),
        ("2001:db8::1", False),
    ],
)
def test_public_addresses(address, public):
    assert is_public(address) == public


def test_killed_at_any_moment_it_goes_on(server, tmp_path):
    server.limit = 24
    items = [f"B{n}" for n in range(60)]
    (tmp_path / "image_urls.tsv").write_text("".join(f"{item}\t{server.url}/image/{item}\n" for item in items))
    script = Path(__file__).parents[1] / "scripts" / "fetch_images.py"
    command = [sys.executable, script, "--dataset", tmp_path, "--allow-private", "--per-host", "4"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def num_stored() -> int:
        return len(list((tmp_path / "images").glob("*.jpg")))

    wait_until(lambda: sum(server.hits.values()) == 28 and num_stored() == 24, process)  # four wait for their answers
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert num_stored() == 24
    server.limit = None
    assert subprocess.run(command, capture_output=True, check=True).stdout.startswith(b"24 of 60 images")
    assert sorted(os.listdir(tmp_path / "images")) == sorted(f"{item}.jpg" for item in items)
    # Only what was under way when it was killed is asked for twice.
    assert sum(server.hits.values()) == 60 + 4


def test_a_list_of_failures_cut_off_by_a_kill_is_read(fetch, tmp_path):
    fetch({"B1": "status/404", "B2": "html"})
    path = tmp_path / "image_failures.csv"
    path.write_bytes(path.read_bytes()[:-6])
    fetch({"B1": "status/404", "B2": "html"})
    assert set(failures(tmp_path)) == {"B1", "B2"}


def test_a_full_disk_is_reported(fetch, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left on device"):
        fetch({"B1": "image"})


BAD_LINES = ["B1", "B1\t", "\thttp://x/y", "../B1\thttp://x/y", "B\0\thttp://x/y", "x" * 241 + "\thttp://x/y", "..\thttp://x/y"]


@pytest.mark.parametrize("line", BAD_LINES)
def test_bad_lists_of_urls_are_named(tmp_path, line):
    (tmp_path / "image_urls.tsv").write_text(f"B0\thttp://x/y\n{line}\n")
    with pytest.raises(InputError, match=r"image_urls.tsv, line 2: expected item<TAB>url"):
        fetch_images(tmp_path)


def test_a_list_of_urls_that_is_no_text(tmp_path):
    (tmp_path / "image_urls.tsv").write_bytes(b"B0\thttp://x/y\nB1\thttp://x/\xff\n")
    with pytest.raises(InputError, match=r"image_urls.tsv, line 2: not UTF-8"):
        fetch_images(tmp_path)


def test_places_that_cannot_be_written_to_are_named(tmp_path, fetch):
    (tmp_path / "images").write_text("a file")
    with pytest.raises(InputError, match=r"cannot be written to: File exists"):
        fetch({"B1": "image"})


@pytest.mark.parametrize("limit", [64, 24])
def test_few_open_files(server, tmp_path, limit):
    """More downloads at once than files may be open: fetched all the same, or one sentence that names the limit."""
    (tmp_path / "image_urls.tsv").write_text("".join(f"B{number}\t{server.url}/image\n" for number in range(100)))
    command = ["sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh", sys.executable, "scripts/fetch_images.py"]
    options = ["--dataset", str(tmp_path), "--allow-private", "--per-host", "64"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert "too many files are open: raise ulimit -n" in done.stderr
        assert subprocess.run([*command[4:], *options], cwd=ROOT, capture_output=True).returncode == 0, "nothing is in its way"
    assert len(os.listdir(tmp_path / "images")) == 100


def test_a_dataset_without_urls(tmp_path):
    with pytest.raises(InputError, match=r"image_urls.tsv: no such file"):
        fetch_images(tmp_path)
