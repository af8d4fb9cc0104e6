"""Files of arrays as torch and numpy write them, ordinary ones and hostile ones.

    python tests/reference/arrays.py     (torch 2.9.0, numpy 2.4.6)

Writes crates/arrays/tests/fixtures/. The numbers are counted up, so that the test knows them. `evil.pt` would run a
command if Python unpickled it; `bomb.npz` holds 1 GB of zeros.
"""
import collections, io, os, pathlib, zipfile
import numpy as np, torch

OUT = pathlib.Path(__file__).resolve().parents[2] / "crates/arrays/tests/fixtures"


def count(*shape, dtype=torch.float32):
    return torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape).sub(2.5).to(dtype)


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/a-pickle-was-run",)


def make():
    OUT.mkdir(parents=True, exist_ok=True)
    torch.save(count(3, 4), OUT / "tensor.pt")
    layer = torch.nn.Linear(4, 3)
    layer.weight.data = count(4, 3).T  # strides (1, 3)
    layer.bias.data = count(3)
    layer.register_buffer("k", torch.tensor(7, dtype=torch.int))
    layer.register_buffer("f16", count(2, 2, dtype=torch.float16))
    layer.register_buffer("bf16", count(2, 2, dtype=torch.bfloat16))
    layer.register_buffer("sizes", torch.tensor([1, 2, 1 << 20]))
    torch.save(layer.state_dict(), OUT / "state.pt")
    big = count(6, 4)
    torch.save([big[2:4, 1:3], torch.nn.Parameter(count(2)), big.double()], OUT / "list.pt")
    torch.save({3: count(2), -1: count(1), "note": "text", "none": None}, OUT / "dict.pt")
    torch.save({"a": count(2).expand(3, 2)}, OUT / "stride0.pt")
    torch.save({"a": count(2).div(0)}, OUT / "infinite.pt")
    torch.save({"state_dict": {"a": count(2)}}, OUT / "nested.pt")
    torch.save({"a": count(2), "b": Evil()}, OUT / "evil.pt")
    torch.save(count(3), OUT / "old.pt", _use_new_zipfile_serialization=False)

    np.save(OUT / "c.npy", count(3, 4).numpy())
    np.save(OUT / "fortran.npy", np.asfortranarray(count(2, 3, 2).numpy()))
    np.save(OUT / "f8.npy", count(5).numpy().astype(np.float64))
    np.save(OUT / "big_endian.npy", count(5).numpy().astype(">f4"))
    np.save(OUT / "object.npy", np.array([Evil(), 1], dtype=object), allow_pickle=True)
    arrays = {"W": count(3, 4).numpy(), "b": count(4).numpy().astype(np.float16), "n": np.array(7)}
    np.savez(OUT / "stored.npz", **arrays)
    np.savez_compressed(OUT / "deflated.npz", **arrays)
    with zipfile.ZipFile(OUT / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 30,)})
        with archive.open("zeros.npy", "w") as member:
            member.write(header.getvalue())
            [member.write(bytes(1 << 20)) for _ in range(1 << 10)]
    # 1 GB deflates to 1 MB: keep the member's first 4 KB, and say in the directory that this is all of it.
    whole = (OUT / "bomb.npz").read_bytes()
    start = 30 + len("zeros.npy")
    packed = 4096
    with zipfile.ZipFile(OUT / "bomb.npz") as archive:
        info = archive.infolist()[0]
    info.compress_size = packed
    at = whole.rindex(b"PK\x01\x02")
    directory = bytearray(whole[at:])
    directory[20:24] = packed.to_bytes(4, "little")
    end = directory.rindex(b"PK\x05\x06")
    directory[end + 16 : end + 20] = (start + packed).to_bytes(4, "little")
    (OUT / "bomb.npz").write_bytes(whole[: start + packed] + directory)
    for file in sorted(OUT.iterdir()):
        print(file.name, file.stat().st_size)


if __name__ == "__main__":
    make()
