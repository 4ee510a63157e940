"""What a store of features says of itself and of its items: a header, and a record of every item.

Legend: T tokens of an item, the CLS token first, W feature width.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import xxhash

from odmt.errors import InputError

DTYPES: dict[str, np.dtype] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
MODALITIES: tuple[Literal["image", "text"], ...] = ("image", "text")
VERSION = 1
IMPORTED = "imported"  # what the header of ready features says of the pre-processing

Fate = Literal["stored", "stop", "drop", "blank"]
FATES: tuple[Fate, ...] = get_args(Fate)


@dataclass(frozen=True)
class Header:
    """What a store holds and how it was made.

    Attributes:
        modality: image or text.
        encoder: the checkpoint as its user named it, a folder or a hub name; a folder may move, so it is not compared.
        weights: fingerprint of the checkpoint's weights and vocabulary.
        layer: which output of the encoder.
        width: W.
        max_tokens: the most tokens an item can have.
        preprocessing: what was done to an image or text before the encoder saw it.
        dtype: of the stored numbers.
        version: of the layout that `odmt.features.store` describes.
    """

    modality: Literal["image", "text"]
    encoder: str = field(compare=False)
    weights: str
    layer: str
    width: int
    max_tokens: int
    preprocessing: str
    dtype: Literal["float16", "float32"] = "float16"
    version: int = VERSION

    def __post_init__(self):
        """Hold what is read from a file to what this version writes."""
        if self.version != VERSION:
            raise ValueError(f"version is {self.version!r}, and this program reads {VERSION}")
        for key, allowed in (("modality", MODALITIES), ("dtype", tuple(DTYPES))):
            if getattr(self, key) not in allowed:
                raise ValueError(f"{key} is {getattr(self, key)!r}, not {' or '.join(allowed)}")
        for key in ("width", "max_tokens"):
            value = getattr(self, key)
            if type(value) is not int or not 0 < value < 2**31:
                raise ValueError(f"{key} is {value!r}, not a positive whole number")
        for key in ("encoder", "weights", "layer", "preprocessing"):
            if not isinstance(getattr(self, key), str):
                raise ValueError(f"{key} is {getattr(self, key)!r}, not a text")

    @classmethod
    def read(cls, folder: Path) -> "Header":
        """Read header.json of a store.

        Raises:
            InputError: there is none, it is of another version or damaged, or of another modality than the folder is named for.
        """
        path = folder / "header.json"
        try:
            header = cls.from_json(path.read_bytes())
            if folder.name in MODALITIES and header.modality != folder.name:
                raise ValueError(f"modality is {header.modality!r} in a folder named {folder.name!r}")
            return header
        except FileNotFoundError:
            raise InputError(f"{path}: no such file, so this is no feature store; scripts/extract_features.py makes one") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); see to its permissions") from error
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{path}: not a header of this version ({error}); remove {folder} and extract again") from error

    @classmethod
    def from_json(cls, text: bytes) -> "Header":
        """The inverse of `to_json`.

        Raises:
            ValueError, TypeError: the text is not a header of this version.
        """
        return cls(**json.loads(text))

    @property
    def stored_type(self) -> np.dtype:
        """`dtype` as NumPy knows it, little-endian."""
        return DTYPES[self.dtype]

    def to_json(self) -> str:
        """The content of header.json."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    def compared(self) -> dict:
        """The fields by which two stores are the same or not."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.compare}

    def fingerprint(self) -> str:
        """A hash of all that headers are compared by."""
        return xxhash.xxh3_64_hexdigest(json.dumps(self.compared()).encode())

    def differing_keys(self, other: "Header") -> list[str]:
        """Names of the fields in which two headers disagree."""
        theirs = other.compared()
        return [key for key, value in self.compared().items() if value != theirs[key]]


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of an item beside its features.

    Attributes:
        source: signature of the image file or text that was read, or of the features where these came from elsewhere.
        fate: `stored`, or what was done about an image that could not be decoded; with `stop` and `drop` it has no features.
        reason: why the image could not be decoded.
        seen: a hash of the file and how it looked from outside when they were last compared, so that it need not be read again;
            empty in stores of earlier versions. Copies of a dataset differ in it, so it is not compared.
    """

    source: str
    fate: Fate = "stored"
    reason: str = ""
    seen: str = field(default="", compare=False)

    def to_bytes(self) -> bytes:
        """Three columns of a TSV line, four where `seen` is known."""
        columns = [self.source, self.fate, " ".join(self.reason.split())]
        return "\t".join([*columns, self.seen] if self.seen else columns).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> "Record":
        """The inverse of `to_bytes`.

        Raises:
            ValueError, TypeError: it is not what was written.
        """
        source, fate, reason, *seen = bytes(value).decode().split("\t")
        if fate not in FATES:
            raise ValueError(f"fate {fate!r}")
        return cls(source, fate, reason, *seen)
