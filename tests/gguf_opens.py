"""llama.cpp and the `gguf` package open a GGUF that Realign wrote.

    python tests/gguf_opens.py MODEL.gguf LOGITS.json     (llama-cpp-python 0.3.36, gguf 0.19)

LOGITS.json is what `realign logits --model MODEL.gguf --ids …` prints. Fails where llama.cpp's logits at the last of the ids
are further away than TOLERANCE of the matrices' type or name another token: llama.cpp rounds activations to 8 bits before a
product with 8-bit weights (0.7 on the Q4_1 file that people download), and keeps keys and values in 16.
"""
import json, sys
import gguf, numpy as np
from llama_cpp import Llama

TOLERANCE = {"F32": 0.2, "F16": 0.2, "Q8_0": 1.5}


def main(path, logits):
    reader = gguf.GGUFReader(path)
    types = {}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.isfinite(values).all(), tensor.name
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + 1
    ours = json.loads(open(logits).read())
    model = Llama(path, n_ctx=512, logits_all=True, verbose=False, n_threads=2)
    model.reset()
    model.eval(ours["ids"])
    theirs = model.scores[len(ours["ids"]) - 1]
    apart = float(np.abs(theirs - np.array(ours["logits"])).max())
    same = int(theirs.argmax()) == int(np.argmax(ours["logits"]))
    print(f"{path}: {types}; llama.cpp is {apart:.3f} away at most, and names {'the same' if same else 'another'} token")
    kind = max(types, key=lambda name: types[name] if name != "F32" or len(types) == 1 else 0)
    return 0 if same and apart < TOLERANCE[kind] else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
