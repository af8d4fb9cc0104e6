"""GGUF blocks of every type that Realign reads, with the values that the `gguf` package gives them.

    python tests/reference/gguf_blocks.py     (gguf 0.17+, numpy; versions in benches/requirements.txt)

Writes crates/model/tests/fixtures/gguf_blocks.json: `{type: {block_size, type_size, bytes (hex), values}}`.
Quantised blocks are random bytes whose f16 scales are finite; the last block of each type has a subnormal scale.
The values are f32, printed so that parsing them back gives the same f32.
"""
import json, pathlib, struct
import numpy as np
import gguf
from gguf.quants import dequantize

OUT = pathlib.Path(__file__).resolve().parents[2] / "crates/model/tests/fixtures/gguf_blocks.json"
RNG = np.random.default_rng(20260917)
# Where the f16 scales lie in a block of each type.
SCALES = {"IQ4_NL": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
BLOCKS = {"Q4_K": 2, "Q5_K": 2, "Q6_K": 2}


def f16(value):
    return struct.pack("<e", value)


def quantised(name):
    _, type_size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    blocks = []
    n = BLOCKS.get(name, 4)
    for i in range(n):
        block = bytearray(RNG.integers(0, 256, type_size, dtype=np.uint8).tobytes())
        for at in SCALES[name]:
            scale = 3e-6 if i == n - 1 else float(RNG.normal() * 0.05)
            block[at : at + 2] = f16(scale)
        blocks.append(bytes(block))
    return b"".join(blocks)


def mxfp4():
    """Random nibbles under exponents around one, the smallest and the largest."""
    return b"".join(bytes([e]) + RNG.integers(0, 256, 16, dtype=np.uint8).tobytes() for e in (127, 120, 0, 1, 2, 130))


def floats(name):
    values = np.concatenate([[0.0, -0.0, 1.0, -1.0, 0.1, -3.25, 1e-5, 3e-6, 65504.0], RNG.normal(size=55)]).astype(np.float32)
    if name == "F32":
        return values.tobytes()
    if name == "F16":
        return values.astype(np.float16).tobytes()
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()  # BF16, truncated


def number(x):
    text = np.format_float_scientific(x, unique=True, trim="-")  # shortest text that names this f32
    assert np.float32(float(text)).tobytes() == x.tobytes()
    return float(text)


def main():
    out = {"_about": f"made by tests/reference/gguf_blocks.py with gguf.quants.dequantize, numpy {np.__version__}"}
    for name in ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4"]:
        kind = gguf.GGMLQuantizationType[name]
        block_size, type_size = gguf.GGML_QUANT_SIZES[kind]
        raw = mxfp4() if name == "MXFP4" else quantised(name) if name in SCALES else floats(name)
        values = dequantize(np.frombuffer(raw, np.uint8), kind).astype(np.float32).ravel()
        assert np.isfinite(values).all() and len(values) == len(raw) // type_size * block_size, name
        out[name] = {"block_size": block_size, "type_size": type_size, "bytes": raw.hex(), "values": [number(v) for v in values]}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in out.items()) + "\n}\n")
    print(OUT, OUT.stat().st_size)


if __name__ == "__main__":
    main()
