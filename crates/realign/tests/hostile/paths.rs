//! Kinds 42 and 43: folders that are something else, and names that lead elsewhere.

use std::collections::BTreeMap;
use std::path::Path;

use realign::model::ModelSpec;
use realign::run::{Error, Manifest, RunFolder};

use crate::bounds::alone;

fn open(path: &Path) -> Result<RunFolder, Error> {
    let manifest = Manifest {
        schema: 1,
        command: vec!["hostile".into()],
        config: serde_json::json!({}),
        model: BTreeMap::new(),
        data: BTreeMap::new(),
        versions: BTreeMap::new(),
        seed: 1,
        threads: 1,
        device: "none".into(),
    };
    RunFolder::open(path, &manifest)
}

#[test]
fn kind_42_folders_of_strange_names_are_folders() {
    let dir = tempfile::tempdir().unwrap();
    let mut names: Vec<std::ffi::OsString> = vec!["a:b".into(), "a\nb".into(), "-rf".into(), " ".into(), "é😀".into()];
    #[cfg(unix)]
    names.push(std::os::unix::ffi::OsStringExt::from_vec(vec![b'a', 0xff]));
    for name in names {
        let path = dir.path().join(&name);
        open(&path).unwrap();
        assert_eq!(open(&path).unwrap().resumptions(), 1, "{name:?}");
    }
}

#[test]
fn kind_42_what_is_no_run_folder_is_left_alone() {
    let alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    alone.refused("a file", 0, &["file"], || open(&file));
    alone.refused("below a file", 0, &["file"], || open(&file.join("run")));
    alone.refused("somebody's folder", 0, &["file"], || open(dir.path()));
    let long = dir.path().join("n".repeat(300));
    alone.refused("300 letters", 0, &["nnn"], || open(&long));
    alone.refused("a NUL", 0, &["a"], || open(&dir.path().join("a\0b")));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn kind_42_a_run_file_that_is_none() {
    let alone = alone();
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap();
    let path = dir.path().join("run.json");
    let good = std::fs::read(&path).unwrap();
    for len in 0..good.len() - 2 {
        std::fs::write(&path, &good[..len]).unwrap();
        alone.refused("cut", len as u64, &["run.json"], || open(dir.path()));
    }
    for text in [&b"null"[..], b"[]", b"{}", b"\xff", &[b'['; 1 << 20]] {
        std::fs::write(&path, text).unwrap();
        alone.refused("no manifest", text.len() as u64, &["run.json"], || open(dir.path()));
    }
    std::fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
    alone.refused("a gigabyte", 0, &["run.json"], || open(dir.path()));
    #[cfg(unix)]
    {
        std::fs::remove_file(&path).unwrap();
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        alone.refused("a pipe", 0, &["run.json"], || open(dir.path()));
    }
}

#[cfg(unix)]
#[test]
fn kind_42_links_are_not_followed_out_of_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let precious = dir.path().join("precious");
    std::fs::write(&precious, "precious").unwrap();
    let run = dir.path().join("run");
    for name in ["run.json", "run.lock"] {
        open(&run).unwrap();
        std::fs::remove_file(run.join(name)).unwrap();
        std::os::unix::fs::symlink(&precious, run.join(name)).unwrap();
        assert!(matches!(open(&run), Err(Error::Symlink { .. })), "{name}");
        std::fs::remove_file(run.join(name)).unwrap();
    }
    // A checkpoint's file that is a link is replaced, not written through.
    let run = open(&run).unwrap();
    let checkpoints = run.checkpoints("train", 2).unwrap();
    let step = checkpoints.save(1, &[("weights", b"one")]).unwrap();
    std::fs::remove_file(step.join("weights")).unwrap();
    std::os::unix::fs::symlink(&precious, step.join("weights")).unwrap();
    checkpoints.save(1, &[("weights", b"two")]).unwrap();
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
    assert_eq!(
        checkpoints
            .latest()
            .unwrap()
            .checkpoint
            .unwrap()
            .read("weights")
            .unwrap(),
        b"two"
    );
}

#[test]
fn kind_43_names_that_lead_elsewhere_are_answered_with_the_allowed_form() {
    let alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let run = open(dir.path()).unwrap();
    let long = "n".repeat(300);
    for name in [
        "..", ".", "", "CON", "nul.txt", "a/b", "a\\b", "/etc", "C:", "a\0", "a\nb", &long,
    ] {
        alone.refused(name, 0, &["letters"], || run.checkpoints(name, 2));
        alone.refused(name, 0, &["letters"], || run.stage(name, &0, || Ok::<_, Error>(0)));
    }
    for name in [
        "CON",
        "a/../b",
        "org/..",
        "org/name@../x",
        "hf://org/name/../../x",
        &long,
    ] {
        alone.refused(name, 0, &["model"], || name.parse::<ModelSpec>());
    }
    assert!(format!("org/{long}").parse::<ModelSpec>().is_err());
}
