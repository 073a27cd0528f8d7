"""What a check found: figures and findings by model, as a table for people and as JSON."""

import importlib
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.gpu.models import Finding

GIB = 1 << 30
HEADINGS = ("Model", "Engine", "Share", "GiB", "Peak GiB", "Pressed GiB", "Alone", "Together", "Ratio", "Unit")


@dataclass
class Row:
    """One model's figures; None for what was not found out."""

    model: str
    engine: str
    unit: str
    share: float
    share_bytes: int
    peak_bytes: int | None = None
    """The most it held while it was loaded, compared and measured."""
    pressed_bytes: int | None = None
    """The most it held while it was asked for more than its share has room for."""
    alone: float | None = None
    together: float | None = None
    findings: list[Finding] = field(default_factory=list)

    def add(self, when: str, *found: Finding) -> None:
        """Keep findings, with when they were made."""
        self.findings += [Finding(f"{when}: {one.text}", one.passed) for one in found]

    @property
    def passed(self) -> bool:
        """Whether all is as it should be."""
        return all(one.passed for one in self.findings)


@dataclass
class Report:
    """All that was found."""

    where: str
    """The device and the versions."""
    basis: str = ""
    """How memory was looked at."""
    rows: list[Row] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Models that were not checked, and why."""
    took_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        rows = [
            {**asdict(row), "passed": row.passed, "findings": [one._asdict() for one in row.findings]}
            for row in self.rows
        ]
        return {**asdict(self), "rows": rows, "passed": self.passed}

    @property
    def passed(self) -> bool:
        """Whether all that was checked is as it should be."""
        return all(row.passed for row in self.rows)


def show(report: Report) -> None:
    """Print it."""
    print()
    for row in report.rows:
        print(f"{row.model} ({row.engine})")
        for one in row.findings:
            print(f"  {'ok    ' if one.passed else 'FAILED'}  {one.text}")
    print()
    _print_table([_cells(row) for row in report.rows])
    print(report.where)
    if any(row.share for row in report.rows):
        print(f"Memory {report.basis}, CUDA's contexts included.")
    for name, reason in report.left_out.items():
        print(f"Left out: {name}: {reason}")
    failed = [row.model for row in report.rows if not row.passed]
    print(f"{'FAILED: ' + ', '.join(failed) if failed else 'All passed'}, in {report.took_s:.0f} s.")


def _cells(row: Row) -> tuple[str, ...]:
    ratio = row.together / row.alone if row.alone and row.together is not None else None
    peaks = (None if one is None else one / GIB for one in (row.peak_bytes, row.pressed_bytes))
    shares = (f"{row.share:.2f}", f"{row.share_bytes / GIB:.1f}") if row.share else ("-", "-")
    rates = (_number(row.alone, 1), _number(row.together, 1), _number(ratio, 2))
    return (row.model, row.engine, *shares, *(_number(one, 1) for one in peaks), *rates, row.unit)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """With rich where it is installed, else in plain columns."""
    if importlib.util.find_spec("rich"):
        console: Any = importlib.import_module("rich.console").Console(width=120)
        table: Any = importlib.import_module("rich.table").Table(*HEADINGS)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    else:
        print("\n".join(columns([HEADINGS, *rows])))


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines whose cells stand below each other."""
    kept = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*kept, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in kept]
