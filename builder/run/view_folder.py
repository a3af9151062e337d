"""The views in a run directory: what the latest recipe selects from the store, each a file replaced as a whole."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from cyclepref.builder.run.blocks import Blocks, Piece
from cyclepref.builder.run.folder import Folder, StoreError
from cyclepref.builder.run.seal import UNREADABLE, Damaged, Seal, SealedWriter, in_a_line, write_sealed
from cyclepref.schemas import records

VIEWS: dict[str, pa.Schema] = {"candidates": records.CANDIDATE, "scores": records.SCORE, "pairs": records.PAIR}
# Views are read back some inputs at a time.
ROW_GROUP = 2**17


class ViewFolder(Folder):
    """A run directory by its views."""

    def write_view(self, view: str, rows: pa.Table) -> None:
        """Replace a view as a whole."""
        path = f"{self._base}/{view}/part-0.parquet"
        self._publish(path, lambda sink: write_sealed(rows.cast(VIEWS[view]), view, sink, ROW_GROUP))

    @contextmanager
    def new_views(self) -> Iterator[dict[str, SealedWriter]]:
        """Writers of every view, some rows at a time. The views are replaced together when the block of code ends, and
        stay as they are if it raises."""
        with ExitStack() as files:
            writers = {}
            for view, schema in VIEWS.items():
                sink = files.enter_context(self._publishing(f"{self._base}/{view}/part-0.parquet"))
                # Every pair's id is another, and a dictionary of them of no use.
                often = [name for name in schema.names if name != "pair_id"]
                writers[view] = SealedWriter(sink, view, schema, ROW_GROUP, use_dictionary=often)
            try:
                yield writers
                for writer in writers.values():
                    writer.close()
            except BaseException:
                for writer in writers.values():
                    writer.abandon()
                raise

    def view_blocks(self, view: str) -> Blocks:
        """A view's rows in pieces, each of which is read when it is asked for.

        Raises:
            StoreError: as `read_view`, also when a piece is read.
        """
        with self._opened_view(view) as (file, _):
            at, pieces = file.schema_arrow.get_field_index("input_id"), []
            for group in range(file.num_row_groups):
                about = file.metadata.row_group(group)
                ends = about.column(at).statistics
                load = partial(self._view_group, view, group)
                pieces.append(Piece(about.num_rows, ends.min, ends.max, load))
        return Blocks(VIEWS[view], pieces)

    def _view_group(self, view: str, group: int, columns: list[str] | None = None) -> pa.Table:
        with self._opened_view(view) as (file, sealed):
            return sealed.check(file.read_row_group(group, columns=columns), group)

    def read_view(self, view: str) -> pa.Table:
        """A view's rows.

        Raises:
            StoreError: if the run has not come that far, or the view is damaged.
        """
        with self._opened_view(view) as (file, sealed):
            return sealed.check(file.read())

    @contextmanager
    def _opened_view(self, view: str) -> Iterator[tuple[pq.ParquetFile, Seal]]:
        path = f"{self._base}/{view}/part-0.parquet"
        if self._fs.get_file_info(path).type != fs.FileType.File:
            raise StoreError(f"{self.root} has no {view} yet: run `cyclepref build RECIPE --out {self.root}`")
        try:
            with self._fs.open_input_file(path) as source:
                file = pq.ParquetFile(source)
                if not file.schema_arrow.remove_metadata().equals(VIEWS[view]):
                    raise Damaged("its columns are not those of the view")
                yield file, Seal(file, view)
        except UNREADABLE as error:
            raise StoreError(
                f"{self.address(view)}/part-0.parquet is damaged ({in_a_line(error)}): run `cyclepref build RECIPE "
                f"--out {self.root}` again, which derives it anew"
            ) from error
