"""Turn raw files into a dataset: `python scripts/prepare.py SOURCE --help`."""

from odmt.cli import run
from odmt.prepare.accept import accept
from odmt.prepare.amazon import amazon
from odmt.prepare.csv_tables import csv
from odmt.prepare.hm import hm
from odmt.prepare.microlens import microlens
from odmt.prepare.mmrec import mmrec
from odmt.prepare.official import official
from odmt.prepare.recbole import recbole
from odmt.prepare.sgfd import sgfd
from odmt.prepare.unfinished import finish

if __name__ == "__main__":
    run([csv, amazon, hm, microlens, official, sgfd, recbole, mmrec, finish, accept])
