"""Times as people write them, turned into exact instants; a column is written in one way, or the line that is not is named."""

import polars as pl

from odmt.errors import InputError, first_line

INSTANT = pl.Decimal(38, 18)  # seconds, or whatever unit the numbers have: 20 digits before the point, exact
EXAMPLES = (
    "numbers, or dates with four digits for the year: 2023-05-31 9:05, 2023-05-31T09:05:00.25+02:00, 31.05.2023, "
    "05/31/2023 9:05:00 PM, 31 May 2023, Wed May 31 09:05:00 +0000 2023"
)
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# Whole numbers since 1970 by the power of ten of their unit, for years from 2001 on: two units in one column are two logs.
UNITS = {"seconds": 9, "milliseconds": 12, "microseconds": 15, "nanoseconds": 18}

_OFFSET = r"[Zz]|UTC|GMT|(?:UTC|GMT)?[+-][0-9]{2}:?[0-9]{2}|(?:UTC|GMT)?[+-][0-9]{1,2}"
_ZONE = rf"(?:(?<zone>{_OFFSET})(?: UTC| GMT|\[[\w/+-]+\]|\s*\(.*\))?)?"
_TIME = r"(?<hour>[0-9]{1,2}):(?<minute>[0-9]{2})(?::(?<second>[0-9]{2})(?:[.,](?<fraction>[0-9]+))?)?"
_CLOCK = rf"(?:(?:[Tt:]|,?\s+){_TIME}\s*(?<half>[AaPp]\.?\s?[Mm]\.?)?\s*{_ZONE})?"
_MONTH = rf"(?<month>(?i:{'|'.join(MONTHS)})[a-z]*)\.?"
_DAY, _YEAR, _WEEKDAY = "(?<day>[0-9]{1,2})", "(?<year>[0-9]{4})", r"(?:[A-Za-z]{3,9}\.?,?\s+)?"
_NUMBERS = r"(?<first>[0-9]{1,2})[/-](?<other>[0-9]{1,2})[/-]"  # day and month, or month and day

NUMBER = "number"
UNSURE = "day or month first"
FORMS = {
    "year first": rf"{_YEAR}[-/.年](?<month>[0-9]{{1,2}})[-/.月]{_DAY}日?{_CLOCK}",
    "compact": rf"{_YEAR}(?<month>[0-9]{{2}})(?<day>[0-9]{{2}})[Tt ](?<hour>[0-9]{{2}}):?(?<minute>[0-9]{{2}})"
    rf"(?::?(?<second>[0-9]{{2}})(?:[.,](?<fraction>[0-9]+))?)?\s*{_ZONE}",
    "day first": rf"{_DAY}\.\s?(?<month>[0-9]{{1,2}})\.\s?{_YEAR}{_CLOCK}",
    UNSURE: rf"{_NUMBERS}{_YEAR}{_CLOCK}",
    "month first": rf"(?<month>[0-9]{{1,2}}) {_DAY}, {_YEAR}{_CLOCK}",
    "month's name": rf"{_WEEKDAY}{_DAY}(?:st|nd|rd|th)?[\s/-]+{_MONTH}[\s/,-]+{_YEAR}{_CLOCK}",
    "month's name first": rf"{_WEEKDAY}{_MONTH}\s+{_DAY}(?:st|nd|rd|th)?,?\s+{_YEAR}{_CLOCK}",
    "year last": rf"{_WEEKDAY}{_MONTH}\s+{_DAY}\s+{_TIME}\s+(?:{_ZONE}\s+)?{_YEAR}",
}
FORMS = {name: f"^{pattern}$" for name, pattern in FORMS.items()}
PARTS = ("year", "month", "day", "hour", "minute", "second", "fraction", "half", "zone")


class TimeColumn:
    """Reads the times of one column, block by block; the first value decides how the others must be written.

    Numbers are compared exactly, whatever their length; dates become seconds since 1970. Hours may lack a leading zero, seconds
    and fractions may be there or not, blank and T may be mixed, and a date alone is its midnight. But all or none must name their
    offset from UTC, and all clock times must have twelve or 24 hours: what is written otherwise cannot be compared.

    Args:
        pattern: how dates are written, in the letters of strptime, where none of the known ways fits.
        day_first: whether 05/06/2023 is in June; None: unknown, such dates are refused.
    """

    def __init__(self, pattern: str | None = None, day_first: bool | None = None):
        self.pattern = pattern
        self.day_first = day_first
        self._form: str | None = None
        self._first = ""
        self._zoned: bool | None = None
        self._halves: bool | None = None
        self._unit: str | None = None

    def read(self, texts: pl.Series) -> pl.Series:
        """Turn texts into instants, null where a text is no time or written otherwise than the first.

        Raises:
            InputError: a single text that is none, with the reason.
        """
        texts = texts.str.strip_chars()
        instants = self._read(texts)
        if len(texts) == 1 and instants[0] is None:
            raise InputError(self._reason(texts[0] or ""))
        return instants

    def _read(self, texts: pl.Series) -> pl.Series:
        if self.pattern:
            return _by_pattern(texts, self.pattern)
        if not self._form:
            self._decide(texts)
        if self._form == NUMBER:
            return self._numbers(texts)
        return self._dates(texts, self._form) if self._form else pl.Series(texts.name, [None] * len(texts), INSTANT)

    def _decide(self, texts: pl.Series):
        """Take the form of the first text that has one."""
        fits = {NUMBER: texts.cast(INSTANT, strict=False).is_not_null()}
        fits |= {name: texts.str.contains(pattern).fill_null(False) for name, pattern in FORMS.items()}
        firsts = {name: first_true(fit) for name, fit in fits.items() if fit.any()}
        if firsts:
            self._form = min(firsts, key=firsts.__getitem__)
            self._first = texts[firsts[self._form]]

    def _numbers(self, texts: pl.Series) -> pl.Series:
        numbers = texts.cast(INSTANT, strict=False)
        units = {name: numbers.is_between(10**power, 10 ** (power + 1), "left").fill_null(False) for name, power in UNITS.items()}
        if not self._unit:
            firsts = {name: first_true(found) for name, found in units.items() if found.any()}
            self._unit = min(firsts, key=firsts.__getitem__, default=None)
        others = [found for name, found in units.items() if name != self._unit]
        return numbers.set(others[0] | others[1] | others[2], None) if self._unit else numbers

    def _dates(self, texts: pl.Series, form: str) -> pl.Series:
        names = {"first": "day" if self.day_first else "month", "other": "month" if self.day_first else "day"}
        found = texts.str.extract_groups(FORMS[form]).struct.unnest()
        found = found.rename({name: part for name, part in names.items() if name in found.columns})
        found = found.with_columns(pl.lit(None, pl.String).alias(part) for part in PARTS if part not in found.columns)
        given = {name: pl.col(part).is_not_null() for name, part in {"zoned": "zone", "clock": "hour", "halved": "half"}.items()}
        parsed = found.select(instant=_instant(), **given)
        valid = parsed["instant"].is_not_null()
        if self._zoned is None and valid.any():
            self._zoned = parsed["zoned"][first_true(valid)]
        clocks = valid & parsed["clock"]
        if self._halves is None and clocks.any():
            self._halves = parsed["halved"][first_true(clocks)]
        alike = (parsed["zoned"] == bool(self._zoned)) & (~parsed["clock"] | (parsed["halved"] == bool(self._halves)))
        instants = parsed["instant"].set(~alike.fill_null(False), None).alias(texts.name)
        return instants if form != UNSURE or self.day_first is not None else instants.clear(len(instants))

    def _reason(self, text: str) -> str:
        if self.pattern:
            return f"no valid time: {text!r} is not written as --timestamp-format {self.pattern!r} says"
        if not text and self._form:
            return "no valid time"
        if not self._form:
            return f"no valid time; read are {EXAMPLES}; any other way by --timestamp-format, e.g. '%d.%m.%y %H:%M'"
        if self._form == UNSURE and self.day_first is None:
            return (
                f"no valid time: no date of the file tells whether {text!r} begins with the day or the month; "
                "say --timestamp-format '%d/%m/%Y' or '%m/%d/%Y', with ' %H:%M:%S' where there are times"
            )
        difference = self._difference(text, self._form)
        return f"no valid time: {text!r} {difference}, the first time is {self._first!r}; write all times in one way"

    def _difference(self, text: str, form: str) -> str:
        """What keeps a text from being compared with the first time."""
        if form == NUMBER:
            number = pl.Series([text]).cast(INSTANT, strict=False)[0]
            units = [name for name, power in UNITS.items() if number and 10**power <= number < 10 ** (power + 1)]
            return f"is a time in {units[0]} and others are in {self._unit}" if units else "is no number"
        found = pl.Series([text]).str.extract_groups(FORMS[form]).struct.unnest().to_dicts()[0]
        if not found["year"]:
            return "is written otherwise"
        if (found["zone"] is not None) != self._zoned:
            return "names no offset from UTC" if self._zoned else "names an offset from UTC"
        if found["hour"] and "half" in found and (found["half"] is not None) != bool(self._halves):
            return "lacks AM or PM" if self._halves else "has AM or PM"
        return "is no date that exists" + (", read with the day first" if self.day_first else "")


def first_true(flags: pl.Series) -> int:
    """The place of the first that is true; one must be."""
    place = flags.arg_max()
    assert place is not None, "no flag at all"
    return place


def is_unsure(texts: pl.Series) -> bool:
    """Whether there are dates among the texts that begin with the day or with the month."""
    return bool(texts.str.strip_chars().str.contains(FORMS[UNSURE]).any())


def begins_with_day(texts: pl.Series) -> bool | None:
    """Whether dates as 31/05/2023 begin with the day, as the first tells that has a number above 12; None: none has."""
    numbers = texts.str.strip_chars().str.extract_groups(FORMS[UNSURE]).struct.unnest().select("first", "other").cast(pl.UInt8)
    telling = numbers.filter((pl.col("first") > 12) != (pl.col("other") > 12))
    return bool(telling["first"][0] > 12) if len(telling) else None


def _by_pattern(texts: pl.Series, pattern: str) -> pl.Series:
    try:
        return texts.str.strptime(pl.Datetime("us"), pattern, strict=False).dt.timestamp("us").cast(INSTANT)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"--timestamp-format {pattern!r}: {first_line(error)}; e.g. '%d.%m.%y %H:%M'") from error


def _instant() -> pl.Expr:
    """Seconds since 1970 from the columns PARTS, null for a date or an hour that does not exist."""
    month = pl.col("month").str.head(3).str.to_lowercase().replace({name: str(n) for n, name in enumerate(MONTHS, 1)})
    days = pl.concat_str("year", month, "day", separator="-").str.to_date("%Y-%m-%d", strict=False).cast(pl.Int64)
    hour, minute, second = (pl.col(part).cast(pl.Int64).fill_null(0) for part in ("hour", "minute", "second"))
    halved, afternoon = pl.col("half").is_not_null(), pl.col("half").str.to_lowercase().str.starts_with("p").fill_null(False)
    exists = pl.when(halved).then(hour.is_between(1, 12)).otherwise(hour < 24) & (minute < 60) & (second <= 60)
    hour = pl.when(halved).then(hour % 12 + 12 * afternoon.cast(pl.Int64)).otherwise(hour)
    offset = pl.col("zone").str.extract_groups("(?<sign>[+-])(?<hours>[0-9]{1,2})(?::?(?<minutes>[0-9]{2}))?$").struct
    ahead = 3600 * offset.field("hours").cast(pl.Int64) + 60 * offset.field("minutes").cast(pl.Int64).fill_null(0)
    ahead = (pl.when(offset.field("sign") == "-").then(-ahead).otherwise(ahead)).fill_null(0)
    whole = 86400 * days + 3600 * hour + 60 * minute + second - ahead
    fraction = pl.concat_str(pl.lit("0."), "fraction").cast(INSTANT, strict=False).fill_null(0)
    return pl.when(exists & (ahead.abs() < 86400)).then(whole.cast(INSTANT) + fraction)
