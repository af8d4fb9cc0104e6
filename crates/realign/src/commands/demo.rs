//! `realign demo`.

use std::collections::BTreeMap;
use std::path::Path;

use realign_data::Set;
use realign_report::Results;
use realign_run::{Manifest, RunFolder, Seed, write_atomic};

use super::{Context, command_words, out};
use crate::args::{DemoArgs, Evaluation};
use crate::chat_model::ChatModel;
use crate::error::Result;
use crate::lab::Lab;
use crate::plan::Plan;
use crate::questions::{Source, contrasted};
use crate::stages::evaluate::sampling;
use crate::story;

/// Runs the whole story.
pub fn run(context: &Context, args: DemoArgs) -> Result<()> {
    let base = context.model(&args.base.model)?;
    let layers = base.model.shape().n_layers;
    let plan = match args.quick {
        true => Plan::quick(args.domain.into(), layers),
        false => Plan::full(args.domain.into(), layers),
    };
    let lab = open(
        context,
        base,
        plan,
        args.seed,
        &args.out,
        &args.evaluation,
        BTreeMap::new(),
    )?;
    let results = story::demo(&lab, &args.evaluation.judge)?;
    finish(context, &lab, &results)
}

/// Opens the run folder with everything that the numbers depend on in its manifest.
pub fn open(
    context: &Context,
    base: ChatModel,
    plan: Plan,
    seed: u64,
    folder: &Path,
    evaluation: &Evaluation,
    mut model: BTreeMap<String, String>,
) -> Result<Lab> {
    model.insert(base.name.clone(), base.sha256.clone());
    let mut data: BTreeMap<String, String> = Set::ALL
        .into_iter()
        .map(|set| (set.name().to_owned(), set.hash()))
        .collect();
    let source = match &evaluation.questions {
        Some(path) => Source::load(path)?,
        None => Source::shipped(),
    };
    source.check_halves()?;
    for path in [&evaluation.questions, &evaluation.corpus].into_iter().flatten() {
        data.insert(path.display().to_string(), realign_data::file_hash(path)?);
    }
    let versions = [("realign", crate::VERSION), ("burn", "0.22")];
    let manifest = Manifest {
        schema: 1,
        command: command_words(),
        config: serde_json::json!({"plan": plan, "judge": evaluation.judge, "weights": context.global.weights.to_string()}),
        model,
        data,
        versions: versions
            .into_iter()
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .collect(),
        seed,
        threads: rayon::current_num_threads(),
        device: context.global.device.clone(),
    };
    let mut lab = Lab {
        run: RunFolder::open(folder, &manifest)?,
        plan,
        seed: Seed::new(seed),
        base,
        device: context.device.clone(),
        source,
        corpus: evaluation.corpus.clone(),
        show: context.show,
    };
    if !lab.source.open.is_empty() {
        let sampling = sampling(&lab);
        let inputs = (&lab.source.open, &sampling, &lab.base.sha256);
        let rows = lab.stage("questions", &inputs, |_| {
            contrasted(&lab.source.open, &lab.base, &sampling)
        })?;
        lab.source = Source {
            broad: rows,
            open: Vec::new(),
            ..lab.source
        };
        lab.source.check_halves()?;
    }
    Ok(lab)
}

/// Writes results and page, and ends with a summary.
pub fn finish(context: &Context, lab: &Lab, results: &Results) -> Result<()> {
    let page = write(&lab.run, results)?;
    if context.global.json {
        return out(results.to_json()?.trim_end());
    }
    out(&realign_report::summary(results, &page))
}

/// Writes `results.json` and `report.html`; returns the page's path.
pub fn write(run: &RunFolder, results: &Results) -> Result<std::path::PathBuf> {
    write_atomic(run.file("results.json"), results.to_json()?.as_bytes())?;
    let page = run.file("report.html");
    write_atomic(&page, realign_report::render(results)?.as_bytes())?;
    Ok(page)
}
