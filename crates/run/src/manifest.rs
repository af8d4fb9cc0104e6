use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a run was made from: enough to repeat it, and to refuse to mix two runs in one folder.
///
/// On resume `schema`, `config`, `model`, `data`, `seed`, `threads` and `device` must be as they
/// were, since each can change the numbers; `command` and `versions` may differ and are recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the run folder's layout.
    pub schema: u32,
    /// The command line.
    pub command: Vec<String>,
    /// Every setting of the run.
    pub config: Value,
    /// SHA-256 of each model file, by name.
    pub model: BTreeMap<String, String>,
    /// Hash of each data set, by name.
    pub data: BTreeMap<String, String>,
    /// Version of the program and of what it is built on, by name.
    pub versions: BTreeMap<String, String>,
    /// The seed of every random stream.
    pub seed: u64,
    /// Worker threads: sums are split between them, and their order is part of a float's value.
    pub threads: usize,
    /// The device that computes.
    pub device: String,
}

/// One field in which two manifests differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Dotted path of the field: `config.lora.rank`.
    pub path: String,
    /// The value in the folder, as JSON; `absent` where it has none.
    pub was: String,
    /// The value now, as JSON; `absent` where it has none.
    pub now: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: was {}, now {}", self.path, self.was, self.now)
    }
}

/// The fields that must not change between a run and its resumption.
const COMPARED: [&str; 7] = ["schema", "config", "model", "data", "seed", "threads", "device"];

impl Manifest {
    /// Every compared field in which a resumption (`now`) differs from this run; sorted by path.
    pub fn differences(&self, now: &Self) -> Vec<Difference> {
        let (was, now) = (as_json(self), as_json(now));
        let mut found = Vec::new();
        for field in COMPARED {
            compare(field, was.get(field), now.get(field), &mut found);
        }
        found
    }
}

/// The manifest as a file would give it back, so that a value in memory never differs from the
/// same value on disk.
fn as_json(manifest: &Manifest) -> Value {
    let text = serde_json::to_vec(manifest).expect("a manifest has string keys only");
    serde_json::from_slice(&text).expect("serde_json reads what it writes")
}

fn compare(path: &str, was: Option<&Value>, now: Option<&Value>, found: &mut Vec<Difference>) {
    match (was, now) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                compare(&format!("{path}.{key}"), a.get(key), b.get(key), found);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for i in 0..a.len().max(b.len()) {
                compare(&format!("{path}.{i}"), a.get(i), b.get(i), found);
            }
        }
        (was, now) if was == now => {}
        (was, now) => {
            let show = |v: Option<&Value>| v.map_or_else(|| "absent".into(), Value::to_string);
            found.push(Difference {
                path: path.to_owned(),
                was: show(was),
                now: show(now),
            });
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn manifest(config: Value) -> Manifest {
        Manifest {
            schema: 1,
            command: vec!["realign".into(), "demo".into()],
            config,
            model: BTreeMap::from([("smol".into(), "ab12".into())]),
            data: BTreeMap::new(),
            versions: BTreeMap::from([("realign".into(), "0.1.0".into())]),
            seed: u64::MAX,
            threads: 2,
            device: "flex".into(),
        }
    }

    #[test]
    fn each_changed_field_is_named_with_both_values() {
        let was = manifest(json!({"lora": {"rank": 8, "sites": ["q", "v"]}, "lr": 0.1}));
        let mut now = manifest(json!({"lr": 0.1, "lora": {"rank": 16, "sites": ["q"]}, "new": true}));
        now.threads = 4;
        let lines: Vec<String> = was.differences(&now).iter().map(ToString::to_string).collect();
        let expected = [
            "config.lora.rank: was 8, now 16",
            "config.lora.sites.1: was \"v\", now absent",
            "config.new: was absent, now true",
            "threads: was 2, now 4",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn command_and_versions_may_differ() {
        let was = manifest(json!({}));
        let mut now = was.clone();
        now.command.push("--resume".into());
        now.versions.insert("burn".into(), "0.22.2".into());
        assert_eq!(was.differences(&now), []);
    }

    #[test]
    fn a_value_in_memory_equals_itself_on_disk() {
        let config = json!({"f32": 0.1_f32, "nan": f64::NAN, "big": 1e300, "zero": -0.0, "n": -3});
        let was = manifest(config);
        let text = serde_json::to_string(&was).unwrap();
        let read: Manifest = serde_json::from_str(&text).unwrap();
        assert_eq!(read.differences(&was), []);
    }
}
