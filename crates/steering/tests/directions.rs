//! Directions of other programs (`tests/reference/directions.py`): the numbers, and the block that each belongs to.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use realign_arrays::{Array, safetensors};
use realign_core::{HookPoint, Shape, Sites};
use realign_steering::{ControlVector, Direction, Directions};

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

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn load(path: impl AsRef<Path>) -> Result<Directions, String> {
    Directions::load(path, Some("llama"), &shape(), &Device::flex()).map_err(|e| e.to_string())
}

/// The fixtures' row `i`.
fn row(i: usize) -> Vec<f32> {
    (1..4).map(|j| (10 * i + j) as f32).collect()
}

fn vector(numbers: &[f32]) -> Tensor<1> {
    Tensor::from_floats(numbers, &Device::flex())
}

/// Each hook point of a file with its numbers.
fn placed(directions: &Directions) -> Vec<(HookPoint, Vec<f32>)> {
    directions
        .placed()
        .iter()
        .map(|direction| (direction.at, direction.to_vec()))
        .collect()
}

#[test]
fn every_format_puts_each_direction_behind_its_block() {
    let hidden_states: Vec<(HookPoint, Vec<f32>)> = [
        HookPoint::ResidPre(0),
        HookPoint::ResidPost(0),
        HookPoint::ResidPost(1),
        HookPoint::ResidPost(2),
        HookPoint::ResidPost(3),
    ]
    .into_iter()
    .enumerate()
    .map(|(i, at)| (at, row(i)))
    .collect();
    let blocks = |blocks: &[usize]| {
        blocks
            .iter()
            .map(|&il| (HookPoint::ResidPost(il), row(il)))
            .collect::<Vec<_>>()
    };
    for (file, wanted) in [
        ("persona.pt", hidden_states.clone()),
        ("hidden_states.pt", hidden_states.clone()),
        ("matrix.npy", hidden_states),
        ("every_block.pt", blocks(&[0, 1, 2, 3])),
        ("some_blocks.pt", blocks(&[1, 3])),
        ("blocks.safetensors", blocks(&[1, 3])),
        ("blocks.npz", blocks(&[0, 2])),
        ("repeng.gguf", blocks(&[1, 3])),
        ("generator.gguf", blocks(&[1, 2, 3])),
    ] {
        assert_eq!(placed(&load(fixture(file)).unwrap()), wanted, "{file}");
    }
}

#[test]
fn the_direction_of_a_layer_is_the_one_behind_that_block() {
    // persona_vectors hooks `layers[L - 1]` for row L.
    let chosen = load(fixture("persona.pt")).unwrap().choose(Some(2)).unwrap();
    assert_eq!(
        (chosen.len(), chosen[0].at, chosen[0].to_vec()),
        (1, HookPoint::ResidPost(2), row(3))
    );
    let chosen = load(fixture("every_block.pt")).unwrap().choose(Some(2)).unwrap();
    assert_eq!((chosen[0].at, chosen[0].to_vec()), (HookPoint::ResidPost(2), row(2)));
    for file in ["vector.npy", "vector.safetensors"] {
        let directions = load(fixture(file)).unwrap();
        let chosen = directions.choose(Some(1)).unwrap();
        assert_eq!(
            (chosen[0].at, chosen[0].to_vec()),
            (HookPoint::ResidPost(1), row(2)),
            "{file}"
        );
        assert_eq!(chosen[0].name, file);
        let error = directions.choose(None).unwrap_err().to_string();
        assert!(error.contains("does not say where it belongs"), "{error}");
    }
    // A control vector is meant to be added everywhere at once.
    for (file, n) in [("repeng.gguf", 2), ("generator.gguf", 3), ("blocks.safetensors", 2)] {
        assert_eq!(load(fixture(file)).unwrap().choose(None).unwrap().len(), n, "{file}");
        assert_eq!(
            load(fixture(file)).unwrap().choose(Some(3)).unwrap()[0].to_vec(),
            row(3),
            "{file}"
        );
    }
    let error = load(fixture("persona.pt"))
        .unwrap()
        .choose(None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("5 directions, of which one is to be chosen by its layer"),
        "{error}"
    );
    let error = load(fixture("repeng.gguf"))
        .unwrap()
        .choose(Some(2))
        .unwrap_err()
        .to_string();
    let wanted = "no direction behind layer 2; there is one at blocks.1.hook_resid_post, blocks.3.hook_resid_post";
    assert!(error.contains(wanted), "{error}");
}

#[test]
fn a_folder_of_ours_is_one_direction() {
    let folder = tempfile::tempdir().unwrap();
    Direction::new(HookPoint::ResidPost(3), vector(&row(1)), "mine")
        .save(folder.path())
        .unwrap();
    for path in ["", "direction.json", "direction.safetensors"] {
        let chosen = load(folder.path().join(path)).unwrap().choose(None).unwrap();
        assert_eq!(
            (&chosen[0].name[..], chosen[0].at),
            ("mine", HookPoint::ResidPost(3)),
            "{path}"
        );
    }
    Direction::new(HookPoint::ResidPost(4), vector(&row(1)), "late")
        .save(folder.path())
        .unwrap();
    let error = load(folder.path()).unwrap_err();
    assert!(error.contains("a block from 0 to 3, found blocks.4"), "{error}");
    Direction::new(HookPoint::ResidPost(1), vector(&[1.0; 2]), "narrow")
        .save(folder.path())
        .unwrap();
    let error = load(folder.path()).unwrap_err();
    assert!(error.contains("expected 3 numbers, found 2"), "{error}");
}

/// What `tests/reference/directions.py check` expects; `REALIGN_WRITTEN` names a folder to leave the files in.
#[test]
fn what_is_written_is_read_back() {
    let (temporary, kept) = (tempfile::tempdir().unwrap(), std::env::var_os("REALIGN_WRITTEN"));
    let folder = kept.map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    let control = ControlVector {
        model_hint: "llama".into(),
        directions: BTreeMap::from([(1, vector(&row(1))), (3, vector(&row(3)))]),
    };
    control.save(folder.join("directions.gguf")).unwrap();
    control.save_safetensors(folder.join("directions.safetensors")).unwrap();
    for file in ["directions.gguf", "directions.safetensors"] {
        let directions = load(folder.join(file)).unwrap();
        let wanted = [(HookPoint::ResidPost(1), row(1)), (HookPoint::ResidPost(3), row(3))];
        assert_eq!(placed(&directions), wanted, "{file}");
        let other = Directions::load(folder.join(file), Some("qwen2"), &shape(), &Device::flex());
        let error = other.unwrap_err().to_string();
        assert!(error.contains("model_hint`: expected \"qwen2\""), "{error}");
        // Hugging Face's name for what llama.cpp calls llama; and no name at all.
        for hint in [Some("mistral"), None] {
            assert!(
                Directions::load(folder.join(file), hint, &shape(), &Device::flex()).is_ok(),
                "{file}"
            );
        }
    }
    let zero = ControlVector {
        model_hint: "llama".into(),
        directions: BTreeMap::from([(0, vector(&[0.0; 3]))]),
    };
    assert!(zero.save_safetensors(folder.join("zero.safetensors")).is_err());
    assert!(!folder.join("zero.safetensors").exists());
}

#[test]
fn files_that_do_not_fit_the_model_are_refused_by_name() {
    let wider = Shape { d_model: 4, ..shape() };
    let deeper = Shape { n_layers: 9, ..shape() };
    let shallow = Shape { n_layers: 2, ..shape() };
    for (file, shape, said) in [
        (
            "persona.pt",
            &wider,
            "expected shape [4], [4, 4], or [5, 4] with the embeddings, found [5, 3]",
        ),
        ("persona.pt", &deeper, "found [5, 3]"),
        ("vector.npy", &wider, "found [3]"),
        (
            "blocks.safetensors",
            &wider,
            "`direction.1`: expected shape [4], found [3]",
        ),
        (
            "blocks.safetensors",
            &shallow,
            "`index 3`: expected blocks from 0 to 1, found 3",
        ),
        ("some_blocks.pt", &shallow, "`index 3`"),
        ("repeng.gguf", &shallow, "`direction.3`"),
        ("repeng.gguf", &wider, "expected 4 numbers, found 3"),
    ] {
        let error = Directions::load(fixture(file), None, shape, &Device::flex())
            .unwrap_err()
            .to_string();
        assert!(error.contains(said) && error.contains(file), "{file}: {error}");
    }
}

#[test]
fn files_without_a_direction_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, arrays: &[(&str, Array)]| {
        let path = folder.path().join(name);
        let bytes = safetensors(arrays.iter().map(|(name, array)| (*name, array)), &[]);
        fs::write(&path, bytes).unwrap();
        load(&path)
    };
    let array = |numbers: &[f32]| Array::new(vec![numbers.len()], numbers.to_vec());
    for (name, arrays, said) in [
        ("zero", vec![("a", array(&[0.0; 3]))], "a direction that is not zero"),
        (
            "zeros",
            vec![("direction.1", array(&[0.0; 3]))],
            "a direction that is not zero",
        ),
        ("none", vec![], "a direction that is not zero"),
        (
            "nan",
            vec![("a", array(&[1.0, f32::NAN, 0.0]))],
            "`a`: expected finite numbers",
        ),
        (
            "names",
            vec![("a", array(&row(1))), ("b", array(&row(2)))],
            "named `direction.{il}` or by integers, found a, b",
        ),
        (
            "late",
            vec![("direction.4", array(&row(1)))],
            "blocks from 0 to 3, found 4",
        ),
        (
            "padded",
            vec![("direction.01", array(&row(1))), ("direction.1", array(&row(1)))],
            "found direction.01",
        ),
        (
            "negative",
            vec![("-1", array(&row(1))), ("1", array(&row(1)))],
            "found -1, 1",
        ),
    ] {
        let error = write(name, &arrays).unwrap_err();
        assert!(error.contains(said), "{name}: {error}");
    }
    // A zero row is no direction: persona vectors of the last prompt token have one for the embeddings.
    let matrix = Array::new(vec![5, 3], [vec![0.0; 3], row(1), row(2), row(3), row(4)].concat());
    assert_eq!(write("persona", &[("a", matrix)]).unwrap().placed().len(), 4);

    let path = folder.path().join("text");
    fs::write(&path, "a direction").unwrap();
    let wanted = "expected a folder with direction.json, a control-vector GGUF, torch's .pt, numpy's .npy or .npz, or safetensors";
    for (path, found) in [
        (path, "found another file"),
        (folder.path().to_owned(), "found a folder without it"),
        (folder.path().join("nothing"), "found no such file or folder"),
    ] {
        let error = load(path).unwrap_err();
        assert!(error.contains(wanted) && error.contains(found), "{error}");
    }
    let evil = Path::new(env!("CARGO_MANIFEST_DIR")).join("../arrays/tests/fixtures/evil.pt");
    assert!(load(evil).unwrap_err().contains("`posix.system`"));
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(fixture("")).unwrap() {
        let path = file.unwrap().path();
        let whole = fs::read(&path).unwrap();
        let copy = folder.path().join(path.file_name().unwrap());
        fs::write(&copy, &whole).unwrap();
        assert!(load(&copy).is_ok());
        let open = File::options().write(true).open(&copy).unwrap();
        // A GGUF ends with padding, without which it is whole.
        let padded = path.extension().is_some_and(|extension| extension == "gguf");
        for end in (0..whole.len() - if padded { 32 } else { 0 }).rev() {
            open.set_len(end as u64).unwrap();
            assert!(load(&copy).is_err(), "{} cut at {end}", path.display());
        }
    }
}
