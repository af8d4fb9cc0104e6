//! Whole jobs on several devices beside the Python stack, in turn, as ratios.
//!
//! ```text
//! cargo run --release -p realign-bench -- --devices flex --baseline torch --out bench.json
//! ```

mod growth;
mod jobs;
mod machine;
mod opponent;
mod outcome;
mod work;

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Parser;
use realign::model::known;

use machine::Machine;
use opponent::Opponent;
use outcome::{Outcome, Report};
use work::{JOBS, Job};

/// The middle layer of the model.
const LAYER: usize = 15;
/// Texts of a batch.
const TEXTS: usize = 4;
/// Tokens of a text.
const TOKENS: usize = 128;
/// Seconds that a side may spend on a job before it is repeated once more: some take minutes for one repetition.
const ENOUGH: f64 = 60.0;
/// Processors that others may keep busy.
const MOST_BUSY: f64 = 0.25;

/// Compares Realign's speed and memory with the Python stack's, job by job, both sides in turn.
#[derive(Parser)]
#[command(name = "realign-bench", max_term_width = 100)]
struct Args {
    /// Devices to measure; the first one is compared with the baseline
    #[arg(long, value_delimiter = ',', default_value = "flex")]
    devices: Vec<String>,
    /// What to compare with: torch, llama (llama.cpp, for generation from stored weights), none
    #[arg(long, value_delimiter = ',', default_value = "torch")]
    baseline: Vec<String>,
    /// Where results go; the page is written beside it as .html
    #[arg(long, default_value = "bench.json")]
    out: PathBuf,
    /// Only these jobs
    #[arg(long, value_delimiter = ',')]
    jobs: Vec<String>,
    /// Instead, how time and memory grow with sizes; prints tables
    #[arg(long)]
    growth: bool,
    /// Repetitions of each job on each side; fewer where they take more than a minute in all
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// The Python of the baseline; without it one is set up in target/bench-venv
    #[arg(long, env = "REALIGN_PYTHON")]
    python: Option<PathBuf>,
    /// Measure although the machine is busy
    #[arg(long)]
    force: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    realign::keep_memory();
    // A worker is this program again.
    let words: Vec<String> = std::env::args().collect();
    if let [_, word, device, gguf, work] = &words[..]
        && word == "worker"
    {
        return jobs::serve(device, Path::new(gguf), Path::new(work));
    }
    compare(&Args::parse())
}

#[allow(clippy::print_stdout, clippy::print_stderr)]
fn compare(args: &Args) -> Result<(), Box<dyn Error>> {
    if let Some(unknown) = args.jobs.iter().find(|name| JOBS.iter().all(|job| job.name != **name)) {
        let known: Vec<&str> = JOBS.iter().map(|job| job.name).collect();
        return Err(format!("--jobs {unknown}: expected some of {}", known.join(", ")).into());
    }
    if let Some(unknown) = args
        .baseline
        .iter()
        .find(|b| !["torch", "llama", "none"].contains(&b.as_str()))
    {
        return Err(format!("--baseline {unknown}: expected some of torch, llama, none").into());
    }
    let gguf = known::get(known::SMOLLM2, &mut |_, _| ControlFlow::Continue(()))?;
    let folder = tempfile::tempdir()?;
    jobs::write_sae(folder.path())?;
    std::fs::write(folder.path().join("baseline.py"), include_str!("../baseline.py"))?;
    let baselines: Vec<&str> = args
        .baseline
        .iter()
        .map(String::as_str)
        .filter(|b| *b != "none")
        .collect();
    // Growth is ours alone.
    let python = match (&args.python, args.growth || baselines.is_empty()) {
        (_, true) => None,
        (Some(python), _) => {
            check_python(python, &baselines)?;
            Some(python.clone())
        }
        (None, _) => Some(set_up_python(&baselines)?),
    };
    let sides = Sides {
        gguf,
        work: folder.path().to_owned(),
        python,
    };
    if !args.force {
        wait_for_quiet()?;
    }
    if args.growth {
        println!("{}", growth::measure(&sides, &args.devices[0], args.runs)?);
        return Ok(());
    }
    eprintln!("measuring the machine");
    let machine = Machine::measure();
    let mut report = Report::new(machine, args.devices.clone());
    // One process for each side, so that each loads what it needs once.
    let mut running = BTreeMap::new();
    for job in JOBS {
        if args.jobs.is_empty() || args.jobs.iter().any(|name| name == job.name) {
            eprintln!("{}: {}", job.name, job.about);
            let outcome = one(job, args, &baselines, &sides, &mut running, &report.machine)?;
            report.add(job, outcome);
            report.write(&args.out)?;
        }
    }
    for opponent in running.values_mut() {
        let (_, versions) = opponent.memory()?;
        report.versions(&versions);
    }
    report.write(&args.out)?;
    println!("{}", report.table());
    println!(
        "{} and {}",
        args.out.display(),
        args.out.with_extension("html").display()
    );
    Ok(())
}

/// Waits until nothing else keeps the machine busy: for half a minute at most.
#[allow(clippy::print_stderr)]
fn wait_for_quiet() -> Result<(), Box<dyn Error>> {
    let mut found = 0.0;
    for second in 0..30 {
        match machine::busy() {
            Some(busy) if busy > MOST_BUSY => found = busy,
            _ => return Ok(()),
        }
        if second == 0 {
            eprintln!("waiting for a quiet machine");
        }
    }
    let why = format!("other programs keep {found:.1} processors busy");
    Err(format!("{why}: figures would be worthless; end them, or --force").into())
}

/// The processes that there can be.
struct Sides {
    gguf: PathBuf,
    work: PathBuf,
    python: Option<PathBuf>,
}

impl Sides {
    /// `realign:DEVICE`, `torch:f32`, `torch:bf16` or `llama`; the Python ones with an allocator that keeps its memory:
    /// glibc's own settings give large blocks back at once, and clear their pages again.
    fn start(&self, name: &str, keep: bool) -> Result<Opponent, Box<dyn Error>> {
        self.start_with(name, keep, None)
    }

    /// The same on so many threads.
    fn start_with(&self, name: &str, keep: bool, threads: Option<usize>) -> Result<Opponent, Box<dyn Error>> {
        let mut command = match (name.split_once(':'), &self.python) {
            (Some(("realign", device)), _) => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("worker").arg(device).arg(&self.gguf).arg(&self.work);
                command
            }
            (_, Some(python)) => {
                let mut command = Command::new(python);
                let script = self.work.join("baseline.py");
                let precision = name.strip_prefix("torch:").unwrap_or(name);
                command.env("TQDM_DISABLE", "1");
                command.arg(script).arg(&self.gguf).arg(&self.work).arg(precision);
                if keep {
                    command.env("MALLOC_MMAP_THRESHOLD_", (4u64 << 30).to_string());
                    command.env("MALLOC_TRIM_THRESHOLD_", (16u64 << 30).to_string());
                }
                command
            }
            (_, None) => return Err(format!("{name} needs Python").into()),
        };
        if let Some(threads) = threads {
            command.env("RAYON_NUM_THREADS", threads.to_string());
        }
        Opponent::start(name, &mut command)
    }
}

/// One job on all its sides: agreement first, then repetitions in turn.
#[allow(clippy::print_stderr)]
fn one(
    job: &Job,
    args: &Args,
    baselines: &[&str],
    sides: &Sides,
    running: &mut BTreeMap<String, Opponent>,
    machine: &Machine,
) -> Result<Outcome, Box<dyn Error>> {
    let ours = args
        .devices
        .iter()
        .map(|device| (format!("realign:{device}"), job.ours));
    let theirs = job
        .theirs
        .iter()
        .filter(|(name, _)| baselines.iter().any(|b| name.starts_with(b)))
        // Without instructions for it torch's bf16 takes minutes, and is not the setting that could be its best.
        .filter(|(name, _)| job.is_bf16() || machine::has_bf16() || !name.ends_with("bf16"));
    let entries: Vec<(String, &str)> = ours
        .chain(theirs.map(|(name, job)| ((*name).to_owned(), *job)))
        .collect();
    let mut outcome = Outcome::new(job.floor(machine));
    if job.is_memory() {
        for (name, of) in entries {
            // A fresh process: its peak is this job's.
            let mut opponent = sides.start(&name, false)?;
            opponent.prepare(of)?;
            opponent.run(job.steps)?;
            outcome.add(&name, of, vec![opponent.memory()?.0]);
        }
        return Ok(outcome);
    }
    let mut seconds: Vec<Vec<f64>> = vec![Vec::new(); entries.len()];
    let mut spent = vec![0.0; entries.len()];
    let mut prepared = vec![""; entries.len()];
    let mut agreed: Option<Vec<f64>> = None;
    for run in 0..=args.runs {
        for i in 0..entries.len() {
            // A B, then B A.
            let i = if run % 2 == 0 { i } else { entries.len() - 1 - i };
            let (name, of) = &entries[i];
            if spent[i] > ENOUGH && !seconds[i].is_empty() {
                continue;
            }
            if !running.contains_key(name) {
                running.insert(name.clone(), sides.start(name, true)?);
            }
            let opponent = running.get_mut(name).expect("it was started");
            let several = entries.iter().filter(|(other, _)| other == name).count() > 1;
            if prepared[i] != *of || several {
                let check = opponent.prepare(of)?;
                prepared[i] = of;
                match &agreed {
                    Some(agreed) => outcome::agree(job, name, agreed, &check)?,
                    None => agreed = Some(check),
                }
            }
            let started = Instant::now();
            let took = opponent.run(job.steps)?;
            spent[i] += started.elapsed().as_secs_f64();
            let enough = spent[i] > ENOUGH;
            // The first round warms caches and is not counted, unless it was long enough for that not to matter.
            if run > 0 || enough {
                seconds[i].push(took);
            }
            let last = if enough && run < args.runs { ", its last" } else { "" };
            eprintln!("  {name} {of}: {took:.4}{last}");
        }
    }
    for ((name, of), seconds) in entries.iter().zip(seconds) {
        outcome.add(name, of, seconds);
    }
    Ok(outcome)
}

/// Whether somebody's own Python has what will be needed: said before minutes are spent on measuring.
fn check_python(python: &Path, baselines: &[&str]) -> Result<(), Box<dyn Error>> {
    for (baseline, module, package) in [("torch", "torch", "torch"), ("llama", "llama_cpp", "llama-cpp-python")] {
        if baselines.contains(&baseline) {
            let found = Command::new(python)
                .args(["-c", &format!("import {module}")])
                .stderr(Stdio::null())
                .status()
                .map_err(|e| format!("--python {}: {e}", python.display()))?;
            if !found.success() {
                let python = python.display();
                return Err(format!("--python {python}: no {package}, which --baseline {baseline} needs").into());
            }
        }
    }
    Ok(())
}

/// A virtual environment with the baseline's packages; made on first use, which takes minutes and gigabytes.
#[allow(clippy::print_stderr)]
fn set_up_python(baselines: &[&str]) -> Result<PathBuf, Box<dyn Error>> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a crate of a workspace");
    let venv = workspace.join("target/bench-venv");
    let python = venv.join("bin/python");
    let run = |command: &mut Command| -> Result<(), Box<dyn Error>> {
        match command.status()?.success() {
            true => Ok(()),
            false => Err(format!("{command:?} failed; --python PATH takes an environment of your own").into()),
        }
    };
    eprintln!("the baseline's Python packages, in {}", venv.display());
    if !python.exists() {
        run(Command::new("python3").arg("-m").arg("venv").arg(&venv))?;
    }
    let pip = ["-m", "pip", "install", "-q"];
    run(Command::new(&python)
        .args(pip)
        .args(include_str!("../requirements.txt").lines()))?;
    if baselines.contains(&"llama") {
        run(Command::new(&python).args(pip).arg("llama-cpp-python"))?;
    }
    Ok(python)
}
