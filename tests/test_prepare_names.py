import pytest

from odmt.prepare.names import unmatched


@pytest.mark.parametrize(
    ("name", "other", "reason"),
    [
        ("i5 ", "i5", "differs by a blank"),
        ("i 5", "i5", "differs by a blank"),
        ("i5\u200b", "i5", "looks the same but is not"),
        ("0108775010", "108775010", "differs by a leading zero"),
        ("108775010", "000108775010", "differs by a leading zero"),
        ("Caf\u00e9", "Cafe\u0301", "in another Unicode form"),
        ("b01", "B01", "small and capital letters"),
        ("12.0", "12", "differs by .0"),
        ("12", "12.0", "differs by .0"),
        ("1.23E+12", "1230000000000", "a spreadsheet has rounded"),
        ("1234567890123", "1.23E+12", "a spreadsheet has rounded"),
        ("\uff11\uff12", "12", "looks the same but is not"),
    ],
)
def test_names_that_are_nearly_the_same(name, other, reason):
    said = unmatched(["zzz", name], ["a", other, "y"], "the folder")
    assert said.startswith(f"{name!r} for one; the folder has {other!r}, ")
    assert reason in said


def test_names_that_have_nothing_in_common():
    assert unmatched(["b", "a"], ["y", "x"], "it") == "'a' for one; it has 'x' for one, which is not looked for"
    assert unmatched(["b", "a"], [], "it") == "'a' for one"
    assert unmatched(["9007199254740993"], ["9007199254740992"], "it").endswith("which is not looked for")
