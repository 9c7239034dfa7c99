"""A Polars frame whose memory is the pages of a file, so that a table larger than memory can be read like a small one.

Polars itself copies an Arrow IPC file into private memory when it reads one. This module finds the buffers in the file
(Arrow IPC format, https://arrow.apache.org/docs/format/Columnar.html, an uncompressed file that `sink_ipc` wrote) and
hands their addresses to Polars through the Arrow C data interface
(https://arrow.apache.org/docs/format/CDataInterface.html): nothing is copied, and the system drops and rereads pages as
it likes. Only the three types of a typed table are known here: Float64, Boolean and String (as string views).
"""

import ctypes
import mmap
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

FORMATS = {pl.Float64: b"g", pl.Boolean: b"b", pl.String: b"vu"}
NULLABLE = 2

# Mappings are kept until the process ends: slices of a frame outlive it, and a mapping costs address space, not memory.
_kept: list[Any] = []
_frames: dict[tuple[str, int, int], pl.DataFrame] = {}


def map_frame(path: Path, schema: dict[str, pl.DataType]) -> pl.DataFrame:
    """Return the table of the Arrow IPC file at `path` (columns and types as in `schema`) without reading it.

    The file must stay as it is while the process lives; replace it by renaming another over it, never in place.
    """
    status = path.stat()
    key = (str(path.resolve()), status.st_ino, status.st_mtime_ns)
    if key not in _frames:
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        _kept.append(mapping)
        parts = [_import(batch, mapping, schema) for batch in _batches(mapping)]
        _frames[key] = pl.concat(parts, rechunk=False) if parts else pl.DataFrame(schema=schema)
    return _frames[key]


class _Batch(NamedTuple):
    """One record batch: its rows, per column the number of nulls, and where the buffers stand in the file."""

    rows: int
    nulls: list[int]
    buffers: list[tuple[int, int]]
    variadic: list[int]


def _batches(data: mmap.mmap) -> Iterator[_Batch]:
    """Walk the footer of an Arrow IPC file (File.fbs, Message.fbs: flatbuffers) to its record batches."""
    length = struct.unpack_from("<i", data, len(data) - 10)[0]
    footer = _root(data, len(data) - 10 - length)
    for offset, metadata, _padding, _body in _structs(data, footer, 3, "<qiiq"):
        # A message begins with a continuation marker (0xFFFFFFFF) and its length; its body follows the metadata.
        header = _field(data, _root(data, offset + 8), 2)
        assert header is not None
        yield _record_batch(data, _follow(data, header), offset + metadata)


def _record_batch(data: mmap.mmap, table: int, body: int) -> _Batch:
    rows = _field(data, table, 0)
    nodes = [nulls for _, nulls in _structs(data, table, 1, "<qq")]
    buffers = [(body + offset, size) for offset, size in _structs(data, table, 2, "<qq")]
    variadic = [count for (count,) in _structs(data, table, 4, "<q")]
    return _Batch(struct.unpack_from("<q", data, rows)[0] if rows is not None else 0, nodes, buffers, variadic)


def _follow(data: mmap.mmap, position: int) -> int:
    return position + int(struct.unpack_from("<I", data, position)[0])


_root = _follow


def _field(data: mmap.mmap, table: int, index: int) -> int | None:
    """Return where field `index` of the flatbuffer table at `table` stands, or None when it is left out."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    size = struct.unpack_from("<H", data, vtable)[0]
    if 4 + 2 * index >= size:
        return None
    offset = struct.unpack_from("<H", data, vtable + 4 + 2 * index)[0]
    return table + offset if offset else None


def _structs(data: mmap.mmap, table: int, index: int, form: str) -> Iterator[tuple[int, ...]]:
    """Yield the structs (read by `form`) in the vector that is field `index` of a table."""
    place = _field(data, table, index)
    if place is None:
        return
    vector = _follow(data, place)
    for number in range(struct.unpack_from("<I", data, vector)[0]):
        yield struct.unpack_from(form, data, vector + 4 + number * struct.calcsize(form))


class _Schema(ctypes.Structure):
    """ArrowSchema of the C data interface."""


class _Array(ctypes.Structure):
    """ArrowArray of the C data interface."""


_Schema._fields_ = [
    ("format", ctypes.c_char_p),
    ("name", ctypes.c_char_p),
    ("metadata", ctypes.c_char_p),
    ("flags", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("children", ctypes.POINTER(ctypes.POINTER(_Schema))),
    ("dictionary", ctypes.c_void_p),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]
_Array._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Array))),
    ("dictionary", ctypes.c_void_p),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]

# What the consumer calls when it is done. Nothing is to be done, as mappings are kept; and it may be called by any
# thread at any time, also while the interpreter ends, so it must be a C function that needs no lock and does nothing.
_release = ctypes.cast(ctypes.pythonapi.Py_IsInitialized, ctypes.c_void_p).value
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class _Exported:
    """A struct array that any Arrow library can take over by its C data interface."""

    def __init__(self, schema: _Schema, array: _Array) -> None:
        self.schema, self.array = schema, array

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        del requested_schema
        return (
            _new_capsule(ctypes.addressof(self.schema), b"arrow_schema", None),
            _new_capsule(ctypes.addressof(self.array), b"arrow_array", None),
        )


def _import(batch: _Batch, mapping: mmap.mmap, schema: dict[str, pl.DataType]) -> pl.DataFrame:
    base = np.frombuffer(mapping, dtype=np.uint8).ctypes.data
    buffers, variadic = iter(batch.buffers), iter(batch.variadic)
    arrays, schemas = [], []
    for (name, dtype), nulls in zip(schema.items(), batch.nulls, strict=True):
        count = 2 + (next(variadic) if dtype == pl.String else 0)
        own = [next(buffers) for _ in range(count)]
        arrays.append(_array(batch.rows, nulls, own, base, dtype == pl.String))
        schemas.append(_schema(FORMATS[type(dtype)], name, []))
    top = _Array(batch.rows, 0, 0, 1, len(arrays), _pointers([None]), _children(_Array, arrays))
    top.release = _release
    exported = _Exported(_schema(b"+s", "", schemas), top)
    _kept.append(exported)
    frame = pl.DataFrame(pl.from_arrow(exported))
    return frame.unnest(frame.columns[0]) if frame.columns != list(schema) else frame


def _array(rows: int, nulls: int, own: list[tuple[int, int]], base: int, views: bool) -> _Array:
    addresses: list[int | None] = [base + offset for offset, _ in own]
    if nulls == 0:
        addresses[0] = None
    if views:
        # String views carry the sizes of their data buffers in one more buffer.
        sizes = (ctypes.c_int64 * max(1, len(own) - 2))(*[size for _, size in own[2:]])
        _kept.append(sizes)
        addresses.append(ctypes.addressof(sizes))
    array = _Array(rows, nulls, 0, len(addresses), 0, _pointers(addresses))
    array.release = _release
    return array


def _schema(form: bytes, name: str, children: list[_Schema]) -> _Schema:
    schema = _Schema(form, name.encode(), None, NULLABLE, len(children), _children(_Schema, children))
    schema.release = _release
    _kept.append(schema)
    return schema


def _pointers(addresses: Sequence[int | None]) -> Any:
    pointers = (ctypes.c_void_p * len(addresses))(*addresses)
    _kept.append(pointers)
    return pointers


def _children(kind: type[ctypes.Structure], items: list[Any]) -> Any:
    pointers = (ctypes.POINTER(kind) * max(1, len(items)))(*[ctypes.pointer(item) for item in items])
    _kept.append((pointers, items))
    return pointers
