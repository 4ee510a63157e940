"""Mounts that one process alone sees: a read-only folder, a small /dev/shm."""

import ctypes
import os

import pytest

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000

libc = ctypes.CDLL(None, use_errno=True)


def _call(function: str, *args):
    if getattr(libc, function)(*args):
        raise OSError(ctypes.get_errno(), f"{function}: {os.strerror(ctypes.get_errno())}")


def own_mounts():
    """Give this process mounts of its own; it must have one thread only, as a forked one has."""
    _call("unshare", CLONE_NEWNS if os.getuid() == 0 else CLONE_NEWUSER | CLONE_NEWNS)
    _call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)


def make_read_only(folder):
    """Mount a folder over itself, read only."""
    path = os.fsencode(folder)
    _call("mount", path, path, None, MS_BIND, None)
    _call("mount", None, path, None, MS_BIND | MS_REMOUNT | MS_RDONLY, None)


def mount_tmpfs(folder, size: str):
    """Mount an empty file system of a size, such as 64m."""
    _call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode())


def resize_tmpfs(folder, size: str):
    """Give what `mount_tmpfs` has mounted another size."""
    _call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", MS_REMOUNT, f"size={size}".encode())


def need_mounts():
    """Skip the test where the machine gives no such mounts."""
    child = os.fork()
    if not child:
        try:
            own_mounts()
        except OSError:
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        pytest.skip("mounts of one's own are not to be had here")
