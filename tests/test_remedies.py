"""Whoever called `train` reads of its keywords, whoever typed a command of its flags."""

import logging
import re
import subprocess
import sys

import pytest
from polars.exceptions import PanicException

from odmt import remedies
from odmt.cli import report_mistakes
from odmt.config_files import load_config
from odmt.errors import InputError
from odmt.train import train


def test_a_call_reads_of_keywords_and_a_command_of_flags(arguments, capsys):
    config = load_config(arguments("train.epochs=1"))
    train(config)
    with pytest.raises(
        InputError, match=r"continue it with resume=True, replace it with overwrite=True, or set another name=run-2$"
    ):
        train(config)
    with pytest.raises(SystemExit), report_mistakes():
        train(config)
    assert "continue it with --resume, replace it with --overwrite, or set another name=run-2\n" in capsys.readouterr().err
    assert (remedies.go_on(), remedies.train_anew(), remedies.test_anew()) == (
        "with resume=True the same call goes on",
        "train the run anew with overwrite=True",
        "remove it, and resume=True tests the run again",
    ), "as before the command"


def test_a_call_shows_a_line_an_epoch_once(arguments):
    code = "import sys; from odmt.config_files import load_config; from odmt.train import train; train(load_config(sys.argv[1:]))"
    args = arguments("train.epochs=2")
    ended = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
    folder = load_config(args).folder
    for text in (ended.stderr, (folder / "train.log").read_text(encoding="utf-8")):
        assert text.count("epoch 1/2  loss") == text.count("epoch 2/2  loss") == 1


def test_who_has_chosen_a_level_keeps_it(arguments, caplog):
    caplog.set_level(logging.ERROR, "odmt")
    logger = logging.getLogger("odmt")
    handlers = list(logger.handlers)
    config = load_config(arguments("train.epochs=1"))
    train(config)
    assert (logger.level, logger.handlers) == (logging.ERROR, handlers)
    assert "epoch 1/1" not in (config.folder / "train.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("can't start new thread"), PanicException("could not spawn threads: ThreadPoolBuildError")],
)
def test_memory_that_is_not_to_be_had_is_told_in_a_sentence(capsys, error):
    with pytest.raises(SystemExit) as end, report_mistakes():
        raise error
    assert end.value.code == 2
    assert re.fullmatch(r"error: not enough memory \(.+\); end other programs, .*\n", capsys.readouterr().err)


def test_a_fault_of_a_library_keeps_its_traceback():
    with pytest.raises(PanicException, match="index out of bounds"), report_mistakes():
        raise PanicException("index out of bounds")
