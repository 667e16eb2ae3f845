"""Files of a few hundred bytes that would fill the memory are refused; ordinary ones are read."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cbgui import space
from cbgui.data import limits
from cbgui.data.files import read_rows
from cbgui.data.limits import LimitedReader, parquet_rows
from cbgui.errors import InputError

LONG = "x" * 400_000


def packed(table: pa.Table, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", **options)
    return io.BytesIO(file.getvalue())


def repeated(value: str, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value]))


def one_list(values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)


BOMBS = {
    "one text, 1,000 times": (lambda: {"a": repeated(LONG, 1000)}, {}),
    "in conversations": (lambda: {"a": [[{"role": "user", "content": LONG}] * 3] * 300}, {}),
    "one row's list of a million texts": (lambda: {"a": one_list(repeated(LONG, 1_000_000))}, {}),
    "one row's list of numbers": (lambda: {"a": one_list(pa.array(np.zeros(20_000_000, np.int64)))}, {}),
    "pages of zeros": (lambda: {"a": ["\0" * 80_000_000]}, {"use_dictionary": False}),
    "short text, millions of times": (lambda: {"a": repeated("x" * 15_000, 6000)}, {}),
    "wide cells": (lambda: {"a": pa.array([b"x" * 100_000] * 1000, pa.binary(100_000))}, {}),
    "one overlong cell": (lambda: {"a": ["x" * 20_000_000]}, {"use_dictionary": False}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_parquet_file_that_inflates_is_refused(name):
    columns, options = BOMBS[name]
    file = packed(pa.table(columns()), **options)
    assert file.getbuffer().nbytes < 10_000
    before = pa.total_allocated_bytes()
    with pytest.raises(InputError, match="bytes unpack to over 64 MB"):
        for _ in parquet_rows(file, "bomb.parquet"):
            assert pa.total_allocated_bytes() - before < 4 * limits.AT_ONCE


def test_what_the_file_itself_says_is_enough_to_refuse_it(tmp_path, monkeypatch):
    path = tmp_path / "bomb.parquet"
    path.write_bytes(packed(pa.table({"a": one_list(pa.array(np.zeros(20_000_000, np.int64)))})).getvalue())
    # The file's own figures have to suffice: decoding a first batch would fill the memory.
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(InputError, match="unpack"):
        list(read_rows(path))  # as an upload is read


def test_an_ordinary_parquet_file_is_read_as_it_is():
    rows = [
        {"prompt": f"q{n}" * 20, "n": n, "turns": [{"role": "user", "content": f"c{n}"}] * 2, "none": None, "b": b"x"}
        for n in range(2500)
    ]
    file = packed(pa.Table.from_pylist(rows), row_group_size=700)
    assert list(parquet_rows(file, "rows.parquet")) == rows
    mapped = pa.table({"m": pa.array([[("a", 1), ("b", 2)]] * 3, pa.map_(pa.string(), pa.int64()))})
    assert list(parquet_rows(packed(mapped), "m.parquet")) == [{"m": [("a", 1), ("b", 2)]}] * 3


def test_on_a_space_no_file_may_unpack_to_more_than_memory_holds(monkeypatch):
    assert limits.allowed_bytes(10 * 2**30) > space.MAX_IMPORT
    monkeypatch.setenv("SPACE_ID", "owner/space")
    assert limits.allowed_bytes(10 * 2**30) == space.MAX_IMPORT


def test_a_reader_stops_where_it_must():
    reader = LimitedReader(io.BytesIO(b"x" * 100), 60, "x.csv.gz")
    assert reader.read(50) == b"x" * 50
    with pytest.raises(InputError, match=r"x\.csv\.gz"):
        reader.read(50)
