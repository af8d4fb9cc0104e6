//! Files as torch and numpy write them (`tests/reference/arrays.py`), and hostile ones.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use realign_arrays::{Array, Arrays, Error, Kind};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn read(name: &str) -> Arrays {
    Arrays::read(fixture(name)).unwrap_or_else(|e| panic!("{e}"))
}

fn error(name: &str) -> String {
    let error = Arrays::read(fixture(name)).unwrap_err().to_string();
    assert!(error.contains(name), "{error}");
    error
}

/// The fixtures count up from -2.5.
fn count(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32 - 2.5).collect()
}

#[test]
fn torch_files_are_read() {
    let mut one = read("tensor.pt");
    assert_eq!(one.take("", &[3, 4]).unwrap(), count(12));
    one.finish().unwrap();

    let mut state = read("state.pt");
    // Saved as a view of the transpose.
    assert_eq!(
        state.take("weight", &[3, 4]).unwrap(),
        Array::new(vec![4, 3], count(12)).transposed().data
    );
    assert_eq!(state.take("bias", &[3]).unwrap(), count(3));
    assert_eq!(state.take("k", &[]).unwrap(), [7.0]);
    assert_eq!(state.take("f16", &[2, 2]).unwrap(), count(4));
    assert_eq!(state.take("bf16", &[2, 2]).unwrap(), count(4));
    assert_eq!(state.take("sizes", &[3]).unwrap(), [1.0, 2.0, 1_048_576.0]);
    state.finish().unwrap();

    let mut list = read("list.pt");
    assert_eq!(list.take("0", &[2, 2]).unwrap(), [6.5, 7.5, 10.5, 11.5]);
    assert_eq!(list.take("1", &[2]).unwrap(), count(2));
    assert_eq!(list.take("2", &[6, 4]).unwrap(), count(24));
    list.finish().unwrap();

    let mut dict = read("dict.pt");
    assert_eq!(dict.take("3", &[2]).unwrap(), count(2));
    assert_eq!(dict.take("-1", &[1]).unwrap(), count(1));
    dict.finish().unwrap();
}

#[test]
fn numpy_files_are_read() {
    assert_eq!(read("c.npy").take("", &[3, 4]).unwrap(), count(12));
    assert_eq!(read("fortran.npy").take("", &[2, 3, 2]).unwrap(), count(12));
    assert_eq!(read("f8.npy").take("", &[5]).unwrap(), count(5));
    for name in ["stored.npz", "deflated.npz"] {
        let mut arrays = read(name);
        assert_eq!(arrays.take("W", &[3, 4]).unwrap(), count(12), "{name}");
        assert_eq!(arrays.take("b", &[4]).unwrap(), count(4), "{name}");
        assert_eq!(arrays.take("n", &[]).unwrap(), [7.0], "{name}");
        arrays.finish().unwrap();
    }
}

#[test]
fn kinds_are_recognised_by_content() {
    for (name, kind) in [
        ("tensor.pt", Kind::Torch),
        ("c.npy", Kind::Npy),
        ("stored.npz", Kind::Npz),
    ] {
        assert_eq!(Kind::of(fixture(name)).unwrap(), Some(kind), "{name}");
    }
    assert_eq!(Kind::of(file!().replace("crates/arrays/", "")).unwrap(), None);
}

#[test]
fn a_pickle_that_asks_for_a_function_is_refused_by_name_and_nothing_runs() {
    let error = Arrays::read(fixture("evil.pt")).unwrap_err();
    assert!(matches!(error, Error::Name { .. }));
    assert!(
        error
            .to_string()
            .contains("evil.pt: the pickle asks for `posix.system`"),
        "{error}"
    );
    assert!(!Path::new("/tmp/a-pickle-was-run").exists());
}

#[test]
fn hostile_files_are_refused_by_name() {
    for (name, said) in [
        ("stride0.pt", "`a`: expected a view without a stride of 0"),
        (
            "infinite.pt",
            "`a`: expected finite numbers that f32 holds, found -inf at element 0",
        ),
        ("nested.pt", "`state_dict`: expected a tensor or a plain value"),
        ("old.pt", "found a bare pickle"),
        ("big_endian.npy", "big-endian"),
        ("object.npy", "Python objects, which are never read"),
        ("bomb.npz", "`zeros`: expected arrays that a file of 4"),
    ] {
        let error = error(name);
        assert!(error.contains(said), "{name}: {error}");
    }
}

/// Every file of the fixtures and one of safetensors, each with its name.
fn all() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(fixture(""))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect();
    let (a, b) = (Array::new(vec![2, 3], count(6)), Array::new(vec![4], count(4)));
    let notes = [("for", "a test".to_owned())];
    files.push((
        "a.safetensors".into(),
        realign_arrays::safetensors([("a", &a), ("b", &b)], &notes),
    ));
    files.sort();
    files
}

#[test]
fn safetensors_survive_their_file() {
    let (_, bytes) = all().into_iter().find(|(name, _)| name == "a.safetensors").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(Kind::of(&path).unwrap(), Some(Kind::Safetensors));
    let mut arrays = Arrays::read(&path).unwrap();
    assert_eq!(arrays.note("for"), Some("a test"));
    assert_eq!(
        arrays.shapes().collect::<Vec<_>>(),
        [("a", &[2, 3][..]), ("b", &[4][..])]
    );
    let error = arrays.take("a", &[3, 2]).unwrap_err().to_string();
    assert!(error.contains("`a`: expected shape [3, 2], found [2, 3]"), "{error}");
    let error = arrays.take("c", &[1]).unwrap_err().to_string();
    assert!(error.contains("`c`: expected shape [1], found only b"), "{error}");
    let error = arrays.clone().finish().unwrap_err().to_string();
    assert!(error.contains("`b`: expected no such array"), "{error}");
    assert_eq!(
        Arrays::from_safetensors(&path, &bytes)
            .unwrap()
            .take("b", &[4])
            .unwrap(),
        count(4)
    );
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut");
    for (name, bytes) in all() {
        std::fs::write(&path, &bytes).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        for end in (0..bytes.len()).rev() {
            file.set_len(end as u64).unwrap();
            assert!(Arrays::read(&path).is_err(), "{name} cut at {end}");
        }
    }
}

#[test]
fn a_changed_byte_is_an_error_or_another_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed");
    for (name, bytes) in all() {
        std::fs::write(&path, &bytes).unwrap();
        let mut file = File::options().write(true).open(&path).unwrap();
        let mut write = |at: usize, byte: u8| {
            file.seek(SeekFrom::Start(at as u64)).unwrap();
            file.write_all(&[byte]).unwrap();
        };
        // The ends hold what decides: headers, the pickle, the directory.
        for at in (0..bytes.len()).filter(|at| *at < 700 || at + 900 > bytes.len()) {
            for byte in [0xff, bytes[at] ^ 1] {
                write(at, byte);
                let Ok(arrays) = Arrays::read(&path) else { continue };
                let numbers: usize = arrays.shapes().map(|(_, shape)| shape.iter().product::<usize>()).sum();
                assert!(
                    numbers <= bytes.len(),
                    "{name}: byte {at} = {byte} made {numbers} numbers"
                );
            }
            write(at, bytes[at]);
        }
    }
}

#[test]
fn deflated_numbers_are_checked() {
    let bytes = std::fs::read(fixture("deflated.npz")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.npz");
    // The checksum in the directory, of the first member.
    let at = bytes.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    let mut changed = bytes;
    changed[at + 16] ^= 1;
    std::fs::write(&path, changed).unwrap();
    let error = Arrays::read(&path).unwrap_err().to_string();
    assert!(error.contains("checksum"), "{error}");
}

#[test]
fn what_is_no_file_of_arrays_is_said() {
    let folder = tempfile::tempdir().unwrap();
    assert!(
        Arrays::read(folder.path())
            .unwrap_err()
            .to_string()
            .contains("found a folder")
    );
    assert!(
        Arrays::read(folder.path().join("none"))
            .unwrap_err()
            .to_string()
            .contains("could not read")
    );
    let path = folder.path().join("text");
    for (content, said) in [(&b""[..], "an empty file"), (b"hello, world", "other first bytes")] {
        std::fs::write(&path, content).unwrap();
        let error = Arrays::read(&path).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

/// A torch file around this pickle, with one storage `0` of 4 numbers.
fn torch(pickle: &[u8]) -> Vec<u8> {
    let members = [("a/data.pkl", pickle), ("a/data/0", &[0_u8; 16][..])];
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in members {
        let header = out.len() as u32;
        let fields = |into: &mut Vec<u8>| {
            into.extend([20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            into.extend((bytes.len() as u32).to_le_bytes());
            into.extend((bytes.len() as u32).to_le_bytes());
            into.extend((name.len() as u16).to_le_bytes());
            into.extend([0, 0]);
        };
        out.extend(b"PK\x03\x04");
        fields(&mut out);
        out.extend(name.as_bytes());
        out.extend(bytes);
        directory.extend(b"PK\x01\x02\x14\x00");
        fields(&mut directory);
        directory.extend([0; 10]);
        directory.extend(header.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = out.len() as u32;
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0\x02\0\x02\0");
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0, 0]);
    out
}

/// A pickle of one tensor: a storage of `numel` numbers, and a view of it.
fn tensor(numel: i32, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let int = |x: &i32| [&b"J"[..], &x.to_le_bytes()].concat();
    let ints = |x: &[i32]| [&b"("[..], &x.iter().flat_map(int).collect::<Vec<u8>>(), b"t"].concat();
    [
        &b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu"[..],
        &int(&numel),
        b"tQ",
        &int(&offset),
        &ints(shape),
        &ints(strides),
        b"\x89ccollections\nOrderedDict\n)RtR.",
    ]
    .concat()
}

#[test]
fn views_that_lie_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pt");
    let say = |pickle: &[u8]| {
        std::fs::write(&path, torch(pickle)).unwrap();
        Arrays::read(&path)
            .map(|mut arrays| arrays.pop("").unwrap().data.len())
            .map_err(|e| e.to_string())
    };
    assert_eq!(say(&tensor(4, 0, &[2, 2], &[2, 1])), Ok(4));
    assert_eq!(say(&tensor(4, 1, &[3], &[1])), Ok(3));
    assert_eq!(say(&tensor(4, 9, &[0, i32::MAX, i32::MAX], &[1, 1, 1])), Ok(0));
    for (pickle, said) in [
        (tensor(4, 1, &[2, 2], &[2, 1]), "a view of its storage of 4 numbers"),
        (tensor(4, 0, &[2, 3], &[1, 1]), "a view of its storage of 4 numbers"),
        (tensor(4, 0, &[2, 2], &[0, 1]), "stride of 0"),
        (tensor(4, 0, &[2, 2], &[2]), "2 strides"),
        (tensor(4, 0, &[-2], &[1]), "integers from 0"),
        (tensor(4, -1, &[2], &[1]), "offset -1"),
        (tensor(4, i32::MAX, &[2], &[i32::MAX]), "a view of its storage"),
        (tensor(5, 0, &[2], &[1]), "5 numbers, stored"),
        (tensor(i32::MAX, 0, &[i32::MAX], &[1]), "that a file of"),
        (tensor(-1, 0, &[2], &[1]), "a storage of -1 numbers"),
        (tensor(4, 0, &[1; 9], &[1; 9]), "at most 8 integers"),
    ] {
        let error = say(&pickle).unwrap_err();
        assert!(error.contains(said), "expected {said}: {error}");
    }
}

#[test]
fn pickles_that_are_no_tensors_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pt");
    let long = [&b"\x80\x02"[..], &[b'N'; 1 << 21], b"."].concat();
    for (pickle, said) in [
        (&b"\x80\x02N."[..], "found none"),
        (b"", "expected 1 bytes"),
        (b"\x80\x00N.", "expected protocol 2 to 5, found 0"),
        (b"\x80\x02.", "without a value"),
        (b"\x80\x02(.", "without a value"),
        (b"\x80\x02t.", "without the mark"),
        (b"\x80\x02N\x86.", "more values than there are"),
        (b"\x80\x02N(\x85.", "more values than there are"),
        (b"\x80\x02h\x07.", "value 7, which was never stored"),
        (b"\x80\x02Na.", "without a value"),
        (b"\x80\x02NNa.", "no list"),
        (b"\x80\x02NNNs.", "no dictionary"),
        (b"\x80\x02}(Nu.", "without a value"),
        (b"\x80\x02NQ.", "no storage"),
        (b"\x80\x02)R.", "without a value"),
        (b"\x80\x02N)R.", "makes no tensor"),
        (b"\x80\x02ccollections\nOrderedDict\n](NNe\x85R.", "makes no tensor"),
        (b"\x80\x02X\xff\xff\xff\xffa.", "expected 4294967295 bytes"),
        (b"\x80\x02X\x01\0\0\0\xff.", "no UTF-8"),
        (b"\x80\x02\x8a\x09123456789.", "an integer of 9 bytes"),
        (b"\x80\x02ibuiltins\neval\n.", "found 0x69 (i)"),
        (b"\x80\x02\x92.", "found 0x92 at byte 2"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "`builtins.eval`"),
        (b"\x80\x02ctorch\nload\n.", "`torch.load`"),
        (b"\x80\x02cnumpy\n", "expected 1 bytes"),
        (b"\x80\x02](NNe]a.", "nested"),
        (&long, "a pickle of at most 262144 bytes"),
    ] {
        std::fs::write(&path, torch(pickle)).unwrap();
        let error = Arrays::read(&path).unwrap_err().to_string();
        assert!(error.contains(said), "expected {said}: {error}");
    }
}

#[test]
fn a_value_that_holds_itself_and_deep_nesting_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pt");
    let deep = [&b"\x80\x02)"[..], &[0x85; 200_000], b"."].concat();
    for pickle in [&b"\x80\x02]q\0h\0a."[..], &deep] {
        std::fs::write(&path, torch(pickle)).unwrap();
        assert!(Arrays::read(&path).unwrap_err().to_string().contains("nested"));
    }
}

#[test]
fn tensors_that_share_a_storage_too_often_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pt");
    // A storage of 128 KiB, and 1,000 tensors of it: 125 MiB.
    let one = tensor(1 << 15, 0, &[1 << 15], &[1]);
    let one = &one[2..one.len() - 1];
    let mut pickle = b"\x80\x02](".to_vec();
    (0..1000).for_each(|_| pickle.extend(one));
    pickle.extend(b"e.");
    let mut bytes = torch(&pickle);
    let at = bytes.windows(8).rposition(|window| window == b"a/data/0").unwrap();
    for size in [at - 26, at - 22] {
        bytes[size..size + 4].copy_from_slice(&(1_u32 << 17).to_le_bytes());
    }
    // Behind the directory there is nothing: put the numbers before it.
    let directory = bytes.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    bytes.splice(directory..directory, vec![0; (1 << 17) - 16]);
    let end = bytes.len() - 6;
    let moved = (directory + (1 << 17) - 16) as u32;
    bytes[end..end + 4].copy_from_slice(&moved.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let error = Arrays::read(&path).unwrap_err().to_string();
    assert!(error.contains("that a file of"), "{error}");
}
