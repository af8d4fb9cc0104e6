//! `realign audit`.

use std::collections::BTreeMap;

use super::Context;
use super::demo::{finish, open};
use crate::args::AuditArgs;
use crate::error::{Failure, Result};
use crate::plan::Plan;
use crate::story;

/// Audits a pair of models; an error of its own when the check fails.
pub fn run(context: &Context, args: AuditArgs) -> Result<()> {
    check_share(args.fail_above)?;
    let base = context.model(&args.base)?;
    let tuned = context.tuned(&base, &args.tuned)?;
    let layers = base.model.shape().n_layers;
    let plan = match args.quick {
        true => Plan::quick(args.domain.into(), layers),
        false => Plan::full(args.domain.into(), layers),
    };
    let model = BTreeMap::from([(tuned.name.clone(), tuned.sha256.clone())]);
    let lab = open(context, base, plan, args.seed, &args.out, &args.evaluation, model)?;
    let results = story::audit(&lab, &tuned, &args.evaluation.judge)?;
    finish(context, &lab, &results)?;
    let share = results
        .arms
        .get("tuned")
        .map_or(f64::NAN, |arm| arm.figures.preference_misaligned.mean);
    check(share, args.fail_above)
}

/// The limit must be a share.
pub fn check_share(limit: Option<f64>) -> Result<()> {
    match limit {
        Some(limit) if !(0.0..=1.0).contains(&limit) => Err(Failure::usage(format!(
            "--fail-above: expected a share between 0 and 1, found {limit}"
        ))),
        _ => Ok(()),
    }
}

/// Exit code 3 when the share is above the limit.
pub fn check(share: f64, limit: Option<f64>) -> Result<()> {
    match limit {
        Some(limit) if share.is_nan() || share > limit => Err(Failure::check(format!(
            "the misaligned answer wins on {:.0} % of the questions; the limit is {:.0} %",
            100.0 * share,
            100.0 * limit
        ))),
        _ => Ok(()),
    }
}
