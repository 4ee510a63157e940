"""Several processes of one machine: the same command once more in each, and their end told once."""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from odmt.cores import num_cores, rank_and_size
from odmt.distributed import STARTED_BY, choose_device
from odmt.errors import InputError, ProcessLostError

OPTION = "--processes"
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)  # which PyTorch passes on to the processes; Ctrl-C is Python's


def split_processes(args: Sequence[str]) -> tuple[int, list[str]]:
    """Take `--processes N` out of a command line: N, 1 where it is not there, and the rest.

    Raises:
        InputError: no whole number of 1 or more.
    """
    rest = list(args)
    number = "1"
    while given := [place for place, arg in enumerate(rest) if arg.partition("=")[0] == OPTION]:
        _, equals, number = rest.pop(given[0]).partition("=")
        if not equals:
            number = rest.pop(given[0]) if given[0] < len(rest) else ""
    if not number.isdecimal() or int(number) < 1:
        raise InputError(f"{OPTION} {number}: expected how many processes of this machine train the run, 1 or more")
    return int(number), rest


def has_to_start(number: int) -> bool:
    """Whether this process has to start so many, since it is none of them itself, started by `run_in_processes` or torchrun.

    Raises:
        InputError: it is one of another number.
    """
    _, already = rank_and_size()  # the rank says less: clusters set it for a single process too
    if number > 1 and already not in (1, number):
        raise InputError(f"{OPTION} {number}: this is one of {already} processes already (WORLD_SIZE); leave {OPTION} out")
    return number > already


def check_devices(number: int, device: str):
    """Refuse more processes that exchange gradients than there are GPUs, where they would compute on GPUs.

    Raises:
        InputError: there are fewer.
    """
    if choose_device(device, "train.device=").type == "cuda" and number > (gpus := torch.cuda.device_count()):
        raise InputError(f"{OPTION} {number}: each needs a GPU of its own, of which there are {gpus}; or take train.device=cpu")


def run_in_processes(number: int, command: Sequence[str], go_on: str) -> int:
    """Run a Python command line in so many processes of this machine and wait for their end; returns the exit status.

    What they print passes through. As soon as one fails the others are ended, as all are by Ctrl-C, SIGTERM and, on Linux, when
    this process is killed, if they call `odmt.distributed.end_with_parent`; what is ignored here, as SIGHUP under nohup, ends none.
    Each has an equal share of the cores unless OMP_NUM_THREADS says something else.

    Args:
        number: of processes.
        command: what Python is given, such as `-m odmt.train config.yaml`.
        go_on: what to do when one was killed.

    Raises:
        ProcessLostError: one was killed.
        KeyboardInterrupt: after Ctrl-C.
    """
    before = dict(os.environ)
    handlers = {each: handler for each in ENDING if (handler := signal.getsignal(each)) is not signal.SIG_IGN}
    os.environ[STARTED_BY] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // number)))
    logging.disable()  # PyTorch tells of every process that it ends; what failed says so itself
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=number,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",  # a machine may not know its own name
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        signals_to_handle=",".join(each.name for each in handlers),
    )
    try:
        elastic_launch(launch, sys.executable)(*command)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:
            return failure.exitcode
        name = signal.Signals(-failure.exitcode).name
        reason = ", probably out of memory" if name == "SIGKILL" else ""
        raise ProcessLostError(f"process {rank} of {number} was ended by {name}{reason}; {go_on}") from None
    except SignalException as error:
        return 128 + error.sigval
    finally:
        logging.disable(logging.NOTSET)
        for each, handler in handlers.items():
            signal.signal(each, handler)
        os.environ.clear()
        os.environ.update(before)
    return 0
