"""The extraction job: every item of a dataset through the frozen encoders, once, into the feature stores.

Started again it continues: batches are cut from what is missing, in the order of items.tsv, and stored one transaction each, so
that a run that was killed and one that was not make the same batches and the same store.

Deviation: the official code extracts the features at every launch, from images that are pickled in LMDB.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt
from tqdm import tqdm

from odmt.cores import num_cores, rank_and_size
from odmt.distributed import choose_device, end_with_parent
from odmt.errors import InputError
from odmt.features.dataset import find_dataset
from odmt.features.header import Fate, Header, Record
from odmt.features.image_encoders import ImageEncoder, Preprocessing
from odmt.features.images import describe_shared
from odmt.features.item_table import read_items
from odmt.features.modalities import ImageModality, Modality, TextModality
from odmt.features.store import shard_number, shard_paths
from odmt.features.text_encoders import FirstToken, LowerCase, TextEncoder, TextForm
from odmt.features.writer import (
    LISTS,
    FeatureWriter,
    check_names,
    claim_folder,
    discard,
    exclusive,
    open_for_reading,
    read_records,
    update_records,
    write_lists,
)

BadImages = Literal["stop", "drop", "blank"]


def extract_features(
    dataset: Path,
    image_encoder: str = "openai/clip-vit-base-patch32",
    text_encoder: str = "bert-base-uncased",
    modality: Literal["all", "image", "text"] = "all",
    image_preprocessing: Preprocessing = "paper",
    max_text_tokens: int = 30,
    first_token: FirstToken | None = None,
    text_prefix: str = "",
    lower_case: LowerCase = "auto",
    bad_images: BadImages = "stop",
    shrink_jpegs: bool = False,
    batch_size: PositiveInt = 64,
    num_workers: NonNegativeInt | None = None,
    device: Literal["auto", "cuda", "cpu"] = "auto",
    verify: bool = False,
):
    """Compute the image and text features of a dataset's items and store them in DATASET/features.

    Only what is missing is computed: an extraction that was interrupted continues, and items that were added, or whose image or
    text changed, are brought up to date. Of several processes each takes its share of the items and writes its own shard.

    Args:
        dataset: the dataset's folder, data/NAME, or its name.
        image_encoder: checkpoint of a vision model, a folder or a hub name: CLIP, SigLIP, SigLIP 2, DINOv2, DINOv3, ViT, BEiT,
            Swin, ConvNeXt, ResNet, EfficientNet and others, or timm's; of several towers the vision tower is taken.
        text_encoder: checkpoint of a text encoder, a folder or a hub name: BERT, RoBERTa, XLM-R, DistilBERT, MPNet, ModernBERT,
            DeBERTa and others, sentence encoders (E5, BGE, GTE, folders of sentence-transformers), T5's encoder, CLIP's and
            SigLIP's text towers; hfl/chinese-roberta-wwm-ext for Chinese.
        modality: what to extract; `all` is text alone where there is no images folder.
        image_preprocessing: `paper` squashes images to a square and scales by mean and deviation 0.5; `own` is the checkpoint's
            image processor, with its size, crop, mean, deviation and interpolation.
        max_text_tokens: tokens that are kept of a text, special ones counted.
        first_token: what stands before a text's tokens, which many models read alone: the encoder's own `cls` token (of CLIP and
            SigLIP their pooled output) or the `mean` over the tokens. By default what a sentence encoder's own configuration
            says, else cls where there is one.
        text_prefix: what an encoder wants before every text, such as "query: " or "passage: ".
        lower_case: `auto` lower-cases texts, as the paper does, where the tokenizer makes no difference between A and a.
        bad_images: what to do about an image that is missing or cannot be decoded: `stop` before anything more is encoded, `drop`
            the item from the dataset, or take it as `blank` (black). All are listed with their reasons in features/image.
        shrink_jpegs: decode large JPEGs at a fraction of their size, in a third of the time; their pixels differ by about one
            hundredth from the paper's pre-processing, and the store says so.
        batch_size: items that are encoded together and stored in one transaction.
        num_workers: processes that decode images; by default one a core, 16 at most; 0 decodes in this process.
        device: `auto` takes the GPU where there is one.
        verify: read everything back at the end and compare checksums.

    Raises:
        InputError: a checkpoint that cannot be loaded, a store made in another way, a bad image with `stop`, a full disk.
    """
    if rank_and_size()[1] > 1:
        end_with_parent()
    dataset = find_dataset(dataset)
    item_ids, texts = read_items(dataset / "items.tsv", lower_case=False)
    check_names(item_ids)
    images = dataset / "images"
    here = choose_device(device)
    if shrink_jpegs and image_preprocessing == "own":
        raise InputError("--shrink-jpegs fits images to the paper's square; leave it out with --image-preprocessing own")
    # All is loaded and compared before the first item is encoded.
    parts: list[Modality] = []
    if modality == "image" or (modality == "all" and images.is_dir()):
        if not images.is_dir():
            raise InputError(f"{images}: no such folder; a dataset without images has text features only: --modality text")
        workers = _num_workers() if num_workers is None else num_workers
        encoder = ImageEncoder(image_encoder, here, image_preprocessing)
        parts.append(ImageModality(images, item_ids, encoder, workers, shrink_jpegs))
    if modality in ("all", "text"):
        form = TextForm(max_text_tokens, first_token, text_prefix, lower_case)
        parts.append(TextModality(item_ids, texts, TextEncoder(text_encoder, form, here)))
    folders = [dataset / "features" / part.header.modality for part in parts]
    with ExitStack() as locks:
        for folder, part in zip(folders, parts):
            locks.enter_context(exclusive(folder))
            claim_folder(folder, part.header)
        for folder, part in zip(folders, parts):
            fill_store(folder, part, item_ids, batch_size, bad_images)
            if verify:
                verify_store(folder)


def fill_store(folder: Path, modality: Modality, item_ids: list[str], batch_size: int, bad_images: BadImages = "stop"):
    """Bring a store up to date: this process's share of what is missing or has changed."""
    rank, num_processes = rank_and_size()
    share = item_ids[rank::num_processes]
    records = read_records(folder)
    fates = {"stored", bad_images} - {"stop"}
    known = [item_id for item_id in share if item_id in records]
    current = _compare(modality, {item_id: records[item_id] for item_id in known if records[item_id].fate in fates})
    stale = {item_id for item_id in known if current.get(item_id) is None}
    update_records(folder, {item_id: record for item_id, record in current.items() if record and record is not records[item_id]})
    discard(folder, stale)
    pending = [item_id for item_id in share if item_id not in records or item_id in stale]
    batches = [pending[start : start + batch_size] for start in range(0, len(pending), batch_size)]
    if pending:
        with FeatureWriter(folder, modality.header, shard=rank) as writer:
            _encode_into(writer, modality, batches, bad_images)
    _report(folder, write_lists(folder, item_ids), len(pending))
    if rank == 0 and (remark := modality.remark()):  # the shares of the other processes are like this one's
        print(f"{folder}: {remark}")


def _compare(modality: Modality, records: dict[str, Record]) -> dict[str, Record | None]:
    """What `Modality.compare` says of every record; files that have to be read are, by several threads."""
    with ThreadPoolExecutor(8) as threads:
        compared = threads.map(modality.compare, records, records.values())
        return dict(zip(records, tqdm(compared, f"{modality.header.modality}: comparing", len(records), unit="item", delay=2)))


def verify_store(folder: Path):
    """Read everything back and compare it with its checksums; of several processes each reads the shards that it may write.

    Raises:
        InputError: a damaged item.
    """
    rank, num_processes = rank_and_size()
    header = Header.read(folder)
    num_items = 0
    for path in shard_paths(folder):
        if shard_number(path) % num_processes == rank:
            shard = open_for_reading(path)
            features = shard.read_features(header)
            num_items += sum(1 for _ in tqdm(features, f"{path}: verifying", shard.num_items(), unit="item", disable=rank > 0))
            shard.env.close()
    print(f"{folder}: {num_items:,} items read back, every checksum right")


def _encode_into(writer: FeatureWriter, modality: Modality, batches: list[list[str]], bad_images: BadImages):
    """Encode and store batch by batch; after the first bad image with `stop` look for the other ones only."""
    rank, num_processes = rank_and_size()
    name = modality.header.modality + (f" (1 of {num_processes} processes)" if num_processes > 1 else "")
    stopped = False
    with tqdm(total=sum(map(len, batches)), desc=name, unit="item", disable=rank > 0) as progress, _one_behind() as behind:
        for batch, (inputs, reasons) in zip(batches, modality.batches(batches)):
            bad = {batch[position]: reason for position, reason in reasons.items()}
            records = {item: modality.record(item, bad_images, reason) for item, reason in bad.items()}
            features = {}
            if bad and bad_images == "stop" and not stopped:
                stopped = True
                progress.set_description(f"{name}: looking for bad images")
            if not stopped:
                kept = [item for item in batch if item not in bad or bad_images == "blank"]
                encoded = dict(zip(batch, modality.encode(inputs)))
                features = {item: encoded[item] for item in kept}
                records = {item: modality.record(item) for item in kept} | records
            behind(writer.add, features, records)
            progress.update(len(batch))


@contextmanager
def _one_behind() -> Iterator[Callable]:
    """Give a function that makes a call in a thread once the call before has ended; leaving waits for the last one."""
    with ThreadPoolExecutor(1) as thread:
        last = thread.submit(lambda: None)

        def call(function: Callable, *args):
            nonlocal last
            last.result()
            last = thread.submit(function, *args)

        yield call
        last.result()


def _report(folder: Path, by_fate: dict[Fate, dict[str, Record]], num_new: int):
    if bad := by_fate["stop"]:
        item_id, record = next(iter(bad.items()))
        raise InputError(
            f"{len(bad)} images are missing or cannot be decoded, listed in {folder / LISTS['stop']}; the first is "
            f"{item_id}: {record.reason}. Mend them, or pass --bad-images drop or --bad-images blank; what was stored stays"
        )
    num_items = len(by_fate["stored"]) + len(by_fate["blank"])
    print(f"{folder}: {num_items:,} items; {num_new:,} were not there yet or have changed")
    hashes = {item_id: record.source for item_id, record in by_fate["stored"].items() if record.seen}
    if shared := describe_shared(hashes):
        print(f"{folder}: {shared}")
    lenient: tuple[Fate, ...] = ("drop", "blank")
    for fate in lenient:
        if by_fate[fate]:
            print(f"{folder / LISTS[fate]}: {len(by_fate[fate]):,} items whose image is missing or cannot be decoded")


def _num_workers() -> int:
    """One a core of this process's share of the machine, 16 at most."""
    return max(1, min(16, num_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
