//! Kinds 34 and 35: numpy's files and torch's.

use std::io::{Cursor, Write};
use std::path::PathBuf;

use realign::arrays::{Arrays, Error};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::bounds::{Alone, alone};

/// A folder with one file, whose bytes change.
struct Place {
    alone: Alone,
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Place {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            alone: alone(),
            path: folder.path().join(name),
            _folder: folder,
        }
    }

    fn read(&self, what: &str, bytes: &[u8]) -> Result<Arrays, Error> {
        std::fs::write(&self.path, bytes).unwrap();
        let len = bytes.len() as u64;
        self.alone.bounded(what, len, || Arrays::read(&self.path))
    }

    fn refused(&self, what: &str, bytes: &[u8], words: &[&str]) {
        std::fs::write(&self.path, bytes).unwrap();
        let name = self.path.file_name().unwrap().to_str().unwrap();
        let words: Vec<&str> = [name].iter().chain(words).copied().collect();
        let len = bytes.len() as u64;
        let error = self.alone.refused(what, len, &words, || Arrays::read(&self.path));
        assert!(!error.contains(char::is_control), "{what}: {error:?}");
    }

    /// Every beginning of a file is refused, and every file with another bit is refused or sound.
    fn cut_and_flipped(&self, bytes: &[u8]) {
        self.read("whole", bytes).unwrap();
        for len in 0..bytes.len() {
            self.refused("cut", &bytes[..len], &[]);
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.to_vec();
                bytes[at] ^= 1 << bit;
                let _ = self.read("a bit", &bytes);
            }
        }
    }
}

fn zip(members: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        let options = SimpleFileOptions::default().compression_method(method);
        archive.start_file(*name, options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn stored(members: &[(&str, &[u8])]) -> Vec<u8> {
    zip(members, CompressionMethod::Stored)
}

/// A numpy file with this header dictionary.
fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u16).to_le_bytes();
    [&b"\x93NUMPY\x01\x00"[..], &length, header.as_bytes(), data].concat()
}

fn floats(shape: &str, data: &[u8]) -> Vec<u8> {
    npy(
        &format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"),
        data,
    )
}

fn bytes_of(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Where the directory of an archive without a comment begins.
fn directory(archive: &[u8]) -> usize {
    let at = archive.len() - 6;
    u32::from_le_bytes(archive[at..at + 4].try_into().unwrap()) as usize
}

#[test]
fn kind_34_numpy_headers() {
    let place = Place::new("a.npy");
    let four = bytes_of(&[1.0, 2.0, 3.0, 4.0]);
    let fortran = npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2), }", &four);
    let mut read = place.read("Fortran's order", &fortran).unwrap();
    assert_eq!(read.take("", &[2, 2]).unwrap(), [1.0, 3.0, 2.0, 4.0]);
    let header = |descr: &str, shape: &str| {
        npy(
            &format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"),
            &four,
        )
    };
    for (what, bytes, word) in [
        ("objects", header("'|O'", "(2,)"), "Python objects"),
        ("big-endian", header("'>f4'", "(4,)"), "big-endian"),
        ("complex numbers", header("'<c8'", "(2,)"), "<c8"),
        ("a record", header("[('a', '<f4')]", "(4,)"), "string"),
        (
            "a type of a megabyte",
            header(&format!("'{}'", "f".repeat(60_000)), "(4,)"),
            "not a number",
        ),
        (
            "a shape that overflows",
            header("'<f4'", "(9223372036854775807, 4)"),
            "justifies",
        ),
        (
            "a shape beyond 64 bits",
            header("'<f4'", "(99999999999999999999,)"),
            "axis",
        ),
        ("a hundred gigabytes", header("'<f4'", "(25000000000,)"), "justifies"),
        (
            "zero times too much",
            header("'<f4'", "(0, 9223372036854775807, 9223372036854775807)"),
            "bytes",
        ),
        ("a negative axis", header("'<f4'", "(-4,)"), "axis"),
        ("an axis with a point", header("'<f4'", "(4.0,)"), ")"),
        (
            "a thousand axes",
            header("'<f4'", &format!("({})", "1,".repeat(1000))),
            "axes",
        ),
        ("fewer numbers", header("'<f4'", "(5,)"), "16 bytes"),
        ("more numbers", header("'<f4'", "(3,)"), "16 bytes"),
        (
            "no shape",
            npy("{'descr': '<f4', 'fortran_order': False}", &four),
            "header",
        ),
        ("code", npy("__import__('os').system('id')", &four), "header"),
        (
            "no UTF-8",
            [&b"\x93NUMPY\x01\x00\x02\x00\xff\xfe"[..], &four].concat(),
            "text",
        ),
        ("version 0", [&b"\x93NUMPY\x00\x00"[..], &four].concat(), "format"),
        ("version 4", [&b"\x93NUMPY\x04\x00"[..], &four].concat(), "format"),
        (
            "a header of 4 GiB",
            b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(),
            "header",
        ),
        (
            "a header that ends early",
            b"\x93NUMPY\x01\x00\xff\xff{".to_vec(),
            "header",
        ),
        ("NaN", floats("(1,)", &bytes_of(&[f32::NAN])), "NaN"),
    ] {
        place.refused(what, &bytes, &[word]);
    }
    place.cut_and_flipped(&fortran);
}

#[test]
fn kind_34_archives_that_grow() {
    let place = Place::new("a.npz");
    let deflated = |members: &[(&str, &[u8])]| zip(members, CompressionMethod::Deflated);
    let large = floats("(67108864,)", &vec![0; 256 << 20]);
    let bomb = deflated(&[("zeros.npy", &large)]);
    assert!(bomb.len() < 1 << 20, "{} bytes", bomb.len());
    place.refused("256 MiB of zeros", &bomb, &["`zeros`", "justifies"]);
    let middle = floats("(10485760,)", &vec![0; 40 << 20]);
    let several: Vec<(String, &[u8])> = (0..6).map(|i| (format!("{i}.npy"), &middle[..])).collect();
    let several: Vec<(&str, &[u8])> = several.iter().map(|(name, bytes)| (&name[..], *bytes)).collect();
    place.refused("40 MiB six times", &deflated(&several), &["`1`", "justifies"]);

    // The directory says that there is less than what is packed.
    let small = floats("(4,)", &[0; 16]);
    let mut lying = deflated(&[("zeros.npy", &large)]);
    let at = directory(&lying);
    lying[at + 24..at + 28].copy_from_slice(&(small.len() as u32).to_le_bytes());
    place.refused("a size that lies", &lying, &["zeros"]);

    // Four thousand names of one and the same member.
    let one = stored(&[("0000.npy", &floats("(20000,)", &[0; 80_000]))]);
    let at = directory(&one);
    let (entry, end) = (one[at..one.len() - 22].to_vec(), one[one.len() - 22..].to_vec());
    let mut shared = one[..at].to_vec();
    for i in 0..4000 {
        let mut entry = entry.clone();
        entry[46..50].copy_from_slice(format!("{i:04}").as_bytes());
        shared.extend(entry);
    }
    let size = shared.len() - at;
    shared.extend(end);
    let end = shared.len() - 22;
    for (field, number) in [(8, 4000_u32), (10, 4000)] {
        shared[end + field..end + field + 2].copy_from_slice(&(number as u16).to_le_bytes());
    }
    shared[end + 12..end + 16].copy_from_slice(&(size as u32).to_le_bytes());
    place.refused("one member under many names", &shared, &["justifies"]);

    let names: Vec<String> = (0..4097).map(|i| format!("{i}.npy")).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (&name[..], &small[..])).collect();
    place.refused("4097 members", &stored(&many), &["4096", "4097"]);
    let long = "n".repeat(60_000);
    let names: Vec<String> = (0..100).map(|i| format!("{long}{i}.npy")).collect();
    let long: Vec<(&str, &[u8])> = names.iter().map(|name| (&name[..], &small[..])).collect();
    place.refused("names of 6 MB", &stored(&long), &["directory"]);
}

#[test]
fn kind_34_archives_that_are_damaged_or_lie() {
    let place = Place::new("a.npz");
    let array = floats("(2, 2)", &bytes_of(&[1.0, 2.0, 3.0, 4.0]));
    let good = stored(&[("a.npy", &array)]);
    let deflated = zip(&[("a.npy", &array)], CompressionMethod::Deflated);
    for bytes in [&good, &deflated] {
        assert_eq!(
            place.read("good", bytes).unwrap().take("a", &[2, 2]).unwrap(),
            [1.0, 2.0, 3.0, 4.0]
        );
    }
    place.cut_and_flipped(&good);
    place.cut_and_flipped(&deflated);

    let at = directory(&good);
    let changed = |offset: usize, bytes: &[u8]| {
        let mut archive = good.clone();
        archive[offset..offset + bytes.len()].copy_from_slice(bytes);
        archive
    };
    let end = good.len() - 22;
    let most = &u32::MAX.to_le_bytes();
    for (what, bytes, word) in [
        ("a wrong checksum", changed(at + 16, &[1, 2, 3, 4]), "checksum"),
        ("other numbers", changed(at - 3, &[7]), "checksum"),
        ("encrypted", changed(at + 8, &[1]), "encrypted"),
        ("method 12", changed(at + 10, &[12]), "method"),
        ("a packed size of 4 GiB", changed(at + 20, most), "64-bit"),
        ("a size of 4 GiB", changed(at + 24, most), "64-bit"),
        ("an offset of 4 GiB", changed(at + 42, most), "64-bit"),
        (
            "an offset at the end",
            changed(at + 42, &(end as u32).to_le_bytes()),
            "",
        ),
        ("a name past the end", changed(at + 28, &[255, 255]), "directory"),
        ("65535 entries", changed(end + 10, &[255, 255]), "64-bit"),
        (
            "two entries where there is one",
            changed(end + 10, &[2, 0]),
            "directory",
        ),
        ("a directory of 4 GiB", changed(end + 12, most), "64-bit"),
        (
            "a directory past the end",
            changed(end + 16, &(end as u32).to_le_bytes()),
            "outside",
        ),
    ] {
        place.refused(what, &bytes, &[word]);
    }
    place.refused(
        "something else",
        &stored(&[("a.npy", &array), ("\u{1b}[2J.txt", b"")]),
        &["*.npy"],
    );
    place.refused("neither", &stored(&[("readme", b"")]), &["data.pkl"]);
    // A name is a name, and nothing is written.
    let outside = stored(&[("../../x.npy", &array)]);
    assert!(
        place
            .read("a name that leads out", &outside)
            .unwrap()
            .shape("../../x")
            .is_some()
    );
    for [sizes, offset] in [
        [u64::MAX, 0],
        [0, u64::MAX],
        [1 << 63, 1 << 63],
        [u64::MAX - 30, u64::MAX - 30],
    ] {
        place.refused("64-bit sizes", &wide(&good, sizes, offset), &[]);
    }
}

/// An archive of one member whose directory gives sizes and offset in 64 bits.
fn wide(archive: &[u8], size: u64, offset: u64) -> Vec<u8> {
    let (at, end) = (directory(archive), archive.len() - 22);
    let mut out = archive.to_vec();
    out[at + 20..at + 28].fill(0xff);
    out[at + 42..at + 46].fill(0xff);
    out[at + 30..at + 32].copy_from_slice(&28_u16.to_le_bytes());
    let extra = [
        &[1, 0, 24, 0][..],
        &size.to_le_bytes(),
        &size.to_le_bytes(),
        &offset.to_le_bytes(),
    ]
    .concat();
    out.splice(end..end, extra);
    let length = (end + 28 - at) as u32;
    let end = out.len() - 22;
    out[end + 12..end + 16].copy_from_slice(&length.to_le_bytes());
    out
}

/// A text, as a pickle pushes it.
fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A tuple of integers, as a pickle pushes it.
fn tuple(sizes: &[i64]) -> Vec<u8> {
    let ints = sizes
        .iter()
        .flat_map(|size| [&b"\x8a\x08"[..], &size.to_le_bytes()].concat());
    [b"(".to_vec(), ints.collect(), b"t".to_vec()].concat()
}

/// What makes a tensor of floats: a view of the storage of this name.
fn tensor(key: &str, numel: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let int = |n: i64| [&b"\x8a\x08"[..], &n.to_le_bytes()].concat();
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text(key),
        text("cpu"),
        int(numel),
        b"tQ".to_vec(),
        int(offset),
        tuple(shape),
        tuple(strides),
        b"\x89ccollections\nOrderedDict\n)RtR".to_vec(),
    ]
    .concat()
}

/// A whole pickle of these instructions.
fn pickle(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}

/// The pickle of one tensor of 64 floats in the storage `0`.
pub fn one_tensor() -> Vec<u8> {
    pickle(&tensor("0", 64, 0, &[8, 8], &[8, 1]))
}

/// A torch file of this pickle, with a storage of 64 floats.
fn torch(pickle: &[u8]) -> Vec<u8> {
    stored(&[("a/data.pkl", pickle), ("a/data/0", &bytes_of(&[1.5; 64]))])
}

#[test]
fn kind_35_pickles_that_would_run_something() {
    let place = Place::new("a.pt");
    let call = |name: &str| [format!("cposix\n{name}\n(").as_bytes(), &text("touch run"), b"tR"].concat();
    let stack = [&b"\x8c\x05posix\x8c\x06system\x93"[..], &text("touch run"), b"\x85R"].concat();
    for (what, body, word) in [
        ("os.system", call("system"), "posix.system"),
        ("a name on the stack", stack, "posix.system"),
        ("eval", b"cbuiltins\neval\n".to_vec(), "builtins.eval"),
        ("torch's own loader", b"ctorch.hub\nload\n".to_vec(), "torch.hub.load"),
        (
            "a name inside of a name",
            b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n".to_vec(),
            "__globals__",
        ),
        (
            "a name of many letters",
            format!("c{}\nx\n", "m".repeat(200_000)).into(),
            "mmm",
        ),
        ("control characters", b"c\x1b[2J\x07\nx\n".to_vec(), "[2J"),
        ("INST", b"(iposix\nsystem\n".to_vec(), "0x69"),
        ("OBJ", b"(ccollections\nOrderedDict\no".to_vec(), "0x6f"),
        ("NEWOBJ", b"ccollections\nOrderedDict\n)\x81".to_vec(), "0x81"),
        ("NEWOBJ_EX", b"ccollections\nOrderedDict\n)}\x92".to_vec(), "0x92"),
        ("EXT1", b"\x82\x01".to_vec(), "0x82"),
        ("a text reference", b"Pstorage\n".to_vec(), "0x50"),
        (
            "a call with what it would copy",
            b"ccollections\nOrderedDict\n]\x85R".to_vec(),
            "no tensor",
        ),
        ("a call of a text", [&text("system")[..], b")R"].concat(), "no tensor"),
        ("an integer in text", b"I999999999999999999999999\n".to_vec(), "0x49"),
    ] {
        place.refused(what, &torch(&pickle(&body)), &[word]);
    }
    assert!(!PathBuf::from("run").exists());
}

#[test]
fn kind_35_tensors_that_lie_about_their_storage() {
    let place = Place::new("a.pt");
    let read = place.read("good", &torch(&one_tensor())).unwrap().take("", &[8, 8]);
    assert_eq!(read.unwrap(), [1.5; 64]);
    for (what, tensor, word) in [
        ("no such storage", tensor("7", 64, 0, &[64], &[1]), "data/7"),
        (
            "a storage outside",
            tensor("../../x", 64, 0, &[64], &[1]),
            "data/../../x",
        ),
        ("10 GiB", tensor("0", 5 << 29, 0, &[5 << 29], &[1]), "justifies"),
        (
            "a storage of another size",
            tensor("0", 63, 0, &[63], &[1]),
            "63 numbers",
        ),
        ("a storage of 2^62", tensor("0", 1 << 62, 0, &[64], &[1]), "numbers"),
        ("a negative storage", tensor("0", -1, 0, &[64], &[1]), "-1"),
        ("an offset past the end", tensor("0", 64, 1, &[64], &[1]), "view"),
        (
            "an offset of 2^63 - 1",
            tensor("0", 64, i64::MAX, &[2], &[i64::MAX]),
            "view",
        ),
        ("a negative offset", tensor("0", 64, -1, &[64], &[1]), "-1"),
        ("a stride of 0", tensor("0", 64, 0, &[64], &[0]), "stride of 0"),
        (
            "a negative stride",
            tensor("0", 64, 63, &[64], &[-1]),
            "sizes or strides",
        ),
        ("a stride past the end", tensor("0", 64, 0, &[2], &[64]), "view"),
        (
            "steps that overflow",
            tensor("0", 64, 0, &[3, 3], &[i64::MAX, i64::MAX]),
            "view",
        ),
        (
            "a shape that overflows",
            tensor("0", 64, 0, &[1 << 62, 4], &[4, 1]),
            "justifies",
        ),
        (
            "a negative shape",
            tensor("0", 64, 0, &[-8, -8], &[8, 1]),
            "sizes or strides",
        ),
        ("more than the storage", tensor("0", 64, 0, &[9, 8], &[1, 1]), "view"),
        ("fewer strides", tensor("0", 64, 0, &[8, 8], &[8]), "strides"),
        ("nine axes", tensor("0", 64, 0, &[1; 9], &[1; 9]), "at most 8"),
    ] {
        place.refused(what, &torch(&pickle(&tensor)), &[word]);
    }
    let packed = [("a/data.pkl", &one_tensor()[..]), ("a/data/0", &bytes_of(&[1.5; 64]))];
    place.refused("deflated", &zip(&packed, CompressionMethod::Deflated), &["stored"]);
    let order = [packed[0], packed[1], ("a/byteorder", &b"big"[..])];
    place.refused("big-endian", &stored(&order), &["little-endian"]);
    place.cut_and_flipped(&torch(&one_tensor()));
}

#[test]
fn kind_35_pickles_that_are_none() {
    let place = Place::new("a.pt");
    let whole = one_tensor();
    for len in 0..whole.len() {
        place.refused("cut", &torch(&whole[..len]), &["pickle"]);
    }
    let deep = [b")".to_vec(), b"\x85".repeat(200_000)].concat();
    for (what, body, word) in [
        ("nothing on the stack", vec![], "value"),
        ("a mark that is not there", b"t".to_vec(), "mark"),
        ("a value below a mark", b")(\x85".to_vec(), "tuple"),
        ("what was never stored", b"h\x07".to_vec(), "never stored"),
        ("a key without a value", b"}()u".to_vec(), "key"),
        ("an append to a text", [&text("x")[..], b")a"].concat(), "list"),
        ("a list in itself", b"]q\x00h\x00a".to_vec(), "nested"),
        ("tuples in tuples", deep, "nested"),
        (
            "lists in lists",
            b"]".repeat(100_000).into_iter().chain(b"a".repeat(99_999)).collect(),
            "nested",
        ),
        ("a text past the end", b"X\xff\xff\xff\xffx".to_vec(), "end"),
        ("no UTF-8", b"X\x02\0\0\0\xff\xfe".to_vec(), "UTF-8"),
        ("an integer of 255 bytes", [&b"\x8a\xff"[..], &[1; 255]].concat(), "255"),
        ("an integer of 2 GiB", b"\x8b\xff\xff\xff\x7f".to_vec(), "0x8b"),
        (
            "bytes of 2^64",
            b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
            "0x8e",
        ),
        ("no tensor", b"}".to_vec(), "none"),
        (
            "a key of another kind",
            [
                b"}".to_vec(),
                b")".to_vec(),
                whole[2..whole.len() - 1].to_vec(),
                b"s".to_vec(),
            ]
            .concat(),
            "keys",
        ),
    ] {
        place.refused(what, &torch(&pickle(&body)), &[word]);
    }
    place.refused("protocol 1", &torch(b"\x80\x01)."), &["protocol"]);
    place.refused("a pickle of 300 KB", &torch(&[b')'; 300_000]), &["at most"]);
    let bomb = [("a/data.pkl", &vec![0; 64 << 20][..])];
    place.refused(
        "a pickle that grows",
        &zip(&bomb, CompressionMethod::Deflated),
        &["at most"],
    );
}

/// A dictionary whose entries all have the value that `value` pushes; that stays below it on the stack, as value 1.
fn dictionary(value: &[u8], keys: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let entries: Vec<u8> = keys.flat_map(|key| [&key[..], b"h\x01s"].concat()).collect();
    pickle(&[value, b"q\x01}", &entries].concat())
}

#[test]
fn kind_35_pickles_that_grow() {
    let place = Place::new("a.pt");
    let numel = 4 << 20;
    let storage = bytes_of(&vec![1.0; numel as usize]);
    let file = |pickle: &[u8]| stored(&[("a/data.pkl", pickle), ("a/data/0", &storage)]);
    let numbered = |n: u16| (0..n).map(|i| [b"M", &i.to_le_bytes()[..]].concat());

    let whole = tensor("0", numel, 0, &[numel], &[1]);
    place.refused(
        "one storage many times",
        &file(&dictionary(&whole, numbered(1000))),
        &["justifies"],
    );
    let transposed = tensor("0", numel, 0, &[2], &[numel - 1]);
    let views = dictionary(&transposed, numbered(30_000));
    place.refused("views across the storage", &file(&views), &["views that read"]);
    let last = tensor("0", numel, numel - 1, &[1], &[1]);
    let read = place.read("the storage's last number", &file(&dictionary(&last, numbered(30_000))));
    assert_eq!(read.unwrap().take("29999", &[1]).unwrap(), [1.0]);

    // A long name is stored once and said many times.
    let said = |n: usize| std::iter::repeat_n(b"h\x02".to_vec(), n);
    let long = [&text(&"n".repeat(100_000))[..], b"q\x02", &last].concat();
    place.refused(
        "one long name",
        &file(&dictionary(&long, said(30_000))),
        &["nnn", "two"],
    );

    // Names that differ at their end only, each looked for again and again.
    let names: Vec<String> = (0..4000).map(|i| format!("a/data/{}{i:04}", "n".repeat(900))).collect();
    let mut members: Vec<(&str, &[u8])> = names.iter().map(|name| (&name[..], &[0; 4][..])).collect();
    let wanted = tensor(&names[3999]["a/data/".len()..], 1, 0, &[1], &[1]);
    let looked_for = dictionary(&wanted, numbered(40_000));
    members.insert(0, ("a/data.pkl", &looked_for));
    let read = place.read("many members and many tensors", &stored(&members));
    assert_eq!(read.unwrap().shapes().count(), 40_000);

    // As much pickle as is read, of what makes the most of it.
    let most = 1 << 18;
    let sizes = [
        &tuple(&[1; 8])[..],
        b"q\x03",
        &tensor("0", 64, 0, &[1; 8], &[1; 8]),
        b"q\x01",
    ]
    .concat();
    let parameter = [
        &sizes[..],
        b"ctorch._utils\n_rebuild_parameter\nq\x02",
        b"h\x01\x85q\x03",
    ]
    .concat();
    for (what, start, again) in [
        ("tuples", &b""[..], &b")"[..]),
        ("marks", b"", b"("),
        ("nested tuples", b"", b"(t"),
        ("values", b")q\x00", b"h\x00"),
        ("stored values", b")", b"r\0\0\0\0"),
        ("parameters", &parameter, b"h\x02h\x03R"),
    ] {
        let mut body = start.to_vec();
        while body.len() + again.len() + 3 <= most {
            body.extend(again);
        }
        let _ = place.read(what, &torch(&pickle(&body)));
    }
}
