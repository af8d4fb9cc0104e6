//! What came out: ratios, as JSON, as a table and as a page.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use realign::report::Figure;
use realign::report::figure::{Bar, Bars, Fill, Hue, Layout, STYLE};
use serde_json::{Map, Value, json};

use crate::machine::Machine;
use crate::work::{Job, Unit};

/// What one job took on all its sides.
pub struct Outcome {
    floor: f64,
    sides: Vec<Side>,
}

struct Side {
    name: String,
    of: String,
    measured: Vec<f64>,
}

impl Side {
    fn is_ours(&self) -> bool {
        self.name.starts_with("realign")
    }

    fn median(&self) -> f64 {
        let mut sorted = self.measured.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() % 2 {
            0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
            _ => sorted[middle],
        }
    }

    /// Slowest less fastest, as a share of the median.
    fn spread(&self) -> f64 {
        let (low, high) = self.range();
        (high - low) / self.median()
    }

    fn range(&self) -> (f64, f64) {
        let ends = |(low, high): (f64, f64), &x: &f64| (low.min(x), high.max(x));
        self.measured.iter().fold((f64::INFINITY, f64::NEG_INFINITY), ends)
    }
}

impl Outcome {
    /// Nothing measured yet.
    pub fn new(floor: f64) -> Self {
        Self {
            floor,
            sides: Vec::new(),
        }
    }

    /// What a side took, repetition by repetition.
    pub fn add(&mut self, name: &str, of: &str, measured: Vec<f64>) {
        self.sides.push(Side {
            name: name.to_owned(),
            of: of.to_owned(),
            measured,
        });
    }

    fn ours(&self) -> &Side {
        &self.sides[0]
    }

    /// The fastest side whose name begins so.
    fn best(&self, prefix: &str) -> Option<&Side> {
        let theirs = self.sides.iter().filter(|side| side.name.starts_with(prefix));
        theirs.min_by(|a, b| a.median().total_cmp(&b.median()))
    }
}

/// Refuses to time two sides that compute different things.
pub fn agree(job: &Job, name: &str, wanted: &[f64], found: &[f64]) -> Result<(), Box<dyn Error>> {
    // Which tokens come out, and which latents, is another matter with bf16 than with f32.
    let rounded = job.is_bf16() || name.ends_with("bf16");
    if rounded && (job.name.starts_with("generate") || job.name == "attribution") {
        return Ok(());
    }
    let tolerance = if rounded { 5e-2 } else { 2e-3 };
    let size = wanted.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let apart = wanted.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    if wanted.len() == found.len() && apart <= tolerance * size {
        return Ok(());
    }
    let numbers = format!("{wanted:?}, but {found:?} from {name}");
    Err(format!("{}: the sides do not compute the same thing: {numbers}", job.name).into())
}

/// All jobs' outcomes.
pub struct Report {
    /// Where they were measured.
    pub machine: Machine,
    devices: Vec<String>,
    versions: BTreeMap<String, String>,
    jobs: Vec<(&'static Job, Outcome)>,
}

impl Report {
    /// Nothing measured yet.
    pub fn new(machine: Machine, devices: Vec<String>) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let versions = BTreeMap::from([("realign".to_owned(), version), ("burn".to_owned(), "0.22".to_owned())]);
        Self {
            machine,
            devices,
            versions,
            jobs: Vec::new(),
        }
    }

    /// Adds a job.
    pub fn add(&mut self, job: &'static Job, outcome: Outcome) {
        self.jobs.push((job, outcome));
    }

    /// Adds what a side says about its versions.
    pub fn versions(&mut self, versions: &Value) {
        let texts = versions.as_object().into_iter().flatten();
        let texts = texts.filter_map(|(name, version)| Some((name.clone(), version.as_str()?.to_owned())));
        self.versions.extend(texts);
    }

    /// Writes `bench.json` and the page beside it.
    pub fn write(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        let text = serde_json::to_string_pretty(&self.json())? + "\n";
        realign::run::write_atomic(path, text.as_bytes())?;
        Ok(realign::run::write_atomic(
            path.with_extension("html"),
            self.page().as_bytes(),
        )?)
    }

    fn json(&self) -> Value {
        let jobs: Map<String, Value> = self
            .jobs
            .iter()
            .map(|(job, o)| (job.name.to_owned(), entry(job, o)))
            .collect();
        json!({
            "schema": 1,
            "command": std::env::args().collect::<Vec<_>>().join(" "),
            "machine": self.machine,
            "devices": self.devices,
            "versions": self.versions,
            "jobs": jobs,
        })
    }

    /// The ratios, for a terminal.
    pub fn table(&self) -> String {
        let m = &self.machine;
        let mut text = format!(
            "{}, {} threads: {:.0} GFLOP/s in f32, {:.0} in bf16, {:.0} GB/s read\n\n",
            m.cpu, m.threads, m.gflops, m.bf16_gflops, m.read_gb_s
        );
        let mut line = |cells: [&str; 8]| {
            let [job, ours, bf16, f32, llama, unit, ratio, floor] = cells;
            let _ = writeln!(
                text,
                "{job:<18} {ours:>10} {f32:>10} {bf16:>10} {llama:>10} {unit:<6} {ratio:>7} {floor:>10}"
            );
        };
        line([
            "job",
            "realign",
            "torch bf16",
            "torch f32",
            "llama.cpp",
            "",
            "ratio",
            "floor",
        ]);
        for (job, outcome) in &self.jobs {
            let figure = |side: Option<&Side>| side.map_or("-".to_owned(), |s| short(job.unit.figure(s.median())));
            let ratio = outcome
                .best(job.rival())
                .map(|t| job.unit.ratio(ours(job, outcome), job.unit.figure(t.median())));
            line([
                job.name,
                &figure(Some(outcome.ours())),
                &figure(outcome.best("torch:bf16")),
                &figure(outcome.best("torch:f32")),
                &figure(outcome.best("llama")),
                job.unit.sign(),
                &ratio.map_or("-".to_owned(), |r| format!("{r:.2}×")),
                &short(outcome.floor),
            ]);
        }
        text
    }

    fn page(&self) -> String {
        let m = &self.machine;
        let mut body = String::new();
        for (job, outcome) in &self.jobs {
            let bar = |side: &Side, hue| {
                let (fast, slow) = side.range();
                let (a, b) = (job.unit.figure(fast), job.unit.figure(slow));
                Bar {
                    label: format!("{} {}", side.name, if side.is_ours() { "" } else { &side.of })
                        .trim()
                        .to_owned(),
                    about: format!("{}: {}", side.name, job.about),
                    figure: Figure {
                        mean: job.unit.figure(side.median()),
                        lo: a.min(b),
                        hi: a.max(b),
                        n: side.measured.len(),
                    },
                    hue,
                    fill: if side.is_ours() { Fill::Solid } else { Fill::Pale },
                }
            };
            let bars = Bars {
                title: job.about.to_owned(),
                axis: job.unit.sign().to_owned(),
                unit: realign::report::figure::Unit::Plain,
                rows: outcome
                    .sides
                    .iter()
                    .map(|s| bar(s, if s.is_ours() { Hue::Cure } else { Hue::Base }))
                    .collect(),
            };
            let _ = write!(
                body,
                "<section><h2>{}</h2><p>{} The least that this machine allows: {} {}.</p>{}</section>",
                job.name,
                job.about,
                short(outcome.floor),
                job.unit.sign(),
                bars.svg(Layout::Wide)
            );
        }
        let machine = format!(
            "{}, {} threads, {:.0} GFLOP/s in f32, {:.0} in bf16, {:.0} GB/s",
            m.cpu, m.threads, m.gflops, m.bf16_gflops, m.read_gb_s
        );
        include_str!("page.html")
            .replace("{style}", STYLE)
            .replace("{machine}", &machine)
            .replace("{body}", &body)
    }
}

fn ours(job: &Job, outcome: &Outcome) -> f64 {
    job.unit.figure(outcome.ours().median())
}

/// One job in `bench.json`: the first device beside the best setting of torch in the same precision, then every side by name.
fn entry(job: &Job, outcome: &Outcome) -> Value {
    let figure = |side: &Side| job.unit.figure(side.median());
    let against = |prefix: &str| {
        let side = outcome.best(prefix);
        let ratio = side.map(|side| job.unit.ratio(ours(job, outcome), figure(side)));
        (side.map(figure), ratio)
    };
    let ((torch, ratio), (bf16, ratio_bf16), (llama, ratio_llama)) =
        (against(job.rival()), against("torch:bf16"), against("llama"));
    let side = |side: &Side| {
        let measured: Vec<f64> = side.measured.iter().map(|&x| job.unit.figure(x)).collect();
        json!({"side": side.name, "job": side.of, "median": figure(side), "spread": side.spread(), "all": measured})
    };
    let mut entry = json!({
        "about": job.about,
        "realign": ours(job, outcome),
        "torch": torch,
        "unit": job.unit.sign(),
        "ratio": ratio,
        "target": job.target,
        "floor": outcome.floor,
        "of_floor": job.unit.ratio(ours(job, outcome), outcome.floor),
        "spread": outcome.ours().spread(),
        "sides": outcome.sides.iter().map(side).collect::<Vec<_>>(),
    });
    let more = [
        ("torch_bf16", bf16),
        ("ratio_bf16", ratio_bf16),
        ("llama", llama),
        ("ratio_llama", ratio_llama),
    ];
    for (name, value) in more {
        if let Some(value) = value {
            entry[name] = json!(value);
        }
    }
    if job.unit == Unit::Times {
        entry.as_object_mut().expect("it is one").remove("of_floor");
    }
    entry
}

/// Three digits that count.
fn short(x: f64) -> String {
    match x.abs() {
        a if a >= 100.0 => format!("{x:.0}"),
        a if a >= 10.0 => format!("{x:.1}"),
        a if a >= 1.0 => format!("{x:.2}"),
        _ => format!("{x:.3}"),
    }
}
