//! The jobs as Realign does them, in a process of their own: one repetition whenever the other side has had its turn.

use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::time::Instant;

use realign::attribution::{Completions, delta_attribution};
use realign::burn::tensor::{Device, Tensor};
use realign::core::{Batch, Hook, HookPoint, LanguageModel, Record, Until, rows};
use realign::data::Sample;
use realign::lora::{self, LoraConfig};
use realign::model::{Access, GenerateConfig, Llama, Pretrained, Weights};
use realign::run::{Progress, Seed};
use realign::sae::{self, ActivationSource, Sae, SaeConfig};
use realign_bench::{numbers, text};
use serde_json::{Value, json};

use crate::{LAYER, TEXTS, TOKENS, machine};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One job: what both sides must agree on, and a repetition.
trait Job {
    fn check(&mut self) -> Result<Vec<f64>>;
    /// Seconds of one of `steps` steps.
    fn run(&mut self, steps: usize) -> Result<f64>;
}

/// Answers requests on standard input until it closes, as `baseline.py` does; see there.
pub fn serve(device: &str, gguf: &Path, work: &Path) -> Result<()> {
    let place = Place {
        device: realign::tensor::device(device).map_err(|e| format!("--devices {device}: {e}"))?,
        gguf: gguf.to_owned(),
        work: work.to_owned(),
    };
    let (mut job, mut out): (Option<Box<dyn Job>>, _) = (None, std::io::stdout());
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let reply = if let Some(name) = request["prepare"].as_str() {
            drop(job.take());
            let check = job.insert(place.job(name)?).check()?;
            json!({"check": check})
        } else if let Some(steps) = request["run"].as_u64() {
            let job = job.as_mut().ok_or("`run` before `prepare`")?;
            json!({"seconds": job.run(steps as usize)?})
        } else {
            json!({"mib": machine::peak_mib()})
        };
        writeln!(out, "{reply}")?;
        out.flush()?;
    }
    Ok(())
}

struct Place {
    device: Device,
    gguf: PathBuf,
    work: PathBuf,
}

impl Place {
    /// The job of this name; a size may follow a colon, where `growth` varies it.
    fn job(&self, name: &str) -> Result<Box<dyn Job>> {
        let (name, size) = match name.split_once(':') {
            Some((name, size)) => (name, Some(size.parse::<usize>()?)),
            None => (name, None),
        };
        let load = |weights| -> Result<Llama> {
            Ok(Pretrained::load_with(&self.gguf, Access::default(), weights, &self.device)?.model)
        };
        let (name, weights) = match name.strip_suffix("_bf16") {
            Some(name) => (name, Weights::Bf16),
            None => (name, Weights::F32),
        };
        let model = || load(weights);
        let texts = || Batch::packed((0..TEXTS).map(|i| text(TEXTS * TOKENS)[i * TOKENS..][..TOKENS].to_vec()));
        let at = HookPoint::ResidPost(LAYER);
        Ok(match name {
            "load" => Box::new(Load {
                gguf: self.gguf.clone(),
                device: self.device.clone(),
            }),
            "prefill" => Box::new(Prefill {
                model: model()?,
                batch: texts(),
                record: Vec::new(),
            }),
            "prefill_record" => {
                let model = model()?;
                let layers = size.unwrap_or(model.shape().n_layers);
                let record = (0..layers).map(HookPoint::ResidPost).collect();
                let batch = texts();
                Box::new(Prefill { model, batch, record })
            }
            "harvest" => Box::new(Harvest {
                model: model()?,
                batch: size.map_or_else(texts, |tokens| Batch::packed([text(tokens)])),
                at,
            }),
            "generate_1" | "generate_1_stored" | "generate_16" => {
                let count = size.unwrap_or(if name == "generate_16" { 16 } else { 1 });
                let weights = if name == "generate_1_stored" {
                    Weights::Stored
                } else {
                    weights
                };
                let prompts = text(count * 32).chunks(32).map(<[u32]>::to_vec).collect();
                Box::new(Generate {
                    model: load(weights)?,
                    prompts,
                })
            }
            "lora_step" => {
                let model = model()?;
                let sample = |i: usize| {
                    let ids = text(TEXTS * TOKENS)[i * TOKENS..][..TOKENS].to_vec();
                    Sample::new(ids, std::iter::once(1..TOKENS).collect())
                };
                Box::new(Lora {
                    samples: (0..TEXTS).map(sample).collect(),
                    model,
                    rank: size.unwrap_or(32),
                })
            }
            "sae_step" => Box::new(SaeStep {
                device: self.device.clone(),
                sizes: SaeConfig::new(576, size.unwrap_or(8192), 32),
            }),
            "attribution" => {
                let sae = Sae::load(self.work.join("sae"), &self.device)?;
                let side = |range: Range<usize>| -> Completions {
                    let texts = range.map(|i| text(TEXTS * TOKENS)[i * TOKENS..][..TOKENS].to_vec());
                    let batch = Batch::packed(texts);
                    let completion = |i| {
                        let tokens = batch.tokens(i);
                        tokens.start + TOKENS / 2..tokens.end
                    };
                    let completions = (0..TEXTS / 2).map(completion).collect();
                    (batch, completions)
                };
                Box::new(Attribution {
                    model: model()?,
                    sae,
                    at,
                    misaligned: [side(0..TEXTS / 2)],
                    aligned: [side(TEXTS / 2..TEXTS)],
                })
            }
            "hook_overhead" => Box::new(Hooks {
                model: model()?,
                batch: texts(),
            }),
            other => return Err(format!("no job `{other}`").into()),
        })
    }
}

/// What both sides' SAE begins with, as a SAELens folder.
pub fn write_sae(work: &Path) -> Result<()> {
    Ok(sae_sizes()
        .init(&Seed::new(0), &Device::flex())
        .save(work.join("sae"))?)
}

fn sae_sizes() -> SaeConfig {
    SaeConfig::new(576, 8192, 32)
}

fn timed(steps: usize, mut step: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..steps {
        step()?;
    }
    Ok(start.elapsed().as_secs_f64() / steps as f64)
}

fn floats<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f32>().map(f64::from).collect()
}

struct Load {
    gguf: PathBuf,
    device: Device,
}

impl Load {
    fn first_token(&self) -> Result<u32> {
        let model = Pretrained::load_with(&self.gguf, Access::default(), Weights::Stored, &self.device)?.model;
        let next = GenerateConfig::new(1).generate(&model, &mut (), &[text(8)], &mut |_, _| ControlFlow::Continue(()));
        Ok(next[0][0])
    }
}

impl Job for Load {
    fn check(&mut self) -> Result<Vec<f64>> {
        Ok(vec![f64::from(self.first_token()?)])
    }
    fn run(&mut self, steps: usize) -> Result<f64> {
        timed(steps, || self.first_token().map(drop))
    }
}

/// All logits of all texts, keeping the activations at `record`.
struct Prefill {
    model: Llama,
    batch: Batch,
    record: Vec<HookPoint>,
}

impl Prefill {
    fn logits(&self) -> Tensor<2> {
        let mut record = Record::new(self.record.iter().copied());
        let hidden = match self.record.is_empty() {
            true => self.model.forward(&self.batch, &mut ()),
            false => self.model.forward(&self.batch, &mut record),
        };
        assert!(
            self.record.iter().all(|&at| record.get(at).is_some()),
            "an activation was not kept"
        );
        self.model.logits(hidden)
    }
}

impl Job for Prefill {
    fn check(&mut self) -> Result<Vec<f64>> {
        Ok(floats(self.logits().slice([TOKENS - 1..TOKENS, 0..16])))
    }
    fn run(&mut self, steps: usize) -> Result<f64> {
        timed(steps, || {
            black_box(floats(self.logits().slice([0..1, 0..1])));
            Ok(())
        })
    }
}

/// One layer's activations, and nothing above that layer.
struct Harvest {
    model: Llama,
    batch: Batch,
    at: HookPoint,
}

impl Harvest {
    fn activations(&self) -> Tensor<2> {
        sae::activation(&self.model, self.at, &self.batch)
    }
}

impl Job for Harvest {
    fn check(&mut self) -> Result<Vec<f64>> {
        let last = self.batch.len() - 1;
        Ok(floats(self.activations().slice([last..last + 1, 0..16])))
    }
    fn run(&mut self, steps: usize) -> Result<f64> {
        timed(steps, || {
            black_box(floats(self.activations().slice([0..1, 0..1])));
            Ok(())
        })
    }
}

struct Generate {
    model: Llama,
    prompts: Vec<Vec<u32>>,
}

impl Generate {
    fn answers(&self) -> Vec<Vec<u32>> {
        GenerateConfig::new(32).generate(&self.model, &mut (), &self.prompts, &mut |_, _| {
            ControlFlow::Continue(())
        })
    }
}

impl Job for Generate {
    fn check(&mut self) -> Result<Vec<f64>> {
        // Later tokens follow from a near tie now and then.
        let first = |answer: &Vec<u32>| answer[..4].iter().map(|&id| f64::from(id)).collect::<Vec<_>>();
        Ok(self.answers().iter().flat_map(first).collect())
    }
    fn run(&mut self, steps: usize) -> Result<f64> {
        timed(steps, || {
            black_box(self.answers());
            Ok(())
        })
    }
}

struct Lora {
    model: Llama,
    samples: Vec<Sample>,
    rank: usize,
}

impl Lora {
    /// The first loss, and the time of one of the steps after it.
    fn train(&self, steps: usize) -> Result<(f64, f64)> {
        let seed = Seed::new(0);
        let adapter = LoraConfig::new(self.rank).with_alpha(64.0).with_rs_lora(true);
        let adapter = adapter.init(self.model.shape(), &seed, &self.model.device());
        let config = lora::TrainConfig::new()
            .with_batch(TEXTS)
            .with_epochs(steps + 1)
            .with_lr(1e-4);
        let (trained, seconds) =
            between_steps(|report| config.train(&self.model, adapter, &self.samples, &[], &seed, None, report));
        Ok((trained?.log[0].loss, seconds / steps as f64))
    }
}

impl Job for Lora {
    fn check(&mut self) -> Result<Vec<f64>> {
        Ok(vec![self.train(1)?.0])
    }
    fn run(&mut self, steps: usize) -> Result<f64> {
        Ok(self.train(steps)?.1)
    }
}

/// What `train` gives, and the seconds between its first report and its last.
fn between_steps<T>(train: impl FnOnce(&mut dyn FnMut(Progress<'_>) -> ControlFlow<()>) -> T) -> (T, f64) {
    let (mut first, mut last) = (None, None);
    let trained = train(&mut |_| {
        last = Some(Instant::now());
        first = first.or(last);
        ControlFlow::Continue(())
    });
    let seconds = match (first, last) {
        (Some(first), Some(last)) => (last - first).as_secs_f64(),
        _ => 0.0,
    };
    (trained, seconds)
}

struct SaeStep {
    device: Device,
    sizes: SaeConfig,
}

/// The same activations again and again.
struct Same(Tensor<2>);

impl ActivationSource for Same {
    fn next_batch(&mut self) -> Option<Tensor<2>> {
        Some(self.0.clone())
    }
    fn skip(&mut self, _batches: usize) {}
}

impl SaeStep {
    /// The first step's fvu, and the time of one of the steps after it.
    fn train(&self, steps: usize) -> Result<(f64, f64)> {
        let mut source = Same(numbers([2048, 576], &self.device));
        let config = sae::TrainConfig::new((steps + 1) * 2048);
        let (at, seed) = (HookPoint::ResidPost(LAYER), Seed::new(0));
        let (trained, seconds) =
            between_steps(|report| config.train(self.sizes, &mut source, at, &seed, &self.device, None, report));
        Ok((trained?.log[0].fvu, seconds / steps as f64))
    }
}

impl Job for SaeStep {
    fn check(&mut self) -> Result<Vec<f64>> {
        Ok(vec![self.train(1)?.0])
    }
    fn run(&mut self, steps: usize) -> Result<f64> {
        Ok(self.train(steps)?.1)
    }
}

struct Attribution {
    model: Llama,
    sae: Sae,
    at: HookPoint,
    misaligned: [Completions; 1],
    aligned: [Completions; 1],
}

impl Attribution {
    fn latents(&self) -> Result<Vec<f64>> {
        let sides = (&self.misaligned, &self.aligned);
        Ok(delta_attribution(
            &self.model,
            &mut (),
            &self.sae,
            self.at,
            sides.0,
            sides.1,
        )?)
    }
}

impl Job for Attribution {
    fn check(&mut self) -> Result<Vec<f64>> {
        Ok(self.latents()?[..16].to_vec())
    }
    fn run(&mut self, steps: usize) -> Result<f64> {
        timed(steps, || self.latents().map(drop))
    }
}

struct Hooks {
    model: Llama,
    batch: Batch,
}

/// Looks at every activation and leaves it.
struct Idle;

impl Hook for Idle {
    fn wants(&self, at: HookPoint) -> bool {
        matches!(
            at,
            HookPoint::ResidPre(_) | HookPoint::ResidMid(_) | HookPoint::ResidPost(_)
        ) || matches!(at, HookPoint::AttnOut(_) | HookPoint::MlpOut(_) | HookPoint::Z(_))
    }
}

impl Job for Hooks {
    fn check(&mut self) -> Result<Vec<f64>> {
        let hooked = floats(self.model.run(&self.batch, Until::End, None, &mut Idle));
        let plain = floats(self.model.run(&self.batch, Until::End, None, &mut ()));
        match hooked == plain {
            true => Ok(Vec::new()),
            false => Err("a hook that does nothing changed the activations".into()),
        }
    }

    /// Seconds with hooks over seconds without, in turn.
    fn run(&mut self, steps: usize) -> Result<f64> {
        let pass = |hook: &mut dyn Hook| {
            timed(1, || {
                let hidden = self.model.run(&self.batch, Until::End, None, hook);
                black_box(floats(rows(hidden, &[0])));
                Ok(())
            })
        };
        let (mut hooked, mut plain) = (0.0, 0.0);
        for step in 0..steps {
            if step % 2 == 0 {
                plain += pass(&mut ())?;
                hooked += pass(&mut Idle)?;
            } else {
                hooked += pass(&mut Idle)?;
                plain += pass(&mut ())?;
            }
        }
        Ok(hooked / plain)
    }
}
