//! Kind 36: control vectors and directions for another model.

use realign::burn::tensor::Device;
use realign::core::Shape;
use realign::model::LlamaConfig;
use realign::steering::{ControlVector, Direction};

use crate::bounds::alone;
use crate::gguf::{Raw, Value};
use crate::model;

/// A control vector with these tensors of `(name, numbers)`.
fn file(tensors: &[(&str, &[f32])]) -> Vec<u8> {
    let raw = Raw::default()
        .key("general.architecture", Value::Text(b"controlvector"))
        .key("controlvector.model_hint", Value::Text(b"llama"))
        .key("controlvector.layer_count", Value::U32(tensors.len() as u32));
    let add = |raw: Raw, (name, numbers): &(&str, &[f32])| {
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        raw.tensor(name, &[numbers.len()], 0, &bytes)
    };
    tensors.iter().fold(raw, add).bytes()
}

#[test]
fn kind_36_control_vectors_of_another_model() {
    let alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vector.gguf");
    let shape = Shape {
        n_layers: 4,
        d_model: 3,
        ..LlamaConfig::tiny().shape()
    };
    let load = || ControlVector::load(&path, "llama", &shape, &Device::flex());
    let good: (&str, &[f32]) = ("direction.1", &[1.0, 2.0, 3.0]);
    std::fs::write(&path, file(&[good])).unwrap();
    load().unwrap();
    for (what, tensor) in [
        ("another width", ("direction.2", &[1.0, 2.0][..])),
        ("a negative layer", ("direction.-1", &[1.0, 2.0, 3.0])),
        ("a layer beyond", ("direction.4", &[1.0, 2.0, 3.0])),
        ("a layer of 2^64", ("direction.18446744073709551616", &[1.0, 2.0, 3.0])),
        ("a layer with a sign", ("direction.+2", &[1.0, 2.0, 3.0])),
        ("a layer with a zero", ("direction.02", &[1.0, 2.0, 3.0])),
        ("no layer", ("direction.", &[1.0, 2.0, 3.0])),
        ("another name", ("wrong", &[1.0, 2.0, 3.0])),
        ("zeros", ("direction.2", &[0.0, 0.0, -0.0])),
        ("NaN", ("direction.2", &[1.0, f32::NAN, 3.0])),
        ("nothing", ("direction.2", &[])),
    ] {
        let bytes = file(&[good, tensor]);
        std::fs::write(&path, &bytes).unwrap();
        alone.refused(what, bytes.len() as u64, &["vector.gguf", tensor.0], load);
    }
    let bytes = file(&[]);
    std::fs::write(&path, &bytes).unwrap();
    alone.refused("no direction", bytes.len() as u64, &["vector.gguf"], load);
    let bytes = file(&[good]);
    for len in 0..bytes.len() - 20 {
        std::fs::write(&path, &bytes[..len]).unwrap();
        alone.refused("cut", len as u64, &["vector.gguf"], load);
    }
}

#[test]
fn kind_36_directions_that_do_not_hold_together() {
    let alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let vector = realign::burn::tensor::Tensor::from_floats([1.0, 2.0, 3.0], &device);
    let at = realign::core::HookPoint::ResidPost(1);
    Direction::new(at, vector, "d").save(folder.path()).unwrap();
    let path = folder.path().join("direction.json");
    let good: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (field, value) in [
        ("schema", serde_json::json!(2)),
        ("d", serde_json::json!(4)),
        ("d", serde_json::json!(-3)),
        ("d", serde_json::json!(u64::MAX)),
        ("hook_name", serde_json::json!("blocks.1.no_such_hook")),
        (
            "hook_name",
            serde_json::json!("blocks.99999999999999999999.hook_resid_post"),
        ),
        ("hook_name", serde_json::json!(3)),
        ("name", serde_json::json!(null)),
        ("strange", serde_json::json!(1)),
    ] {
        let mut changed = good.clone();
        changed[field] = value;
        std::fs::write(&path, changed.to_string()).unwrap();
        alone.refused(field, 4096, &["direction."], || Direction::load(folder.path(), &device));
    }
    std::fs::write(&path, good.to_string()).unwrap();
    let tensors = folder.path().join("direction.safetensors");
    for numbers in [&[0.5f32, f32::NAN, 1.0][..], &[f32::INFINITY, 0.0, 1.0], &[1.0, 2.0]] {
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let bytes = model::safetensors(&[("vector".into(), vec![numbers.len()], bytes)]);
        std::fs::write(&tensors, &bytes).unwrap();
        alone.refused(
            "numbers",
            bytes.len() as u64,
            &["direction.safetensors", "vector"],
            || Direction::load(folder.path(), &device),
        );
    }
}
