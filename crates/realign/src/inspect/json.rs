//! JSON files that say what lies beside them.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::found::Found;

/// The largest JSON file that is looked into.
const LARGEST: u64 = 64 << 20;

/// How many entries of a list or an object are kept, and bytes of a text: a vocabulary as JSON values would take ten times
/// its file.
const KEPT: usize = 256;

/// The beginning of a JSON value.
struct Glance(Value);

impl<'de> Deserialize<'de> for Glance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self(Value::Null))
    }
}

impl<'de> Visitor<'de> for Glance {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self, E> {
        Ok(Self(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self, E> {
        Ok(Self(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self, E> {
        Ok(Self(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self, E> {
        Ok(Self(value.into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self, E> {
        Ok(Self(text[..text.floor_char_boundary(KEPT)].into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        let mut kept = Vec::new();
        while kept.len() < KEPT {
            match items.next_element::<Self>()? {
                Some(Self(item)) => kept.push(item),
                None => return Ok(Self(kept.into())),
            }
        }
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self(kept.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self, A::Error> {
        let mut kept = Map::new();
        while kept.len() < KEPT {
            match fields.next_entry::<String, Self>()? {
                Some((name, Self(value))) => drop(kept.insert(name, value)),
                None => return Ok(Self(kept.into())),
            }
        }
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self(kept.into()))
    }
}

/// The fields of a JSON file, if it is an object; of long ones the beginning.
pub fn read(path: &Path) -> Result<Map<String, Value>, String> {
    let fail = |e: String| format!("{}: {e}", path.display());
    let about = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?;
    if !about.is_file() || about.len() > LARGEST {
        return Err(fail(format!("expected a file of at most {LARGEST} bytes of JSON")));
    }
    let bytes = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    match serde_json::from_slice(&bytes) {
        Ok(Glance(Value::Object(fields))) => Ok(fields),
        Ok(_) => Err(fail("expected a JSON object, found another value".into())),
        Err(e) => Err(fail(format!("expected a JSON object, found {e}"))),
    }
}

/// The names of a result's arms.
pub fn arms(results: &realign_report::Results) -> String {
    results.arms.iter().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
}

/// A JSON file by its fields; none where no kind fits.
pub fn inspect(path: &Path, fields: &Map<String, Value>) -> Option<Found> {
    let has = |names: &[&str]| names.iter().all(|name| fields.contains_key(*name));
    let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let beside = |found: &mut Found| found.fit(format!("its folder: realign inspect {}", folder.display()));
    let described = |kind, what: String| {
        let mut found = Found::new(path, kind, what);
        beside(&mut found);
        Some(found)
    };
    if has(&["peft_type"]) {
        described(
            "peft-config",
            format!(
                "configuration of a PEFT adapter ({})",
                text("peft_type").unwrap_or_default()
            ),
        )
    } else if has(&["d_in", "d_sae"]) || has(&["d_in", "num_latents"]) || has(&["architecture", "hf_hook_point_in"]) {
        described("sae-config", "configuration of a sparse autoencoder".into())
    } else if has(&["trainer"]) {
        described(
            "dictionary-learning-config",
            "configuration of dictionary_learning".into(),
        )
    } else if has(&["model", "added_tokens"]) {
        let mut found = Found::new(path, "tokenizer", "tokenizer (tokenizer.json)");
        let model = fields.get("model");
        found.fact_if(
            "model",
            model.and_then(|model| model.get("type")).and_then(Value::as_str),
        );
        if let Some(tokenizer) = found.try_to(realign_model::Tokenizer::from_file(path)) {
            found.fact("tokens", tokenizer.vocab_size());
        }
        beside(&mut found);
        Some(found)
    } else if has(&["weight_map"]) {
        described("index", "index of a model in several safetensors files".into())
    } else if has(&["model_type"]) {
        described(
            "model-config",
            format!("configuration of a model ({})", text("model_type").unwrap_or_default()),
        )
    } else if has(&["tokenizer_class"]) || has(&["chat_template"]) {
        described("tokenizer-config", "configuration of a tokenizer".into())
    } else if has(&["hook_name", "norm"]) {
        described("direction-config", "description of a direction".into())
    } else if has(&["manifest", "created"]) {
        described("run-record", "record of a run".into())
    } else if has(&["schema", "arms"]) {
        let mut found = Found::new(path, "results", "results of a run (results.json)");
        if let Some(results) = found.try_to(realign_report::Results::read(path)) {
            found.fact("arms", arms(&results));
        }
        found.fit(format!("realign report {}", folder.display()));
        Some(found)
    } else {
        None
    }
}
