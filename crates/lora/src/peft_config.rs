//! `adapter_config.json` of Python's PEFT.

use std::collections::BTreeSet;
use std::path::Path;

use realign_core::{ModuleNames, Shape, Site, Weight};
use serde_json::{Map, Value, json};

use crate::config::Sizes;
use crate::pattern::module_path;
use crate::peft_modules::module;
use crate::{Error, Lora, LoraConfig, Result};

/// Options that say where an adapter comes from, or that hold a default without a meaning of their own.
const INFORMATION: [&str; 8] = [
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "peft_version",
    "auto_mapping",
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
];

/// Options that ask for something that is not supported, unless they are off.
const UNSUPPORTED: [&str; 13] = [
    "bias",
    "lora_bias",
    "use_qalora",
    "ensure_weight_tying",
    "loftq_config",
    "eva_config",
    "corda_config",
    "arrow_config",
    "megatron_config",
    "layer_replication",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "target_parameters",
];

/// Initialisations that leave the base weights as they are; the others change them, so that the adapter fits no
/// released model.
const PLAIN_INITIALISATIONS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

/// What a configuration asks for in a model.
pub(crate) struct Asked {
    pub(crate) config: LoraConfig,
    /// Rank and numerator of the scale of every adapted place.
    pub(crate) sizes: Sizes,
    /// Whether adapters have magnitudes.
    pub(crate) dora: bool,
    /// Weights of which the file has a copy of its own.
    pub(crate) saved: Vec<Weight>,
}

/// Whether the configuration asks only for what is supported.
pub(crate) fn check(path: &Path, text: &[u8]) -> Result<()> {
    Options::parse(path, text).map(drop)
}

/// Reads the configuration for a model of this shape, whose modules have these names.
pub(crate) fn read(path: &Path, text: &[u8], names: &ModuleNames, shape: &Shape) -> Result<Asked> {
    let options = Options::parse(path, text)?;
    let rank = options.whole_number("r", 1)?;
    let saved = options.saved(names, shape)?;
    let places = options.places(names, shape)?;
    let layers: BTreeSet<usize> = places.iter().map(|&(layer, _)| layer).collect();
    let all_layers = layers.len() == shape.n_layers;
    let flag = |option: &str| {
        options.get(option).map_or(Ok(false), |value| {
            value.as_bool().ok_or_else(|| options.wrong(option, "true or false"))
        })
    };
    if flag("fan_in_fan_out")? && !names.transposed {
        return Err(options.wrong("fan_in_fan_out", "it off: this model's weights are not transposed"));
    }
    let widths = places
        .iter()
        .flat_map(|&(_, site)| [shape.linear(site)[0], names.rows(site, shape).total]);
    let widest = widths.max().unwrap_or(1);
    let expected_rank = "whole numbers from 1 to the model's largest width";
    let mut config = LoraConfig {
        rank,
        alpha: options.number("lora_alpha", |x| x.is_finite(), "a finite number")?,
        rank_pattern: options.pattern("rank_pattern", expected_rank, |value| {
            let rank = value.as_u64().and_then(|n| usize::try_from(n).ok());
            rank.filter(|rank| (1..=widest).contains(rank))
        })?,
        alpha_pattern: options.pattern("alpha_pattern", "finite numbers", Value::as_f64)?,
        rs_lora: flag("use_rslora")?,
        dropout: match options.get("lora_dropout") {
            Some(_) => options.number("lora_dropout", |x| (0.0..1.0).contains(&x), "at least 0 and below 1")?,
            None => 0.0,
        },
        layers: (!all_layers).then(|| layers.into_iter().collect()),
        sites: Site::ALL
            .into_iter()
            .filter(|&site| places.iter().any(|&(_, s)| s == site))
            .collect(),
    };
    if rank > widest {
        return Err(options.wrong("r", "at most the model's largest width"));
    }
    let sizes = config
        .sizes(places, |layer, site| names.path(layer, site))
        .map_err(|(option, expected)| options.wrong(option, expected))?;
    if !names_are_ours(names) {
        config.rank_pattern = own(&sizes, |&(own, _)| (own != rank).then_some(own));
        let alpha = config.alpha;
        config.alpha_pattern = own(&sizes, |&(_, own)| (own != alpha).then_some(own));
    }
    Ok(Asked {
        config,
        sizes,
        dora: flag("use_dora")?,
        saved,
    })
}

/// Values that are not the usual ones, by the path of each place in a [`LoraConfig`].
fn own<T>(sizes: &Sizes, value: impl Fn(&(usize, f64)) -> Option<T>) -> Vec<(String, T)> {
    let own = sizes.iter().map(|(&(layer, site), size)| {
        let pattern = module_path(layer, site).replace('.', r"\.");
        Some((pattern, value(size)?))
    });
    own.flatten().collect()
}

/// A module's rank and the numerator of its scale.
pub(crate) struct Size {
    /// The module in its block: `attn.c_attn`.
    pub(crate) name: &'static str,
    pub(crate) path: String,
    pub(crate) rank: usize,
    pub(crate) alpha: f64,
}

/// Values by module that are not the usual ones: by its name where it has the same in all blocks.
fn by_module<T: PartialEq + Copy>(sizes: &[Size], usual: T, value: impl Fn(&Size) -> T) -> Vec<(String, T)> {
    let mut patterns: Vec<(String, T)> = Vec::new();
    for size in sizes.iter().filter(|size| value(size) != usual) {
        let mut others = sizes.iter().filter(|other| other.name == size.name);
        let name = match others.all(|other| value(other) == value(size)) {
            true => size.name,
            false => &size.path,
        };
        if patterns.iter().all(|(pattern, _)| pattern != name) {
            patterns.push((name.to_owned(), value(size)));
        }
    }
    patterns
}

/// The configuration as PEFT writes it, for a model whose modules have these names and sizes.
pub(crate) fn write(lora: &Lora, names: &ModuleNames, sizes: &[Size], base_model: &str) -> Value {
    let config = &lora.config;
    let layers: BTreeSet<usize> = lora.adapters.keys().map(|&(layer, _)| layer).collect();
    let sites: BTreeSet<Site> = lora.adapters.keys().map(|&(_, site)| site).collect();
    let (targets, layers): (Vec<String>, Value) = if layers.len() * sites.len() == lora.adapters.len() {
        let layers = if config.layers.is_none() {
            Value::Null
        } else {
            json!(layers)
        };
        let names = sites.iter().map(|&site| target(names, site));
        let mut targets: Vec<String> = names.collect();
        targets.dedup();
        (targets, layers)
    } else {
        (sizes.iter().map(|size| size.path.clone()).collect(), Value::Null)
    };
    let saved: Vec<String> = lora.saved.iter().map(|(weight, _)| module(names, *weight)).collect();
    // PEFT's field is an integer; so it is written as one where it is one.
    let alpha = |alpha: f64| match alpha.fract() == 0.0 && alpha.abs() < 1e15 {
        true => json!(alpha as i64),
        false => json!(alpha),
    };
    let (ranks, alphas) = match names_are_ours(names) {
        true => (config.rank_pattern.clone(), config.alpha_pattern.clone()),
        false => (
            by_module(sizes, config.rank, |size| size.rank),
            by_module(sizes, config.alpha, |size| size.alpha),
        ),
    };
    let alphas: Map<String, Value> = alphas.into_iter().map(|(p, a)| (p, alpha(a))).collect();
    let ranks: Map<String, Value> = ranks.into_iter().map(|(p, r)| (p, json!(r))).collect();
    json!({
        "alpha_pattern": alphas,
        "auto_mapping": null,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "exclude_modules": null,
        "fan_in_fan_out": names.transposed,
        "inference_mode": true,
        "init_lora_weights": true,
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": layers,
        "loftq_config": {},
        "lora_alpha": alpha(config.alpha),
        "lora_bias": false,
        "lora_dropout": config.dropout,
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": if saved.is_empty() { Value::Null } else { json!(saved) },
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": ranks,
        "revision": null,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": lora.adapters.values().any(|adapter| adapter.dora.is_some()),
        "use_rslora": config.rs_lora,
    })
}

/// Whether the patterns of a [`LoraConfig`] mean these modules as they are.
fn names_are_ours(names: &ModuleNames) -> bool {
    Site::ALL
        .iter()
        .all(|&site| names.path(0, site) == module_path(0, site))
}

/// What `target_modules` calls a linear map: the end of its module's path, which no other of a block ends with.
fn target(names: &ModuleNames, site: Site) -> String {
    let own = (names.linear)(site).0;
    let short = own.rsplit('.').next().unwrap_or(own);
    let also = Site::ALL.iter().map(|&other| (names.linear)(other).0);
    match also
        .into_iter()
        .any(|other| other != own && other.ends_with(&format!(".{short}")))
    {
        true => own.to_owned(),
        false => short.to_owned(),
    }
}

pub(crate) struct Options<'a> {
    path: &'a Path,
    options: Map<String, Value>,
}

impl<'a> Options<'a> {
    fn parse(path: &'a Path, text: &[u8]) -> Result<Self> {
        let options = serde_json::from_slice(text).map_err(|error| Error::format(path, syntax(text, &error)))?;
        let options = Self { path, options };
        options.refuse_unsupported()?;
        Ok(options)
    }
}

impl Options<'_> {
    /// The option; none where it is absent or null.
    pub(crate) fn get(&self, option: &str) -> Option<&Value> {
        self.options.get(option).filter(|value| !value.is_null())
    }

    pub(crate) fn wrong(&self, option: &str, expected: impl Into<String>) -> Error {
        let found = self
            .get(option)
            .map_or_else(|| "nothing".to_owned(), |value| shortened(&value.to_string()));
        Error::Option {
            path: self.path.to_owned(),
            option: option.to_owned(),
            expected: expected.into(),
            found,
        }
    }

    fn whole_number(&self, option: &str, least: usize) -> Result<usize> {
        let number = self
            .get(option)
            .and_then(Value::as_u64)
            .and_then(|n| usize::try_from(n).ok());
        number
            .filter(|&n| n >= least)
            .ok_or_else(|| self.wrong(option, format!("a whole number of at least {least}")))
    }

    fn number(&self, option: &str, allowed: impl Fn(f64) -> bool, expected: &str) -> Result<f64> {
        let number = self.get(option).and_then(Value::as_f64);
        number
            .filter(|&x| allowed(x))
            .ok_or_else(|| self.wrong(option, expected))
    }

    fn refuse_unsupported(&self) -> Result<()> {
        let is = |option: &str, wanted: &str| self.get(option).is_some_and(|value| value == wanted);
        if !is("peft_type", "LORA") {
            return Err(self.wrong("peft_type", "\"LORA\""));
        }
        if self.get("task_type").is_some() && !is("task_type", "CAUSAL_LM") {
            return Err(self.wrong("task_type", "\"CAUSAL_LM\" or null"));
        }
        for (option, value) in &self.options {
            let off = match value {
                Value::Null | Value::Bool(false) => true,
                Value::String(text) => option == "bias" && text == "none",
                Value::Array(values) => values.is_empty(),
                Value::Object(values) => values.is_empty(),
                _ => false,
            };
            let read = [
                "peft_type",
                "task_type",
                "r",
                "lora_alpha",
                "use_rslora",
                "lora_dropout",
                "target_modules",
            ];
            let read_too = [
                "use_dora",
                "fan_in_fan_out",
                "rank_pattern",
                "alpha_pattern",
                "modules_to_save",
                "exclude_modules",
                "layers_to_transform",
                "layers_pattern",
                "init_lora_weights",
            ];
            if UNSUPPORTED.contains(&option.as_str()) {
                if !off {
                    return Err(self.wrong(option, "it off: it is not supported"));
                }
            } else if !value.is_null()
                && ![&read[..], &read_too, &INFORMATION]
                    .iter()
                    .any(|known| known.contains(&option.as_str()))
            {
                return Err(self.wrong(option, "no such option, or null"));
            }
        }
        match self.get("init_lora_weights") {
            None | Some(Value::Bool(_)) => Ok(()),
            Some(Value::String(name)) if PLAIN_INITIALISATIONS.contains(&name.as_str()) => Ok(()),
            Some(_) => Err(self.wrong("init_lora_weights", "one that leaves the base weights as they are")),
        }
    }

    pub(crate) fn strings(&self, option: &str, values: &[Value]) -> Result<Vec<String>> {
        let texts = values.iter().map(|value| value.as_str().map(str::to_owned));
        texts
            .collect::<Option<_>>()
            .ok_or_else(|| self.wrong(option, "a list of module names"))
    }

    /// Values by pattern.
    fn pattern<T>(&self, option: &str, expected: &str, take: impl Fn(&Value) -> Option<T>) -> Result<Vec<(String, T)>> {
        let wrong = || self.wrong(option, format!("{expected}, by module pattern"));
        let Some(value) = self.get(option) else {
            return Ok(Vec::new());
        };
        let patterns = value.as_object().ok_or_else(wrong)?;
        let pairs = patterns
            .iter()
            .map(|(pattern, value)| Some((pattern.clone(), take(value)?)));
        pairs.collect::<Option<_>>().ok_or_else(wrong)
    }
}

pub(crate) fn shortened(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A parser's error with the line that it points at: Python writes `NaN`, which is no JSON.
fn syntax(text: &[u8], error: &serde_json::Error) -> String {
    let line = text
        .split(|&byte| byte == b'\n')
        .nth(error.line().saturating_sub(1))
        .unwrap_or_default();
    format!("{error}: {}", shortened(String::from_utf8_lossy(line).trim()))
}
