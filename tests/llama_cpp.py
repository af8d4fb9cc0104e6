"""llama.cpp and the `gguf` package open a GGUF that Realign wrote.

    python tests/llama_cpp.py MODEL.gguf LOGITS.json     (llama-cpp-python 0.3.36, gguf 0.19)

LOGITS.json is what `realign logits --model MODEL.gguf --ids …` prints. Fails where llama.cpp's logits at the last of the ids
are further than TOLERANCE away (it keeps keys and values, and its products' left sides, in fewer bits) or name another token.
"""
import json, sys
import gguf, numpy as np
from llama_cpp import Llama

TOLERANCE = 0.6


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
    return 0 if same and apart < TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
