//! The state of training, and its checkpoints.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Tensor;
use realign_core::Site;
use realign_data::Sample;
use realign_run::{Checkpoint, Checkpoints, Seed};
use serde::{Deserialize, Serialize};

use crate::{Adapter, Error, Lora, LoraConfig, Result, StepLog, TrainConfig, tensors};

const TENSORS: &str = "state.safetensors";
const RECORD: &str = "state.json";

/// Both moments of one parameter.
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    pub(crate) first: Tensor<2>,
    pub(crate) second: Tensor<2>,
}

/// All that a step depends on, besides what the seed gives back.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) lora: Lora,
    /// Of `A` and of `B`.
    pub(crate) moments: BTreeMap<(usize, Site), [Moments; 2]>,
    pub(crate) step: u64,
    pub(crate) log: Vec<StepLog>,
}

/// What a run must share with the checkpoint that it goes on from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Setup {
    train: TrainConfig,
    lora: LoraConfig,
    seed: u64,
    samples: String,
    start: String,
    /// How many groups a batch is split into: it decides the order of sums.
    lanes: usize,
}

#[derive(Serialize, Deserialize)]
struct Record {
    setup: Setup,
    log: Vec<StepLog>,
}

impl Setup {
    pub(crate) fn new(train: &TrainConfig, lora: &Lora, samples: &[Sample], seed: &Seed, lanes: usize) -> Self {
        let mut hasher = blake3::Hasher::new();
        for sample in samples {
            hasher.update(&(sample.ids.len() as u64).to_le_bytes());
            for id in &sample.ids {
                hasher.update(&id.to_le_bytes());
            }
            hasher.update(&(sample.answer.len() as u64).to_le_bytes());
            for range in &sample.answer {
                hasher
                    .update(&(range.start as u64).to_le_bytes())
                    .update(&(range.end as u64).to_le_bytes());
            }
        }
        let start = tensors::write(named(lora), |_| false);
        Self {
            train: train.clone(),
            lora: lora.config.clone(),
            seed: seed.value(),
            samples: hasher.finalize().to_hex().to_string(),
            start: blake3::hash(&start).to_hex().to_string(),
            lanes,
        }
    }

    fn difference(&self, other: &Self) -> Option<&'static str> {
        let same = [
            (self.train == other.train, "training configuration"),
            (self.lora == other.lora, "adapter configuration"),
            (self.seed == other.seed, "seed"),
            (self.samples == other.samples, "set of samples"),
            (self.start == other.start, "adapter to start from"),
            (self.lanes == other.lanes, "number of threads"),
        ];
        same.into_iter().find(|(same, _)| !same).map(|(_, what)| what)
    }
}

impl State {
    pub(crate) fn new(lora: Lora) -> Self {
        let zero = |like: &Tensor<2>| Moments {
            first: like.zeros_like(),
            second: like.zeros_like(),
        };
        let moments = lora
            .adapters
            .iter()
            .map(|(&at, Adapter { a, b, .. })| (at, [zero(a), zero(b)]))
            .collect();
        Self {
            lora,
            moments,
            step: 0,
            log: Vec::new(),
        }
    }

    /// Bytes of a checkpoint, but for names and log: every factor and its two moments.
    pub(crate) fn bytes(&self) -> u64 {
        let numbers = |(_, tensor): &(String, Tensor<2>)| tensor.dims().iter().product::<usize>();
        let numbers: usize = named(&self.lora).iter().map(numbers).sum();
        (3 * size_of::<f32>() * numbers) as u64
    }

    pub(crate) fn save(&self, checkpoints: &Checkpoints, setup: &Setup) -> Result<()> {
        let mut all = named(&self.lora);
        for (&(layer, site), moments) in &self.moments {
            for (factor, Moments { first, second }) in ["a", "b"].into_iter().zip(moments) {
                all.push((format!("{layer}.{site}.{factor}.first"), first.clone()));
                all.push((format!("{layer}.{site}.{factor}.second"), second.clone()));
            }
        }
        let record = Record {
            setup: setup.clone(),
            log: self.log.clone(),
        };
        let record = serde_json::to_vec(&record).expect("finite numbers and string keys");
        checkpoints.save(
            self.step,
            &[(TENSORS, &tensors::write(all, |_| false)), (RECORD, &record)],
        )?;
        Ok(())
    }

    /// The state of the newest checkpoint, where there is one.
    pub(crate) fn resume(checkpoints: &Checkpoints, setup: &Setup, lora: &Lora) -> Result<Option<Self>> {
        let latest = checkpoints.latest()?;
        for reason in &latest.skipped {
            tracing::warn!("a damaged checkpoint was passed over: {reason}");
        }
        latest
            .checkpoint
            .map(|checkpoint| Self::read(&checkpoint, setup, lora))
            .transpose()
    }

    fn read(checkpoint: &Checkpoint, setup: &Setup, lora: &Lora) -> Result<Self> {
        let path = checkpoint.path().join(RECORD);
        let record: Record = serde_json::from_slice(&checkpoint.read(RECORD)?)
            .map_err(|error| Error::format(&path, error.to_string()))?;
        if let Some(what) = record.setup.difference(setup) {
            return Err(Error::Changed {
                path: checkpoint.path().to_owned(),
                what,
            });
        }
        let path = checkpoint.path().join(TENSORS);
        let Some(adapter) = lora.adapters.values().next() else {
            return Ok(Self::new(lora.clone()));
        };
        let mut all = tensors::read(&path, &checkpoint.read(TENSORS)?, |_| false, &adapter.a.device())?;
        let mut state = Self::new(lora.clone());
        state.step = checkpoint.step();
        state.log = record.log;
        for (&(layer, site), adapter) in &mut state.lora.adapters {
            let moments = state.moments.get_mut(&(layer, site)).expect("moments of every adapter");
            let factors = [("a", &mut adapter.a), ("b", &mut adapter.b)];
            for ((factor, tensor), Moments { first, second }) in factors.into_iter().zip(moments) {
                for (suffix, tensor) in [("", tensor), (".first", first), (".second", second)] {
                    take(&mut all, &path, &format!("{layer}.{site}.{factor}{suffix}"), tensor)?;
                }
            }
        }
        Ok(state)
    }
}

fn named(lora: &Lora) -> Vec<(String, Tensor<2>)> {
    let factors = |(&(layer, site), adapter): (&(usize, Site), &Adapter)| {
        [
            (format!("{layer}.{site}.a"), adapter.a.clone()),
            (format!("{layer}.{site}.b"), adapter.b.clone()),
        ]
    };
    lora.adapters.iter().flat_map(factors).collect()
}

fn take(all: &mut BTreeMap<String, Tensor<2>>, path: &Path, name: &str, into: &mut Tensor<2>) -> Result<()> {
    let found = all
        .remove(name)
        .ok_or_else(|| Error::tensor(path, name, "to be there", "nothing"))?;
    if found.dims() != into.dims() {
        return Err(Error::tensor(
            path,
            name,
            format!("{:?}", into.dims()),
            format!("{:?}", found.dims()),
        ));
    }
    *into = found;
    Ok(())
}
