//! What changed inside: the autoencoder, the latents' cards, the directions.

use super::picture::Picture;
use crate::figure::{Hue, Lines, Series};
use crate::number::{self, Unit};
use crate::results::{Example, Figure, Results};
use crate::text::{visible, visible_line};

const MOST_CARDS: usize = 12;
const MOST_EXAMPLES: usize = 6;
const MOST_TOKENS: usize = 96;

/// One latent.
pub(super) struct Card {
    pub(super) index: String,
    pub(super) facts: Vec<(&'static str, String)>,
    pub(super) lens: Vec<String>,
    pub(super) examples: Vec<Vec<Token>>,
}

/// One token of an example.
pub(super) struct Token {
    pub(super) text: String,
    /// Activation over the example's largest, from 0 to 1.
    pub(super) heat: String,
    pub(super) tip: String,
    pub(super) peak: bool,
}

/// The cards of the first latents.
pub(super) fn cards(results: &Results) -> Vec<Card> {
    let shift = |f: &Option<Figure>| f.as_ref().map(|f| Unit::Shift.figure(f));
    let cards = results.latents.iter().take(MOST_CARDS).map(|latent| {
        let density = latent.density.filter(|d| d.is_finite());
        let facts = [
            ("Turned up in the base", shift(&latent.effect_up)),
            ("Turned down in the organism", shift(&latent.effect_down)),
            (
                "Rose by",
                latent.delta.is_finite().then(|| number::signed(latent.delta)),
            ),
            ("Δ-attribution", latent.attribution.map(number::signed)),
            (
                "Active on",
                density.map(|d| format!("{} % of tokens", number::plain(100.0 * d))),
            ),
        ];
        Card {
            index: latent.index.to_string(),
            facts: facts.into_iter().filter_map(|(k, v)| Some((k, v?))).collect(),
            lens: latent.logit_lens_top.iter().take(12).map(|t| visible_line(t)).collect(),
            examples: latent.top_examples.iter().take(MOST_EXAMPLES).map(tokens).collect(),
        }
    });
    cards.collect()
}

/// The tokens around the peak, each with its heat.
fn tokens(example: &Example) -> Vec<Token> {
    let activation = |i: usize| example.activations.get(i).copied().unwrap_or(f64::NAN);
    let largest = (0..example.tokens.len())
        .map(activation)
        .filter(|a| a.is_finite())
        .fold(0.0, f64::max);
    let last = example.tokens.len().saturating_sub(MOST_TOKENS);
    let first = example.peak.saturating_sub(MOST_TOKENS / 2).min(last);
    let shown = example.tokens.iter().enumerate().skip(first).take(MOST_TOKENS);
    let token = |(i, text): (usize, &String)| {
        let a = activation(i);
        let heat = if a > 0.0 && largest > 0.0 { a / largest } else { 0.0 };
        Token {
            text: visible(text),
            heat: format!("{heat:.2}"),
            tip: if a.is_finite() { number::plain(a) } else { String::new() },
            peak: i == example.peak,
        }
    };
    shown.map(token).collect()
}

/// The autoencoder's figures.
pub(super) fn sae(results: &Results) -> Vec<(&'static str, String)> {
    let Some(sae) = &results.sae else {
        return Vec::new();
    };
    vec![
        ("Layer", sae.layer.to_string()),
        ("Latents", number::count(sae.d_sae as u64)),
        ("Active at a time (k)", sae.k.to_string()),
        ("Training tokens", number::count(sae.tokens)),
        ("Variance unexplained", number::share(sae.fvu)),
        ("Mean active (L0)", number::plain(sae.l0)),
        ("Dead latents", number::share(sae.dead)),
        ("Loss recovered", number::share(sae.loss_recovered)),
    ]
}

/// The direction's norm by layer, with its cosine to the benign arm's where it was measured.
pub(super) fn directions(results: &Results) -> Option<Picture> {
    let directions = results.directions.as_ref()?;
    if directions.per_layer.len() < 2 {
        return None;
    }
    let exact = |mean| Figure {
        mean,
        lo: mean,
        hi: mean,
        n: 1,
    };
    let series = |label: &str, hue, of: &dyn Fn(&crate::LayerDirection) -> f64| Series {
        label: label.to_owned(),
        hue,
        points: directions
            .per_layer
            .iter()
            .map(|l| (l.layer as f64, exact(of(l))))
            .collect(),
    };
    let largest = directions.per_layer.iter().map(|l| l.norm).fold(0.0, f64::max);
    let mut all = vec![series("norm, share of the largest", Hue::Organism, &|l| {
        l.norm / largest
    })];
    if directions.per_layer.iter().any(|l| l.cosine.is_some()) {
        all.push(series("cosine with the benign arm’s", Hue::Benign, &|l| {
            l.cosine.unwrap_or(f64::NAN)
        }));
    }
    let chart = Lines {
        title: "Mean-difference direction by layer".to_owned(),
        x: "layer".to_owned(),
        y: "norm and cosine".to_owned(),
        unit: Unit::Plain,
        series: all,
        references: Vec::new(),
    };
    let caption = format!(
        "The mean difference between organism and base at every layer. Layer {} is the one steered \
         with; its norm there is {}.",
        directions.layer,
        number::plain(directions.norm)
    );
    Some(Picture::lines("directions", &caption, &chart))
}
