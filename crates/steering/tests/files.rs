//! Direction folders and control-vector files: round trips, other people's, and hostile ones.

use std::collections::BTreeMap;
use std::fs;

use burn::tensor::{Device, Tensor};
use proptest::prelude::*;
use realign_core::{Batch, HookPoint, LanguageModel, Record, Shape, Sites};
use realign_model::{Llama, LlamaConfig};
use realign_steering::{ControlVector, Direction, Error};

fn shape() -> Shape {
    Shape {
        n_layers: 4,
        d_model: 3,
        n_heads: 1,
        n_kv_heads: 1,
        d_head: 3,
        d_mlp: 4,
        vocab: 8,
        context: 32,
        sites: Sites::ALL,
    }
}

fn control_vector() -> ControlVector {
    let vector = |x: f32| Tensor::from_floats([x, -x, 0.5], &Device::flex());
    ControlVector {
        model_hint: "llama".into(),
        directions: BTreeMap::from([(1, vector(1.0)), (3, vector(2.0))]),
    }
}

fn numbers(x: &Tensor<1>) -> Vec<f32> {
    x.to_data().try_into_vec().unwrap()
}

/// What `ControlVector::load` says to the good file after a change.
fn message(change: impl Fn(Vec<u8>) -> Vec<u8>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vector.gguf");
    control_vector().save(&path).unwrap();
    fs::write(&path, change(fs::read(&path).unwrap())).unwrap();
    ControlVector::load(&path, "llama", &shape(), &Device::flex())
        .unwrap_err()
        .to_string()
}

fn replace(bytes: Vec<u8>, was: &[u8], now: &[u8]) -> Vec<u8> {
    assert_eq!(was.len(), now.len());
    let at = bytes.windows(was.len()).position(|window| window == was).unwrap();
    [&bytes[..at], now, &bytes[at + was.len()..]].concat()
}

#[test]
fn a_control_vector_survives_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vector.gguf");
    control_vector().save(&path).unwrap();
    let read = ControlVector::load(&path, "llama", &shape(), &Device::flex()).unwrap();
    assert_eq!(read.model_hint, "llama");
    assert!(read.directions.keys().eq(&[1, 3]));
    for (il, vector) in control_vector().directions {
        assert_eq!(numbers(&read.directions[&il]), numbers(&vector));
    }
}

#[test]
fn the_file_has_the_bytes_that_the_format_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vector.gguf");
    control_vector().save(&path).unwrap();
    let mut wanted = b"GGUF".to_vec();
    let string = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    wanted.extend(3_u32.to_le_bytes());
    wanted.extend(2_u64.to_le_bytes());
    wanted.extend(3_u64.to_le_bytes());
    for (key, value) in [
        ("general.architecture", "controlvector"),
        ("controlvector.model_hint", "llama"),
    ] {
        string(&mut wanted, key);
        wanted.extend(8_u32.to_le_bytes());
        string(&mut wanted, value);
    }
    string(&mut wanted, "controlvector.layer_count");
    wanted.extend(5_u32.to_le_bytes());
    wanted.extend(2_i32.to_le_bytes());
    for (name, offset) in [("direction.1", 0_u64), ("direction.3", 32)] {
        string(&mut wanted, name);
        wanted.extend(1_u32.to_le_bytes());
        wanted.extend(3_u64.to_le_bytes());
        wanted.extend(0_u32.to_le_bytes());
        wanted.extend(offset.to_le_bytes());
    }
    for row in [[1.0_f32, -1.0, 0.5], [2.0, -2.0, 0.5]] {
        wanted.resize(wanted.len().next_multiple_of(32), 0);
        wanted.extend(row.iter().flat_map(|x| x.to_le_bytes()));
    }
    wanted.resize(wanted.len().next_multiple_of(32), 0);
    assert_eq!(fs::read(&path).unwrap(), wanted);
}

#[test]
fn repengs_unsigned_layer_count_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vector.gguf");
    control_vector().save(&path).unwrap();
    let key = b"controlvector.layer_count";
    let bytes = replace(
        fs::read(&path).unwrap(),
        &[&key[..], &[5]].concat(),
        &[&key[..], &[4]].concat(),
    );
    fs::write(&path, bytes).unwrap();
    assert!(ControlVector::load(&path, "llama", &shape(), &Device::flex()).is_ok());
}

#[test]
fn direction_il_is_added_to_the_output_of_block_il() {
    let model = Llama::random(&LlamaConfig::tiny(), 7, &Device::flex());
    let vector: Tensor<1> = Tensor::ones([32], &Device::flex());
    let control = ControlVector {
        model_hint: "llama".into(),
        directions: BTreeMap::from([(1, vector)]),
    };
    let batch = Batch::packed([[1, 2, 3]]);
    let streams = |hook: &mut dyn realign_core::Hook| {
        let points = [HookPoint::ResidPost(0), HookPoint::MlpOut(1), HookPoint::ResidPost(1)];
        let mut hook = (hook, Record::new(points));
        model.watch(&batch, &mut hook);
        points.map(|at| hook.1.take(at).unwrap())
    };
    let (plain, steered) = (streams(&mut ()), streams(&mut control.steer(2.0)));
    let change = plain
        .into_iter()
        .zip(steered)
        .map(|(a, b)| (b - a).mean().into_scalar::<f32>());
    let change: Vec<f32> = change.collect();
    assert!(
        change[0] == 0.0 && change[1] == 0.0 && (change[2] - 2.0).abs() < 1e-5,
        "{change:?}"
    );
}

#[test]
fn hostile_control_vectors_are_refused_by_name() {
    let of = |name: &'static str| move |bytes| replace(bytes, b"direction.1", name.as_bytes());
    for name in [
        "direction.0",
        "direction.4",
        "direction.x",
        "direction+1",
        "directions1",
    ] {
        assert!(
            message(of(name)).contains("`direction.{il}` with il from 1 to 3"),
            "{name}"
        );
    }
    // `direction.-1` is one byte longer.
    let negative = message(|bytes| {
        let was = [&11_u64.to_le_bytes()[..], b"direction.1"].concat();
        let at = bytes.windows(was.len()).position(|window| window == was).unwrap();
        [
            &bytes[..at],
            &12_u64.to_le_bytes()[..],
            b"direction.-1",
            &bytes[at + was.len()..],
        ]
        .concat()
    });
    assert!(negative.contains("direction.-1"), "{negative}");
    let twice = message(of("direction.3"));
    assert!(twice.contains("two"), "{twice}");
    let hint = message(|bytes| replace(bytes, b"llama", b"gemma"));
    assert!(
        hint.contains("controlvector.model_hint") && hint.contains("gemma"),
        "{hint}"
    );
    let nan = message(|bytes| replace(bytes, &2.0_f32.to_le_bytes(), &f32::NAN.to_le_bytes()));
    assert!(nan.contains("direction.3") && nan.contains("finite"), "{nan}");
    let zero = message(|bytes| {
        let row: Vec<u8> = [1.0_f32, -1.0, 0.5].iter().flat_map(|x| x.to_le_bytes()).collect();
        replace(bytes, &row, &[0; 12])
    });
    assert!(zero.contains("direction.1") && zero.contains("not zero"), "{zero}");
    let many = message(|bytes| replace(bytes, &2_u64.to_le_bytes(), &u64::MAX.to_le_bytes()));
    assert!(many.contains("tensor_count"), "{many}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vector.gguf");
    control_vector().save(&path).unwrap();
    let wider = Shape { d_model: 4, ..shape() };
    let width = ControlVector::load(&path, "llama", &wider, &Device::flex())
        .unwrap_err()
        .to_string();
    assert!(width.contains("expected 4 numbers, found 3"), "{width}");
}

#[test]
fn what_a_file_could_not_hold_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vector.gguf");
    let save = |il: usize, vector: Tensor<1>| {
        ControlVector {
            model_hint: "llama".into(),
            directions: BTreeMap::from([(il, vector)]),
        }
        .save(&path)
    };
    assert!(matches!(
        save(0, Tensor::ones([3], &Device::flex())),
        Err(Error::Field { .. })
    ));
    assert!(save(1, Tensor::zeros([3], &Device::flex())).is_err());
    let none = ControlVector {
        model_hint: "llama".into(),
        directions: BTreeMap::new(),
    };
    assert!(matches!(none.save(&path), Err(Error::Format { .. })));
    assert!(!path.exists());
}

#[test]
fn a_direction_survives_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let vector = Tensor::from_floats([0.1, -2.0, 1e-30], &Device::flex());
    let direction = Direction::new(HookPoint::ResidPost(16), vector, "persona « a »");
    direction.save(folder.path()).unwrap();
    let read = Direction::load(folder.path(), &Device::flex()).unwrap();
    assert_eq!(
        (read.at, read.name.as_str(), read.to_vec()),
        (direction.at, "persona « a »", direction.to_vec())
    );
}

#[test]
fn a_damaged_direction_folder_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let direction = Direction::new(HookPoint::ResidPost(1), Tensor::ones([3], &Device::flex()), "d");
    let message = |file: &str, was: &str, now: &str| {
        direction.save(folder.path()).unwrap();
        let path = folder.path().join(file);
        let changed = replace_text(&fs::read(&path).unwrap(), was, now);
        fs::write(&path, changed).unwrap();
        Direction::load(folder.path(), &Device::flex()).unwrap_err().to_string()
    };
    let hook = message("direction.json", "blocks.1.", "block.1.");
    assert!(hook.contains("`hook_name`"), "{hook}");
    let width = message("direction.json", "\"d\": 3", "\"d\": 4");
    assert!(width.contains("`vector`: expected shape [4], found [3]"), "{width}");
    let schema = message("direction.json", "\"schema\": 1", "\"schema\": 2");
    assert!(schema.contains("`schema`"), "{schema}");
    let field = message("direction.json", "\"norm\"", "\"norn\"");
    assert!(field.contains("norn"), "{field}");
    let tensor = message("direction.safetensors", "vector", "wector");
    assert!(
        tensor.contains("`vector`: expected shape [3], found only wector"),
        "{tensor}"
    );
}

fn replace_text(bytes: &[u8], was: &str, now: &str) -> Vec<u8> {
    let at = bytes
        .windows(was.len())
        .position(|window| window == was.as_bytes())
        .unwrap();
    [&bytes[..at], now.as_bytes(), &bytes[at + was.len()..]].concat()
}

proptest! {
    #[test]
    fn no_damage_panics(at in 0_usize..400, byte: u8, end in 0_usize..400) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vector.gguf");
        control_vector().save(&path).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let (at, end) = (at % bytes.len(), end % (bytes.len() + 1));
        bytes[at] = byte;
        bytes.truncate(end.max(bytes.len() / 2));
        fs::write(&path, &bytes).unwrap();
        // The data may still be whole; then every number is finite and in its block.
        if let Ok(read) = ControlVector::load(&path, "llama", &shape(), &Device::flex()) {
            for (il, vector) in read.directions {
                prop_assert!((1..4).contains(&il) && numbers(&vector).iter().all(|x| x.is_finite()));
            }
        }
    }
}
