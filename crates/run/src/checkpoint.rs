use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic::{read_json, remove_temporaries, sync_folder, temporary_sibling, write_json, write_synced};
use crate::error::{Error, Result, check_name};
use crate::space::check_room;

const MANIFEST: &str = "manifest.json";

/// The checkpoints of one computation: a folder with a folder `step-000123/` for each.
///
/// One process at a time may write to it; a [`RunFolder`](crate::RunFolder)'s lock sees to that.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    dir: PathBuf,
    keep: usize,
}

/// What [`Checkpoints::latest`] found.
#[derive(Debug)]
pub struct Latest {
    /// The newest checkpoint that is whole; `None` where there is none.
    pub checkpoint: Option<Checkpoint>,
    /// Why each newer one was passed over, newest first.
    pub skipped: Vec<String>,
}

/// A checkpoint whose files were all verified when it was opened.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
    manifest: Manifest,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Manifest {
    schema: u32,
    step: u64,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    blake3: String,
}

impl Checkpoints {
    /// Checkpoints in this folder, of which the newest `keep` are kept; at least two, so that
    /// there is one to fall back to.
    pub fn new(dir: impl Into<PathBuf>, keep: usize) -> Self {
        Self {
            dir: dir.into(),
            keep: keep.max(2),
        }
    }

    /// Writes the checkpoint of a step, whole or not at all, and returns its folder.
    ///
    /// Checkpoints of later steps are removed: they belong to a run that this one went back
    /// behind. Older ones than the newest `keep` are removed too.
    ///
    /// # Errors
    /// [`Error::NoSpace`] or [`Error::Io`]; earlier checkpoints are then untouched.
    /// [`Error::Name`] for a file name that could leave the folder.
    pub fn save(&self, step: u64, files: &[(&str, &[u8])]) -> Result<PathBuf> {
        for (name, _) in files {
            check_name("checkpoint's file", name)?;
            if *name == MANIFEST {
                return Err(Error::Name {
                    what: "checkpoint's file",
                    name: MANIFEST.into(),
                });
            }
        }
        fs::create_dir_all(&self.dir).map_err(|e| Error::io("create", &self.dir, e))?;
        remove_temporaries(&self.dir)?;
        let path = self.dir.join(folder_name(step));
        let manifest = Manifest::new(step, files);
        let same = Checkpoint::open(&path).is_ok_and(|there| there.manifest == manifest);
        if !same {
            let temporary = temporary_sibling(&path);
            let written = write_folder(&temporary, &manifest, files)
                .and_then(|()| remove(&path))
                .and_then(|()| fs::rename(&temporary, &path).map_err(|e| Error::io("rename to", &path, e)));
            if written.is_err() {
                // The first error is the one worth telling; the next save removes what is left.
                let _ = fs::remove_dir_all(&temporary);
            }
            written?;
            sync_folder(&self.dir)?;
        }
        self.prune(step)?;
        Ok(path)
    }

    /// That there is room for the checkpoints of a computation, of about so many bytes each, beside those that are there.
    ///
    /// # Errors
    /// [`Error::NoRoom`] where there is not; [`Error::Io`] where the folder cannot be listed.
    pub fn check_room(&self, bytes: u64) -> Result<()> {
        // While the newest is written, it is one more than are kept.
        let more = (self.keep + 1).saturating_sub(self.steps()?.len()).max(1) as u64;
        check_room(&self.dir, bytes.saturating_mul(more))
    }

    /// The newest checkpoint, by step, that is whole, falling back to the ones before it.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be listed; a damaged checkpoint is no error but a
    /// line in [`Latest::skipped`].
    pub fn latest(&self) -> Result<Latest> {
        let mut skipped = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            match Checkpoint::open(&self.dir.join(folder_name(step))) {
                Ok(checkpoint) => {
                    return Ok(Latest {
                        checkpoint: Some(checkpoint),
                        skipped,
                    });
                }
                Err(e) => skipped.push(e.to_string()),
            }
        }
        Ok(Latest {
            checkpoint: None,
            skipped,
        })
    }

    /// The steps that have a checkpoint, whole or not, in ascending order.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be listed.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("list", &self.dir, e)),
        };
        let mut steps = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| Error::io("list", &self.dir, e))?;
            steps.extend(entry.file_name().to_str().and_then(parse_step));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// Removes every checkpoint: the computation is done, or begins anew.
    ///
    /// # Errors
    /// [`Error::Io`] names the folder that could not be removed.
    pub fn clear(&self) -> Result<()> {
        for step in self.steps()?.into_iter().rev() {
            remove(&self.dir.join(folder_name(step)))?;
        }
        remove_temporaries(&self.dir)
    }

    fn prune(&self, newest: u64) -> Result<()> {
        let steps = self.steps()?;
        let up_to = steps.partition_point(|&s| s <= newest);
        let first_kept = up_to.saturating_sub(self.keep);
        // Later ones from the last: a kill half-way leaves no gap that `latest` could fall into.
        for step in steps[up_to..].iter().rev().chain(&steps[..first_kept]) {
            remove(&self.dir.join(folder_name(*step)))?;
        }
        Ok(())
    }
}

impl Checkpoint {
    /// The step after which it was written.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.manifest.files.keys().map(String::as_str)
    }

    /// The content of a file, verified against the checksum written with it.
    ///
    /// # Errors
    /// [`Error::Damaged`] where the file differs from what was written or was never part of the
    /// checkpoint.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path.join(name);
        let Some(entry) = self.manifest.files.get(name) else {
            let expected = format!("one of {:?}", self.names().collect::<Vec<_>>());
            return Err(Error::Damaged {
                path,
                expected,
                found: "no such file".into(),
            });
        };
        entry.check_length(&path)?;
        let bytes = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        entry.check_hash(&path, blake3::hash(&bytes))?;
        Ok(bytes)
    }

    fn open(path: &Path) -> Result<Self> {
        let file = path.join(MANIFEST);
        let manifest: Manifest = read_json(&file)?;
        if path.file_name().and_then(|n| n.to_str()) != Some(&folder_name(manifest.step)) {
            let found = format!("step {}", manifest.step);
            return Err(Error::Damaged {
                path: file,
                expected: "the folder's step".into(),
                found,
            });
        }
        for (name, entry) in &manifest.files {
            check_name("checkpoint's file", name)?;
            let path = path.join(name);
            entry.check_length(&path)?;
            let file = fs::File::open(&path).map_err(|e| Error::io("open", &path, e))?;
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(file).map_err(|e| Error::io("read", &path, e))?;
            entry.check_hash(&path, hasher.finalize())?;
        }
        Ok(Self {
            path: path.to_owned(),
            manifest,
        })
    }
}

impl Manifest {
    fn new(step: u64, files: &[(&str, &[u8])]) -> Self {
        let entry = |bytes: &[u8]| Entry {
            bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
        };
        let files = files
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), entry(bytes)))
            .collect();
        Self { schema: 1, step, files }
    }
}

impl Entry {
    fn check_length(&self, path: &Path) -> Result<()> {
        let found = fs::metadata(path).map_err(|e| Error::io("read", path, e))?.len();
        if found == self.bytes {
            return Ok(());
        }
        Err(Error::Damaged {
            path: path.to_owned(),
            expected: format!("{} bytes", self.bytes),
            found: format!("{found} bytes"),
        })
    }

    fn check_hash(&self, path: &Path, found: blake3::Hash) -> Result<()> {
        let found = found.to_hex();
        if found.as_str() == self.blake3 {
            return Ok(());
        }
        Err(Error::Damaged {
            path: path.to_owned(),
            expected: format!("blake3 {}", self.blake3),
            found: format!("blake3 {found}"),
        })
    }
}

fn folder_name(step: u64) -> String {
    format!("step-{step:06}")
}

/// The step of a folder, if [`folder_name`] gave its name.
fn parse_step(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (folder_name(step) == name).then_some(step)
}

fn write_folder(folder: &Path, manifest: &Manifest, files: &[(&str, &[u8])]) -> Result<()> {
    fs::create_dir(folder).map_err(|e| Error::io("create", folder, e))?;
    for (name, bytes) in files {
        let path = folder.join(name);
        write_synced(&path, bytes).map_err(|e| Error::write(&path, bytes.len() as u64, e))?;
    }
    write_json(folder.join(MANIFEST), manifest)
}

/// Removes a checkpoint so that a kill half-way leaves no half of it under its name.
fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let doomed = temporary_sibling(path);
    fs::rename(path, &doomed).map_err(|e| Error::io("remove", path, e))?;
    fs::remove_dir_all(&doomed).map_err(|e| Error::io("remove", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoints() -> (tempfile::TempDir, Checkpoints) {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(dir.path().join("ckpt"), 2);
        (dir, checkpoints)
    }

    #[test]
    fn the_newest_by_number_is_read_back() {
        let (_dir, c) = checkpoints();
        assert!(c.latest().unwrap().checkpoint.is_none());
        for step in [999_999, 1_000_000] {
            c.save(step, &[("a", &step.to_le_bytes()), ("empty", b"")]).unwrap();
        }
        let found = c.latest().unwrap();
        let checkpoint = found.checkpoint.unwrap();
        assert_eq!(checkpoint.step(), 1_000_000);
        assert_eq!(checkpoint.read("a").unwrap(), 1_000_000_u64.to_le_bytes());
        assert_eq!(checkpoint.read("empty").unwrap(), b"");
        assert_eq!(found.skipped, [""; 0]);
        let error = checkpoint.read("b").unwrap_err().to_string();
        assert!(error.contains("no such file") && error.contains("\"a\""), "{error}");
    }

    #[test]
    fn only_the_newest_are_kept() {
        let (_dir, c) = checkpoints();
        for step in 1..=5 {
            c.save(step, &[("a", b"x")]).unwrap();
        }
        assert_eq!(c.steps().unwrap(), [4, 5]);
        c.clear().unwrap();
        assert_eq!(c.steps().unwrap(), [0; 0]);
    }

    #[test]
    fn a_damaged_checkpoint_is_passed_over_with_the_reason() {
        let changes: [fn(&Path); 4] = [
            |p| fs::write(p.join("a"), b"hellO").unwrap(),
            |p| fs::write(p.join("a"), b"hell").unwrap(),
            |p| fs::remove_file(p.join("a")).unwrap(),
            |p| fs::write(p.join(MANIFEST), b"{\"schema\": 1").unwrap(),
        ];
        for (change, reason) in changes.iter().zip(["blake3", "4 bytes", "could not", "EOF"]) {
            let (_dir, c) = checkpoints();
            c.save(1, &[("a", b"first")]).unwrap();
            change(&c.save(2, &[("a", b"hello")]).unwrap());
            let found = c.latest().unwrap();
            assert_eq!(found.checkpoint.unwrap().read("a").unwrap(), b"first");
            assert!(found.skipped[0].contains("step-000002"), "{:?}", found.skipped);
            assert!(found.skipped[0].contains(reason), "{:?}", found.skipped);
        }
    }

    #[test]
    fn damage_after_opening_is_an_error_on_reading() {
        let (_dir, c) = checkpoints();
        let path = c.save(1, &[("a", b"first")]).unwrap();
        let checkpoint = c.latest().unwrap().checkpoint.unwrap();
        fs::write(path.join("a"), b"other").unwrap();
        assert!(matches!(checkpoint.read("a"), Err(Error::Damaged { .. })));
    }

    #[test]
    fn going_back_replaces_the_later_checkpoints_even_damaged_ones() {
        let (_dir, c) = checkpoints();
        c.save(10, &[("a", b"ten")]).unwrap();
        for step in [20, 30] {
            fs::write(c.save(step, &[("a", b"x")]).unwrap().join("a"), b"y").unwrap();
        }
        c.save(15, &[("a", b"fifteen")]).unwrap();
        assert_eq!(c.steps().unwrap(), [15]);
        assert_eq!(c.latest().unwrap().checkpoint.unwrap().read("a").unwrap(), b"fifteen");
    }

    #[test]
    fn a_step_saved_again_has_the_new_content() {
        let (_dir, c) = checkpoints();
        c.save(1, &[("a", b"old")]).unwrap();
        c.save(1, &[("a", b"new")]).unwrap();
        assert_eq!(c.latest().unwrap().checkpoint.unwrap().read("a").unwrap(), b"new");
        assert_eq!(fs::read_dir(&c.dir).unwrap().count(), 1);
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        let (_dir, c) = checkpoints();
        let long = "n".repeat(300);
        for name in [
            "../a", "a/b", "", ".", "..", ".hidden", "CON", "nul.json", "com1", "a\nb", &long, MANIFEST,
        ] {
            let saved = c.save(1, &[(name, b"x")]);
            assert!(matches!(saved, Err(Error::Name { .. })), "{name}");
        }
        let path = c.save(1, &[("a", b"x")]).unwrap();
        let hostile = fs::read_to_string(path.join(MANIFEST))
            .unwrap()
            .replace("\"a\"", "\"../a\"");
        fs::write(path.join(MANIFEST), hostile).unwrap();
        let found = c.latest().unwrap();
        assert!(found.checkpoint.is_none() && found.skipped[0].contains("../a"));
    }
}
