//! A monitor on the residual stream, awake while a model is read or sampled from.

use burn::tensor::{Tensor, TensorData};
use realign_core::{Batch, Hook, HookPoint};
use serde::{Deserialize, Serialize};

use crate::log_prob::floats;

/// What a monitor saw at one token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The cache's sequence in generation; elsewhere the batch's segment.
    pub sequence: usize,
    /// The token's position in its sequence.
    pub position: usize,
    /// Projection of the stream on the unit direction.
    pub value: f32,
}

/// Projects the stream at a layer on a direction, for each token, and sounds the alarm above a threshold.
///
/// It changes nothing, so in cached generation too the samples are those of the model without it. To watch what a
/// steered model does, compose it after the steering hook: `(steer, monitor)`.
#[derive(Clone, Debug)]
pub struct Monitor {
    at: HookPoint,
    direction: Vec<f32>,
    threshold: f32,
    trace: Vec<Reading>,
}

impl Monitor {
    /// A monitor of the residual stream after block `layer`.
    ///
    /// # Shapes
    /// - `direction`: `[d_model]`, of any length but zero
    ///
    /// # Panics
    /// If the direction is zero or not finite.
    pub fn new(layer: usize, direction: &[f32], threshold: f32) -> Self {
        let norm = direction.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        assert!(
            norm.is_finite() && norm > 0.0,
            "monitor: the direction's norm is {norm}, expected above 0 and finite"
        );
        let direction = direction.iter().map(|&x| (f64::from(x) / norm) as f32).collect();
        Self {
            at: HookPoint::ResidPost(layer),
            direction,
            threshold,
            trace: Vec::new(),
        }
    }

    /// Everything seen since the last [`Monitor::clear`], in the order in which it was run.
    pub fn trace(&self) -> &[Reading] {
        &self.trace
    }

    /// The readings above the threshold.
    pub fn alarms(&self) -> impl Iterator<Item = &Reading> {
        self.trace.iter().filter(|reading| reading.value > self.threshold)
    }

    /// Whether a sequence has set off the alarm.
    pub fn alarmed(&self, sequence: usize) -> bool {
        self.alarms().any(|reading| reading.sequence == sequence)
    }

    /// Forgets what was seen.
    pub fn clear(&mut self) {
        self.trace.clear();
    }
}

impl Hook for Monitor {
    fn wants(&self, at: HookPoint) -> bool {
        at == self.at
    }

    fn stream(&mut self, _at: HookPoint, x: Tensor<2>, batch: &Batch) -> Tensor<2> {
        let (d, width) = (self.direction.len(), x.dims()[1]);
        assert_eq!(
            d,
            width,
            "monitor: the direction has shape [{d}], but the stream {:?}",
            x.dims()
        );
        let watched = x.clone().inner();
        let direction = Tensor::<2>::from_data(TensorData::new(self.direction.clone(), [d, 1]), &watched.device());
        let values = floats(watched.matmul(direction));
        for (index, segment) in batch.segments().iter().enumerate() {
            let sequence = segment.cached.unwrap_or(index);
            let readings = segment.tokens.clone().zip(segment.position..);
            self.trace.extend(readings.map(|(t, position)| Reading {
                sequence,
                position,
                value: values[t],
            }));
        }
        x
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use burn::tensor::Device;
    use realign_core::{LanguageModel, Record, rows};
    use realign_model::{GenerateConfig, Llama, LlamaConfig};

    use super::*;

    #[test]
    fn cached_generation_is_watched_token_by_token_and_unchanged() {
        let model = Llama::random(&LlamaConfig::tiny(), 5, &Device::flex());
        let direction: Vec<f32> = (0..32).map(|i| (i as f32 * 0.7).sin()).collect();
        let mut monitor = Monitor::new(1, &direction, f32::INFINITY);
        let prompts = [vec![1, 2, 3], vec![4, 5]];
        let config = GenerateConfig::new(4).with_temperature(1.0).with_seed(9);
        let go = &mut |_: usize, _: u32| ControlFlow::Continue(());
        let answers = config.generate(&model, &mut monitor, &prompts, go);
        assert_eq!(answers, config.generate(&model, &mut (), &prompts, go));
        assert_eq!(monitor.alarms().count(), 0);

        // The same projection, uncached and by hand.
        let norm = direction.iter().map(|x| x * x).sum::<f32>().sqrt();
        for (sequence, (prompt, answer)) in prompts.iter().zip(&answers).enumerate() {
            // The last token is sampled, not run.
            let ids = [&prompt[..], &answer[..answer.len() - 1]].concat();
            let mut record = Record::new([HookPoint::ResidPost(1)]);
            model.watch(&Batch::packed([&ids]), &mut record);
            let stream = record.take(HookPoint::ResidPost(1)).unwrap();
            let seen: Vec<&Reading> = monitor.trace().iter().filter(|r| r.sequence == sequence).collect();
            assert_eq!(seen.len(), ids.len());
            for (position, reading) in seen.into_iter().enumerate() {
                let row = floats(rows(stream.clone(), &[position]));
                let wanted = row.iter().zip(&direction).map(|(x, d)| x * d).sum::<f32>() / norm;
                assert_eq!(reading.position, position);
                assert!((reading.value - wanted).abs() < 1e-4, "{} {wanted}", reading.value);
            }
        }
    }

    #[test]
    fn the_alarm_is_for_the_sequence_that_set_it_off() {
        let mut monitor = Monitor::new(0, &[0.0, 2.0], 1.0);
        let batch = Batch::packed([vec![1, 1], vec![2]]);
        let x = Tensor::<2>::from_data([[9.0, 0.0], [0.0, 0.5], [0.0, 1.5]], &Device::flex());
        monitor.stream(HookPoint::ResidPost(0), x, &batch);
        assert!(!monitor.alarmed(0) && monitor.alarmed(1));
        assert_eq!(monitor.alarms().map(|r| r.value).collect::<Vec<_>>(), [1.5]);
        monitor.clear();
        assert!(monitor.trace().is_empty());
    }

    #[test]
    #[should_panic(expected = "the direction has shape [3], but the stream [1, 2]")]
    fn a_direction_of_another_width_is_refused() {
        let x = Tensor::<2>::from_data([[1.0, 1.0]], &Device::flex());
        Monitor::new(0, &[1.0; 3], 0.0).stream(HookPoint::ResidPost(0), x, &Batch::packed([vec![1]]));
    }
}
