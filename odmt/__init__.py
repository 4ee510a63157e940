"""Multi-modal recommendation: ODMT and SGFD, their models, training and evaluation."""

from importlib.metadata import version

__version__ = version("odmt")
