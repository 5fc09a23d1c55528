"""Import of files into one company: detection of the kind, mapping, validation and merge in chunks."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from app.errors import FrontdeskError
from app.frontdesk import Frontdesk
from app.schemas.schema import Batch
from app.text import to_printable_line
from app.yclients.importing.row_reader import BrokenFileError, InvalidLine
from app.yclients.importing.sources import SourceFile, open_source_files
from app.yclients.importing.summary import ImportProblem, ImportSummary
from app.yclients.ingest import Ingest, RowProblem
from app.yclients.mapping.entities import EntityKind
from app.yclients.mapping.fields import MappingContext
from app.yclients.summary import MAX_KEPT, KindSummary

ROWS_PER_TRANSACTION = 5_000

OnProgress = Callable[[str, int, int], None]  # (kind, bytes read, bytes in total)
OnProblem = Callable[[ImportProblem], None]


def import_files(
    desk: Frontdesk,
    company_id: int,
    paths: Iterable[str | Path],
    kind: EntityKind | None = None,
    staff_id: int | None = None,
    on_progress: OnProgress | None = None,
    dry_run: bool = False,
    on_problem: OnProblem | None = None,
) -> ImportSummary:
    """Import files of YClients payloads, or of rows with Frontdesk's columns, into one company.

    The order of the files does not matter: referenced kinds are imported first. Each chunk of rows is one
    transaction, so an interrupted import keeps what it has stored, and a repeated import continues. `kind`
    and `staff_id` (of a schedule) are used for files that do not contain them. `on_problem` is called for
    each rejected row and warning; the summary contains only the first ones. A dry run merges each chunk and
    rolls it back.

    Raises InvalidInputError before anything is written if a file is missing, empty, not JSON, of unknown
    kind or of another company. If an error occurs later in a file, its rows up to there are stored, and the
    summary names the file. Raises FrontdeskError if the database fails.
    """
    sources = open_source_files([Path(path) for path in paths], company_id, kind, staff_id)
    run = _Run(desk, company_id, dry_run, on_problem)
    total = sum(source.reader.size for source in sources)
    done = 0
    for source in sources:
        for bytes_read in run.import_file(source):
            if on_progress is not None:
                on_progress(str(source.kind), done + bytes_read, total)
        done += source.reader.size
    return run.summary


class _Run:
    """One import."""

    def __init__(self, desk: Frontdesk, company_id: int, dry_run: bool, on_problem: OnProblem | None) -> None:
        self._ingest = Ingest(desk, company_id, dry_run)
        self._on_problem = on_problem or (lambda problem: None)
        self._problem_counts: Counter[bool] = Counter()
        self.summary = ImportSummary(company_id, dry_run)

    def import_file(self, source: SourceFile) -> Iterator[int]:
        """Import one file; yield the number of bytes read after each chunk and at the end."""
        summary = self.summary.kinds.setdefault(str(source.kind), KindSummary())
        started = time.perf_counter()
        batch = self._ingest.new_batch(source.kind)
        context = self._ingest.context(source.staff_id)
        try:
            for position, row in enumerate(source.reader):
                problem = self._add_row(source, context, position, row, batch)
                if problem is not None:
                    self._record_problem(source, problem)
                if position % ROWS_PER_TRANSACTION == ROWS_PER_TRANSACTION - 1:
                    self._merge_chunk(source, batch)
                    batch = self._ingest.new_batch(source.kind)
                    yield source.reader.bytes_read
        except BrokenFileError as error:
            self.summary.broken.append(error)
        self._merge_chunk(source, batch)
        self.summary.made_company = self._ingest.made_company
        summary.seconds += time.perf_counter() - started
        yield source.reader.size

    def _add_row(
        self, source: SourceFile, context: MappingContext, position: int, row: Any, batch: Batch
    ) -> RowProblem | None:
        """Map and validate a row, and add it to the batch unless it is rejected."""
        if isinstance(row, InvalidLine):
            return RowProblem(position, None, True, {"row": row.reason})
        if source.has_frontdesk_columns:
            return self._ingest.add_row(source.kind, batch, position, row)
        return self._ingest.add_payload(source.kind, batch, position, row, context)

    def _merge_chunk(self, source: SourceFile, batch: Batch) -> None:
        """Merge a batch of valid rows."""
        try:
            report = self._ingest.merge_chunk(source.kind, batch)
        except FrontdeskError as error:
            path = to_printable_line(str(source.reader.path))
            rows = f"{path}, rows {batch.positions[0]} to {batch.positions[-1]}"
            remedy = "All earlier rows are stored; run the same import again to continue."
            raise type(error)(f"{rows}: {error.message} {remedy}") from error
        refused, report.rejected = report.rejected, []
        for row in refused:
            self._record_problem(source, RowProblem(row.position, row.key, True, row.errors))
        self.summary.kinds[str(source.kind)].add(report)

    def _record_problem(self, source: SourceFile, problem: RowProblem) -> None:
        import_problem = ImportProblem(
            source.reader.path,
            str(source.kind),
            problem.position,
            problem.key,
            problem.is_rejected,
            problem.reasons,
        )
        counts = self.summary.kinds[str(source.kind)]
        if problem.is_rejected:
            counts.rows += 1
            counts.rejected += 1
        else:
            counts.warnings += 1
        self._problem_counts[problem.is_rejected] += 1
        if self._problem_counts[problem.is_rejected] <= MAX_KEPT:
            self.summary.problems.append(import_problem)
        self._on_problem(import_problem)
