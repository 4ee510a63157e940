"""The papers whose tables and figures can be made: the one place that knows which there are.

A paper is a module with `REPORTS`, reports by the name of their command. It imports one family at most, and is there where the
families of its models are.
"""

import importlib

from odmt.families import family_names
from odmt.report.rows import Report

# Modules and the families of their models.
PAPERS = {
    "odmt.report.odmt_paper": {"sequential"},
    "odmt.report.sgfd_paper": {"graph"},
    "odmt.report.recommended": {"sequential"},
    "odmt.report.both_families": {"sequential", "graph"},
}


def load_reports() -> dict[str, Report]:
    """All reports by name."""
    modules = [importlib.import_module(name) for name, families in PAPERS.items() if families <= set(family_names())]
    return {name: report for module in modules for name, report in module.REPORTS.items()}
