"""Files that unpack to far more than their size: read with bounded memory, or refused in a sentence."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from cbgui.errors import InputError
from cbgui.space import MAX_IMPORT, on_space

if TYPE_CHECKING:
    import pyarrow

BATCH_ROWS = 1000
AT_ONCE = 16 * 2**20  # bytes of text that are made from a batch at once; also the most that one row may hold
# A file may unpack to so many times its size; real tables reach a few dozen times.
MOST_TIMES, ALWAYS_ALLOWED = 100, 64 * 2**20
VALUE_BYTES = 8  # of a number, or of a reference to a text


def allowed_bytes(size: int) -> int:
    """How many bytes a file of `size` bytes may unpack to."""
    most = max(ALWAYS_ALLOWED, MOST_TIMES * size)
    return min(most, MAX_IMPORT) if on_space() else most


def _refusal(name: str, size: int) -> InputError:
    return InputError(
        f"{name}: its {size:,} bytes unpack to over {allowed_bytes(size) / 2**20:,.0f} MB, which is more than memory "
        "should hold; remove repeated or overlong cells, or split the file."
    )


class LimitedReader:
    """Reads another binary file. Raises InputError once more than `most` bytes have come out of it."""

    def __init__(self, file: BinaryIO, most: int, name: str) -> None:
        self._file, self._most, self._name, self._read = file, most, name, 0

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._read += len(data)
        if self._read > self._most:
            raise InputError(f"{self._name}: over {self._most / 2**20:,.0f} MB of text; choose a smaller file.")
        return data


def _size(source: Path | BinaryIO) -> int:
    if isinstance(source, Path):
        return source.stat().st_size
    size = source.seek(0, 2)
    source.seek(0)
    return size


def _refuse_inflated(file: pyarrow.parquet.ParquetFile, size: int, name: str) -> None:
    """As pages, and in memory: a few bytes can repeat one value, or the elements of one list, millions of times."""
    for group in map(file.metadata.row_group, range(file.metadata.num_row_groups)):
        needed = 0
        for index in range(group.num_columns):
            chunk, column = group.column(index), file.schema.column(index)
            width = max(column.length, 1) if column.physical_type == "FIXED_LEN_BYTE_ARRAY" else VALUE_BYTES
            at_once = chunk.num_values if column.max_repetition_level else min(chunk.num_values, BATCH_ROWS)
            needed += max(chunk.total_uncompressed_size, width * at_once)
        if needed > allowed_bytes(size):
            raise _refusal(name, size)


def parquet_rows(source: Path | BinaryIO, name: str) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, in parts. Raises InputError when it is none, or unpacks to too much."""
    import pyarrow  # takes a third of a second to import
    import pyarrow.parquet

    size = _size(source)
    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            _refuse_inflated(file, size, name)
            texts = [column.path for column in map(file.schema.column, range(len(file.schema)))]
        # As a dictionary, a text that is repeated a million times is held once.
        with pyarrow.parquet.ParquetFile(source, read_dictionary=texts, buffer_size=2**20) as file:
            unpacked = 0
            # Each group has dictionaries of its own, which pyarrow cannot join in nested columns.
            groups = [[index] for index in range(file.metadata.num_row_groups)]
            for batch in itertools.chain.from_iterable(
                file.iter_batches(BATCH_ROWS, row_groups=group) for group in groups
            ):
                whole = pyarrow.StructArray.from_arrays(batch.columns, fields=list(batch.schema))
                unpacked += (in_batch := _unpacked_bytes(whole))
                if unpacked > allowed_bytes(size):
                    raise _refusal(name, size)
                if in_batch <= AT_ONCE:
                    yield from whole.to_pylist()
                    continue
                for row in map(whole.slice, range(len(whole)), itertools.repeat(1)):
                    if _unpacked_bytes(row) > AT_ONCE:
                        raise _refusal(name, size)
                    yield from row.to_pylist()
    except pyarrow.ArrowException as error:
        raise InputError(f"{name}: not a Parquet file ({str(error).splitlines()[0][:80]}).") from None


def _unpacked_bytes(array: pyarrow.Array) -> int:
    """Bytes of an array once each of its texts has memory of its own."""
    import pyarrow
    import pyarrow.compute as compute

    kind = array.type
    if pyarrow.types.is_dictionary(kind):
        lengths = compute.binary_length(array.dictionary).take(array.indices)
        return VALUE_BYTES * len(array) + (compute.sum(lengths).as_py() or 0)
    if pyarrow.types.is_struct(kind):
        return sum(map(_unpacked_bytes, array.flatten()))
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_map(kind):
        entries = array.flatten() if not pyarrow.types.is_map(kind) else array.cast(_as_list(kind)).flatten()
        return VALUE_BYTES * len(array) + _unpacked_bytes(entries)
    return array.nbytes


def _as_list(kind: pyarrow.MapType) -> pyarrow.ListType:
    import pyarrow

    return pyarrow.list_(pyarrow.struct([kind.key_field.with_name("key"), kind.item_field.with_name("value")]))
