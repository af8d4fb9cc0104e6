use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic::{is_temporary, read_json, remove_temporaries, write_json};
use crate::checkpoint::Checkpoints;
use crate::clock;
use crate::error::{Error, Result, check_name};
use crate::manifest::Manifest;
use crate::seed::Seed;

const LOCK: &str = "run.lock";
const RUN: &str = "run.json";

/// The right to write to a folder, which one process has at a time; held until dropped.
///
/// The operating system releases it, however the process ends.
#[derive(Debug)]
pub struct FolderLock(#[expect(dead_code, reason = "held, not read")] File);

/// The folder of one run, locked for this process until dropped.
///
/// ```text
/// run.lock         who works here
/// run.json         the manifest, and each resumption
/// stages/          one result for each stage that is done
/// checkpoints/     what a stage needs to go on from the middle
/// ```
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    record: Record,
    _lock: FolderLock,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    created: String,
    manifest: Manifest,
    resumed: Vec<Resumption>,
}

/// What may differ between a run and its resumption, kept for the record.
#[derive(Debug, Serialize, Deserialize)]
struct Resumption {
    at: String,
    command: Vec<String>,
    versions: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct Holder {
    pid: u32,
    host: String,
    since: String,
}

impl FolderLock {
    /// Locks a folder, which is created if it is not there.
    ///
    /// # Errors
    /// [`Error::Locked`] with its holder while another process has it; [`Error::InTheWay`], [`Error::Symlink`] and
    /// [`Error::Io`] where there is no such folder to be had.
    pub fn take(path: impl AsRef<Path>) -> Result<Self> {
        create(path.as_ref())?;
        lock(path.as_ref())
    }
}

impl RunFolder {
    /// Creates the folder of a run, or takes up the run in it where it stopped.
    ///
    /// # Errors
    /// [`Error::Locked`] while another process works in it, [`Error::Changed`] where it holds a
    /// run with another configuration, [`Error::NotARun`] where it holds something else,
    /// [`Error::InTheWay`] and [`Error::Symlink`] where a file or a link is in the way.
    pub fn open(path: impl Into<PathBuf>, manifest: &Manifest) -> Result<Self> {
        let path = path.into();
        create(&path)?;
        refuse_strangers(&path)?;
        let lock = lock(&path)?;
        // The lock is ours: whatever is temporary here belongs to a process that is dead.
        for folder in [path.clone(), path.join("stages")] {
            remove_temporaries(&folder)?;
        }
        let run = path.join(RUN);
        refuse_link(&run)?;
        let record = if run.exists() {
            let mut record: Record = read_json(&run)?;
            let differences = record.manifest.differences(manifest);
            if !differences.is_empty() {
                return Err(Error::Changed { path, differences });
            }
            record.resumed.push(Resumption {
                at: clock::now(),
                command: manifest.command.clone(),
                versions: manifest.versions.clone(),
            });
            record
        } else {
            Record {
                created: clock::now(),
                manifest: manifest.clone(),
                resumed: Vec::new(),
            }
        };
        write_json(&run, &record)?;
        Ok(Self {
            path,
            record,
            _lock: lock,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in the folder.
    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// The manifest that the run was begun with.
    pub fn manifest(&self) -> &Manifest {
        &self.record.manifest
    }

    /// When the run was begun, in UTC.
    pub fn created(&self) -> &str {
        &self.record.created
    }

    /// How often the run was taken up again; 0 for a new one.
    pub fn resumptions(&self) -> usize {
        self.record.resumed.len()
    }

    /// The run's seed.
    pub fn seed(&self) -> Seed {
        Seed::new(self.record.manifest.seed)
    }

    /// The checkpoints of one stage, in `checkpoints/NAME`.
    ///
    /// # Errors
    /// [`Error::Name`] for a name that could leave the folder.
    pub fn checkpoints(&self, stage: &str, keep: usize) -> Result<Checkpoints> {
        check_name("stage", stage)?;
        Ok(Checkpoints::new(self.path.join("checkpoints").join(stage), keep))
    }
}

fn create(path: &Path) -> Result<()> {
    for part in path.ancestors().filter(|p| !p.as_os_str().is_empty()) {
        let in_the_way = |found| Error::InTheWay {
            path: part.to_owned(),
            found,
        };
        match (fs::symlink_metadata(part), fs::metadata(part)) {
            (Ok(_), Ok(there)) if there.is_dir() => break,
            (Ok(_), Ok(_)) => return Err(in_the_way("a file")),
            (Ok(_), Err(_)) => return Err(in_the_way("a symbolic link to nowhere")),
            (Err(_), _) => {}
        }
    }
    fs::create_dir_all(path).map_err(|e| Error::io("create the run folder", path, e))
}

/// Refuses a folder with files in it that is no run's, such as somebody's home.
fn refuse_strangers(path: &Path) -> Result<()> {
    let mut stranger = None;
    for entry in fs::read_dir(path).map_err(|e| Error::io("list", path, e))? {
        let name = entry.map_err(|e| Error::io("list", path, e))?.file_name();
        let name = name.to_string_lossy();
        if name == RUN {
            return Ok(());
        }
        if name != LOCK && !is_temporary(&name) {
            stranger = Some(name.into_owned());
        }
    }
    match stranger {
        Some(found) => Err(Error::NotARun {
            path: path.to_owned(),
            found,
        }),
        None => Ok(()),
    }
}

fn refuse_link(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_symlink() => Err(Error::Symlink { path: path.to_owned() }),
        _ => Ok(()),
    }
}

fn lock(folder: &Path) -> Result<FolderLock> {
    let path = folder.join(LOCK);
    refuse_link(&path)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(&path).map_err(|e| Error::io("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::Locked {
                path: folder.to_owned(),
                holder: holder(&mut file),
            });
        }
        Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path, e)),
    }
    let me = Holder {
        pid: std::process::id(),
        host: host(),
        since: clock::now(),
    };
    let text = serde_json::to_vec(&me).expect("a holder is plain data");
    file.set_len(0)
        .and_then(|()| file.write_all(&text))
        .map_err(|e| Error::write(&path, text.len() as u64, e))?;
    Ok(FolderLock(file))
}

/// Who holds the lock, as far as the file tells.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    // The writer may be half-way, and some systems let nobody else read a locked file.
    let _ = file.take(4096).read_to_string(&mut text);
    match serde_json::from_str::<Holder>(&text) {
        Ok(h) => format!("process {} on {} since {}", h.pid, h.host, h.since),
        Err(_) => "another process".into(),
    }
}

fn host() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let named = kernel.or_else(|| std::env::var("HOSTNAME").ok());
    let named = named.or_else(|| std::env::var("COMPUTERNAME").ok()).unwrap_or_default();
    let named = named.trim();
    if named.is_empty() {
        "this machine".into()
    } else {
        named.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manifest::tests::manifest;

    #[test]
    fn a_second_opening_resumes_and_is_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs/demo");
        let mut wanted = manifest(json!({"lr": 0.1_f32, "nan": f64::NAN}));
        let created = RunFolder::open(&path, &wanted).unwrap().created().to_owned();
        wanted.command.push("--quick".into());
        let again = RunFolder::open(&path, &wanted).unwrap();
        assert_eq!((again.resumptions(), again.created()), (1, created.as_str()));
        assert_eq!(again.manifest().command, ["realign", "demo"]);
        assert_eq!(again.record.resumed[0].command, ["realign", "demo", "--quick"]);
        assert_eq!(again.seed(), Seed::new(u64::MAX));
    }

    #[test]
    fn a_changed_configuration_is_refused_field_by_field_and_the_folder_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        RunFolder::open(dir.path(), &manifest(json!({"lora": {"rank": 8}}))).unwrap();
        let before = fs::read(dir.path().join(RUN)).unwrap();
        let mut other = manifest(json!({"lora": {"rank": 9}}));
        other.model.insert("smol".into(), "cd34".into());
        let error = RunFolder::open(dir.path(), &other).unwrap_err().to_string();
        assert!(error.contains("config.lora.rank: was 8, now 9"), "{error}");
        assert!(error.contains("model.smol: was \"ab12\", now \"cd34\""), "{error}");
        assert_eq!(fs::read(dir.path().join(RUN)).unwrap(), before);
    }

    #[test]
    fn a_folder_in_use_is_refused_with_its_holder_and_free_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = manifest(json!({}));
        let held = RunFolder::open(dir.path(), &wanted).unwrap();
        let error = RunFolder::open(dir.path(), &wanted).unwrap_err().to_string();
        assert!(
            error.contains(&format!("process {} on ", std::process::id())),
            "{error}"
        );
        assert!(error.contains("since 2"), "{error}");
        drop(held);
        RunFolder::open(dir.path(), &wanted).unwrap();
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        for path in [file.clone(), file.join("run")] {
            let error = RunFolder::open(path, &manifest(json!({}))).unwrap_err().to_string();
            assert!(
                error.ends_with("file is a file, expected a folder or nothing"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_folder_of_other_things_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let error = RunFolder::open(dir.path(), &manifest(json!({})))
            .unwrap_err()
            .to_string();
        assert!(error.contains("thesis.tex"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_kill_left_before_the_manifest_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LOCK), "{\"pid").unwrap();
        let left = dir.path().join(".run.json.tmp-1-0");
        fs::write(&left, "{").unwrap();
        RunFolder::open(dir.path(), &manifest(json!({}))).unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn a_run_json_that_is_none_names_the_field() {
        let dir = tempfile::tempdir().unwrap();
        RunFolder::open(dir.path(), &manifest(json!({}))).unwrap();
        let path = dir.path().join(RUN);
        let text = fs::read_to_string(&path)
            .unwrap()
            .replace("\"threads\": 2", "\"threads\": -2");
        fs::write(&path, text).unwrap();
        let error = RunFolder::open(dir.path(), &manifest(json!({})))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("run.json") && error.contains("manifest.threads"),
            "{error}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn links_are_refused_except_to_a_folder() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let wanted = manifest(json!({}));
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        symlink(&real, &link).unwrap();
        let error = RunFolder::open(&link, &wanted).unwrap_err().to_string();
        assert!(error.contains("link to nowhere"), "{error}");
        fs::create_dir(&real).unwrap();
        RunFolder::open(&link, &wanted).unwrap();
        let precious = dir.path().join("precious");
        fs::write(&precious, "keep").unwrap();
        fs::remove_file(real.join(LOCK)).unwrap();
        symlink(&precious, real.join(LOCK)).unwrap();
        assert!(matches!(RunFolder::open(&real, &wanted), Err(Error::Symlink { .. })));
        assert_eq!(fs::read_to_string(&precious).unwrap(), "keep");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_unwritable_place_is_named() {
        let error = RunFolder::open("/proc/realign-run", &manifest(json!({}))).unwrap_err();
        assert!(error.to_string().contains("/proc/realign-run"), "{error}");
    }
}
