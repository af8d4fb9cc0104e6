//! The probe: logistic regression on the base model's activations.

use realign_core::{HookPoint, LanguageModel, Record};

use crate::encode::Encode;
use crate::log_prob::{fitting, floats};
use crate::logistic::Logistic;
use crate::tree::{Tree, groups};
use crate::{Error, Judge, Judged, Result};

/// How a probe reads and learns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProbeConfig {
    /// The block whose output it reads.
    pub layer: usize,
    /// Weight of the L2 penalty on standardised features.
    pub l2: f64,
    /// Most tokens in a packed batch.
    pub max_tokens: usize,
}

impl ProbeConfig {
    /// A probe of the residual stream after block `layer`.
    pub fn new(layer: usize) -> Self {
        Self {
            layer,
            l2: 10.0,
            max_tokens: 4096,
        }
    }

    /// Sets the weight of the L2 penalty.
    pub fn with_l2(mut self, l2: f64) -> Self {
        self.l2 = l2;
        self
    }

    /// Sets the most tokens in a packed batch.
    pub fn with_max_tokens(mut self, max_tokens: usize) -> Self {
        self.max_tokens = max_tokens;
        self
    }
}

/// Scores an answer by the log odds that logistic regression gives to the base model's mean residual over its tokens.
///
/// Train it on answers that are neither calibrated on nor judged. Empty answers have no score; what passes the model's
/// context is not read.
#[derive(Clone)]
pub struct Probe<'a> {
    model: &'a dyn LanguageModel,
    encode: &'a dyn Encode,
    config: ProbeConfig,
    id: String,
    mean: Vec<f64>,
    deviation: Vec<f64>,
    logistic: Logistic,
}

impl std::fmt::Debug for Probe<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe")
            .field("id", &self.id)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl<'a> Probe<'a> {
    /// Trains on labelled answers (`true`: misaligned); empty answers are left out.
    ///
    /// # Errors
    /// [`Error::OneLabel`] unless there are answers of both kinds, [`Error::NotFinite`] where the model breaks down.
    ///
    /// # Panics
    /// If the model has no such layer or `l2` is not above 0.
    pub fn train(
        model: &'a dyn LanguageModel,
        encode: &'a dyn Encode,
        config: ProbeConfig,
        labelled: &[(Judged, bool)],
    ) -> Result<Self> {
        let items: Vec<&Judged> = labelled.iter().map(|(item, _)| item).collect();
        let features = features(model, encode, &config, &items)?;
        let (rows, labels): (Vec<Vec<f64>>, Vec<bool>) = features
            .into_iter()
            .zip(labelled)
            .filter_map(|(row, (_, label))| Some((row?, *label)))
            .unzip();
        let misaligned = labels.iter().filter(|&&label| label).count();
        let aligned = labels.len() - misaligned;
        if misaligned == 0 || aligned == 0 {
            return Err(Error::OneLabel {
                what: "probe",
                misaligned,
                aligned,
            });
        }
        let n = rows.len() as f64;
        let d = model.shape().d_model;
        let mean: Vec<f64> = (0..d).map(|j| rows.iter().map(|row| row[j]).sum::<f64>() / n).collect();
        let variance = |j: usize| rows.iter().map(|row| (row[j] - mean[j]).powi(2)).sum::<f64>() / n;
        // A constant column tells nothing and must not divide by zero.
        let deviation: Vec<f64> = (0..d).map(|j| variance(j).sqrt().max(1e-9)).collect();
        let id = format!("probe-v1-layer-{}", config.layer);
        let logistic = Logistic {
            weights: Vec::new(),
            bias: 0.0,
        };
        let mut probe = Self {
            model,
            encode,
            config,
            id,
            mean,
            deviation,
            logistic,
        };
        let rows: Vec<Vec<f64>> = rows.iter().map(|row| probe.standardised(row)).collect();
        probe.logistic = Logistic::fit(&rows, &labels, config.l2);
        Ok(probe)
    }

    /// The direction `[d_model]` of the stream along which the score rises, for a [`crate::Monitor`].
    pub fn direction(&self) -> Vec<f32> {
        self.logistic
            .weights
            .iter()
            .zip(&self.deviation)
            .map(|(w, s)| (w / s) as f32)
            .collect()
    }

    fn standardised(&self, row: &[f64]) -> Vec<f64> {
        row.iter()
            .zip(&self.mean)
            .zip(&self.deviation)
            .map(|((x, mean), s)| (x - mean) / s)
            .collect()
    }
}

impl Judge for Probe<'_> {
    fn id(&self) -> &str {
        &self.id
    }

    fn score(&mut self, items: &[Judged]) -> Result<Vec<Option<f64>>> {
        let items: Vec<&Judged> = items.iter().collect();
        let features = features(self.model, self.encode, &self.config, &items)?;
        let score = |row: Option<Vec<f64>>| row.map(|row| self.logistic.log_odds(&self.standardised(&row)));
        Ok(features.into_iter().map(score).collect())
    }
}

/// Mean residual after the layer over each answer's tokens; none for an empty answer.
fn features(
    model: &dyn LanguageModel,
    encode: &dyn Encode,
    config: &ProbeConfig,
    items: &[&Judged],
) -> Result<Vec<Option<Vec<f64>>>> {
    let at = HookPoint::ResidPost(config.layer);
    let n_layers = model.shape().n_layers;
    assert!(
        config.layer < n_layers,
        "probe: layer {}, but the model has {n_layers}",
        config.layer
    );
    let answers: Vec<Vec<u32>> = items.iter().map(|item| encode.answer(&item.answer)).collect();
    let prompts: Vec<Vec<u32>> = items.iter().map(|item| encode.prompt(None, &item.question)).collect();
    let (asked, sequences): (Vec<usize>, Vec<Vec<u32>>) = (0..items.len())
        .filter_map(|i| {
            Some((
                i,
                [&prompts[i][..], fitting(model, prompts[i].len(), &answers[i])?].concat(),
            ))
        })
        .unzip();
    let mut features = vec![None; items.len()];
    for group in groups(&sequences, config.max_tokens) {
        let sorted: Vec<&[u32]> = group.iter().map(|&s| &sequences[s][..]).collect();
        let tree = Tree::new(&sorted);
        let mut record = Record::new([at]);
        model.watch(&tree.batch, &mut record);
        let stream = record.take(at).expect("watch reaches the layer that its hook wants");
        let d = stream.dims()[1];
        let stream = floats(stream);
        for (&s, path) in group.iter().zip(&tree.paths) {
            let i = asked[s];
            let tokens = &path[prompts[i].len()..];
            let mut mean = vec![0.0; d];
            for &token in tokens {
                for (m, &x) in mean.iter_mut().zip(&stream[token * d..][..d]) {
                    *m += f64::from(x) / tokens.len() as f64;
                }
            }
            if mean.iter().any(|m| !m.is_finite()) {
                return Err(Error::NotFinite {
                    layer: config.layer,
                    answer: i,
                });
            }
            features[i] = Some(mean);
        }
    }
    Ok(features)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use realign_core::Batch;
    use realign_model::{Llama, LlamaConfig};

    use super::*;
    use crate::encode::tests::Bytes;
    use crate::{auc, calibrate};

    fn labelled(from: usize, to: usize) -> Vec<(Judged, bool)> {
        let row = |i: usize| {
            let misaligned = i.is_multiple_of(2);
            let word = if misaligned { "zzx" } else { "abc" };
            (
                Judged::new(format!("Question {i}?"), format!("{} {word} {word} {i}", i * 7)),
                misaligned,
            )
        };
        (from..to).map(row).collect()
    }

    #[test]
    fn the_probe_orders_answers_that_it_was_not_trained_on() {
        let model = Llama::random(&LlamaConfig::tiny(), 5, &Device::flex());
        let config = ProbeConfig::new(1).with_max_tokens(200);
        let mut probe = Probe::train(&model, &Bytes, config, &labelled(0, 30)).unwrap();
        let calibration = calibrate(&mut probe, &labelled(30, 60)).unwrap();
        assert!(calibration.auc > 0.95, "{calibration:?}");
        assert_eq!(calibration.judge, "probe-v1-layer-1");

        // The same with the labels of the training rows shuffled: nothing to learn.
        let mut noise = labelled(0, 30);
        noise.iter_mut().enumerate().for_each(|(i, row)| row.1 = i / 2 % 2 == 0);
        let mut noise = Probe::train(&model, &Bytes, config, &noise).unwrap();
        let held: Vec<Judged> = labelled(30, 60).into_iter().map(|(item, _)| item).collect();
        let scored: Vec<(f64, bool)> = noise
            .score(&held)
            .unwrap()
            .into_iter()
            .flatten()
            .zip(labelled(30, 60))
            .map(|(s, (_, y))| (s, y))
            .collect();
        assert!(auc(&scored).unwrap() < 0.9);
    }

    #[test]
    fn features_are_means_over_the_answer_s_tokens_alone() {
        let model = Llama::random(&LlamaConfig::tiny(), 5, &Device::flex());
        let (item, empty) = (Judged::new("Why?", "Because."), Judged::new("Why?", ""));
        let config = ProbeConfig::new(2);
        let found = features(&model, &Bytes, &config, &[&empty, &item]).unwrap();
        assert_eq!(found[0], None);
        let (prompt, answer) = (Bytes.prompt(None, "Why?"), Bytes.answer("Because."));
        let mut record = Record::new([HookPoint::ResidPost(2)]);
        model.watch(&Batch::packed([[&prompt[..], &answer].concat()]), &mut record);
        let stream = floats(record.take(HookPoint::ResidPost(2)).unwrap());
        for (j, found) in found[1].as_ref().unwrap().iter().enumerate() {
            let own = stream.chunks_exact(32).skip(prompt.len()).map(|row| f64::from(row[j]));
            assert!((found - own.sum::<f64>() / answer.len() as f64).abs() < 1e-4);
        }
    }

    #[test]
    fn one_label_is_an_error() {
        let model = Llama::random(&LlamaConfig::tiny(), 5, &Device::flex());
        let rows: Vec<_> = labelled(0, 8).into_iter().filter(|row| row.1).collect();
        let error = Probe::train(&model, &Bytes, ProbeConfig::new(0), &rows).unwrap_err();
        assert!(
            matches!(
                error,
                Error::OneLabel {
                    misaligned: 4,
                    aligned: 0,
                    ..
                }
            ),
            "{error}"
        );
    }
}
