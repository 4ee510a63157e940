"""Where a study lies, and what to say when the database cannot be used: one sentence, without SQL and without passwords."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from optuna.exceptions import StorageInternalError
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ProgrammingError, SQLAlchemyError

from odmt.errors import InputError

FORM = "write sqlite:///FILE, or postgresql://USER@HOST:PORT/NAME"
NO_TRIALS = "{}: no trials of this dataset yet; start them without --show"
REBUILT = "move it away: a new one is made from the results in the run folders"
SHOWN = {"user", "host", "port", "dbname", "sslmode", "mode", "uri"}  # options of a URL that are no secrets
# What SQLite says, and what to do.
REMEDIES = {
    "locked": "another program holds it; end that and start again",
    "busy": "another program holds it; end that and start again",
    "full": "the disk is full: make room and start again",
    "readonly": "the place is read only: set runs= to a folder that can be written to",
    "unable to open": "see to the permissions, or set runs= to another folder",
    "i/o error": "the disk cannot be read or written; make room, or see to it",
    "not a database": f"damaged, or another program's; {REBUILT}",
    "malformed": f"damaged; {REBUILT}",
}


@dataclass(frozen=True)
class Database:
    """A database of launchers.

    Attributes:
        url: its address.
        file: of SQLite.
    """

    url: URL
    file: Path | None

    @classmethod
    def of(cls, url: str) -> "Database":
        """Read the URL.

        Raises:
            InputError: it is none, it names no file, or the file is another program's; the URL is not repeated, since it may hold a
                password.
        """
        try:
            address = make_url(url)
            is_file = address.get_backend_name() == "sqlite"
        except (SQLAlchemyError, ValueError) as error:
            raise InputError(f"--storage: no URL of a database; {FORM}") from error
        if not is_file:
            return cls(address, None)
        if address.database in (None, "", ":memory:"):
            raise InputError("--storage: launchers cannot share memory; name a file, sqlite:///FILE")
        file = Path(address.database)
        database = cls(address, file)
        with database.explained():
            _check_own(file)
        return database

    @property
    def read_only_url(self) -> str:
        """The URL to look at it and write nothing."""
        if not self.file:
            return self.url.render_as_string(hide_password=False)
        return f"sqlite:///file:{self.file.absolute()}?mode=ro&uri=true"

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what the database and its driver raise into an `InputError`."""
        try:
            yield
        except (SQLAlchemyError, StorageInternalError, sqlite3.Error) as error:
            # What it came from shows SQL and the URL.
            raise InputError(NO_TRIALS.format(self._place) if self._is_empty(error) else self._sentence(error)) from None
        except ImportError as error:
            driver = self.url.get_driver_name()
            how = 'pip install "odmt[postgresql]"' if driver == "psycopg" else "install it with pip"
            raise InputError(f"--storage: the driver {driver} is not installed; {how}") from error
        except KeyError as error:
            raise InputError(NO_TRIALS.format(self._place)) from error
        except RuntimeError as error:
            if "optuna" not in str(error).lower():
                raise
            raise InputError(f"{self._place}: made by another version of Optuna; {REBUILT}") from error

    @property
    def _place(self) -> str:
        return str(self.file) if self.file else f"--storage: {self.url.get_backend_name()} at {self.url.host or 'this machine'}"

    def _is_empty(self, error: Exception) -> bool:
        """Whether a server's database has no tables of Optuna's yet, which are made without --show."""
        cause = _cause(error)
        return not self.file and isinstance(cause, ProgrammingError) and "version_info" in str(cause)

    def _sentence(self, error: Exception) -> str:
        cause = _cause(error)
        said = str(getattr(cause, "orig", None) or cause).strip().splitlines() or [type(cause).__name__]
        text = self._without_secrets(said[0].removeprefix("(").split("[SQL:")[0].strip())
        remedy = next((words for key, words in REMEDIES.items() if key in text.lower()), None) if self.file else None
        remedy = remedy or ("see to it" if self.file else "see to the server, its address and the rights, and start again")
        return f"{self._place}: {text}; {remedy}"

    def _without_secrets(self, text: str) -> str:
        options = [value for key, values in self.url.normalized_query.items() if key not in SHOWN for value in values]
        values = [str(self.url.password or ""), *options]
        for secret in sorted(filter(None, values), key=len, reverse=True):
            text = text.replace(secret, "***")
        return re.sub(r"(\w+://[^:/@\s]*:)[^@\s]*@", r"\1***@", text)


def _check_own(file: Path):
    """Refuse a file that another program keeps its tables in."""
    if not file.is_file() or not file.stat().st_size:
        return
    with closing(sqlite3.connect(f"file:{file.absolute()}?mode=ro", uri=True)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and "studies" not in tables:
        raise InputError(f"{file}: the database of another program; name another file with --storage sqlite:///FILE")


def _cause(error: Exception) -> BaseException:
    """What the database or its driver has said, which Optuna may have wrapped."""
    return error if isinstance(error, SQLAlchemyError | sqlite3.Error) else error.__cause__ or error
