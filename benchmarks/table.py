"""Result table of the benchmarks, as aligned text."""

from collections.abc import Sequence

from benchmarks.harness import Row

HEADINGS = ("", "measured", "Frontdesk", "peer", "unit", "ratio", "target", "", "compared with")
RIGHT_ALIGNED = ("Frontdesk", "peer", "ratio")


def render(rows: Sequence[Row]) -> str:
    """Return the table: a line of headings, and one line per row."""
    lines = [HEADINGS, *map(_cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if heading in RIGHT_ALIGNED else cell.ljust(width)
            for cell, width, heading in zip(line, widths, HEADINGS, strict=True)
        ).rstrip()
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.id,
        row.work,
        _figure(row.ours),
        "-" if row.theirs is None else _figure(row.theirs),
        row.unit,
        "-" if row.ratio is None else f"{row.ratio:.2f}",
        row.target,
        {True: "met", False: "MISSED", None: ""}[row.met],
        f"{row.beside} ({row.note})" if row.note else row.beside,
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
