//! Files of the Hugging Face hub, in the cache that Python's tools share.

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use realign_run::{Retry, check_room};
use sha2::{Digest, Sha256};

use crate::checkpoint::hex;
use crate::files::{bad_name, read_small};
use crate::hub_http::{Http, Remote, hub, is_commit, jitter, origin, wait};
use crate::spec::{bad_repo, bad_revision};
use crate::{Error, Result};

/// Called with the bytes that are here and how many there will be; [`ControlFlow::Break`] stops a download, and the
/// next one goes on from there.
pub type OnBytes<'a> = dyn FnMut(u64, Option<u64>) -> ControlFlow<()> + 'a;

const CHUNK: usize = 256 << 10;
/// How often a connection that breaks, but brought something, is made again.
const TRIES: usize = 5;
/// When a hub that is busy, or hung up, is asked again.
const RETRY: Retry = Retry {
    attempts: 5,
    first: Duration::from_secs(1),
    longest: Duration::from_secs(30),
    total: Duration::from_secs(120),
};

/// A model hub and the cache of its files.
///
/// The cache has the layout of Python's `huggingface_hub`: `models--org--name/{blobs,refs,snapshots}`.
#[derive(Clone)]
pub struct Hub {
    endpoint: String,
    cache: PathBuf,
    token: Option<String>,
    offline: bool,
    retry: Retry,
}

impl Hub {
    /// The hub that the environment describes: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`, `HF_TOKEN`,
    /// `HF_TOKEN_PATH`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`.
    ///
    /// # Errors
    /// When the endpoint is no http address, or no cache folder can be told.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(&|name| std::env::var_os(name))
    }

    /// [`Hub::from_env`] with variables from elsewhere.
    ///
    /// # Errors
    /// As [`Hub::from_env`].
    pub fn from_vars(var: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        let text = |name: &str| var(name).and_then(|value| value.into_string().ok());
        let on =
            |name: &str| text(name).is_some_and(|v| matches!(&*v.to_ascii_lowercase(), "1" | "true" | "yes" | "on"));
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let endpoint = endpoint.trim().trim_end_matches('/').to_owned();
        if origin(&endpoint).is_none() {
            return Err(hub(
                &endpoint,
                "HF_ENDPOINT: expected an address such as https://huggingface.co",
            ));
        }
        let home = || var("HOME").or_else(|| var("USERPROFILE")).map(PathBuf::from);
        let hf_home = var("HF_HOME")
            .map(PathBuf::from)
            .or_else(|| var("XDG_CACHE_HOME").map(|dir| PathBuf::from(dir).join("huggingface")))
            .or_else(|| home().map(|dir| dir.join(".cache").join("huggingface")));
        let cache = var("HF_HUB_CACHE")
            .or_else(|| var("HUGGINGFACE_HUB_CACHE"))
            .map(PathBuf::from)
            .or_else(|| hf_home.as_ref().map(|dir| dir.join("hub")))
            .ok_or_else(|| hub(&endpoint, "no folder for its cache: set HF_HOME or HOME"))?;
        let from_file = || {
            let file = var("HF_TOKEN_PATH")
                .map(PathBuf::from)
                .or_else(|| hf_home.map(|dir| dir.join("token")))?;
            String::from_utf8(read_small(&file, 4096).ok()?).ok()
        };
        let token = if on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            None
        } else {
            text("HF_TOKEN").or_else(from_file)
        };
        let token = token
            .map(|t| t.trim().to_owned())
            .filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic()));
        Ok(Self {
            endpoint,
            cache,
            token,
            offline: on("HF_HUB_OFFLINE") || on("TRANSFORMERS_OFFLINE"),
            retry: RETRY,
        })
    }

    /// With this many attempts, and these pauses, where the hub is busy.
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The file where it lies in the cache already. Opens no socket.
    pub fn cached(&self, repo: &str, revision: &str, file: &str) -> Option<PathBuf> {
        check_names(repo, revision, file).ok()?;
        let path = self.snapshot(repo, revision)?.join(file);
        path.is_file().then_some(path)
    }

    /// The file's path in the cache, downloaded if it is not there. A file that is there opens no socket.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when `progress` says so; [`Error::Run`] for a file that is larger than what is free;
    /// [`Error::Hub`] when the hub cannot be reached, refuses, or sends
    /// something else than it announced. Nothing incomplete is ever left under the file's name.
    pub fn fetch(&self, repo: &str, revision: &str, file: &str, progress: &mut OnBytes<'_>) -> Result<PathBuf> {
        let url = format!(
            "{}/{repo}/resolve/{}/{}",
            self.endpoint,
            encoded(revision, ""),
            encoded(file, "/")
        );
        check_names(repo, revision, file).map_err(|what| hub(&self.endpoint, what))?;
        if let Some(path) = self.cached(repo, revision, file) {
            return Ok(path);
        }
        self.not_offline(&url)?;
        let http = Http::new(&self.endpoint, self.token.as_deref(), self.retry);
        let remote = http.head(&url, &mut || progress(0, None))?;
        let folder = self.folder(repo);
        let blobs = folder.join("blobs");
        create_dir(&blobs)?;
        let blob = blobs.join(&remote.etag);
        {
            let name = folder.file_name().unwrap_or_default();
            let _lock = lock(&self.cache.join(".locks").join(name), &remote, file, progress)?;
            if !blob.is_file() {
                download(&http, &url, &remote, &blob, file, self.retry, progress)?;
            }
        }
        let snapshot = folder.join("snapshots").join(&remote.commit);
        link(&blob, &snapshot, file)?;
        self.set_ref(repo, revision, &remote.commit)?;
        Ok(snapshot.join(file))
    }

    /// A revision's commit and the names of its files, asked from the hub each time.
    pub(crate) fn list(&self, repo: &str, revision: &str) -> Result<(String, Vec<String>)> {
        let url = format!("{}/api/models/{repo}/revision/{}", self.endpoint, encoded(revision, ""));
        check_names(repo, revision, "-").map_err(|what| hub(&self.endpoint, what))?;
        self.not_offline(&url)?;
        let list = Http::new(&self.endpoint, self.token.as_deref(), self.retry).json(&url)?;
        let commit = list
            .get("sha")
            .and_then(|sha| sha.as_str())
            .filter(|sha| is_commit(sha));
        let commit = commit
            .ok_or_else(|| hub(&url, "sha: expected a commit in hex"))?
            .to_ascii_lowercase();
        let siblings = list.get("siblings").and_then(|s| s.as_array());
        let siblings = siblings.ok_or_else(|| hub(&url, "siblings: expected a list of files"))?;
        let name = |entry: &serde_json::Value| {
            let name = entry.get("rfilename").and_then(|n| n.as_str()).unwrap_or_default();
            match bad_name(name) {
                Some(bad) => Err(hub(
                    &url,
                    format!("rfilename: the name {:?} {bad}", crate::error::clip(name)),
                )),
                None => Ok(name.to_owned()),
            }
        };
        Ok((commit, siblings.iter().map(name).collect::<Result<_>>()?))
    }

    /// Notes in the cache which commit a branch or tag is.
    pub(crate) fn set_ref(&self, repo: &str, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) {
            Ok(())
        } else {
            write_ref(&self.folder(repo).join("refs").join(revision), commit)
        }
    }

    /// The folder of a revision's files in the cache, where there is one.
    pub(crate) fn snapshot(&self, repo: &str, revision: &str) -> Option<PathBuf> {
        let folder = self.folder(repo);
        let commit = if is_commit(revision) {
            revision.to_ascii_lowercase()
        } else {
            let named = read_small(&folder.join("refs").join(revision), 100).ok()?;
            String::from_utf8(named).ok()?.trim().to_owned()
        };
        is_commit(&commit).then(|| folder.join("snapshots").join(commit))
    }

    fn folder(&self, repo: &str) -> PathBuf {
        self.cache.join(format!("models--{}", repo.replace('/', "--")))
    }

    fn not_offline(&self, url: &str) -> Result<()> {
        if !self.offline {
            return Ok(());
        }
        let what = format!(
            "not in the cache ({}), and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set",
            self.cache.display()
        );
        Err(hub(url, what))
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("offline", &self.offline)
            .finish()
    }
}

fn check_names(repo: &str, revision: &str, file: &str) -> Result<(), String> {
    let bad = |what: &str, name: &str, bad: Option<&str>| match bad {
        Some(bad) => Err(format!("{what} {:?} {bad}", crate::error::clip(name))),
        None => Ok(()),
    };
    bad("repository", repo, bad_repo(repo))?;
    bad("revision", revision, bad_revision(revision))?;
    bad("file", file, bad_name(file))
}

/// Percent-encoding of all but the unreserved characters and those of `keep`.
fn encoded(text: &str, keep: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.as_bytes().contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Waits for whoever downloads the same content into the same cache.
fn lock(folder: &Path, remote: &Remote, file: &str, progress: &mut OnBytes<'_>) -> Result<File> {
    create_dir(folder)?;
    let path = folder.join(format!("{}.lock", remote.etag));
    let held = File::create(&path).map_err(Error::io(&path, "create"))?;
    loop {
        match held.try_lock() {
            Ok(()) => return Ok(held),
            Err(TryLockError::WouldBlock) if progress(0, Some(remote.size)).is_break() => {
                return Err(Error::Interrupted { what: file.to_owned() });
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(200)),
            Err(TryLockError::Error(source)) if source.kind() == ErrorKind::Unsupported => {
                return Ok(held);
            }
            Err(TryLockError::Error(source)) => {
                return Err(Error::Io {
                    path,
                    action: "lock",
                    source,
                });
            }
        }
    }
}

/// How one connection ended.
enum Transfer {
    Complete,
    /// The connection broke before the end, after so many bytes.
    Broken {
        gained: u64,
        why: String,
    },
    /// All bytes are here, and they are others than announced.
    Corrupt {
        found: String,
        resumed: bool,
    },
}

fn download(
    http: &Http<'_>,
    url: &str,
    remote: &Remote,
    blob: &Path,
    file: &str,
    retry: Retry,
    progress: &mut OnBytes<'_>,
) -> Result<()> {
    let part = blob.with_file_name(format!("{}.incomplete", remote.etag));
    let have = || std::fs::metadata(&part).map_or(0, |about| about.len());
    check_room(blob.parent().unwrap_or(blob), remote.size.saturating_sub(have()))?;
    let (mut failures, mut rng) = (retry.begin(), jitter());
    let mut tries = 0;
    loop {
        tries += 1;
        match transfer(http, url, remote, &part, file, progress)? {
            Transfer::Complete => break,
            Transfer::Broken { gained, .. } if gained > 0 && tries < TRIES => failures = retry.begin(),
            Transfer::Broken { gained, why } => {
                let have = have();
                if gained == 0
                    && let Some(pause) = failures.pause(None, &mut rng)
                {
                    wait(pause, &mut || progress(have, Some(remote.size)), file)?;
                    continue;
                }
                let what = format!(
                    "{why}; {have} of {} bytes are kept, and the next call goes on from there",
                    remote.size
                );
                return Err(hub(url, what));
            }
            Transfer::Corrupt { found, resumed } => {
                remove(&part)?;
                // The beginning may have been another file's.
                if !resumed || tries >= TRIES {
                    return Err(hub(url, format!("SHA-256: expected {}, found {found}", remote.etag)));
                }
            }
        }
    }
    std::fs::rename(&part, blob).map_err(Error::io(blob, "rename to"))?;
    sync_dir(blob)
}

fn transfer(
    http: &Http<'_>,
    url: &str,
    remote: &Remote,
    part: &Path,
    file: &str,
    progress: &mut OnBytes<'_>,
) -> Result<Transfer> {
    let io = |action| Error::io(part, action);
    let mut out = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(part)
        .map_err(io("open"))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut have = 0;
    loop {
        match out.read(&mut buffer).map_err(io("read"))? {
            0 => break,
            n => {
                hasher.update(&buffer[..n]);
                have += n as u64;
            }
        }
    }
    if have > remote.size {
        out.set_len(0).map_err(io("shorten"))?;
        (have, hasher) = (0, Sha256::new());
    }
    let mut resumed = have > 0;
    let mut gained = 0;
    if have < remote.size {
        let (start, mut body) = http.get(url, have, &mut || progress(have, Some(remote.size)))?;
        if start != have {
            out.set_len(0).map_err(io("shorten"))?;
            (have, hasher, resumed) = (0, Sha256::new(), false);
        }
        loop {
            if progress(have, Some(remote.size)).is_break() {
                return Err(Error::Interrupted { what: file.to_owned() });
            }
            let n = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => {
                    return Ok(Transfer::Broken {
                        gained,
                        why: format!("the connection broke: {e}"),
                    });
                }
            };
            if have + n as u64 > remote.size {
                remove(part)?;
                return Err(hub(
                    url,
                    format!("sent more than the {} bytes that it announced", remote.size),
                ));
            }
            out.write_all(&buffer[..n]).map_err(io("write"))?;
            hasher.update(&buffer[..n]);
            (have, gained) = (have + n as u64, gained + n as u64);
        }
        if have < remote.size {
            return Ok(Transfer::Broken {
                gained,
                why: "the connection ended early".to_owned(),
            });
        }
    }
    out.sync_all().map_err(io("sync"))?;
    let found = hex(&hasher.finalize());
    if remote.sha256().is_some_and(|expected| expected != found) {
        return Ok(Transfer::Corrupt { found, resumed });
    }
    Ok(Transfer::Complete)
}

/// Makes `snapshot/file` a link to the blob, relative, so that the cache can be moved.
fn link(blob: &Path, snapshot: &Path, file: &str) -> Result<()> {
    let path = snapshot.join(file);
    let folder = path.parent().unwrap_or(snapshot);
    create_dir(folder)?;
    let name = blob.file_name().unwrap_or_default();
    let target = format!("{}../../blobs", "../".repeat(file.matches('/').count()));
    let target = Path::new(&target).join(name);
    let staged = folder.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let _ = std::fs::remove_file(&staged);
    #[cfg(unix)]
    let made = std::os::unix::fs::symlink(&target, &staged);
    #[cfg(not(unix))]
    let made = std::fs::hard_link(folder.join(&target), &staged)
        .or_else(|_| std::fs::copy(folder.join(&target), &staged).map(|_| ()));
    made.map_err(Error::io(&staged, "create"))?;
    std::fs::rename(&staged, &path).map_err(Error::io(&path, "rename to"))?;
    sync_dir(&path)
}

fn write_ref(path: &Path, commit: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    create_dir(folder)?;
    let staged = folder.join(format!(".{commit}.{}", std::process::id()));
    let mut file = File::create(&staged).map_err(Error::io(&staged, "create"))?;
    file.write_all(commit.as_bytes()).map_err(Error::io(&staged, "write"))?;
    file.sync_all().map_err(Error::io(&staged, "sync"))?;
    std::fs::rename(&staged, path).map_err(Error::io(path, "rename to"))?;
    sync_dir(path)
}

pub(crate) fn create_dir(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))
}

fn remove(path: &Path) -> Result<()> {
    std::fs::remove_file(path).map_err(Error::io(path, "remove"))
}

/// Makes the entry of `path` in its folder durable, where folders can be synced.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(Error::io(folder, "sync"))?;
    }
    Ok(())
}
