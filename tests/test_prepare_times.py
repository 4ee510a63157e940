from datetime import UTC, datetime
from decimal import Decimal

import polars as pl
import pytest

from odmt.errors import InputError
from odmt.prepare.histories import histories_by_time, read_events
from odmt.prepare.times import TimeColumn


def seconds(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp())


def read(*texts: str, **settings) -> list[Decimal | None]:
    return TimeColumn(**settings).read(pl.Series([*texts, None])).to_list()[:-1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-05-31", seconds(2023, 5, 31)),
        ("2023-5-1 8:59", seconds(2023, 5, 1, 8, 59)),
        ("2023/05/31T23:59:59", seconds(2023, 5, 31, 23, 59, 59)),
        ("2023-05-31 23:59:60", seconds(2023, 6, 1)),
        ("2023-05-31T00:30:00+02:00", seconds(2023, 5, 30, 22, 30)),
        ("2023-05-31 00:30:00 -0730", seconds(2023, 5, 31, 8)),
        ("2023-05-31 00:30:00+05", seconds(2023, 5, 30, 19, 30)),
        ("2023-05-31 10:00:00 UTC", seconds(2023, 5, 31, 10)),
        ("2023-05-31T10:00:00Z", seconds(2023, 5, 31, 10)),
        ("2023-05-31T10:00:00+02:00[Europe/Berlin]", seconds(2023, 5, 31, 8)),
        ("20230531T101500Z", seconds(2023, 5, 31, 10, 15)),
        ("2023年5月31日 10:00", seconds(2023, 5, 31, 10)),
        ("31.05.2023 9:05", seconds(2023, 5, 31, 9, 5)),
        ("31 May 2023", seconds(2023, 5, 31)),
        ("31-MAY-2023 09:05:00", seconds(2023, 5, 31, 9, 5)),
        ("May 31st, 2023", seconds(2023, 5, 31)),
        ("September 3, 2023 12:05 a.m.", seconds(2023, 9, 3, 0, 5)),
        ("09 13, 2009", seconds(2009, 9, 13)),
        ("Wed, 31 May 2023 10:00:00 GMT", seconds(2023, 5, 31, 10)),
        ("Wed May 31 10:00:00 -0700 2023", seconds(2023, 5, 31, 17)),
        ("Wed May 31 10:00:00 2023", seconds(2023, 5, 31, 10)),
        ("Wed May 31 2023 10:00:00 GMT+0200 (Central European Summer Time)", seconds(2023, 5, 31, 8)),
        ("31/May/2023:10:00:00 +0200", seconds(2023, 5, 31, 8)),
        ("12/31/2023 12:05:00 AM", seconds(2023, 12, 31, 0, 5)),
        ("12/31/2023 12:05 PM", seconds(2023, 12, 31, 12, 5)),
        ("1969-12-31 23:59:59", -1),
    ],
)
def test_dates_become_instants(text, expected):
    assert read(text, day_first=False) == [expected]


def test_fractions_are_exact_and_may_be_missing():
    assert read("2023-05-01 00:00:00.123456789", "2023-05-01 00:00:00", "2023-05-01T00:00:00,5") == [
        seconds(2023, 5, 1) + Decimal("0.123456789"),
        seconds(2023, 5, 1),
        seconds(2023, 5, 1) + Decimal("0.5"),
    ]


def test_numbers_are_exact_whatever_their_length():
    texts = ["9007199254740993", "9007199254740992", "-3", "7.5", "1e1", "160000000.123456789"]
    assert read(*texts) == [9007199254740993, 9007199254740992, -3, Decimal("7.5"), 10, Decimal("160000000.123456789")]


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["1588291200", "NaN"], "'NaN' is no number"),
        (["1588291200", "inf"], "'inf' is no number"),
        (["1588291200", "-Infinity"], "is no number"),
        (["1588291200", "None"], "is no number"),
        (["1588291200", "2020-05-01"], "is no number"),
        (["1588291200", "1588291200000"], "in milliseconds and others are in seconds"),
        (["2023-05-01", "1588291200"], "is written otherwise, the first time is '2023-05-01'; write all times in one way"),
        (["2023-05-01", "01.05.2023"], "is written otherwise"),
        (["2023-05-01 10:00", "2023-05-01T10:00Z"], "names an offset from UTC"),
        (["2023-05-01T10:00+02:00", "2023-05-01"], "names no offset from UTC"),
        (["2023-05-01 9:00", "2023-05-01 9:00 PM"], "has AM or PM"),
        (["2023-05-01 9:00 am", "2023-05-01", "2023-05-01 9:00"], "lacks AM or PM"),
        (["2023-05-01 9:00 am", "2023-05-01 13:00 pm"], "is no date that exists"),
        (["2023-05-01", "2023-02-30"], "is no date that exists"),
        (["2023-05-01 10:00", "2023-05-01 24:01"], "is no date that exists"),
        (["2023-05-01 10:00", "2023-05-01 10:00 PST"], "is written otherwise"),
        (["1", ""], "^no valid time$"),
        (["5/1/23"], "--timestamp-format"),
        (["yesterday"], "--timestamp-format"),
    ],
)
def test_what_is_written_otherwise_is_bad(texts, reason):
    column = TimeColumn()
    *good, bad = column.read(pl.Series([*texts, texts[-1]]))[:-1]
    assert None not in good
    assert bad is None
    with pytest.raises(InputError, match=reason):
        column.read(pl.Series(texts[-1:]))


def test_a_pattern_of_ones_own():
    assert read("31.5.23 9:05", pattern="%d.%m.%y %H:%M") == [seconds(2023, 5, 31, 9, 5) * 10**6]
    with pytest.raises(InputError, match=r"'1\.2\.2023' is not written as --timestamp-format '%Y-%m-%d' says"):
        TimeColumn("%Y-%m-%d").read(pl.Series(["1.2.2023"]))


def events(tmp_path, *times: str, **options) -> list[str]:
    """Items i0, i1, ... of one user, in time order."""
    path = tmp_path / "events.csv"
    path.write_text("u,i,t\n" + "".join(f"u,i{n},{time}\n" for n, time in enumerate(times)))
    return histories_by_time(read_events(path, "u", "i", "t", **options))["items"].to_list()[0]


def test_mixed_ways_of_one_kind_are_sorted_by_time(tmp_path):
    hours = ["2023-05-01 10:00:00", "2023-05-01 8:59:00", "2023-05-01 23:00:00", "2023-05-01 9:00:00"]
    assert events(tmp_path, *hours) == ["i1", "i3", "i0", "i2"]
    mixed = ["2023-05-01 10:00:00", "2023-05-01", "2023-05-02T01:00:00", "2023-05-01 00:00:01", "2023-05-02", "2023-05-01T00:00:02"]
    assert events(tmp_path, *mixed) == ["i1", "i3", "i5", "i0", "i4", "i2"]
    offsets = ["2023-10-29T02:10:00+01:00", "2023-10-29T02:30:00+02:00", "2023-10-29T03:30:00+01:00", "2023-10-29T00:30:00+02:00"]
    assert events(tmp_path, *offsets) == ["i3", "i1", "i0", "i2"]
    halves = ["11/11/2019 9:05:58 PM", "11/11/2019 12:01:00 AM", "11/13/2019 1:00:00 AM", "11/11/2019 9:05:58 AM"]
    assert events(tmp_path, *halves) == ["i1", "i3", "i0", "i2"]


def test_day_and_month_are_told_apart_by_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr("odmt.prepare.raw_lines.BLOCK_BYTES", 20)
    assert events(tmp_path, "05/06/2023", "01/07/2023", "13/05/2023") == ["i2", "i0", "i1"]
    assert events(tmp_path, "05/06/2023", "01/07/2023", "05/13/2023") == ["i1", "i0", "i2"]
    with pytest.raises(InputError, match=r"events.csv, line 2: .* tells whether '05/06/2023' begins with the day or the month"):
        events(tmp_path, "05/06/2023", "01/07/2023")
    with pytest.raises(InputError, match=r"events.csv, line 4: .*'05/14/2023' is no date that exists, read with the day"):
        events(tmp_path, "05/06/2023", "13/05/2023", "05/14/2023")
    assert events(tmp_path, "05/06/2023", "01/07/2023", timestamp_format="%m/%d/%Y") == ["i1", "i0"]


def test_large_numbers_and_bad_times_in_a_file(tmp_path):
    assert events(tmp_path, "9007199254740995", "9007199254740993", "9007199254740994") == ["i1", "i2", "i0"]
    with pytest.raises(InputError, match=r"events.csv, line 4: no valid time: 'NaN' is no number, the first time is '1585699200'"):
        events(tmp_path, "1585699200", "1577836800", "NaN")
    assert events(tmp_path, "1585699200", "1577836800", "NaN", skip_bad_lines=1) == ["i1", "i0"]


def test_equal_times_and_equal_rows_are_counted(tmp_path, capsys):
    path = tmp_path / "events.csv"
    path.write_text("u,i,t\nu,a,1\nu,b,1\nu,a,1\nv,a,1\nv,b,2\n")
    histories_by_time(read_events(path, "u", "i", "t"))
    out = capsys.readouterr().out
    assert "3 of 5 interactions, of 1 users, have the time of another one of the same user" in out
    assert "1 rows repeat an earlier one" in out
