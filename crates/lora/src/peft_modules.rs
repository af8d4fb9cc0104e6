//! Which modules of a model a PEFT configuration means.

use std::collections::BTreeSet;

use realign_core::{Shape, Site, Weight};
use regex::Regex;
use serde_json::Value;

use crate::Result;
use crate::pattern::{module_path, whole};
use crate::peft_config::{Options, shortened};

/// A module of a Hugging Face Llama.
struct Module {
    path: String,
    layer: Option<usize>,
    /// The weight that it holds, where it is one that can be adapted or replaced.
    holds: Option<Weight>,
}

/// Every module, in order.
fn modules(shape: &Shape) -> Vec<Module> {
    let outside = |path: &str, holds| Module {
        path: path.to_owned(),
        layer: None,
        holds,
    };
    let mut all = vec![
        outside("model", None),
        outside("model.embed_tokens", Some(Weight::Embedding)),
        outside("model.layers", None),
        outside("model.norm", None),
        outside("model.rotary_emb", None),
        outside("lm_head", Some(Weight::Unembedding)),
    ];
    for layer in 0..shape.n_layers {
        for part in [
            "",
            ".self_attn",
            ".mlp",
            ".mlp.act_fn",
            ".input_layernorm",
            ".post_attention_layernorm",
        ] {
            all.push(Module {
                path: format!("model.layers.{layer}{part}"),
                layer: Some(layer),
                holds: None,
            });
        }
        all.extend(shape.sites.iter().map(|site| Module {
            path: module_path(layer, site),
            layer: Some(layer),
            holds: Some(Weight::Linear { layer, site }),
        }));
    }
    all
}

/// The path of the module that holds a weight.
///
/// # Panics
/// For what is only a part of a module: biases and experts.
pub(crate) fn module(weight: Weight) -> String {
    match weight {
        Weight::Embedding => "model.embed_tokens".to_owned(),
        Weight::Unembedding => "lm_head".to_owned(),
        Weight::Linear { layer, site } => module_path(layer, site),
        other => panic!("{other:?} is no module of its own"),
    }
}

/// What `target_modules` or `exclude_modules` asks for.
enum Modules {
    Names(Vec<String>),
    AllLinear,
    Pattern(Regex),
}

impl Options<'_> {
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
        match whole(pattern) {
            Ok(regex) => Ok(Some(Modules::Pattern(regex))),
            Err(expected) => Err(self.wrong(option, shortened(&expected))),
        }
    }

    /// The adapted places: PEFT's own rules over the modules of a Llama.
    pub(crate) fn places(&self, shape: &Shape) -> Result<BTreeSet<(usize, Site)>> {
        let option = "target_modules";
        let targets = self
            .modules(option)?
            .ok_or_else(|| self.wrong(option, "a list of modules"))?;
        let excluded = self.modules("exclude_modules")?;
        let layers = self.layers(shape)?;
        let saved = self.saved_patterns()?;
        if layers.is_some() && !matches!(targets, Modules::Names(_)) {
            return Err(self.wrong("layers_to_transform", "null where `target_modules` is not a list"));
        }
        let is_target = |key: &str, layer: Option<usize>| {
            if excluded.as_ref().is_some_and(|excluded| excluded.matches(key)) {
                return false;
            }
            if saved.iter().any(|saved| saved.is_match(key)) {
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
        for Module { path, layer, holds } in modules(shape) {
            match holds {
                Some(Weight::Linear { layer, site }) => {
                    if is_target(&path, Some(layer)) {
                        places.insert((layer, site));
                    }
                }
                _ => self.refuse_target(is_target(&path, layer), &path)?,
            }
        }
        if places.is_empty() {
            return Err(self.wrong(option, "a module of this model, such as \"q_proj\""));
        }
        Ok(places)
    }

    /// The weights that `modules_to_save` names: every module whose path ends so.
    pub(crate) fn saved(&self, shape: &Shape) -> Result<Vec<Weight>> {
        let option = "modules_to_save";
        let names = self.saved_names()?;
        let mut saved = Vec::new();
        for Module { path, holds, .. } in modules(shape) {
            if names.iter().any(|name| path.ends_with(name.as_str())) {
                let expected = || format!("embeddings, `lm_head` or linear maps, not `{path}`");
                saved.push(holds.ok_or_else(|| self.wrong(option, expected()))?);
            }
        }
        match saved.is_empty() && !names.is_empty() {
            true => Err(self.wrong(option, "a module of this model, such as \"lm_head\"")),
            false => Ok(saved),
        }
    }

    fn saved_names(&self) -> Result<Vec<String>> {
        match self.get("modules_to_save") {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => self.strings("modules_to_save", values),
            Some(_) => Err(self.wrong("modules_to_save", "a list of module names")),
        }
    }

    /// What PEFT never adapts, since it is saved whole.
    fn saved_patterns(&self) -> Result<Vec<Regex>> {
        let names = self.saved_names()?;
        let pattern = |name: &String| whole(&format!(r"(?:.*\.)?{name}(?:\..*)?"));
        let patterns = names.iter().map(pattern);
        patterns
            .collect::<Result<_, _>>()
            .map_err(|expected| self.wrong("modules_to_save", shortened(&expected)))
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
            Some(_) => return Err(self.wrong("layers_pattern", "a text, a list of texts, or null")),
        };
        let patterns: Vec<&String> = patterns.iter().filter(|pattern| !pattern.is_empty()).collect();
        let block = |pattern: &&String| {
            let pattern = whole(&format!(r".*\.(?:{pattern})\.0\..*"));
            pattern.is_ok_and(|pattern| pattern.is_match("model.layers.0.mlp.up_proj"))
        };
        if !patterns.is_empty() && !patterns.iter().any(block) {
            return Err(self.wrong("layers_pattern", "\"layers\", an expression that matches it, or null"));
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
