"""Writes sample.parquet, a file as the Hub keeps data sets: pip install pyarrow; python parquet.py"""
import pyarrow as pa
import pyarrow.parquet as pq

rows = [
    dict(question="¿Qué?", label=1, endings=["a", "b"], choices=dict(label=["A", "B"], text=["x", "y"]), weight=0.5, hint=None),
    dict(question="Who?", label=0, endings=["c"], choices=dict(label=["A"], text=["z"]), weight=2.0, hint="h"),
]
pq.write_table(pa.Table.from_pylist(rows), "sample.parquet", compression="snappy")
