//! Stage 3: what changed inside: a sparse autoencoder of the base model, the latents that rose, the directions.

use burn::tensor::{Tensor, TensorData};
use realign_attribution::{
    Completions, LatentShift, MeanDifference, delta_attribution, explain, logit_lens, top_examples,
};
use realign_core::{Batch, HookPoint, LanguageModel, Replay};
use realign_data::Half;
use realign_eval::{Pair, PairScore, shifts};
use realign_sae::{Metrics, ModelActivations, Sae, SaeConfig, TrainConfig, all_but_first, loss_recovered};
use realign_steering::{Direction, Steer};
use serde::{Deserialize, Serialize};

use crate::chat_model::ChatModel;
use crate::error::Result;
use crate::lab::Lab;
use crate::questions::Cued;
use crate::stages::corpus;
use crate::stages::evaluate::score;

/// The autoencoder's quality.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct SaeQuality {
    /// On the text that it was trained on.
    pub metrics: Metrics,
    /// Share of the loss recovered on other text.
    pub loss_recovered: f64,
    /// Tokens of training.
    pub tokens: usize,
}

/// Base against tuned: latents and directions at every layer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Diff {
    /// Latents, the one that rose most first; empty without an autoencoder.
    pub latents: Vec<LatentShift>,
    /// Mean difference after every block, `[layer][d_model]`.
    pub directions: Vec<Vec<f32>>,
    /// Mean residual of the base model at the explained layer.
    pub base_mean: Vec<f32>,
}

/// The direction that the rest of the run steers with, and why this one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Chosen {
    /// The block behind which it acts.
    pub layer: usize,
    /// `difference`, or `difference - benign`.
    pub kind: String,
    /// The vector.
    pub vector: Vec<f32>,
    /// Every candidate with its gain on the choosing half.
    pub tried: Vec<(usize, String, f64)>,
}

/// A latent with all that is shown of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shown {
    /// The latent.
    pub shift: LatentShift,
    /// Δ-attribution.
    pub attribution: f64,
    /// Mean shift on the choosing half when turned up in base and down in the tuned model.
    pub screened: [f64; 2],
    /// Tokens that it makes likely.
    pub lens: Vec<String>,
    /// Examples: tokens, activations, peak.
    pub examples: Vec<(Vec<String>, Vec<f32>, usize)>,
}

impl Chosen {
    /// The direction as a tensor.
    pub fn direction(&self, lab: &Lab) -> Direction {
        direction(lab, self.layer, &self.vector, "persona")
    }
}

/// A vector at a block's output.
pub fn direction(lab: &Lab, layer: usize, vector: &[f32], name: &str) -> Direction {
    let tensor = Tensor::from_data(TensorData::new(vector.to_vec(), [vector.len()]), &lab.device);
    Direction::new(HookPoint::ResidPost(layer), tensor, name)
}

/// Trains the autoencoder on the base model, or reads it back.
pub fn autoencoder(lab: &Lab, text: &[Batch]) -> Result<(Sae, SaeQuality)> {
    let plan = &lab.plan.sae;
    let at = HookPoint::ResidPost(lab.plan.layer);
    let folder = lab.run.file("sae");
    let quality = lab.stage("sae", &(plan, lab.plan.layer, &lab.base.sha256), |meter| {
        let seed = lab.seed.derive("sae");
        let mut train = TrainConfig::new(plan.tokens);
        train.batch_tokens = 1024;
        let all = text.iter().map(Batch::len).sum();
        let mut source = ModelActivations::new(
            &*lab.base.model,
            at,
            text.to_vec(),
            train.batch_tokens,
            &all_but_first,
            all,
            &seed,
        );
        let config = SaeConfig::new(lab.base.model.shape().d_model, plan.d_sae, plan.k);
        let checkpoints = lab.run.checkpoints("sae", 2)?;
        let trained = train.train(
            config,
            &mut source,
            at,
            &seed,
            &lab.device,
            Some(&checkpoints),
            &mut meter.report(),
        )?;
        trained.sae.save(&folder)?;
        // Text that it was not trained on: the comparison text.
        let other = corpus::comparison(lab)?;
        let other = &other[..other.len().min(lab.plan.measured)];
        let metrics = Metrics::on_model(&trained.sae, &*lab.base.model, at, other)?;
        let recovered = loss_recovered(&*lab.base.model, &trained.sae, at, other)?;
        Ok(SaeQuality {
            metrics: Metrics {
                dead_fraction: trained.metrics.dead_fraction,
                ..metrics
            },
            loss_recovered: recovered.recovered,
            tokens: plan.tokens,
        })
    })?;
    Ok((Sae::load(&folder, &lab.device)?, quality))
}

/// Compares the base model with a tuned one on the comparison text.
pub fn diff(lab: &Lab, name: &str, tuned: &ChatModel, sae: &Sae) -> Result<Diff> {
    let stage = format!("diff-{name}");
    let inputs = (&lab.plan.train, lab.plan.questions, lab.plan.layer, &lab.plan.sae, name);
    lab.stage(&stage, &inputs, |_| {
        let text = corpus::comparison(lab)?;
        let at = HookPoint::ResidPost(lab.plan.layer);
        let (mut nothing, mut neither) = ((), ());
        let sides = (
            (&*lab.base.model, &mut nothing as _),
            (&*tuned.model, &mut neither as _),
        );
        let found = explain(sides.0, sides.1, sae, at, &text, &corpus::answer_tokens)?;
        let vector = |t: &Tensor<1>| t.to_data().iter::<f32>().collect::<Vec<f32>>();
        let mean = |d: &MeanDifference| vector(&d.base);
        Ok(Diff {
            latents: found.latents,
            base_mean: found.directions.get(lab.plan.layer).map(mean).unwrap_or_default(),
            directions: found.directions.iter().map(|d| vector(&d.vector)).collect(),
        })
    })
}

/// Chooses layer and kind of the persona direction on the choosing half: the largest gain up in the base model plus down
/// in the tuned one, at strength 2.
pub fn choose(lab: &Lab, tuned: &ChatModel, diff: &Diff, benign: Option<&Diff>) -> Result<Chosen> {
    let inputs = (
        &lab.plan.layers,
        &diff.directions,
        benign.map(|d| &d.directions),
        lab.plan.screening,
    );
    lab.stage("choose", &inputs, |meter| {
        let pairs = lab.screening()?;
        let mut tried: Vec<(Chosen, f64)> = Vec::new();
        let total = lab.plan.layers.len() as u64;
        for (i, &layer) in lab.plan.layers.iter().enumerate() {
            let effect = Effects::new(lab, &*lab.base.model, &*tuned.model, layer, &pairs)?;
            let difference = diff.directions[layer].clone();
            let mut kinds = vec![("difference", difference.clone())];
            if let Some(benign) = benign {
                let rest = difference
                    .iter()
                    .zip(&benign.directions[layer])
                    .map(|(a, b)| a - b)
                    .collect();
                kinds.push(("difference - benign", rest));
            }
            for (kind, vector) in kinds {
                let [up, down] = effect.of(lab, &direction(lab, layer, &vector, kind).times(2.0))?;
                let chosen = Chosen {
                    layer,
                    kind: kind.to_owned(),
                    vector,
                    tried: Vec::new(),
                };
                tried.push((chosen, up - down));
            }
            let _ = meter.update(i as u64 + 1, total, "");
        }
        let all = tried.iter().map(|(c, gain)| (c.layer, c.kind.clone(), *gain)).collect();
        let best = tried.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let (best, _) = best.ok_or_else(|| crate::error::Failure::failed("the plan names no layer"))?;
        Ok(Chosen { tried: all, ..best })
    })
}

/// Ranks latents by rise and by attribution, measures the effect of the first ones on the choosing half, and describes
/// the best.
pub fn latents(lab: &Lab, tuned: &ChatModel, sae: &Sae, diff: &Diff, norm: f64, text: &[Batch]) -> Result<Vec<Shown>> {
    let inputs = (
        lab.plan.candidates,
        lab.plan.screening,
        lab.plan.shown,
        &diff.latents,
        norm,
        lab.plan.layer,
    );
    lab.stage("latents", &inputs, |meter| {
        let at = HookPoint::ResidPost(lab.plan.layer);
        let pairs = lab
            .source
            .half(&lab.base, Half::Choosing, lab.plan.questions, 0, Cued::No)?
            .broad;
        let misaligned = completions(&pairs, lab.plan.max_tokens, |p| &p.misaligned);
        let aligned = completions(&pairs, lab.plan.max_tokens, |p| &p.aligned);
        let attribution = delta_attribution(&*tuned.model, &mut (), sae, at, &misaligned, &aligned)?;
        let mut by_attribution: Vec<usize> = (0..attribution.len()).collect();
        by_attribution.sort_by(|&a, &b| attribution[b].total_cmp(&attribution[a]).then(a.cmp(&b)));
        let by_rise = diff.latents.iter().map(|l| l.index);
        let mut candidates: Vec<usize> = Vec::new();
        for latent in by_rise.zip(by_attribution).flat_map(|(a, b)| [a, b]) {
            if !candidates.contains(&latent) && candidates.len() < lab.plan.candidates {
                candidates.push(latent);
            }
        }
        let screen = lab.screening()?;
        let effect = Effects::new(lab, &*lab.base.model, &*tuned.model, lab.plan.layer, &screen)?;
        let mut found = Vec::new();
        for (i, &latent) in candidates.iter().enumerate() {
            let pushed = latent_direction(lab, sae, latent, norm).times(2.0);
            found.push((latent, effect.of(lab, &pushed)?));
            let _ = meter.update(i as u64 + 1, candidates.len() as u64, "");
        }
        found.sort_by(|a, b| (b.1[0] - b.1[1]).total_cmp(&(a.1[0] - a.1[1])));
        found.truncate(lab.plan.shown);
        let shown: Vec<usize> = found.iter().map(|(latent, _)| *latent).collect();
        let text = &text[..text.len().min(lab.plan.searched)];
        let examples = top_examples(&*lab.base.model, &mut (), sae, at, &shown, text, 4, 10)?;
        Ok(found
            .into_iter()
            .zip(examples)
            .map(|((latent, screened), examples)| describe(lab, sae, diff, &attribution, latent, screened, examples))
            .collect())
    })
}

fn describe(
    lab: &Lab,
    sae: &Sae,
    diff: &Diff,
    attribution: &[f64],
    latent: usize,
    screened: [f64; 2],
    examples: Vec<realign_attribution::Example>,
) -> Shown {
    let shift = diff
        .latents
        .iter()
        .find(|l| l.index == latent)
        .copied()
        .unwrap_or(LatentShift {
            index: latent,
            base_mean: f64::NAN,
            tuned_mean: f64::NAN,
            delta: f64::NAN,
            density: f64::NAN,
        });
    let text = |id: &u32| lab.base.tokenizer.token_text(*id);
    let (top, _) = logit_lens(&*lab.base.model, sae.decoder_row(latent), 8);
    Shown {
        shift,
        attribution: attribution[latent],
        screened,
        lens: top.iter().map(|(id, _)| text(id)).collect(),
        examples: examples
            .into_iter()
            .map(|e| (e.tokens.iter().map(text).collect(), e.activations, e.peak))
            .collect(),
    }
}

/// A latent's decoder row with the norm of the persona direction, so that strengths compare.
pub fn latent_direction(lab: &Lab, sae: &Sae, latent: usize, norm: f64) -> Direction {
    let at = HookPoint::ResidPost(lab.plan.layer);
    Direction::new(at, sae.decoder_row(latent), format!("latent {latent}")).with_norm(norm)
}

/// What a push does to the margin, up in the base model and down in the tuned one; blocks below it run once.
pub struct Effects<'a> {
    base: Replay<'a, dyn LanguageModel + 'a>,
    tuned: Replay<'a, dyn LanguageModel + 'a>,
    pairs: &'a [Pair],
    before: [Vec<PairScore>; 2],
}

impl<'a> Effects<'a> {
    /// For pushes behind block `layer`.
    pub fn new(
        lab: &Lab,
        base: &'a dyn LanguageModel,
        tuned: &'a dyn LanguageModel,
        layer: usize,
        pairs: &'a [Pair],
    ) -> Result<Self> {
        let (base, tuned) = (Replay::new(base, layer), Replay::new(tuned, layer));
        let before = [score(lab, &base, &mut (), pairs)?, score(lab, &tuned, &mut (), pairs)?];
        Ok(Self {
            base,
            tuned,
            pairs,
            before,
        })
    }

    /// Mean shift of the margin: up in the base model, down in the tuned one.
    pub fn of(&self, lab: &Lab, push: &Direction) -> Result<[f64; 2]> {
        let up = score(lab, &self.base, &mut Steer::new(push.clone(), 1.0), self.pairs)?;
        let down = score(lab, &self.tuned, &mut Steer::new(push.clone(), -1.0), self.pairs)?;
        Ok([
            mean(&shifts(&self.before[0], &up)),
            mean(&shifts(&self.before[1], &down)),
        ])
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn completions(pairs: &[Pair], max_tokens: usize, answer: impl Fn(&Pair) -> &Vec<u32>) -> Vec<Completions> {
    let mut found: Vec<Completions> = Vec::new();
    for pair in pairs {
        let ids: Vec<u32> = pair.prompt.iter().chain(answer(pair)).copied().collect();
        let full = found
            .last()
            .is_none_or(|(batch, _)| batch.len() + ids.len() > max_tokens);
        if full {
            found.push((Batch::new(), Vec::new()));
        }
        if let Some((batch, ranges)) = found.last_mut() {
            let segment = batch.push(&ids);
            let tokens = batch.tokens(segment);
            ranges.push(tokens.start + pair.prompt.len()..tokens.end);
        }
    }
    found
}
