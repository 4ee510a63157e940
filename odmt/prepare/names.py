"""Why the names of one file are not those of another: a blank, a leading zero, another spelling of the same characters."""

import re
import unicodedata
from collections.abc import Iterable

ROUNDED = re.compile(r"([0-9](?:\.([0-9]+))?)[eE]\+?[0-9]{1,3}")  # 1.23E+12, what a spreadsheet makes of a long number


def unmatched(missing: Iterable[str], unused: Iterable[str], place: str) -> str:
    """Say which names are missing from a place, and what is there in their stead, with one example of each side.

    Args:
        missing: names that were looked for; there is one at least.
        unused: names that are there, and that nobody looked for.
        place: where.
    """
    missing, unused = sorted(missing), sorted(unused)
    alike = {key(name): name for name in reversed(unused)}
    for name in missing:
        if other := alike.get(key(name)):
            return f"{name!r} for one; {place} has {other!r}, {difference(name, other)}"
    for names, others in ((missing, unused), (unused, missing)):
        if pair := _rounded(names, others):
            name, other = pair if names is missing else pair[::-1]
            return f"{name!r} for one; {place} has {other!r}, which a spreadsheet has rounded or has not"
    rest = f"; {place} has {unused[0]!r} for one, which is not looked for" if unused else ""
    return f"{missing[0]!r} for one{rest}"


def key(name: str) -> str:
    """What is left of a name when all that gets lost or added on the way is taken away."""
    plain = "".join(c for c in unicodedata.normalize("NFKC", name).casefold() if unicodedata.category(c) not in ("Cf", "Cc"))
    plain = "".join(plain.split()).strip("'\"")
    plain = re.sub(r"^([0-9]+)\.0+$", r"\1", plain)
    return plain.lstrip("0") or plain


def difference(name: str, other: str) -> str:
    """What differs between two names of the same key."""
    if "".join(name.split()) == "".join(other.split()):
        return "which differs by a blank"
    if unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", other):
        return "the same characters in another Unicode form (NFC, NFD)"
    if name.casefold() == other.casefold():
        return "which differs by small and capital letters"
    if name.lstrip("0") == other.lstrip("0"):
        return "which differs by a leading zero"
    if {name, other} in ({name, f"{name}.0"}, {other, f"{other}.0"}):
        return "which differs by .0, as whole numbers get it in a column with gaps"
    return "which looks the same but is not"


def _rounded(names: list[str], others: list[str]) -> tuple[str, str] | None:
    """A name that is a number, and the rounded form of it among others."""
    forms: dict[int, dict[str, str]] = {}
    for other in others:
        if match := ROUNDED.fullmatch(other.strip()):
            digits = len(match[2] or "")
            forms.setdefault(digits, {})[f"{float(other):.{digits}e}"] = other
    for name in names if forms else []:
        if name.strip().isdecimal():
            for digits, rounded in forms.items():
                if found := rounded.get(f"{float(name):.{digits}e}"):
                    return name, found
    return None
