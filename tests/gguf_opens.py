"""llama.cpp and the `gguf` package open a GGUF that Realign wrote.

    python tests/gguf_opens.py MODEL.gguf LOGITS.json     (llama-cpp-python 0.3.36, gguf 0.19)

LOGITS.json is what `realign logits --model MODEL.gguf --ids …` prints. Fails where llama.cpp's logits at the last of the ids
are further from them than BOUND of the largest, or name another token.

Q8_0 needs two steps. llama.cpp rounds *activations* to 8 bits before a product with 8-bit weights, which no reader has to
imitate, and how far that moves logits depends on the prompt (0.96 and 2.0 were seen with one model), so no bound on it says
anything about the file. Instead the file's own weights, dequantised by the `gguf` package, are given to llama.cpp as F32: that
is held to the bound of F32, and shows that the blocks mean to others what they mean here. Then the Q8_0 file itself must open,
with logits that are as far from those as rounding makes them and no further: a block of 32 activations is rounded to 127
steps of its largest, about 0.5 % of their norm (the largest of 32 normal numbers is 2.2 deviations: 2.2 / 127 / sqrt(12)); four
products follow each other in a block of the model, and independent errors grow with the root of their number.
"""
import json, math, pathlib, sys, tempfile

import gguf, numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "reference"))
from llama_cpp_plain import Llama

# Of the largest logit. F16 files: llama.cpp rounds activations to 16 bits. Gemma, GPT-2, GPT-NeoX: its GELU is a table in 16 bits
# (and tanh's approximation where GPT-NeoX has the error function).
BOUND = {"F32": 1e-4, "F16": 5e-3}
BOUND_OF_GELU = 5e-3
# Activations are not normal: some are far larger than the rest of their block, which is then rounded more coarsely. SmolLM2 in Q8_0:
# 4.1 % and 4.7 % for two prompts, of 5.5 % expected (while the largest differences were 0.97 and 0.89).
ROUNDING = 2
WITH_GELU = ("gemma2", "gemma3", "gpt2", "gptneox")


def logits(path, ids):
    model = Llama(str(path), n_ctx=512, logits_all=True, verbose=False, n_threads=2, type_k=0, type_v=0)  # an f32 cache
    model.reset()
    model.eval(ids)
    found = np.array(model.scores[len(ids) - 1])
    assert np.isfinite(found).all()
    return found


def dequantised(reader, path):
    """The same GGUF with all tensors in F32."""
    field = reader.fields["general.architecture"]
    writer = gguf.GGUFWriter(path, field.contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kinds = field.types
        writer.add_key_value(name, field.contents(), kinds[0], kinds[-1] if kinds[0] == gguf.GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(path, file):
    reader = gguf.GGUFReader(path)
    types = {}
    for tensor in reader.tensors:
        assert np.isfinite(gguf.quants.dequantize(tensor.data, tensor.tensor_type)).all(), tensor.name
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + 1
    given = json.loads(open(file).read())
    ids, ours = given["ids"], np.array(given["logits"])
    theirs, note = logits(path, ids), ""
    kind = next((name for name in ("Q8_0", "F16") if name in types), "F32")
    if kind == "Q8_0":
        with tempfile.TemporaryDirectory() as folder:
            whole = pathlib.Path(folder) / "f32.gguf"
            dequantised(reader, whole)
            rounded, theirs = theirs, logits(whole, ids)
        own = float((rounded - theirs).std() / theirs.std())
        blocks = reader.fields[f"{reader.fields['general.architecture'].contents()}.block_count"].contents()
        expected = 0.005 * math.sqrt(4 * blocks)
        note = f"; its own 8-bit activations move it by {own:.2%} (expected: {expected:.2%}, refused: {ROUNDING * expected:.2%})"
        assert own < ROUNDING * expected, note
        kind = "F16" if "F16" in types else "F32"
    apart = float(np.abs(theirs - ours).max() / max(1.0, np.abs(ours).max()))
    arch = reader.fields["general.architecture"].contents()
    bound = max(BOUND[kind], BOUND_OF_GELU if arch in WITH_GELU else 0)
    same = int(theirs.argmax()) == int(ours.argmax())
    print(f"{path}: {types}; llama.cpp is {apart:.1e} of the largest logit away, and names {'the same' if same else 'another'} token{note}")
    return 0 if same and apart < bound else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
