use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::atomic::{parse, read_json, write_json};
use crate::error::{Error, Result, check_name};
use crate::folder::RunFolder;

/// Whether a stage's result was there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reused {
    /// The result was read from the folder.
    Yes,
    /// The result was computed now.
    No(Why),
}

/// Why a stage was computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// There was no result.
    Absent,
    /// The result was made from other inputs.
    InputsChanged,
    /// The result could not be read; the reason.
    Unreadable(String),
}

#[derive(Serialize, Deserialize)]
struct Stored<T> {
    stage: String,
    inputs: String,
    seconds: f64,
    result: T,
}

impl RunFolder {
    /// The result of a stage: read from `stages/NAME.json` where it was made from the same inputs,
    /// else computed and written there.
    ///
    /// The value returned is always the one that the file gives back, so that a resumed run
    /// cannot differ from one that ran through; finite floats come back bit for bit.
    ///
    /// # Errors
    /// What `compute` answers; [`Error::NotReadable`] where the result would not survive its
    /// file, and the errors of [`write_json`](crate::write_json).
    pub fn stage<T, E>(
        &self,
        name: &str,
        inputs: &impl Serialize,
        compute: impl FnOnce() -> Result<T, E>,
    ) -> Result<(T, Reused), E>
    where
        T: Serialize + DeserializeOwned,
        E: From<Error>,
    {
        let path = self.stage_file(name)?;
        let inputs = hash(inputs).map_err(|source| Error::Unwritable {
            place: format!("inputs of {name}"),
            source,
        })?;
        let why = match self.stored::<T>(name, &inputs)? {
            Ok(result) => return Ok((result, Reused::Yes)),
            Err(why) => why,
        };
        let started = Instant::now();
        let result = compute()?;
        let seconds = started.elapsed().as_secs_f64();
        let stored = Stored {
            stage: name.to_owned(),
            inputs,
            seconds,
            result,
        };
        let text = serde_json::to_vec(&stored).map_err(|source| Error::Unwritable {
            place: path.display().to_string(),
            source,
        })?;
        let back: Stored<T> = parse(&text).map_err(|e| {
            let field = e.path().to_string();
            Error::NotReadable {
                stage: name.to_owned(),
                field,
                source: e.into_inner(),
            }
        })?;
        let folder = self.file("stages");
        fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
        write_json(&path, &stored)?;
        Ok((back.result, Reused::No(why)))
    }

    /// Seconds that each finished stage took, by name: the last attempt's, where it was resumed.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be listed or [`Error::Json`] where a result is damaged.
    pub fn timings(&self) -> Result<BTreeMap<String, f64>> {
        let folder = self.file("stages");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(e) => return Err(Error::io("list", &folder, e)),
        };
        let mut timings = BTreeMap::new();
        for entry in entries {
            let path = entry.map_err(|e| Error::io("list", &folder, e))?.path();
            if path.extension().is_some_and(|e| e == "json") {
                let stored: Stored<IgnoredAny> = read_json(&path)?;
                timings.insert(stored.stage, stored.seconds);
            }
        }
        Ok(timings)
    }

    fn stage_file(&self, name: &str) -> Result<PathBuf> {
        check_name("stage", name)?;
        Ok(self.file("stages").join(format!("{name}.json")))
    }

    fn stored<T: DeserializeOwned>(&self, name: &str, inputs: &str) -> Result<Result<T, Why>> {
        let path = self.stage_file(name)?;
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Err(Why::Absent)),
            Err(e) => return Err(Error::io("read", &path, e)),
        };
        Ok(match parse::<Stored<IgnoredAny>>(&text) {
            Err(e) => Err(Why::Unreadable(e.to_string())),
            Ok(stored) if stored.inputs != inputs => Err(Why::InputsChanged),
            Ok(_) => parse::<Stored<T>>(&text)
                .map(|stored| stored.result)
                .map_err(|e| Why::Unreadable(e.to_string())),
        })
    }
}

/// Hash of the inputs' JSON with sorted keys, so that the order of a map is no difference.
fn hash(inputs: &impl Serialize) -> serde_json::Result<String> {
    let mut value = serde_json::to_value(inputs)?;
    value.sort_all_objects();
    let text = serde_json::to_vec::<Value>(&value)?;
    Ok(blake3::hash(&text).to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manifest::tests::manifest;

    fn folder() -> (tempfile::TempDir, RunFolder) {
        let dir = tempfile::tempdir().unwrap();
        let run = RunFolder::open(dir.path(), &manifest(json!({}))).unwrap();
        (dir, run)
    }

    fn run(run: &RunFolder, inputs: Value, result: f64) -> (f64, Reused) {
        run.stage("s", &inputs, || Ok::<_, Error>(result)).unwrap()
    }

    #[test]
    fn a_result_is_reused_until_its_inputs_change() {
        let (_dir, folder) = folder();
        let third = 1.0 / 3.0;
        let first = run(&folder, json!({"a": 1, "b": 2}), third);
        assert_eq!(first, (third, Reused::No(Why::Absent)));
        assert_eq!(run(&folder, json!({"b": 2, "a": 1}), 9.0), (third, Reused::Yes));
        let changed = run(&folder, json!({"a": 1, "b": 3}), 9.0);
        assert_eq!(changed, (9.0, Reused::No(Why::InputsChanged)));
        assert_eq!(folder.timings().unwrap().into_keys().collect::<Vec<_>>(), ["s"]);
    }

    #[test]
    fn an_unreadable_result_is_computed_again_with_the_reason() {
        let (_dir, folder) = folder();
        run(&folder, json!(1), 1.0);
        fs::write(folder.file("stages/s.json"), "{").unwrap();
        let (value, Reused::No(Why::Unreadable(reason))) = run(&folder, json!(1), 2.0) else {
            panic!("the damaged result was taken");
        };
        assert!(value == 2.0 && reason.contains("EOF"), "{reason}");
        assert_eq!(run(&folder, json!(1), 3.0), (2.0, Reused::Yes));
    }

    #[test]
    fn a_result_that_would_not_come_back_is_refused_at_once() {
        let (_dir, folder) = folder();
        let rows = vec![BTreeMap::from([("loss".to_owned(), f64::NAN)])];
        let error = folder.stage("s", &1, || Ok::<_, Error>(rows)).unwrap_err().to_string();
        assert!(error.contains("result[0].loss"), "{error}");
        assert!(!folder.file("stages/s.json").exists());
    }

    #[test]
    fn a_failed_stage_leaves_no_result() {
        let (_dir, folder) = folder();
        let stop = || {
            Err::<f64, _>(Error::Interrupted {
                stage: "s".into(),
                done: 3,
            })
        };
        assert!(matches!(
            folder.stage("s", &1, stop),
            Err(Error::Interrupted { done: 3, .. })
        ));
        assert_eq!(run(&folder, json!(1), 2.0), (2.0, Reused::No(Why::Absent)));
        assert!(folder.stage("../s", &1, || Ok::<_, Error>(1)).is_err());
    }
}
