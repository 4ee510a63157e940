"""Files that cannot be read or written: one sentence with place and remedy, on real file systems."""

import os
import resource
import subprocess
import sys

import mounts
import pytest
import torch

from odmt.checkpoint import save_tensors
from odmt.errors import InputError
from odmt.files import read_json, read_text, write_text


def in_child(function) -> str:
    """What a forked process that has one thread says: the message of the InputError that the function raises."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            function()
            message = "nothing"
        except InputError as error:
            message = str(error)
        except BaseException as error:
            message = f"traceback {error!r}"
        os.write(write, message.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        message = said.read()
    os.waitpid(child, 0)
    return message


KINDS = {
    "text": lambda path: write_text(path, "x" * 500_000, "go on"),
    "tensors": lambda path: save_tensors(path, {"x": torch.ones(125_000)}, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk(tmp_path, kind):
    mounts.need_mounts()

    def fill():
        mounts.own_mounts()
        mounts.mount_tmpfs(tmp_path, "300k")
        try:
            KINDS[kind](tmp_path / "file")
        finally:
            assert os.listdir(tmp_path) in ([], ["left"]), os.listdir(tmp_path)

    said = in_child(fill)
    assert said.startswith(
        f"{tmp_path}/file: cannot be written (No space left on device; the disk is full: make room, 0.00 GB are free)"
    )
    assert said.endswith("; go on" if kind == "text" else "; with resume=True the same call goes on")


@pytest.mark.parametrize("kind", KINDS)
def test_a_place_that_is_read_only(tmp_path, kind):
    mounts.need_mounts()

    def write():
        mounts.own_mounts()
        mounts.make_read_only(tmp_path)
        KINDS[kind](tmp_path / "file")

    assert "file: cannot be written (Read-only file system; the place is read only: name another one" in in_child(write)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_size_limit_and_a_folder_that_is_gone(tmp_path, kind):
    def write():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        KINDS[kind](tmp_path / "file")

    assert "file: cannot be written (File too large; larger than this process may write: raise ulimit -f" in in_child(write)
    with pytest.raises(
        InputError, match=r"gone/file: cannot be written \(No such file or directory; it is not there, or was removed"
    ):
        KINDS[kind](tmp_path / "gone" / "file")


def test_names_and_links_that_lead_nowhere(tmp_path):
    with pytest.raises(InputError, match=r"cannot be written \(File name too long; the name is too long: shorten it"):
        write_text(tmp_path / ("x" * 300), "")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"loop: cannot be read: .*; links that lead in a circle: remove them"):
        read_text(tmp_path / "loop")
    with pytest.raises(
        InputError, match=f"{tmp_path}: cannot be read: Is a directory; a folder stands where a file is needed; go on"
    ):
        read_text(tmp_path, "go on")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged: it is empty; make it again"),
        (b'{"a": ', "damaged: .*; make it again"),
        (b"\xe9", r"cannot be read: not UTF-8 \(.* at byte 0\); convert it, e.g. with iconv -t utf-8; make it again"),
        ("{}".encode("utf-16"), "cannot be read: not UTF-8"),
        (b"9" * 5000, "damaged: .*digits.*; make it again"),
        (b"[" * 200_000, "damaged: .*recursion.*; make it again"),
    ],
)
def test_files_that_are_no_json(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"a.json: {message}"):
        read_json(tmp_path / "a.json", "make it again")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path, kind):
    """The order of the system calls: the file's fsync, its name, the folder's fsync; what a power cut leaves follows from it."""
    if subprocess.run(["strace", "-V"], capture_output=True).returncode if os.access("/usr/bin/strace", os.X_OK) else True:
        pytest.skip("strace is not installed")
    script = (
        "import sys, torch; from pathlib import Path; from odmt.checkpoint import save_tensors; from odmt.files import write_text\n"
        "path = Path(sys.argv[1])\n"
        + ("write_text(path, 'x')" if kind == "text" else "save_tensors(path, {'x': torch.ones(2)}, {})")
    )
    log = tmp_path / "log"
    command = ["strace", "-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2", "-o", str(log)]
    done = subprocess.run([*command, sys.executable, "-c", script, str(tmp_path / "file")], capture_output=True, text=True)
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    calls = [line.partition(" ")[2].strip() for line in log.read_text().splitlines() if str(tmp_path) in line and "= 0" in line]
    first = next(index for index, call in enumerate(calls) if call.startswith("fsync") and "file.partial" in call)
    assert [call.partition("(")[0] for call in calls[first:]] == ["fsync", "rename", "fsync"]
    assert f"<{tmp_path}>" in calls[-1]
