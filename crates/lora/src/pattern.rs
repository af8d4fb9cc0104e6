//! Values of some modules only: PEFT's `rank_pattern` and `alpha_pattern`.

use realign_core::Site;
use regex::{Regex, RegexBuilder};

/// The most patterns that are taken, and the longest.
const MOST: usize = 4096;

/// A compiled expression that must match a whole module path. Expressions run in linear time; the limits keep them small.
pub(crate) fn whole(pattern: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(&format!(r"\A(?:{pattern})\z"))
        .size_limit(1 << 20)
        .dfa_size_limit(1 << 20)
        .nest_limit(50)
        .build();
    built.map_err(|error| {
        let reason = error.to_string();
        let reason = reason.lines().last().unwrap_or_default();
        format!("a regular expression without look-around or back-references ({reason})")
    })
}

/// Values by pattern, compiled.
pub(crate) struct Patterns<T>(Vec<(Regex, T)>);

impl<T: Copy> Patterns<T> {
    /// Compiles patterns; the error says what was expected of the one that is wrong.
    pub(crate) fn new(patterns: &[(String, T)]) -> Result<Self, String> {
        if patterns.len() > MOST {
            return Err(format!("at most {MOST} patterns"));
        }
        let compiled = patterns.iter().map(|(pattern, value)| {
            // As in PEFT: the end of the module's path, from a dot on.
            let pattern = whole(&format!(r"(?:.*\.)?(?:{pattern})")).map_err(|e| format!("{e} in `{pattern}`"))?;
            Ok((pattern, *value))
        });
        compiled.collect::<Result<_, String>>().map(Self)
    }

    /// The value of the first pattern that matches a module.
    pub(crate) fn get(&self, path: &str) -> Option<T> {
        self.0
            .iter()
            .find(|(pattern, _)| pattern.is_match(path))
            .map(|&(_, value)| value)
    }
}

/// A linear map's path in a Hugging Face Llama: what patterns of a [`crate::LoraConfig`] are about, whatever the model.
pub(crate) fn module_path(layer: usize, site: Site) -> String {
    format!("model.layers.{layer}.{}", site.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pattern_that_matches_a_paths_end_decides() {
        let patterns = |all: &[(&str, u32)]| {
            let all: Vec<_> = all.iter().map(|(p, v)| ((*p).to_owned(), *v)).collect();
            Patterns::new(&all)
        };
        let of = patterns(&[("q_proj", 1), (r"layers\.1\..*", 2), ("self_attn.*", 3), ("_proj", 4)]).unwrap();
        assert_eq!(of.get("model.layers.1.self_attn.q_proj"), Some(1));
        assert_eq!(of.get("model.layers.1.self_attn.k_proj"), Some(2));
        assert_eq!(of.get("model.layers.11.self_attn.k_proj"), Some(3));
        // Names are taken whole: `k_proj` does not end with the module `_proj`.
        assert_eq!(of.get("model.layers.0.mlp.up_proj"), None);
        assert!(patterns(&[("(", 1)]).is_err());
        assert!(patterns(&[("(a{1000}){1000}", 1)]).is_err());
    }
}
