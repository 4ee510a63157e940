"""A report as files: Markdown and LaTeX for readers, CSV for programs."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from odmt.errors import InputError
from odmt.files import read_text, write_text
from odmt.pages.rendering import BOLD

GAP = "–"
FITTING = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}"  # a wide table is made as narrow as the text


OF_A_PAPER = re.compile(r"((?:Table|Figure) \w+): ")  # LaTeX counts for itself


def bold(text: str) -> str:
    """Text that stands out, as Markdown has it."""
    return f"**{text}**"


@dataclass
class Page:
    """Headed tables with lines below.

    Attributes:
        title: of the page.
        sections: headings and tables whose cells are text.
        lines: what stands below.
        picture: file name of a figure, where there is one.
        quoted: the datasets, or headings, where numbers of the paper stand: there the table is the paper's.
    """

    title: str
    sections: list[tuple[str, pd.DataFrame]]
    lines: list[str]
    picture: str | None = None
    quoted: Collection[str] = ()

    def markdown(self) -> str:
        """The page in Markdown."""
        picture = [f"![{self.title}]({self.picture})"] if self.picture else []
        tables = [f"## {heading}\n\n{_tabulate(table, 'pipe')}" for heading, table in self.sections]
        return "\n\n".join([f"# {self.title}", *picture, *tables, "\n".join(f"- {line}" for line in self.lines)]) + "\n"

    def __str__(self) -> str:
        """The tables and the lines, for a terminal."""
        tables = [f"{heading}\n{_tabulate(table, 'pipe')}" for heading, table in self.sections]
        return "\n\n".join([self.title, *tables, "\n".join(self.lines)])

    def latex(self) -> str:
        """The page as tables in LaTeX (packages booktabs and graphicx) with the lines in small print below."""
        number = OF_A_PAPER.match(self.title)
        name = self.title[number.end() :] if number else self.title
        name = name[0].upper() + name[1:]
        tables = [
            f"\\begin{{table}}\n\\centering\n\\caption{{{_escape(f'{name}, {heading}{self._origin(number, heading)}')}.}}\n"
            f"{FITTING}{{%\n{_tabulate(table, 'latex_booktabs')}}}\n\\end{{table}}"
            for heading, table in self.sections
        ]
        lines = "\\\\\n".join(_escape(line).replace("/", "/\\allowbreak{}") for line in self.lines)
        text = "\n\n".join([*tables, f"{{\\footnotesize\\noindent\\raggedright\n{lines}\\par}}"]) + "\n"
        text = BOLD.sub(r"\\textbf{\1}", re.sub(r"(?<![\w$-])-(?=\d)", "$-$", text))
        return text.replace("α", "$\\alpha$").replace("±", "$\\pm$").replace(GAP, "--")

    def _origin(self, number: re.Match | None, heading: str) -> str:
        """Which table of the paper a section's is, or is made after."""
        if number is None:
            return ""
        return f" ({'' if heading.partition(':')[0] in self.quoted else 'after '}{number[1]} of the paper)"

    def write(self, folder: Path, numbers: dict[str, pd.DataFrame]):
        """Write the page and its numbers, tables by file name of which the first is the page's too."""
        name = next(iter(numbers))
        write_text(folder / f"{name}.md", self.markdown())
        write_text(folder / f"{name}.tex", self.latex())
        for csv, table in numbers.items():
            write_text(folder / f"{csv}.csv", table.to_csv(index=False))


def check_replaced(folder: Path, name: str, title: str):
    """Refuse to replace files that have the names of a report's and are none.

    Raises:
        InputError: naming one.
    """
    page = folder / f"{name}.md"
    endings = (".md", ".tex", ".csv", ".png", ".svg", "_differences.csv")
    there = [path for ending in endings if (path := folder / f"{name}{ending}").exists()]
    if there and not (page.exists() and read_text(page).startswith(f"# {title}\n")):
        raise InputError(
            f"{there[0]}: not of this report, which would replace it; move it away, or name another folder with --reports"
        )


def _tabulate(table: pd.DataFrame, style: str) -> str:
    return tabulate(table.to_numpy().tolist(), headers=list(table.columns), tablefmt=style, disable_numparse=True)


def _escape(text: str) -> str:
    return re.sub(r"([%&_#$])", r"\\\1", text)
