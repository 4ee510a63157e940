"""Arrays of features that come with a raw dataset, of one vector an item, where row n is that of item number n."""

from pathlib import Path
from typing import Literal

from odmt.errors import InputError


def import_vectors(path: Path, folder: Path, names: dict[int, str], dtype: Literal["float16", "float32"]):
    """Take an .npy file into a store of the dataset that is being prepared.

    Args:
        path: [rows, width]; rows of other numbers are left out.
        folder: of the store, named after its modality.
        names: of the items, by number.
        dtype: of the stored features.
    """
    # Here, since PyTorch takes seconds to import and most commands do without.
    from odmt.features.feature_files import open_features
    from odmt.features.importing import Form, import_rows

    source = open_features(path)
    if source.max_tokens > 1:
        raise InputError(f"{path}: {source.max_tokens} tokens an item; expected one vector an item, [items, width]")
    if source.num_rows <= (highest := max(names)):
        raise InputError(f"{path}: {source.num_rows:,} rows, but the highest itemID is {highest}; row n is that of itemID n")
    import_rows(folder, source, [names.get(row) for row in range(source.num_rows)], Form(dtype))
    if source.num_rows > len(names):
        print(f"{path}: {source.num_rows - len(names):,} rows of other items left out")
