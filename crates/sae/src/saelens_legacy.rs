//! SAELens' `cfg.json` from before version 6, as one of version 6.

use serde_json::{Map, Value};

use crate::Result;
use crate::cfg::Cfg;

/// Fields that were renamed.
const RENAMED: [(&str, &str); 3] = [
    ("hook_point", "hook_name"),
    ("hook_point_head_index", "hook_head_index"),
    ("activation_fn_str", "activation_fn"),
];

/// Fields that moved into `metadata`; the rest was about training. The version is no longer the file's.
const METADATA: [&str; 14] = [
    "model_name",
    "hook_name",
    "model_class_name",
    "hook_head_index",
    "model_from_pretrained_kwargs",
    "prepend_bos",
    "exclude_special_tokens",
    "neuronpedia_id",
    "context_size",
    "seqpos_slice",
    "dataset_path",
    "sae_lens_training_version",
    "hook_name_out",
    "hook_head_index_out",
];

/// Whether no version from 6.0 on wrote it.
pub(crate) fn is_legacy(cfg: &Cfg) -> bool {
    let inside = cfg
        .get("metadata")
        .and_then(|metadata| metadata.get("sae_lens_version"));
    let version = cfg.get("sae_lens_version").or(inside).and_then(Value::as_str);
    let major = version
        .and_then(|v| v.split('.').next())
        .and_then(|major| major.parse::<u64>().ok());
    major.is_none_or(|major| major < 6)
}

/// The same with the names and defaults of version 6, as SAELens itself converts it.
pub(crate) fn modern(cfg: Cfg) -> Result<Cfg> {
    let mut fields = Map::new();
    for (key, value) in cfg.fields() {
        let renamed = RENAMED.iter().find(|(was, _)| was == key);
        fields.insert(renamed.map_or(key.as_str(), |(_, now)| now).to_owned(), value.clone());
    }
    let cfg = cfg.with(fields);
    // SAELens 6 takes every other function for a ReLU, which changes the numbers.
    cfg.one_of("activation_fn", &["relu", "topk"], Some("relu"))?;
    let mut fields = cfg.fields().clone();
    if cfg.text("activation_fn") == Some("topk") {
        let of = cfg.object("activation_fn_kwargs")?;
        of.unset("signed")?;
        fields.insert("k".into(), of.size("k")?.into());
        fields.insert("architecture".into(), "topk".into());
    }
    fields.entry("architecture").or_insert_with(|| "standard".into());
    match cfg.get("normalize_activations") {
        Some(Value::Bool(true)) => {
            drop(fields.insert("normalize_activations".into(), "expected_average_only_in".into()))
        }
        None | Some(Value::Bool(false)) => drop(fields.insert("normalize_activations".into(), "none".into())),
        Some(_) => {}
    }
    let metadata: Map<String, Value> = METADATA
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), cfg.get(key)?.clone())))
        .collect();
    fields.insert("metadata".into(), metadata.into());
    Ok(cfg.with(fields))
}
