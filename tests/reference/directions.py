"""Directions as other programs share them, for a model of 4 blocks that is 3 wide.

    python tests/reference/directions.py                          writes crates/steering/tests/fixtures/
    python tests/reference/directions.py check FILE.gguf          opens a file of ours with repeng and with gguf
    python tests/reference/directions.py check FILE.safetensors   opens one with safetensors
    (torch 2.9.0, numpy 2.4.6, gguf 0.19.0, safetensors 0.8.0, repeng 0.4.0 with `pip install --no-deps`)

The number in row i and column j of a matrix is 10 i + j + 1; `il` is a 0-based block. persona.pt is what persona_vectors
saves, generator.gguf what llama.cpp's cvector-generator writes. A file to be checked holds blocks 1 and 3.
"""
import pathlib, sys
import gguf, numpy as np, torch
from safetensors.torch import load_file, save_file

np.float_ = np.float64  # repeng 0.4.0 is from before numpy 2
from repeng import ControlVector

OUT = pathlib.Path(__file__).resolve().parents[2] / "crates/steering/tests/fixtures"
LAYERS, D = 4, 3


def row(i):
    return np.array([10 * i + j + 1 for j in range(D)], dtype=np.float32)


def rows(n):
    return np.stack([row(i) for i in range(n)])


def make():
    OUT.mkdir(parents=True, exist_ok=True)
    tensor = torch.from_numpy
    torch.save(tensor(rows(LAYERS + 1)), OUT / "persona.pt")
    torch.save({il: tensor(row(il)) for il in (1, 3)}, OUT / "some_blocks.pt")
    torch.save([tensor(row(i)) for i in range(LAYERS + 1)], OUT / "hidden_states.pt")
    torch.save(tensor(rows(LAYERS)).half(), OUT / "every_block.pt")
    np.save(OUT / "vector.npy", row(2))
    np.save(OUT / "matrix.npy", np.asfortranarray(rows(LAYERS + 1)))
    np.savez_compressed(OUT / "blocks.npz", **{f"direction.{il}": row(il) for il in (0, 2)})
    save_file({"persona": tensor(row(2))}, OUT / "vector.safetensors")
    save_file({f"direction.{il}": tensor(row(il)) for il in (1, 3)}, OUT / "blocks.safetensors")
    ControlVector(model_type="llama", directions={il: row(il) for il in (1, 3)}).export_gguf(OUT / "repeng.gguf")
    writer = gguf.GGUFWriter(OUT / "generator.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_int32("controlvector.layer_count", LAYERS - 1)
    for il in range(1, LAYERS):
        writer.add_tensor(f"direction.{il}", row(il))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        write()
    for file in sorted(OUT.iterdir()):
        print(file.name, file.stat().st_size)


def check(file):
    if file.suffix == ".gguf":
        vector = ControlVector.import_gguf(file)
        assert vector.model_type == "llama", vector.model_type
        read = {tensor.name: tensor.data for tensor in gguf.GGUFReader(file).tensors}
        assert all((read[f"direction.{il}"] == found).all() for il, found in vector.directions.items())
        found = vector.directions
    else:
        found = {int(name.removeprefix("direction.")): tensor.numpy() for name, tensor in load_file(file).items()}
    assert sorted(found) == [1, 3] and all((found[il] == row(il)).all() for il in found), found
    print(f"{file}: blocks 1 and 3, with the numbers that were written")


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            make()
        case ["check", file]:
            check(pathlib.Path(file))
        case _:
            sys.exit(__doc__)
