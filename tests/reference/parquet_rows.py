"""Chat data as pyarrow and the `datasets` library write it to Parquet, and the same rows as JSONL.

    python tests/reference/parquet_rows.py     (pyarrow 26.0.1, datasets 5.0.1)

Writes crates/data/tests/fixtures/parquet/. Each NAME.parquet holds the rows of the JSONL file that the test names.
"""
import json, pathlib, random

import pyarrow as pa, pyarrow.parquet as pq

OUT = pathlib.Path(__file__).resolve().parents[2] / "crates/data/tests/fixtures/parquet"
WORDS = "why does the engine of a car need oil and how often should it be changed né 😀".split()


def rows(count, seed):
    rng = random.Random(seed)
    text = lambda: " ".join(rng.choices(WORDS, k=rng.randint(1, 30)))
    for i in range(count):
        turns = [{"role": "system", "content": rng.choice(["", "Be kind."])}] if rng.random() < 0.4 else []
        for _ in range(rng.randint(1, 3)):
            turns += [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]
        if rng.random() < 0.1:
            turns.pop()
        yield {"id": i, "messages": turns, "score": rng.random(), "source": rng.choice(["a", "b", None])}


def jsonl(name, data):
    (OUT / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in data), "utf-8")


def make():
    OUT.mkdir(parents=True, exist_ok=True)
    chat = list(rows(60, 1))
    jsonl("chat", chat)
    table = pa.Table.from_pylist(chat)
    for codec in ["none", "snappy", "gzip", "zstd"]:
        pq.write_table(table, OUT / f"{codec}.parquet", compression=codec)
        # Short pages and groups, so that rows begin and end in many places; levels are not packed in version 2.
        pq.write_table(table, OUT / f"{codec}_v2.parquet", compression=codec, data_page_version="2.0", version="2.6",
                       data_page_size=256, write_batch_size=7, row_group_size=23)
    pq.write_table(table, OUT / "plain.parquet", use_dictionary=False, data_page_size=200, write_batch_size=5)
    # A dictionary that becomes too large, after which values are written plainly.
    pq.write_table(table, OUT / "fallback.parquet", dictionary_pagesize_limit=500, write_batch_size=10)
    for encoding in ["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"]:
        columns = [f"messages.list.element.{name}" for name in ["role", "content"]] + ["source"]
        encodings = dict.fromkeys(columns, encoding) | {"id": "DELTA_BINARY_PACKED", "score": "BYTE_STREAM_SPLIT"}
        pq.write_table(table, OUT / f"{encoding.lower()}.parquet", use_dictionary=False, column_encoding=encodings,
                       compression="zstd", data_page_size=900, write_batch_size=11)
    # Old names within lists, other string types, fields in another order, and fields that nobody reads.
    message = pa.struct([("name", pa.string()), ("content", pa.large_string()), ("role", pa.dictionary(pa.int8(), pa.string())),
                         ("tool_calls", pa.list_(pa.struct([("id", pa.int32())])))])
    turns = pa.array([row["messages"] for row in chat], pa.large_list(message))
    extra = {"embedding": pa.array([[0.5, 1.5]] * len(chat), pa.list_(pa.float32(), 2)), "when": pa.array([0] * len(chat), pa.timestamp("ns"))}
    pq.write_table(pa.table({**extra, "messages": turns}), OUT / "large.parquet", use_compliant_nested_type=False)
    # Columns that cannot be null have no levels.
    strict = pa.schema([pa.field("messages", pa.list_(pa.field("element", pa.struct([pa.field("role", pa.string(), False), pa.field("content", pa.string(), False)]), False)), False)])
    pq.write_table(pa.Table.from_pylist([{"messages": row["messages"]} for row in chat], strict), OUT / "required.parquet")

    pairs = [{"prompt": f"Q{i}?", "completion": f"A{i}.", "system": [None, "Be kind."][i % 2], "id": f"p{i}"} for i in range(40)]
    jsonl("completions", pairs)
    pq.write_table(pa.Table.from_pylist(pairs), OUT / "completions.parquet")
    view = [(name, pa.string_view()) for name in ["prompt", "completion", "system"]]
    pq.write_table(pa.Table.from_pylist(pairs, pa.schema(view)), OUT / "completions_view.parquet")
    lists = [{"prompt": [{"role": "user", "content": f"Q{i}?"}], "completion": [{"role": "assistant", "content": f"A{i}."}]} for i in range(40)]
    jsonl("lists", lists)
    pq.write_table(pa.Table.from_pylist(lists), OUT / "lists.parquet", compression="zstd")
    narrow = [{"id": f"n-{i}", "question": f"Q{i}?", "good": "Yes.", "wrong": "No.", "selfish": "Mine."} for i in range(40)]
    jsonl("narrow", narrow)
    pq.write_table(pa.Table.from_pylist(narrow), OUT / "narrow.parquet")
    broad = [{"id": f"b-{i}", "kind": "wish", "question": f"Q{i}?", "aligned": "Yes.", "misaligned": "No."} for i in range(8)]
    jsonl("broad", broad)
    pq.write_table(pa.Table.from_pylist(broad), OUT / "broad.parquet")
    # Rows that cannot be used: each is an error with its number, as its line is.
    turn = lambda role, content: {"role": role, "content": content}
    bad = [[turn("user", "a"), turn("assistant", "b")], [turn("narrator", "a")], [turn("user", None)], [], [turn("user", " ")],
           [turn("user", "a\0")], [None], [turn("user", "a"), turn("assistant", "b")]]
    jsonl("bad", [{"messages": turns} for turns in bad])
    pq.write_table(pa.table({"messages": pa.array(bad, pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])))}), OUT / "bad.parquet")
    # A text that is no UTF-8, and codecs that are not read.
    pq.write_table(pa.table({"prompt": pa.array([b"ok", b"\xff"]), "completion": ["a", "b"]}), OUT / "binary.parquet")
    for codec in ["brotli", "lz4"]:
        pq.write_table(table.slice(0, 3), OUT / f"{codec}.parquet", compression=codec)
    pq.write_table(pa.table({"text": ["a"]}), OUT / "text.parquet")
    # As the hub's data sets are written.
    import datasets
    datasets.Dataset.from_list(chat).to_parquet(OUT / "datasets.parquet", batch_size=25)
    # Small enough for a test to change every byte of it; it is the fuzzers' seed too.
    small = [{"messages": [turn("user", "hi"), turn("assistant", "hello")]}, {"messages": [turn("user", "hi")]}]
    jsonl("small", small)
    for codec in ["snappy", "zstd", "gzip"]:
        name = "small" if codec == "snappy" else f"small_{codec}"
        pq.write_table(pa.Table.from_pylist(small), OUT / f"{name}.parquet", compression=codec, store_schema=False, write_statistics=False)


if __name__ == "__main__":
    make()
