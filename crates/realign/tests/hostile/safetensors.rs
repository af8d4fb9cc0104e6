//! Kinds 18 to 24: safetensors files, one or several, for every reader of the format.

use std::path::Path;

use realign::burn::tensor::Device;
use realign::lora::LoraConfig;
use realign::model::{Access, Checkpoint, LlamaConfig};
use realign::run::Seed;
use realign::sae::{Sae, SaeConfig};

use crate::bounds::{Alone, alone};
use crate::model;

/// A file with this header, its length before it, and `data` zeros behind.
fn file(header: &[u8], data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, &vec![0; data]].concat()
}

fn entry(name: &str, dtype: &str, shape: &str, from: i64, to: i64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
}

/// A folder of each kind that holds a safetensors file, all of them in order but for that file.
struct Folders {
    model: tempfile::TempDir,
    adapter: tempfile::TempDir,
    sae: tempfile::TempDir,
    direction: tempfile::TempDir,
}

impl Folders {
    fn new() -> Self {
        let device = Device::flex();
        let folders = Self {
            model: model::folder(),
            adapter: tempfile::tempdir().unwrap(),
            sae: tempfile::tempdir().unwrap(),
            direction: tempfile::tempdir().unwrap(),
        };
        let shape = LlamaConfig::tiny().shape();
        let lora = LoraConfig::new(2).init(&shape, &Seed::new(1), &device);
        realign::lora::save(&lora, "base", folders.adapter.path()).unwrap();
        SaeConfig::new(4, 8, 2)
            .init(&Seed::new(1), &device)
            .save(folders.sae.path())
            .unwrap();
        let vector = realign::burn::tensor::Tensor::from_floats([1.0, 2.0, 3.0, 4.0], &device);
        let at = realign::core::HookPoint::ResidPost(1);
        let direction = realign::steering::Direction::new(at, vector, "d");
        direction.save(folders.direction.path()).unwrap();
        folders
    }

    /// Every reader refuses these bytes and names the file.
    fn refuse(&self, alone: &Alone, what: &str, bytes: &[u8], words: &[&str]) {
        let device = Device::flex();
        let len = bytes.len() as u64;
        let words = |file: &'static str| [&[file][..], words].concat();
        let write = |folder: &Path, name: &str| std::fs::write(folder.join(name), bytes).unwrap();
        write(self.model.path(), "model.safetensors");
        alone.refused(what, len, &words("model.safetensors"), || {
            model::load(self.model.path())
        });
        write(self.adapter.path(), "adapter_model.safetensors");
        let shape = LlamaConfig::tiny().shape();
        alone.refused(what, len, &words("adapter_model.safetensors"), || {
            realign::lora::load(self.adapter.path(), &shape, &device)
        });
        write(self.sae.path(), "sae_weights.safetensors");
        alone.refused(what, len, &words("sae_weights.safetensors"), || {
            Sae::load(self.sae.path(), &device)
        });
        write(self.direction.path(), "direction.safetensors");
        alone.refused(what, len, &words("direction.safetensors"), || {
            realign::steering::Direction::load(self.direction.path(), &device)
        });
    }
}

#[test]
fn the_folders_load() {
    let (folders, device) = (Folders::new(), Device::flex());
    model::load(folders.model.path()).unwrap();
    realign::lora::load(folders.adapter.path(), &LlamaConfig::tiny().shape(), &device).unwrap();
    Sae::load(folders.sae.path(), &device).unwrap();
    realign::steering::Direction::load(folders.direction.path(), &device).unwrap();
}

#[test]
fn kind_18_headers_that_are_none() {
    let (alone, folders) = (alone(), Folders::new());
    for len in [u64::MAX, 1 << 63, 101 << 20, 1 << 20] {
        let bytes = [&len.to_le_bytes()[..], b"{}"].concat();
        folders.refuse(&alone, "a header longer than the file", &bytes, &[]);
    }
    for (what, header) in [
        ("a header of length 0", &b""[..]),
        ("no text", b"\xff\xfe{}"),
        ("no object", b"[]"),
        ("null", b"null"),
        ("a number", b"1e308"),
        ("two objects", b"{}{}"),
        ("an open object", b"{\"a\":"),
    ] {
        folders.refuse(&alone, what, &file(header, 0), &[]);
    }
    folders.refuse(&alone, "a million brackets", &file(&vec![b'['; 1_000_000], 0), &[]);
    let nested = [b"{\"a\":".to_vec(), vec![b'['; 1_000_000]].concat();
    folders.refuse(&alone, "nested in a tensor", &file(&nested, 0), &[]);
    folders.refuse(&alone, "an empty file", b"", &[]);
    folders.refuse(&alone, "seven bytes", &[0; 7], &[]);
}

#[test]
fn kind_18_a_header_of_many_small_tensors_costs_no_more_than_its_file() {
    let (alone, folders) = (alone(), Folders::new());
    let entries: Vec<String> = (0..400_000)
        .map(|i| entry(&format!("{i:x}"), "F32", "[0]", 0, 0))
        .collect();
    let bytes = file(format!("{{{}}}", entries.join(",")).as_bytes(), 0);
    drop(entries);
    folders.refuse(&alone, "many tensors", &bytes, &["header"]);
}

#[test]
fn kinds_19_to_21_tables_that_lie() {
    let (alone, folders) = (alone(), Folders::new());
    let f32 = |name: &str, from: i64, to: i64| entry(name, "F32", "[1]", from, to);
    for (what, tensors, data) in [
        ("a hole", vec![f32("a", 0, 4), f32("b", 8, 12)], 12),
        ("a hole at the start", vec![f32("a", 4, 8)], 8),
        ("an overlap", vec![f32("a", 0, 4), f32("b", 2, 6)], 6),
        ("the same bytes", vec![f32("a", 0, 4), f32("b", 0, 4)], 4),
        ("reversed", vec![f32("a", 4, 0)], 4),
        ("negative", vec![f32("a", -4, 0)], 4),
        ("trailing bytes", vec![f32("a", 0, 4)], 100),
        ("past the end", vec![f32("a", 0, 4)], 3),
        (
            "an offset that wraps",
            vec![entry("a", "F32", "[1]", i64::MAX, i64::MAX)],
            4,
        ),
        (
            "a product that wraps",
            vec![entry("a", "F32", "[4611686018427387904,4]", 0, 0)],
            0,
        ),
        (
            "a product that wraps to 4",
            vec![entry("a", "F32", "[4611686018427387905,4]", 0, 16)],
            16,
        ),
        (
            "2^64 numbers",
            vec![entry("a", "F32", "[18446744073709551616]", 0, 4)],
            4,
        ),
        ("a negative axis", vec![entry("a", "F32", "[-1]", 0, 4)], 4),
        ("an unknown type", vec![entry("a", "U128", "[1]", 0, 16)], 16),
        ("no type", vec![entry("a", "", "[1]", 0, 4)], 4),
        ("a name twice", vec![f32("twice", 0, 4), f32("twice", 0, 4)], 4),
    ] {
        let header = format!("{{{}}}", tensors.join(","));
        folders.refuse(&alone, what, &file(header.as_bytes(), data), &[]);
    }
    // A ZIP behind the tensors: trailing bytes, whatever they are.
    let zip = [
        file(format!("{{{}}}", f32("a", 0, 4)).as_bytes(), 4),
        b"PK\x05\x06".to_vec(),
        vec![0; 18],
    ]
    .concat();
    folders.refuse(&alone, "a ZIP at the end", &zip, &[]);
    let rank = format!("[{}1]", "1,".repeat(999));
    let header = format!("{{{}}}", entry("model.norm.weight", "F32", &rank, 0, 4));
    folders.refuse(&alone, "a thousand axes", &file(header.as_bytes(), 4), &[]);
    for dtype in ["F4", "I32", "F64", "BOOL"] {
        let header = format!("{{{}}}", entry("of_bits", dtype, "[0,2]", 0, 0));
        let bytes = file(header.as_bytes(), 0);
        folders.refuse(&alone, dtype, &bytes, &[]);
        std::fs::write(folders.model.path().join("model.safetensors"), &bytes).unwrap();
        alone.refused(dtype, 100, &["of_bits", dtype], || model::load(folders.model.path()));
    }
    let twice = format!("{{{},{}}}", f32("twice", 0, 4), f32("twice", 0, 4));
    folders.refuse(&alone, "a name twice", &file(twice.as_bytes(), 4), &["twice"]);
}

#[test]
fn kind_18_a_model_cut_at_every_byte() {
    let alone = alone();
    let folder = model::folder();
    let path = folder.path().join("model.safetensors");
    let bytes = model::model_safetensors();
    model::load(folder.path()).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    for len in (0..bytes.len()).rev() {
        file.set_len(len as u64).unwrap();
        alone.refused(&format!("cut at {len}"), len as u64, &["model.safetensors"], || {
            model::load(folder.path())
        });
    }
}

#[test]
fn kind_18_a_model_with_each_bit_of_its_header_flipped() {
    let alone = alone();
    let folder = model::folder();
    let path = folder.path().join("model.safetensors");
    let bytes = model::model_safetensors();
    let mut length = [0; 8];
    length.copy_from_slice(&bytes[..8]);
    let header = 8 + u64::from_le_bytes(length) as usize;
    for at in 0..header {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            std::fs::write(&path, &damaged).unwrap();
            let what = format!("bit {bit} of byte {at}");
            // White space may be other white space; nothing else of this header may be anything else.
            alone.refused(&what, damaged.len() as u64, &["model.safetensors"], || {
                model::load(folder.path())
            });
        }
    }
}

#[test]
fn kind_22_an_index_that_points_elsewhere() {
    let alone = alone();
    let folder = model::folder();
    let (one, two) = (
        folder.path().join("one.safetensors"),
        folder.path().join("two.safetensors"),
    );
    std::fs::rename(folder.path().join("model.safetensors"), &one).unwrap();
    std::fs::copy(&one, &two).unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    let names: Vec<String> = model::weights().into_iter().map(|weight| weight.hf).collect();
    let map = |file: &dyn Fn(usize) -> &'static str| {
        let map: serde_json::Map<String, serde_json::Value> = names
            .iter()
            .enumerate()
            .map(|(i, name)| (name.clone(), file(i).into()))
            .collect();
        serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string()
    };
    std::fs::write(&index, map(&|_| "one.safetensors")).unwrap();
    model::load(folder.path()).unwrap();
    for name in [
        "../../etc/passwd",
        "/etc/passwd",
        "C:\\x.safetensors",
        "C:x.safetensors",
        "\\\\host\\share\\x",
        "absent.safetensors",
        "a/../../x.safetensors",
        "./one.safetensors",
        "one.safetensors\0",
        "",
    ] {
        std::fs::write(&index, map(&|i| if i == 5 { name } else { "one.safetensors" })).unwrap();
        alone.refused(name, 4096, &["index.json"], || Checkpoint::open(folder.path()));
    }
    std::fs::write(
        &index,
        map(&|i| if i == 5 { "two.safetensors" } else { "one.safetensors" }),
    )
    .unwrap();
    alone.refused(
        "a tensor in two files",
        8192,
        &["index.json", "one.safetensors", "two.safetensors"],
        || Checkpoint::open(folder.path()),
    );
    for text in [
        "",
        "{}",
        "[]",
        r#"{"weight_map": {"a": 7}}"#,
        r#"{"weight_map": {}}"#,
        r#"{"weight_map": []}"#,
    ] {
        std::fs::write(&index, text).unwrap();
        alone.refused(text, 4096, &["index.json"], || Checkpoint::open(folder.path()));
    }
    std::fs::write(&index, "[".repeat(1 << 20)).unwrap();
    alone.refused("deep", 1 << 20, &["index.json"], || Checkpoint::open(folder.path()));
    std::fs::File::create(&index).unwrap().set_len(1 << 30).unwrap();
    alone.refused("a gigabyte", 0, &["index.json", "length"], || {
        Checkpoint::open(folder.path())
    });
}

#[cfg(unix)]
#[test]
fn kind_22_links_into_the_hubs_cache_load() {
    let folder = model::folder();
    let cache = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/abc"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    for (i, entry) in std::fs::read_dir(folder.path()).unwrap().flatten().enumerate() {
        std::fs::copy(entry.path(), blobs.join(i.to_string())).unwrap();
        std::os::unix::fs::symlink(format!("../../blobs/{i}"), snapshot.join(entry.file_name())).unwrap();
    }
    model::load(&snapshot).unwrap();
}

#[test]
fn kind_23_tensors_that_are_missing_or_of_another_shape() {
    let alone = alone();
    let folder = model::folder();
    let path = folder.path().join("model.safetensors");
    let all: Vec<_> = model::weights()
        .into_iter()
        .map(|weight| {
            let bytes = model::numbers(&weight.shape);
            (weight.hf, weight.shape, bytes)
        })
        .collect();
    for (at, (name, shape, _)) in all.iter().enumerate() {
        let mut fewer = all.clone();
        fewer.remove(at);
        let mut transposed = all.clone();
        transposed[at].1.reverse();
        let mut wider = all.clone();
        wider[at].1[0] += 1;
        wider[at].2 = model::numbers(&wider[at].1);
        let mut not_finite = all.clone();
        not_finite[at].2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        let mut cases = vec![("missing", fewer), ("wider", wider), ("not finite", not_finite)];
        if shape.first() != shape.last() {
            cases.push(("transposed", transposed));
        }
        for (what, tensors) in cases {
            let bytes = model::safetensors(&tensors);
            std::fs::write(&path, &bytes).unwrap();
            alone.refused(what, bytes.len() as u64, &["model.safetensors", name], || {
                model::load(folder.path())
            });
        }
    }
}

#[test]
fn kind_24_a_file_that_is_read_does_not_care_what_happens_to_it() {
    let folder = model::folder();
    let path = folder.path().join("model.safetensors");
    let checkpoint = Checkpoint::open_with(&path, Access::Read).unwrap();
    let name = "model.norm.weight";
    let before = checkpoint.tensor(name).unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(10)
        .unwrap();
    assert_eq!(checkpoint.tensor(name).unwrap(), before);
    assert!(Checkpoint::open_with(&path, Access::Read).is_err());
}
