"""What a power cut may leave of a folder: the files as of their last fsync, under the names as of their folder's last fsync."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import pytest

Files = dict[str, bytes]  # content by path below the folder


@dataclass
class Disk:
    """Follows a folder through this process's fsyncs and renames, and notes what a cut after each of them may leave.

    Attributes:
        folder: the one that is followed, its subfolders too.
        left: what a cut may leave, without repetitions; of each moment twice, at the extremes of what a file system may do: names
            that were not brought to the disk lost, or all of them there though what is in the files is lost.
    """

    folder: Path
    left: list[Files] = field(default_factory=list)
    _contents: dict[tuple[int, int], bytes] = field(default_factory=dict)  # by device and number of the file
    _names: dict[Path, dict[str, os.stat_result]] = field(default_factory=dict)  # by folder
    _open: list[int] = field(default_factory=list)  # of files that are followed, so that no other gets their numbers

    @contextmanager
    def follow(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Watch what is done inside of the context."""
        fsync, replace, one_at_a_time = os.fsync, os.replace, Lock()  # a run's weights are written by a thread

        def watched_fsync(handle: int):
            with one_at_a_time:
                fsync(handle)
                self._note(handle)

        def watched_replace(source, target):
            with one_at_a_time:
                replace(source, target)
                self._cut()

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", watched_fsync)
            patch.setattr(os, "replace", watched_replace)
            yield
        for handle in self._open:
            os.close(handle)

    def _note(self, handle: int):
        """Note that a file or a folder is on the disk."""
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            self._names[path] = _listed(path)
        else:
            self._open.append(os.dup(handle))
            self._contents[status.st_dev, status.st_ino] = path.read_bytes()
        self._cut()

    def _cut(self):
        for names in (self._names, None):
            files = dict(self._files(self.folder, names))
            if files not in self.left:
                self.left.append(files)

    def _files(self, folder: Path, names: dict[Path, dict[str, os.stat_result]] | None) -> Iterator[tuple[str, bytes]]:
        """The files below a folder, by the names that are on the disk or, with None, by those of now."""
        now = _listed(folder) if folder.is_dir() else {}
        for name, status in (now if names is None else names.get(folder, {})).items():
            if stat.S_ISDIR(status.st_mode):
                yield from self._files(folder / name, names)
            else:
                content = self._contents.get((status.st_dev, status.st_ino), b"")
                yield str((folder / name).relative_to(self.folder)), content


def _listed(folder: Path) -> dict[str, os.stat_result]:
    """What is in a folder, but for what another thread removes meanwhile."""
    found = {}
    for name in os.listdir(folder):
        with suppress(FileNotFoundError):
            found[name] = (folder / name).stat()
    return found


def write(folder: Path, files: Files):
    """Make a folder as a cut has left it."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
