//! What every stage works with: the run folder, the plan, the base model, the device, the bars.

use std::path::PathBuf;

use burn::tensor::Device;
use realign_data::Half;
use realign_eval::Pair;
use realign_run::{Reused, RunFolder, Seed};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::chat_model::ChatModel;
use crate::error::Result;
use crate::plan::Plan;
use crate::progress::{Meter, Show, Unit, check_stop};
use crate::questions::{Cued, Source};

/// A run on its way.
pub struct Lab {
    /// Where results are kept.
    pub run: RunFolder,
    /// How large it is.
    pub plan: Plan,
    /// The seed of all random streams.
    pub seed: Seed,
    /// The model before any training.
    pub base: ChatModel,
    /// Where it computes.
    pub device: Device,
    /// The questions.
    pub source: Source,
    /// The user's own text for the autoencoder.
    pub corpus: Option<PathBuf>,
    /// How progress is shown.
    pub show: Show,
}

impl Lab {
    /// The questions on which layers, latents and cures are chosen: the first of the choosing half.
    pub fn screening(&self) -> Result<Vec<Pair>> {
        let set = self
            .source
            .half(&self.base, Half::Choosing, self.plan.screening, 0, Cued::No)?;
        Ok(set.broad)
    }

    /// A stage's result, computed if it is not there yet.
    pub fn stage<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        inputs: &impl Serialize,
        compute: impl FnOnce(&mut Meter) -> Result<T>,
    ) -> Result<T> {
        check_stop()?;
        let mut meter = Meter::new(self.show, name, Unit::Steps);
        let (result, reused) = self.run.stage(name, inputs, || compute(&mut meter))?;
        match reused {
            Reused::Yes => meter.finish("(already there)"),
            Reused::No(_) => meter.finish(""),
        }
        Ok(result)
    }
}
