"""Image files in the form of the official release, for tests."""

import pickle
import sys
from types import ModuleType

import lmdb
import numpy as np


class LMDB_Image:
    """As in the official code of Arts, Office and H&M."""

    def __init__(self, image, id):
        self.channels = image.shape[2]
        self.size = image.shape[:2]
        self.image = image.tobytes()
        self.id = id


class StreamImage:
    """As in the official code of Stream, where it has the same name."""

    def __init__(self, image):
        self.image = image.tobytes()


StreamImage.__name__ = StreamImage.__qualname__ = "LMDB_Image"


def pickled(stored, protocol: int | None = None) -> bytes:
    """The pickle that a script gives, whose classes live in `__main__`."""
    main, module = sys.modules["__main__"], ModuleType("__main__")
    module.LMDB_Image = type(stored)
    sys.modules["__main__"] = module
    type(stored).__module__ = "__main__"
    try:
        return pickle.dumps(stored, protocol)
    finally:
        sys.modules["__main__"] = main


def write_lmdb(path, values: dict[bytes, bytes], subdir: bool = False):
    env = lmdb.open(str(path), subdir=subdir, map_size=1 << 26)
    with env.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
        transaction.put(b"__keys__", pickle.dumps(list(values)))
        transaction.put(b"__len__", pickle.dumps(len(values)))
    env.close()


def pixels(seed: int, height: int = 5, width: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
