//! `adapter_config.json` of Python's PEFT.

use std::collections::BTreeSet;
use std::path::Path;

use realign_core::{Shape, Site};
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value, json};

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
const UNSUPPORTED: [&str; 18] = [
    "fan_in_fan_out",
    "bias",
    "use_dora",
    "lora_bias",
    "use_qalora",
    "ensure_weight_tying",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
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

/// Reads the configuration and the places that it adapts in a model of this shape.
pub(crate) fn read(path: &Path, text: &[u8], shape: &Shape) -> Result<(LoraConfig, BTreeSet<(usize, Site)>)> {
    let options: Map<String, Value> =
        serde_json::from_slice(text).map_err(|error| Error::format(path, syntax(text, &error)))?;
    let options = Options { path, options };
    options.refuse_unsupported()?;
    let rank = options.whole_number("r", 1)?;
    let places = options.places(shape)?;
    let layers: BTreeSet<usize> = places.iter().map(|&(layer, _)| layer).collect();
    let all_layers = layers.len() == shape.n_layers;
    let config = LoraConfig {
        rank,
        alpha: options.number("lora_alpha", |x| x.is_finite(), "a finite number")?,
        rs_lora: options.get("use_rslora").map_or(Ok(false), |value| {
            value
                .as_bool()
                .ok_or_else(|| options.wrong("use_rslora", "true or false"))
        })?,
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
    if rank > shape.d_model.max(shape.d_mlp).max(shape.n_heads * shape.d_head) {
        return Err(options.wrong("r", "at most the model's largest width"));
    }
    Ok((config, places))
}

/// The configuration as PEFT writes it.
pub(crate) fn write(lora: &Lora, base_model: &str) -> Value {
    let config = &lora.config;
    let layers: BTreeSet<usize> = lora.adapters.keys().map(|&(layer, _)| layer).collect();
    let sites: BTreeSet<Site> = lora.adapters.keys().map(|&(_, site)| site).collect();
    let (targets, layers): (Vec<String>, Value) = if layers.len() * sites.len() == lora.adapters.len() {
        let layers = if config.layers.is_none() {
            Value::Null
        } else {
            json!(layers)
        };
        (sites.iter().map(|site| site.module().to_owned()).collect(), layers)
    } else {
        let path = |&(layer, site): &(usize, Site)| format!("model.layers.{layer}.{}", site.path());
        (lora.adapters.keys().map(path).collect(), Value::Null)
    };
    // PEFT's field is an integer; so it is written as one where it is one.
    let alpha = if config.alpha.fract() == 0.0 && config.alpha.abs() < 1e15 {
        json!(config.alpha as i64)
    } else {
        json!(config.alpha)
    };
    json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "exclude_modules": null,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": layers,
        "loftq_config": {},
        "lora_alpha": alpha,
        "lora_bias": false,
        "lora_dropout": config.dropout,
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": {},
        "revision": null,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": config.rs_lora,
    })
}

struct Options<'a> {
    path: &'a Path,
    options: Map<String, Value>,
}

/// What `target_modules` or `exclude_modules` asks for.
enum Modules {
    Names(Vec<String>),
    AllLinear,
    Pattern(Regex),
}

impl Options<'_> {
    /// The option; none where it is absent or null.
    fn get(&self, option: &str) -> Option<&Value> {
        self.options.get(option).filter(|value| !value.is_null())
    }

    fn wrong(&self, option: &str, expected: impl Into<String>) -> Error {
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

    fn strings(&self, option: &str, values: &[Value]) -> Result<Vec<String>> {
        let texts = values.iter().map(|value| value.as_str().map(str::to_owned));
        texts
            .collect::<Option<_>>()
            .ok_or_else(|| self.wrong(option, "a list of module names"))
    }

    fn modules(&self, option: &str) -> Result<Option<Modules>> {
        let pattern = match self.get(option) {
            None => return Ok(None),
            Some(Value::Array(values)) => return Ok(Some(Modules::Names(self.strings(option, values)?))),
            Some(Value::String(pattern)) => pattern,
            Some(_) => {
                return Err(self.wrong(
                    option,
                    "a list of module names, a regular expression, or \"all-linear\"",
                ));
            }
        };
        if option == "target_modules" && pattern.eq_ignore_ascii_case("all-linear") {
            return Ok(Some(Modules::AllLinear));
        }
        // The engine takes linear time; the limits keep its program small.
        let whole = RegexBuilder::new(&format!(r"\A(?:{pattern})\z"))
            .size_limit(1 << 20)
            .dfa_size_limit(1 << 20)
            .nest_limit(50)
            .build();
        match whole {
            Ok(regex) => Ok(Some(Modules::Pattern(regex))),
            Err(error) => {
                let reason = shortened(error.to_string().lines().last().unwrap_or_default());
                Err(self.wrong(
                    option,
                    format!("a regular expression without look-around or back-references ({reason})"),
                ))
            }
        }
    }

    /// The adapted places: PEFT's own rules over the modules of a Llama.
    fn places(&self, shape: &Shape) -> Result<BTreeSet<(usize, Site)>> {
        let option = "target_modules";
        let targets = self
            .modules(option)?
            .ok_or_else(|| self.wrong(option, "a list of modules"))?;
        let excluded = self.modules("exclude_modules")?;
        let layers = self.layers(shape)?;
        if layers.is_some() && !matches!(targets, Modules::Names(_)) {
            return Err(self.wrong("layers_to_transform", "null where `target_modules` is not a list"));
        }
        let is_target = |key: &str, layer: Option<usize>| {
            if excluded.as_ref().is_some_and(|excluded| excluded.matches(key)) {
                return false;
            }
            let listed = |names: &[String]| names.iter().any(|name| name == key);
            let whole = matches!(&targets, Modules::Names(names) if listed(names));
            let in_layers = layers
                .as_ref()
                .is_none_or(|layers| layer.is_some_and(|layer| layers.contains(&layer)));
            whole || (in_layers && targets.matches(key))
        };

        let mut places = BTreeSet::new();
        for key in [
            "model",
            "model.embed_tokens",
            "model.layers",
            "model.norm",
            "model.rotary_emb",
            "lm_head",
        ] {
            self.refuse_target(is_target(key, None), key)?;
        }
        for layer in 0..shape.n_layers {
            let block = format!("model.layers.{layer}");
            for key in [
                "",
                ".self_attn",
                ".mlp",
                ".mlp.act_fn",
                ".input_layernorm",
                ".post_attention_layernorm",
            ] {
                let key = format!("{block}{key}");
                self.refuse_target(is_target(&key, Some(layer)), &key)?;
            }
            let adapted = |site: &Site| is_target(&format!("{block}.{}", site.path()), Some(layer));
            places.extend(shape.sites.iter().filter(adapted).map(|site| (layer, site)));
        }
        if places.is_empty() {
            return Err(self.wrong(option, "a module of this model, such as \"q_proj\""));
        }
        Ok(places)
    }

    fn refuse_target(&self, is_target: bool, key: &str) -> Result<()> {
        // `all-linear` never means these.
        if !is_target || self.get("target_modules").is_some_and(|value| value == "all-linear") {
            return Ok(());
        }
        Err(self.wrong("target_modules", format!("linear maps of the blocks only, not `{key}`")))
    }

    fn layers(&self, shape: &Shape) -> Result<Option<BTreeSet<usize>>> {
        let patterns = match self.get("layers_pattern") {
            None => Vec::new(),
            Some(Value::String(pattern)) => vec![pattern.clone()],
            Some(Value::Array(values)) => self.strings("layers_pattern", values)?,
            Some(_) => return Err(self.wrong("layers_pattern", "\"layers\" or null")),
        };
        if patterns
            .iter()
            .any(|pattern| !pattern.is_empty() && pattern != "layers")
        {
            return Err(self.wrong("layers_pattern", "\"layers\" or null"));
        }
        let option = "layers_to_transform";
        let values = match self.get(option) {
            None => return Ok(None),
            Some(Value::Array(values)) if values.is_empty() => return Ok(None),
            Some(Value::Array(values)) => values.clone(),
            Some(value) => vec![value.clone()],
        };
        let block = |value: &Value| {
            value
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .filter(|&n| n < shape.n_layers)
        };
        let blocks: Option<_> = values.iter().map(block).collect();
        blocks
            .map(Some)
            .ok_or_else(|| self.wrong(option, format!("blocks below the model's {}", shape.n_layers)))
    }
}

impl Modules {
    /// Whether a module's path is one of these, by its end where names are given.
    fn matches(&self, key: &str) -> bool {
        match self {
            Self::Names(names) => names.iter().any(|name| {
                key.strip_suffix(name.as_str())
                    .is_some_and(|before| before.is_empty() || before.ends_with('.'))
            }),
            Self::AllLinear => key.ends_with("_proj"),
            Self::Pattern(regex) => regex.is_match(key),
        }
    }
}

fn shortened(text: &str) -> String {
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
