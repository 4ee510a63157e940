"""Taking tables that were edited on purpose for the dataset's own from now on."""

from pathlib import Path

from odmt.errors import InputError
from odmt.features.behaviours import ListFile
from odmt.features.dataset import LISTS, RECORD, find_dataset, read_record, write_record
from odmt.features.item_table import read_items
from odmt.prepare.new_folder import writing


def accept(dataset: Path):
    """Accept a dataset's tables as they are now: they are read once, and dataset.json is written anew.

    Args:
        dataset: the dataset's folder, data/NAME, or its name.
    """
    folder = find_dataset(dataset)
    path = folder / RECORD
    before = path.read_bytes() if path.is_file() else None
    try:
        about = read_record(folder) or {}
    except InputError:
        about = {}
    with writing(folder):
        write_record(folder, about)
        try:
            counts = _counts(folder)
            write_record(folder, {**about, **counts, "accepted": True})
        except InputError:
            if before is None:
                path.unlink()
            else:
                path.write_bytes(before)
            raise
    print(f"{folder}: accepted with " + ", ".join(f"{number:,} {what}" for what, number in counts.items()))


def _counts(folder: Path) -> dict[str, int]:
    names, _ = read_items(folder / "items.tsv")
    users: set[str] = set()
    interactions = 0
    lists = [folder / name for name in LISTS if (folder / name).is_file()]
    if not lists:
        raise InputError(f"{folder}: none of {', '.join(LISTS)} is there, so it is no dataset; scripts/prepare.py makes one")
    for path in lists:
        table = ListFile(path, names)
        users.update(table.users)
        interactions += sum(len(items) for items, _ in table.blocks())
    return {"users": len(users), "items": len(names), "interactions": interactions}
