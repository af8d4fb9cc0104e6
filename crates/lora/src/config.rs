//! The shape of an adapter.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt;
use realign_core::{Shape, Site, Sites};
use realign_run::Seed;
use serde::{Deserialize, Serialize};

use crate::pattern::{Patterns, module_path};
use crate::{Adapter, Error, Lora, Result};

/// Rank and numerator of the scale of every adapted place.
pub(crate) type Sizes = BTreeMap<(usize, Site), (usize, f64)>;

/// Rank, scale and place of low-rank adapters (LoRA, Hu et al. 2021).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Inner width `r` of the adapters.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Ranks of the modules that an expression matches, by the end of their path; the first that does decides (PEFT's
    /// `rank_pattern`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rank_pattern: Vec<(String, usize)>,
    /// Numerators of the scale, likewise (PEFT's `alpha_pattern`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alpha_pattern: Vec<(String, f64)>,
    /// Scale by `alpha / sqrt(r)` instead of `alpha / r` (rsLoRA, Kalajdzievski 2023).
    pub rs_lora: bool,
    /// Share of the adapter's inputs that is zeroed while training.
    pub dropout: f64,
    /// The blocks that are adapted; `None` for all.
    pub layers: Option<Vec<usize>>,
    /// The linear maps that are adapted in each of these blocks; all seven stand for all that the model has.
    #[serde(with = "site_names")]
    pub sites: Vec<Site>,
}

impl LoraConfig {
    /// Adapters of this rank at all linear maps of all blocks, with `alpha = 2 · rank`, rsLoRA and no dropout.
    pub fn new(rank: usize) -> Self {
        Self {
            rank,
            alpha: 2.0 * rank as f64,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            rs_lora: true,
            dropout: 0.0,
            layers: None,
            sites: Site::ALL.to_vec(),
        }
    }

    /// With this numerator of the scale.
    pub fn with_alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// With (`alpha / sqrt(r)`) or without (`alpha / r`) rank stabilisation.
    pub fn with_rs_lora(mut self, rs_lora: bool) -> Self {
        self.rs_lora = rs_lora;
        self
    }

    /// With this share of the inputs zeroed while training.
    pub fn with_dropout(mut self, dropout: f64) -> Self {
        self.dropout = dropout;
        self
    }

    /// At these blocks only.
    pub fn with_layers(mut self, layers: impl IntoIterator<Item = usize>) -> Self {
        self.layers = Some(layers.into_iter().collect());
        self
    }

    /// At these linear maps only.
    pub fn with_sites(mut self, sites: impl IntoIterator<Item = Site>) -> Self {
        self.sites = sites.into_iter().collect();
        self
    }

    /// What the product `x A B` is multiplied by, where no pattern says otherwise.
    pub fn scale(&self) -> f64 {
        self.scale_of(self.rank, self.alpha)
    }

    pub(crate) fn scale_of(&self, rank: usize, alpha: f64) -> f64 {
        alpha / self.divisor(rank)
    }

    /// What `alpha` is divided by.
    pub(crate) fn divisor(&self, rank: usize) -> f64 {
        let rank = rank as f64;
        if self.rs_lora { rank.sqrt() } else { rank }
    }

    /// Rank and numerator of the scale of each place, whose module's path is `path`; the error names the field whose
    /// patterns are wrong, and what was expected.
    pub(crate) fn sizes(
        &self,
        places: impl IntoIterator<Item = (usize, Site)>,
        path: impl Fn(usize, Site) -> String,
    ) -> Result<Sizes, (&'static str, String)> {
        let ranks = Patterns::new(&self.rank_pattern).map_err(|e| ("rank_pattern", e))?;
        let alphas = Patterns::new(&self.alpha_pattern).map_err(|e| ("alpha_pattern", e))?;
        let size = |(layer, site)| {
            let path = path(layer, site);
            let rank = ranks.get(&path).unwrap_or(self.rank);
            let alpha = alphas.get(&path).unwrap_or(self.alpha);
            ((layer, site), (rank, alpha))
        };
        Ok(places.into_iter().map(size).collect())
    }

    /// Whether adapters of this configuration fit a model.
    ///
    /// # Errors
    /// [`Error::Config`] names the field that does not.
    pub fn check(&self, shape: &Shape) -> Result<()> {
        let widest = shape.d_model.max(shape.d_mlp).max(shape.n_heads * shape.d_head);
        if self.rank == 0 || self.rank > widest {
            return Err(Error::config(
                "rank",
                format!("1 to the model's largest width {widest}"),
                self.rank,
            ));
        }
        if !self.alpha.is_finite() {
            return Err(Error::config("alpha", "a finite number", self.alpha));
        }
        if let Some((pattern, rank)) = self.rank_pattern.iter().find(|(_, rank)| *rank == 0 || *rank > widest) {
            let expected = format!("1 to the model's largest width {widest} for `{pattern}`");
            return Err(Error::config("rank_pattern", expected, rank));
        }
        if let Some((pattern, alpha)) = self.alpha_pattern.iter().find(|(_, alpha)| !alpha.is_finite()) {
            return Err(Error::config(
                "alpha_pattern",
                format!("a finite number for `{pattern}`"),
                alpha,
            ));
        }
        self.sizes([], module_path)
            .map_err(|(field, expected)| Error::config(field, expected, "another"))?;
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::config("dropout", "at least 0 and below 1", self.dropout));
        }
        if self.sites.is_empty() {
            return Err(Error::config("sites", "at least one linear map", "none"));
        }
        // All of them is what nobody chose.
        if Sites::of(self.sites.iter().copied()) != Sites::ALL
            && let Some(site) = self.sites.iter().find(|&&site| !shape.sites.contains(site))
        {
            let expected = format!("linear maps that the model has ({})", shape.sites);
            return Err(Error::config("sites", expected, site));
        }
        let Some(layers) = &self.layers else { return Ok(()) };
        if let Some(layer) = layers.iter().find(|&&layer| layer >= shape.n_layers) {
            let expected = format!("blocks below the model's {}", shape.n_layers);
            return Err(Error::config("layers", expected, layer));
        }
        if layers.is_empty() {
            return Err(Error::config("layers", "at least one block", "none"));
        }
        Ok(())
    }

    /// The places that are adapted in a model, in order.
    pub(crate) fn places(&self, shape: &Shape) -> Vec<(usize, Site)> {
        let layers = self.layers.clone().unwrap_or_else(|| (0..shape.n_layers).collect());
        let mut places: Vec<_> = layers
            .iter()
            .flat_map(|&layer| self.sites.iter().map(move |&site| (layer, site)))
            .filter(|&(_, site)| shape.sites.contains(site))
            .collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// New adapters, which change nothing yet: `A` Kaiming-uniform as in PEFT (within `±1 / sqrt(d_in)`), `B` zero.
    ///
    /// The numbers come from the stream `lora.init`.
    ///
    /// # Panics
    /// Where [`Self::check`] finds an error; call it first on a configuration from outside.
    pub fn init(&self, shape: &Shape, seed: &Seed, device: &Device) -> Lora {
        if let Err(error) = self.check(shape) {
            panic!("LoraConfig::init for {shape:?}: {error}");
        }
        let mut rng = seed.stream("lora.init");
        let mut adapters = BTreeMap::new();
        let sizes = self
            .sizes(self.places(shape), module_path)
            .expect("patterns that `check` has compiled");
        for ((layer, site), (rank, alpha)) in sizes {
            let [d_in, d_out] = shape.linear(site);
            let bound = 1.0 / (d_in as f32).sqrt();
            let a: Vec<f32> = (0..d_in * rank)
                .map(|_| (2.0 * rng.random::<f32>() - 1.0) * bound)
                .collect();
            let a = Tensor::from_data(TensorData::new(a, [d_in, rank]), device);
            adapters.insert(
                (layer, site),
                Adapter {
                    a,
                    b: Tensor::zeros([rank, d_out], device),
                    scale: self.scale_of(rank, alpha),
                    dora: None,
                },
            );
        }
        Lora {
            config: self.clone(),
            adapters,
            saved: Vec::new(),
        }
    }
}

/// Sites as their modules' names.
mod site_names {
    use realign_core::Site;
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(sites: &[Site], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(sites.iter().map(|site| site.module()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Site>, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        names
            .iter()
            .map(|name| name.parse().map_err(D::Error::custom))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape {
            n_layers: 2,
            d_model: 8,
            n_heads: 2,
            n_kv_heads: 1,
            d_head: 4,
            d_mlp: 12,
            vocab: 16,
            context: 32,
            sites: Sites::ALL,
        }
    }

    #[test]
    fn the_scale_is_alpha_over_the_rank_or_its_root() {
        let config = LoraConfig::new(16);
        assert_eq!(config.scale(), 8.0);
        assert_eq!(config.with_rs_lora(false).scale(), 2.0);
    }

    #[test]
    fn a_model_without_a_gate_has_six_adapters_and_refuses_a_seventh_by_name() {
        let mut shape = shape();
        shape.sites = Sites::UNGATED;
        let lora = LoraConfig::new(3)
            .with_layers([1])
            .init(&shape, &Seed::new(1), &Device::flex());
        assert_eq!(lora.adapters.len(), 6);
        let error = LoraConfig::new(3).with_sites([Site::Q, Site::Gate]).check(&shape);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("sites") && error.contains("gate_proj"), "{error}");
    }

    #[test]
    fn a_is_within_its_bound_and_b_is_zero() {
        let config = LoraConfig::new(3).with_layers([1]);
        let lora = config.init(&shape(), &Seed::new(1), &Device::flex());
        assert_eq!(lora.adapters.len(), 7);
        for (&(layer, site), adapter) in &lora.adapters {
            let [d_in, d_out] = shape().linear(site);
            assert_eq!((layer, adapter.a.dims(), adapter.b.dims()), (1, [d_in, 3], [3, d_out]));
            let a = adapter.a.to_data().try_into_vec::<f32>().unwrap();
            let bound = 1.0 / (d_in as f32).sqrt();
            assert!(a.iter().all(|x| x.abs() <= bound) && a.iter().any(|x| x.abs() > bound / 2.0));
            assert!(
                adapter
                    .b
                    .to_data()
                    .try_into_vec::<f32>()
                    .unwrap()
                    .iter()
                    .all(|&x| x == 0.0)
            );
        }
    }

    #[test]
    fn a_configuration_survives_json_and_names_its_sites() {
        let config = LoraConfig::new(2)
            .with_sites([Site::Down])
            .with_layers([0, 1])
            .with_dropout(0.1);
        let text = serde_json::to_string(&config).unwrap();
        assert!(text.contains(r#""sites":["down_proj"]"#), "{text}");
        assert_eq!(serde_json::from_str::<LoraConfig>(&text).unwrap(), config);
        assert!(serde_json::from_str::<LoraConfig>(&text.replace("down_proj", "c_fc")).is_err());
    }

    fn with_pattern(pattern: &str, rank: usize, alpha: f64) -> LoraConfig {
        LoraConfig {
            rank_pattern: vec![(pattern.to_owned(), rank)],
            alpha_pattern: vec![(pattern.to_owned(), alpha)],
            ..LoraConfig::new(4)
        }
    }

    #[test]
    fn patterns_decide_rank_and_scale_of_their_modules() {
        let config = with_pattern("q_proj|mlp.*", 1, 3.0);
        let lora = config.init(&shape(), &Seed::new(1), &Device::flex());
        for (&(_, site), adapter) in &lora.adapters {
            let own = !matches!(site, Site::K | Site::V | Site::O);
            assert_eq!(adapter.a.dims()[1], if own { 1 } else { 4 }, "{site}");
            assert_eq!(adapter.scale, if own { 3.0 } else { 4.0 }, "{site}");
        }
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<LoraConfig>(&text).unwrap(), config);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let wrong = [
            (LoraConfig::new(0), "rank"),
            (LoraConfig::new(1_000_000_000), "rank"),
            (LoraConfig::new(1).with_alpha(f64::NAN), "alpha"),
            (LoraConfig::new(1).with_dropout(1.0), "dropout"),
            (with_pattern("(", 1, 1.0), "rank_pattern"),
            (with_pattern("q_proj", 0, 1.0), "rank_pattern"),
            (with_pattern("q_proj", 1, f64::INFINITY), "alpha_pattern"),
            (LoraConfig::new(1).with_sites([]), "sites"),
            (LoraConfig::new(1).with_layers([2]), "layers"),
            (LoraConfig::new(1).with_layers([]), "layers"),
        ];
        for (config, field) in wrong {
            let error = config.check(&shape()).unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }
}
