import ctypes
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from checkpoints import write_bert, write_clip
from mounts import make_read_only, need_mounts, own_mounts
from PIL import Image
from tqdm import tqdm
from transformers import CLIPImageProcessorPil
from waiting import wait_until

from odmt.errors import InputError
from odmt.features.decoding import decode
from odmt.features.encoders import ImageEncoder, TextEncoder, TextForm
from odmt.features.extraction import extract_features, fill_store
from odmt.features.modalities import ImageModality
from odmt.features.store import FeatureStore
from odmt.features.writer import exclusive, read_records, write_lists

SCRIPT = Path(__file__).parents[1] / "scripts" / "extract_features.py"
NUM_ITEMS = 120
CPU = torch.device("cpu")
PR_GET_PDEATHSIG = 2


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("encoders")
    return {"image_encoder": str(write_clip(folder / "clip")), "text_encoder": str(write_bert(folder / "bert"))}


@pytest.fixture
def job(encoders) -> dict:
    return {**encoders, "batch_size": 4, "num_workers": 0, "device": "cpu"}


def write_items(dataset: Path, numbers):
    dataset.mkdir(exist_ok=True)
    lines = [f"item{n}\tRed shirt {n}\t{'long ' * (n % 5)}Blue\n" for n in numbers]
    (dataset / "items.tsv").write_text("".join(lines))


def write_images(dataset: Path, numbers):
    (dataset / "images").mkdir(exist_ok=True)
    for n in numbers:
        pixels = np.random.default_rng(n).integers(0, 256, (20 + n % 7, 30, 3), np.uint8)
        Image.fromarray(pixels).save(dataset / "images" / f"item{n}.png")


@pytest.fixture
def dataset(tmp_path) -> Path:
    write_items(tmp_path / "data", range(NUM_ITEMS))
    write_images(tmp_path / "data", range(NUM_ITEMS))
    return tmp_path / "data"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, encoders) -> dict[str, dict]:
    """The content of both stores of a run that nothing interrupted."""
    dataset = tmp_path_factory.mktemp("uninterrupted") / "data"
    write_items(dataset, range(NUM_ITEMS))
    write_images(dataset, range(NUM_ITEMS))
    extract_features(dataset, **encoders, batch_size=4, num_workers=0, device="cpu")
    return content(dataset)


def content(dataset: Path) -> dict[str, dict]:
    """All features as bytes and all records, by modality and item."""
    found = {}
    for folder in sorted((dataset / "features").iterdir()):
        records = read_records(folder)
        with FeatureStore(folder) as store:
            features = {item: store.read(item).tobytes() for item in records if item in store}
            assert len(features) == len(store)
        found[folder.name] = {"features": features, "records": records}
    return found


def count_records(dataset: Path) -> dict[str, int]:
    return {folder.name: len(read_records(folder)) for folder in (dataset / "features").glob("*")}


def start_child(job) -> int:
    """Run a function in a forked process; its exit status is 2 after an `InputError`."""
    child = os.fork()
    if child:
        return child
    status = 70
    tqdm.set_lock(threading.RLock())  # its own one is shared with forks, and a child that is killed holding it would stop them all
    try:
        job()
        status = 0
    except InputError as error:
        print(error)
        sys.stdout.flush()
        status = 2
    finally:
        os._exit(status)


def wait_for(child: int) -> int:
    """Exit status of a child, negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_until_done(job, dataset: Path) -> list[dict[str, int]]:
    """Start a job again and again and kill it at random moments, later and later ones; returns what was stored at each."""
    moments, states = random.Random(0), []
    while True:
        child = start_child(job)
        time.sleep(moments.uniform(0, 0.05 * 1.15 ** len(states)))
        os.kill(child, signal.SIGKILL)
        if wait_for(child) == 0:
            return states
        states.append(count_records(dataset))


def test_stores_hold_every_item_with_its_own_features(dataset, encoders, job, capsys):
    extract_features(dataset, **job, verify=True)
    assert capsys.readouterr().out.count("120 items read back, every checksum right") == 2
    with FeatureStore(dataset / "features" / "image") as images, FeatureStore(dataset / "features" / "text") as texts:
        assert len(images) == len(texts) == NUM_ITEMS
        assert {images.num_tokens(f"item{n}") for n in range(NUM_ITEMS)} == {5}
        assert texts.num_tokens("item0") < texts.num_tokens("item4") <= 30
        pixels = torch.tensor(decode(dataset / "images" / "item17.png", 32))[None]
        (alone,) = ImageEncoder(encoders["image_encoder"], CPU).encode(pixels)
        np.testing.assert_allclose(images.read("item17"), alone, rtol=2e-3, atol=2e-3)
        (alone,) = TextEncoder(encoders["text_encoder"], 30, CPU).encode(["red shirt 17 long long blue"])
        np.testing.assert_allclose(texts.read("item17"), alone, rtol=2e-3, atol=2e-3)


def test_dataset_without_images_gets_text_alone(dataset, job):
    (dataset / "images").rename(dataset / "elsewhere")
    extract_features(dataset, **job)
    assert [folder.name for folder in (dataset / "features").iterdir()] == ["text"]
    with pytest.raises(InputError, match="images: no such folder"):
        extract_features(dataset, **job, modality="image")


def test_worker_processes_change_nothing(dataset, job, uninterrupted):
    extract_features(dataset, **{**job, "num_workers": 2})
    assert content(dataset) == uninterrupted


def test_killed_at_any_moment_it_continues_to_the_same_store(dataset, job, uninterrupted):
    states = kill_until_done(lambda: extract_features(dataset, **job), dataset)
    extract_features(dataset, **job, verify=True)
    assert content(dataset) == uninterrupted
    assert any(0 < count < NUM_ITEMS for state in states for count in state.values()), states


def test_killed_with_its_workers(dataset, job, uninterrupted):
    """The command as users start it, killed when it has stored something."""
    options = ["--image-encoder", job["image_encoder"], "--text-encoder", job["text_encoder"], "--batch-size", "4"]
    command = [sys.executable, SCRIPT, "--dataset", dataset, *options, "--device", "cpu", "--num-workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: count_records(dataset).get("image"), process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert count_records(dataset)["image"] > 0
    extract_features(dataset, **job)
    assert content(dataset) == uninterrupted


def test_full_disk_is_explained_and_the_store_continues(dataset, job, uninterrupted, capfd):
    def with_little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        extract_features(dataset, **job)

    assert wait_for(start_child(with_little_room)) == 2
    message = capfd.readouterr().out
    assert "shard-00000.lmdb: cannot be written" in message
    assert "GB are free" in message
    assert "start the same command again" in message
    assert 0 < count_records(dataset)["image"] < NUM_ITEMS
    extract_features(dataset, **job, verify=True)
    assert content(dataset) == uninterrupted


def test_read_only_dataset(dataset, job, capfd):
    need_mounts()
    extract_features(dataset, **job, modality="text")
    before = content(dataset)
    capfd.readouterr()

    def extract_read_only(modality: str):
        own_mounts()
        make_read_only(dataset)
        extract_features(dataset, **job, modality=modality)

    assert wait_for(start_child(lambda: extract_read_only("text"))) == 0
    assert "text: 120 items; 0 were not there yet" in capfd.readouterr().out
    for change, modality in ((lambda: None, "image"), (lambda: write_items(dataset, [*range(1, NUM_ITEMS), 500]), "text")):
        change()
        assert wait_for(start_child(lambda modality=modality: extract_read_only(modality))) == 2
        message = capfd.readouterr().out
        assert "read only, so nothing can be stored" in message
        assert "make room" not in message
    assert content(dataset) == before


def test_of_two_extractions_of_a_dataset_one_is_refused(dataset, job, uninterrupted, capfd):
    with exclusive(dataset / "features" / "image"):
        assert wait_for(start_child(lambda: extract_features(dataset, **job))) == 2
        assert f"features/image: another process writes to it, number {os.getpid()} on " in capfd.readouterr().out
        assert wait_for(start_child(lambda: extract_features(dataset, **job, modality="text"))) == 0  # another store
    children = [start_child(lambda: extract_features(dataset, **job)) for _ in range(3)]
    statuses = [wait_for(child) for child in children]
    assert 0 in statuses
    assert set(statuses) <= {0, 2}
    assert content(dataset) == uninterrupted


def test_a_store_that_goes_away(dataset, job):
    extract_features(dataset, **job, modality="text")
    folder = dataset / "features" / "text"
    shutil.rmtree(dataset)
    with pytest.raises(InputError, match="the folder is gone"):
        write_lists(folder, ["item1"])


def test_other_request_is_refused_before_anything_is_encoded(dataset, job, tmp_path):
    extract_features(dataset, **job, modality="text")
    before = content(dataset)
    with pytest.raises(InputError, match="max_tokens is 30, asked for 20"):
        extract_features(dataset, **job, max_text_tokens=20)
    other = write_bert(tmp_path / "other", seed=5)
    with pytest.raises(InputError, match=r"features/text: holds features of .*weights is"):
        extract_features(dataset, **{**job, "text_encoder": str(other)})
    assert content(dataset)["text"] == before["text"]
    assert count_records(dataset)["image"] == 0
    # What was asked for in vain binds nobody: the image store is still empty.
    extract_features(dataset, **job, modality="image", shrink_jpegs=True)
    with pytest.raises(InputError, match=r"preprocessing is .*fraction.* asked for"):
        extract_features(dataset, **job, modality="image")


def test_added_and_changed_items_are_brought_up_to_date_and_no_others(dataset, job, capsys):
    extract_features(dataset, **job)
    before = content(dataset)
    write_items(dataset, [7, 300, *range(NUM_ITEMS)[8:], *range(7)])
    text = (dataset / "items.tsv").read_text().replace("Red shirt 9\t", "Green trousers\t")
    (dataset / "items.tsv").write_text(text)
    write_images(dataset, [300])
    Image.new("RGB", (50, 50), "red").save(dataset / "images" / "item3.png")
    capsys.readouterr()
    extract_features(dataset, **job)
    assert "image: 121 items; 2 were not there yet" in (out := capsys.readouterr().out)
    assert "text: 121 items; 2 were not there yet" in out
    after = content(dataset)
    for modality, changed in (("image", {"item3"}), ("text", {"item9"})):
        old, new = before[modality]["features"], after[modality]["features"]
        assert set(new) - set(old) == {"item300"}
        assert {item for item in old if old[item] != new[item]} == changed
    extract_features(dataset, **job)
    assert content(dataset) == after


def exchange(path: Path, seed: int):
    """Put another image of the same size in bytes in a file's place, with the same time of change."""
    before = path.stat()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def image_fingerprint(dataset: Path) -> str:
    with FeatureStore(dataset / "features" / "image") as store:
        return store.content_fingerprint()


def write_bitmaps(dataset: Path, count: int):
    (dataset / "images").mkdir()
    write_items(dataset, range(count))
    for n in range(count):
        pixels = np.random.default_rng(n).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(dataset / "images" / f"item{n}.bmp")


def test_an_image_exchanged_for_one_of_the_same_size_is_encoded_anew(tmp_path, job, capsys):
    dataset = tmp_path / "bitmaps"
    dataset.mkdir()
    write_bitmaps(dataset, 8)
    job["modality"] = "image"
    extract_features(dataset, **job)
    before, fingerprint = content(dataset)["image"]["features"], image_fingerprint(dataset)
    exchange(dataset / "images" / "item3.bmp", seed=99)
    capsys.readouterr()
    extract_features(dataset, **job)
    assert "8 items; 1 were not there yet or have changed" in capsys.readouterr().out
    after = content(dataset)["image"]["features"]
    assert {item for item in after if after[item] != before[item]} == {"item3"}
    assert image_fingerprint(dataset) != fingerprint


def test_texts_that_the_tokenizer_does_not_know_are_said(tmp_path, job, capsys):
    write_items(tmp_path / "words", range(3))
    extract_features(tmp_path / "words", **job)
    assert "unknown" not in capsys.readouterr().out
    (tmp_path / "words" / "items.tsv").write_text("item0\tred\tshirt\nitem1\tРубашка\tкрасная\nitem2\tРубашка\tсиняя\n")
    extract_features(tmp_path / "words", **job)
    said = (
        f"67% of the tokens are unknown to the tokenizer of {job['text_encoder']} (such as in item item1: 'рубашка красная'); take"
    )
    assert f"{tmp_path}/words/features/text: {said} an encoder trained on such texts\n" in capsys.readouterr().out


def test_a_copied_or_touched_dataset_has_nothing_to_do(tmp_path, job, capsys):
    dataset, copy = tmp_path / "bitmaps", tmp_path / "copy"
    dataset.mkdir()
    write_bitmaps(dataset, 8)
    job["modality"] = "image"
    extract_features(dataset, **job)
    fingerprint, stored = image_fingerprint(dataset), content(dataset)
    shutil.copytree(dataset, copy, copy_function=shutil.copyfile)  # all times are new
    capsys.readouterr()
    extract_features(copy, **job)
    assert "8 items; 0 were not there yet" in capsys.readouterr().out
    assert image_fingerprint(copy) == fingerprint
    assert content(copy) == stored
    # Now that the files have been compared they are known again by their look.
    seen = {item: record.seen for item, record in read_records(copy / "features" / "image").items()}
    original = {item: record.seen for item, record in read_records(dataset / "features" / "image").items()}
    assert all(seen[item].split()[0] == original[item].split()[0] and seen[item] != original[item] for item in seen)


def make_old(dataset: Path):
    """Records as earlier versions wrote them: the size of the file and no more."""
    env = lmdb.open(str(dataset / "features" / "image" / "shard-00000.lmdb"), subdir=False, max_dbs=2)
    records = env.open_db(b"records")
    with env.begin(write=True) as transaction:
        transaction.delete(b"header")
        for key, value in list(transaction.cursor(records)):
            (image,) = (dataset / "images").glob(f"{key.decode()}.*")
            fate, reason = value.decode().split("\t")[1:3]
            transaction.put(key, f"{image.stat().st_size} bytes\t{fate}\t{reason}".encode(), db=records)
    env.close()


def test_a_store_of_an_earlier_version_is_continued(tmp_path, job, capsys):
    dataset = tmp_path / "bitmaps"
    dataset.mkdir()
    write_bitmaps(dataset, 8)
    # What was clipped or shown from under a transparent ground then is encoded anew, the other images are not.
    Image.new("RGBA", (16, 16), (0, 0, 0, 9)).save(dataset / "images" / "item6.png")
    Image.new("I;16", (16, 16), 999).save(dataset / "images" / "item7.png")
    for n in (6, 7):
        (dataset / "images" / f"item{n}.bmp").unlink()
    job["modality"] = "image"
    extract_features(dataset, **job)
    make_old(dataset)
    fingerprint = image_fingerprint(dataset)
    capsys.readouterr()
    extract_features(dataset, **job)
    assert "8 items; 2 were not there yet or have changed" in capsys.readouterr().out
    sources = {item: record.source for item, record in read_records(dataset / "features" / "image").items()}
    assert [item for item, source in sources.items() if source != "822 bytes"] == ["item6", "item7"]
    fingerprint = image_fingerprint(dataset)
    extract_features(dataset, **job)
    assert "8 items; 0 were not there yet" in capsys.readouterr().out
    assert image_fingerprint(dataset) == fingerprint
    # From now on their content is known, too.
    exchange(dataset / "images" / "item3.bmp", seed=99)
    extract_features(dataset, **job)
    assert "8 items; 1 were not there yet or have changed" in capsys.readouterr().out


def test_an_image_that_changes_while_it_is_read_is_read_again(tmp_path, job, capsys):
    dataset = tmp_path / "bitmaps"
    dataset.mkdir()
    write_bitmaps(dataset, 8)
    encoder = ImageEncoder(job["image_encoder"], CPU)
    items = [f"item{n}" for n in range(8)]
    images = ImageModality(dataset / "images", items, encoder, 0)
    exchange(dataset / "images" / "item5.bmp", seed=99)  # after the files were listed
    fill_store(dataset / "features" / "image", images, items, 4)
    capsys.readouterr()
    extract_features(dataset, **job, modality="image")
    assert "8 items; 1 were not there yet or have changed" in capsys.readouterr().out


def test_placeholders_are_bad_and_shared_pictures_are_said(tmp_path, job, capsys):
    dataset = tmp_path / "bitmaps"
    dataset.mkdir()
    write_bitmaps(dataset, 12)
    dot = io.BytesIO()
    Image.new("P", (1, 1)).save(dot, "GIF")
    for n in range(12):
        image = dataset / "images" / f"item{n}.bmp"
        if n < 6:
            image.unlink()
            image.with_suffix(".gif").write_bytes(dot.getvalue())
        elif n < 9:
            image.write_bytes((dataset / "images" / "item11.bmp").read_bytes())
    with pytest.raises(InputError, match=r"6 images .* item0: item0\.gif: ValueError: a placeholder of 1 x 1 pixels"):
        extract_features(dataset, **job, modality="image")
    extract_features(dataset, **job, modality="image", bad_images="drop")
    said = "4 items share their picture with another; one picture, that of item11, stands for 4 items"
    assert said in capsys.readouterr().out


def test_images_that_go_away_are_not_called_missing(dataset, job):
    items = [f"item{n}" for n in range(NUM_ITEMS)]
    images = ImageModality(dataset / "images", items, ImageEncoder(job["image_encoder"], CPU), 0)
    (dataset / "images").rename(dataset / "elsewhere")
    with pytest.raises(InputError, match="images: the folder is gone"):
        fill_store(dataset / "features" / "image", images, items, 4, "drop")
    (dataset / "elsewhere").rename(dataset / "images")
    extract_features(dataset, **job, bad_images="drop")
    assert listed(dataset) == {}


def test_the_checkpoints_own_preprocessing_and_sentence_means(dataset, job, tmp_path, capsys):
    for name in ("image_encoder", "text_encoder"):
        job[name] = str(shutil.copytree(job[name], tmp_path / name))
    CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}).save_pretrained(job["image_encoder"])
    (dataset / "images" / "item7.png").write_text("broken")
    job |= {
        "image_preprocessing": "own",
        "first_token": "mean",
        "text_prefix": "query: ",
        "lower_case": "no",
        "bad_images": "blank",
    }
    extract_features(dataset, **{**job, "num_workers": 2})
    once = content(dataset)
    encoder = ImageEncoder(job["image_encoder"], CPU, "own")
    with Image.open(dataset / "images" / "item17.png") as image, FeatureStore(dataset / "features" / "image") as store:
        (alone,) = encoder.encode([encoder.process(image.convert("RGB"))])
        np.testing.assert_allclose(store.read("item17"), alone, rtol=2e-3, atol=2e-3)
        (black,) = encoder.encode([encoder.process(Image.new("RGB", (32, 32)))])
        np.testing.assert_allclose(store.read("item7"), black, rtol=2e-3, atol=2e-3)
    with FeatureStore(dataset / "features" / "text") as store:
        form = TextForm(30, "mean", "query: ", "no")
        (alone,) = TextEncoder(job["text_encoder"], form, CPU).encode(["Red shirt 17 long long Blue"])
        np.testing.assert_allclose(store.read("item17"), alone, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(alone[0], alone[1:].astype(np.float32).mean(0), rtol=2e-3, atol=2e-3)
    capsys.readouterr()
    extract_features(dataset, **job)
    assert capsys.readouterr().out.count("0 were not there yet") == 2
    assert content(dataset) == once
    with pytest.raises(InputError, match="--shrink-jpegs fits images to the paper's square"):
        extract_features(dataset, **job, shrink_jpegs=True)


def test_a_decoding_process_that_is_killed_ends_the_run(dataset, job, monkeypatch):
    monkeypatch.setattr("odmt.features.decoding.decode", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(InputError, match=r"killed by SIGKILL.*--num-workers 0.*--shm-size.*continues"):
        extract_features(dataset, **{**job, "num_workers": 2})


@pytest.fixture
def broken(dataset) -> Path:
    """Items 5, 6 and 111 have no readable image."""
    (dataset / "images" / "item5.png").write_text("<html>404</html>")
    (dataset / "images" / "item6.png").unlink()
    path = dataset / "images" / "item111.png"
    path.write_bytes(path.read_bytes()[:500])
    return dataset


def listed(dataset: Path) -> dict[str, list[str]]:
    lists = sorted((dataset / "features" / "image").glob("*.tsv"))
    return {path.name: [line.split("\t")[0] for line in path.read_text().splitlines()] for path in lists}


def test_bad_images_stop_the_run_and_all_are_listed(broken, job, uninterrupted):
    with pytest.raises(InputError, match=r"3 images .* listed in .*bad_images\.tsv.* item111: item111\.png: .*--bad-images drop"):
        extract_features(broken, **job)
    assert listed(broken) == {"bad_images.tsv": ["item111", "item5", "item6"]}
    reasons = (broken / "features" / "image" / "bad_images.tsv").read_text()
    assert "item6\tno image file\n" in reasons
    assert "item5\titem5.png: UnidentifiedImageError" in reasons
    assert not (broken / "features" / "text" / "shard-00000.lmdb").exists()
    assert set(content(broken)["image"]["features"]) == {"item0", "item1", "item2", "item3"}  # the batches before the first bad one
    write_images(broken, [5, 6, 111])
    extract_features(broken, **job)
    assert content(broken) == uninterrupted
    assert listed(broken) == {}


def test_an_item_that_left_the_dataset_stops_nothing(broken, job):
    with pytest.raises(InputError, match="3 images"):
        extract_features(broken, **job)
    write_items(broken, (n for n in range(NUM_ITEMS) if n not in (5, 6, 111)))
    extract_features(broken, **job)
    assert listed(broken) == {}
    assert len(content(broken)["text"]["features"]) == NUM_ITEMS - 3


def test_items_with_bad_images_are_dropped(broken, job, uninterrupted):
    extract_features(broken, **job, bad_images="drop")
    assert listed(broken) == {"dropped.tsv": ["item111", "item5", "item6"]}
    features = content(broken)["image"]["features"]
    assert set(uninterrupted["image"]["features"]) - set(features) == {"item5", "item6", "item111"}
    write_images(broken, [6])
    extract_features(broken, **job, bad_images="drop")
    assert listed(broken) == {"dropped.tsv": ["item111", "item5"]}
    assert "item6" in content(broken)["image"]["features"]


def test_bad_images_count_as_black(broken, job, encoders):
    extract_features(broken, **job, bad_images="blank")
    assert listed(broken) == {"blank.tsv": ["item111", "item5", "item6"]}
    (black,) = ImageEncoder(encoders["image_encoder"], CPU).encode(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))
    with FeatureStore(broken / "features" / "image") as store:
        assert len(store) == NUM_ITEMS
        np.testing.assert_allclose(store.read("item111"), black, rtol=2e-3, atol=2e-3)
        assert np.abs(store.read("item110").astype(np.float32) - black).max() > 0.1


def test_another_choice_about_bad_images_takes_effect(broken, job):
    extract_features(broken, **job, bad_images="blank")
    blank = content(broken)["image"]["features"]
    extract_features(broken, **job, bad_images="drop")
    dropped = content(broken)["image"]["features"]
    assert listed(broken) == {"dropped.tsv": ["item111", "item5", "item6"]}
    assert {item: blank[item] for item in dropped} == dropped
    assert len(dropped) == NUM_ITEMS - 3
    with pytest.raises(InputError, match="3 images"):
        extract_features(broken, **job)


def test_killed_while_dropping_it_makes_the_same_batches(broken, job, tmp_path):
    kill_until_done(lambda: extract_features(broken, **job, bad_images="drop"), broken)
    extract_features(broken, **job, bad_images="drop")
    interrupted = content(broken)
    (broken / "features").rename(tmp_path / "interrupted")
    extract_features(broken, **job, bad_images="drop")
    assert content(broken) == interrupted


def test_verification_finds_damage(dataset, job):
    extract_features(dataset, **job)
    with FeatureStore(dataset / "features" / "text") as store:
        data = store.read("item11").tobytes()
    path = dataset / "features" / "text" / "shard-00000.lmdb"
    path.write_bytes(path.read_bytes().replace(data, data[:-1] + bytes([data[-1] ^ 1])))
    extract_features(dataset, **job)
    with pytest.raises(InputError, match="'item11' are damaged"):
        extract_features(dataset, **job, verify=True)


def rank_of(pid: str) -> str | None:
    try:
        variables = dict(line.split("=", 1) for line in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in line)
    except OSError:  # it has ended
        return None
    return variables.get("RANK")


def test_one_of_two_processes_is_killed(dataset, job, uninterrupted):
    options = ["--image-encoder", job["image_encoder"], "--text-encoder", job["text_encoder"], "--batch-size", "1"]
    command = [sys.executable, SCRIPT, "--processes", "2", "--dataset", dataset, *options, "--device", "cpu", "--num-workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        wait_until((dataset / "features" / "image" / "shard-00001.lmdb").exists, process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (victim,) = [pid for pid in children if rank_of(pid) == "1"]
        os.kill(int(victim), signal.SIGKILL)
        _, said = process.communicate()
    assert process.returncode == 1
    killed = "process 1 of 2 was ended by SIGKILL, probably out of memory; start the same command again, it continues"
    assert said.splitlines()[-1].endswith(f"failed: {killed}")  # behind the progress bar of the killed one, perhaps
    assert "Traceback" not in said
    extract_features(dataset, **job, verify=True)
    for modality, store in content(dataset).items():
        assert store["records"] == uninterrupted[modality]["records"]
        assert store["features"].keys() == uninterrupted[modality]["features"].keys()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_one_of_several_processes_ends_with_what_has_started_it(tmp_path):
    child = os.fork()
    if not child:
        number = ctypes.c_int(-1)
        try:
            os.environ["WORLD_SIZE"] = "2"
            with pytest.raises(InputError, match="nowhere"):
                extract_features(tmp_path / "nowhere")
            ctypes.CDLL(None).prctl(PR_GET_PDEATHSIG, ctypes.byref(number))
        finally:
            os._exit(number.value)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == signal.SIGTERM


def test_a_shard_of_the_other_modality_is_noticed(dataset, job):
    extract_features(dataset, **job)
    shard = "shard-00000.lmdb"
    (dataset / "features" / "image" / shard).replace(dataset / "features" / "text" / shard)  # of the same width
    with pytest.raises(
        InputError, match=r"text/shard-00000\.lmdb: was not written for the header.json beside it: modality is 'image'"
    ):
        extract_features(dataset, **job, modality="text", verify=True)


def test_two_processes_write_two_shards_of_one_store(dataset, job, uninterrupted):
    options = ["--image-encoder", job["image_encoder"], "--text-encoder", job["text_encoder"], "--batch-size", "4"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, SCRIPT, "--dataset", dataset, *options, "--device", "cpu", "--num-workers", "1", "--verify"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("60 items read back, every checksum right") == 4
    for modality in ("image", "text"):
        shards = sorted(path.name for path in (dataset / "features" / modality).glob("*.lmdb"))
        assert shards == ["shard-00000.lmdb", "shard-00001.lmdb"]
    both = content(dataset)
    for modality, store in uninterrupted.items():
        assert both[modality]["records"] == store["records"]
        for item, features in store["features"].items():  # other batches, so other roundings
            near = [np.frombuffer(data, np.float16).astype(np.float32) for data in (both[modality]["features"][item], features)]
            np.testing.assert_allclose(*near, rtol=2e-3, atol=2e-3)
    extract_features(dataset, **job)  # one process goes on with what two have made
    assert content(dataset) == both
