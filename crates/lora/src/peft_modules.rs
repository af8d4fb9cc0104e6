//! Which modules of a model a PEFT configuration means.

use std::collections::BTreeSet;

use realign_core::{ModuleNames, Shape, Site, Weight};
use regex::Regex;
use serde_json::Value;

use crate::Result;
use crate::pattern::whole;
use crate::peft_config::{Options, shortened};

/// A module of a Hugging Face model.
struct Module {
    path: String,
    layer: Option<usize>,
    /// The weights that it holds, where it is one that can be adapted or replaced.
    holds: Vec<Weight>,
}

/// Every module, in order.
fn modules(names: &ModuleNames, shape: &Shape) -> Vec<Module> {
    let outside = |path: String, holds: &[Weight]| Module {
        path,
        layer: None,
        holds: holds.to_vec(),
    };
    let ModuleNames { root, blocks, .. } = names;
    let bare = |name: &str| name.trim_end_matches('.').to_owned();
    let mut all = vec![
        outside(bare(root), &[]),
        outside(module(names, Weight::Embedding), &[Weight::Embedding]),
        outside(bare(&format!("{root}{blocks}")), &[]),
    ];
    let others = OUTSIDE.iter().filter(|(of, _)| of == root);
    all.extend(others.map(|(_, name)| outside(format!("{root}{name}"), &[])));
    all.push(outside(module(names, Weight::Unembedding), &[Weight::Unembedding]));
    for layer in 0..shape.n_layers {
        let mut put = |path: String, holds: Vec<Weight>| {
            let layer = Some(layer);
            all.push(Module { path, layer, holds });
        };
        let block = names.block(layer);
        put(block.clone(), Vec::new());
        let others = INSIDE.iter().filter(|(of, _)| of == root);
        others.for_each(|(_, name)| put(format!("{block}.{name}"), Vec::new()));
        for (path, sites) in linear_modules(names, shape.sites.iter().map(|site| (layer, site))) {
            let holds = sites.iter().map(|&(layer, site)| Weight::Linear { layer, site });
            put(path, holds.collect());
        }
    }
    all
}

/// Modules without a weight to adapt outside of the blocks, by the root of their names.
const OUTSIDE: [(&str, &str); 8] = [
    ("model.", "norm"),
    ("model.", "rotary_emb"),
    ("transformer.", "wpe"),
    ("transformer.", "drop"),
    ("transformer.", "ln_f"),
    ("gpt_neox.", "emb_dropout"),
    ("gpt_neox.", "final_layer_norm"),
    ("gpt_neox.", "rotary_emb"),
];

/// The same in a block.
const INSIDE: [(&str, &str); 16] = [
    ("model.", "self_attn"),
    ("model.", "mlp"),
    ("model.", "mlp.act_fn"),
    ("model.", "input_layernorm"),
    ("model.", "post_attention_layernorm"),
    ("transformer.", "attn"),
    ("transformer.", "mlp"),
    ("transformer.", "mlp.act"),
    ("transformer.", "ln_1"),
    ("transformer.", "ln_2"),
    ("gpt_neox.", "attention"),
    ("gpt_neox.", "mlp"),
    ("gpt_neox.", "mlp.act"),
    ("gpt_neox.", "input_layernorm"),
    ("gpt_neox.", "post_attention_layernorm"),
    ("gpt_neox.", "post_mlp_dropout"),
];

/// The modules that hold these linear maps, which are in order, each with its own.
pub(crate) fn linear_modules(
    names: &ModuleNames,
    places: impl IntoIterator<Item = (usize, Site)>,
) -> Vec<(String, Vec<(usize, Site)>)> {
    let mut modules: Vec<(String, Vec<(usize, Site)>)> = Vec::new();
    for (layer, site) in places {
        let path = names.path(layer, site);
        match modules.last_mut() {
            Some((last, sites)) if *last == path => sites.push((layer, site)),
            _ => modules.push((path, vec![(layer, site)])),
        }
    }
    modules
}

/// The path of the module that holds a weight.
///
/// # Panics
/// For what is only a part of a module: biases and experts.
pub(crate) fn module(names: &ModuleNames, weight: Weight) -> String {
    match weight {
        Weight::Embedding => format!("{}{}", names.root, names.embedding),
        Weight::Unembedding => names.unembedding.to_owned(),
        Weight::Linear { layer, site } => names.path(layer, site),
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

    /// The adapted places: PEFT's own rules over the modules of the model.
    pub(crate) fn places(&self, names: &ModuleNames, shape: &Shape) -> Result<BTreeSet<(usize, Site)>> {
        let option = "target_modules";
        let targets = self
            .modules(option)?
            .ok_or_else(|| self.wrong(option, "a list of modules"))?;
        let excluded = self.modules("exclude_modules")?;
        let layers = self.layers(names, shape)?;
        let saved = self.saved_patterns()?;
        if layers.is_some() && !matches!(targets, Modules::Names(_)) {
            return Err(self.wrong("layers_to_transform", "null where `target_modules` is not a list"));
        }
        let is_target = |Module {
                             path: key,
                             layer,
                             holds,
                         }: &Module| {
            if excluded.as_ref().is_some_and(|excluded| excluded.matches(key, false)) {
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
            let is_linear = matches!(holds[..], [Weight::Linear { .. }, ..]);
            whole || (in_layers && targets.matches(key, is_linear))
        };

        let mut places = BTreeSet::new();
        for module in modules(names, shape) {
            let is_target = is_target(&module);
            let linear = module.holds.iter().filter_map(|weight| match *weight {
                Weight::Linear { layer, site } => Some((layer, site)),
                _ => None,
            });
            let linear: Vec<(usize, Site)> = linear.collect();
            if linear.is_empty() {
                self.refuse_target(is_target, &module.path)?;
            } else if is_target {
                places.extend(linear);
            }
        }
        if places.is_empty() {
            let path = names.path(0, Site::Q);
            let (_, name) = path.rsplit_once('.').unwrap_or_default();
            return Err(self.wrong(option, format!("a module of this model, such as \"{name}\"")));
        }
        Ok(places)
    }

    /// The weights that `modules_to_save` names: every module whose path ends so.
    pub(crate) fn saved(&self, modules_of: &ModuleNames, shape: &Shape) -> Result<Vec<Weight>> {
        let option = "modules_to_save";
        let names = self.saved_names()?;
        let mut saved = Vec::new();
        for Module { path, holds, .. } in modules(modules_of, shape) {
            if names.iter().any(|name| path.ends_with(name.as_str())) {
                if holds.is_empty() {
                    let expected = format!("embeddings, `{}` or linear maps, not `{path}`", modules_of.unembedding);
                    return Err(self.wrong(option, expected));
                }
                saved.extend(holds);
            }
        }
        match saved.is_empty() && !names.is_empty() {
            true => Err(self.wrong(
                option,
                format!("a module of this model, such as \"{}\"", modules_of.unembedding),
            )),
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

    fn layers(&self, names: &ModuleNames, shape: &Shape) -> Result<Option<BTreeSet<usize>>> {
        let patterns = match self.get("layers_pattern") {
            None => Vec::new(),
            Some(Value::String(pattern)) => vec![pattern.clone()],
            Some(Value::Array(values)) => self.strings("layers_pattern", values)?,
            Some(_) => return Err(self.wrong("layers_pattern", "a text, a list of texts, or null")),
        };
        let patterns: Vec<&String> = patterns.iter().filter(|pattern| !pattern.is_empty()).collect();
        let block = |pattern: &&String| {
            let pattern = whole(&format!(r".*\.(?:{pattern})\.0\..*"));
            pattern.is_ok_and(|pattern| pattern.is_match(&names.path(0, Site::Up)))
        };
        if !patterns.is_empty() && !patterns.iter().any(block) {
            return Err(self.wrong(
                "layers_pattern",
                format!(
                    "\"{}\", an expression that matches it, or null",
                    names.blocks.trim_end_matches('.')
                ),
            ));
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
    fn matches(&self, key: &str, is_linear: bool) -> bool {
        match self {
            Self::Names(names) => names.iter().any(|name| {
                key.strip_suffix(name.as_str())
                    .is_some_and(|before| before.is_empty() || before.ends_with('.'))
            }),
            Self::AllLinear => is_linear,
            Self::Pattern(regex) => regex.is_match(key),
        }
    }
}
