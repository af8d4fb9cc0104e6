//! `realign steer`: a direction's effect at several strengths.

use realign_data::Half;
use realign_eval::{Figure, paired_shift, preference};
use realign_run::Seed;
use realign_steering::{Direction, Steer, SteerEach};
use serde::Serialize;

use super::Context;
use super::eval::DRAWS;
use crate::args::SteerArgs;
use crate::error::Result;
use crate::questions::{Cued, Source};
use crate::resolve;

#[derive(Serialize)]
struct Curve {
    direction: String,
    /// Of all of them together.
    norm: f64,
    points: Vec<Point>,
}

#[derive(Serialize)]
struct Point {
    strength: f64,
    shift: Figure,
    random: Figure,
}

/// Prints the paired shift at each strength, beside random directions of the same norms.
pub fn run(context: &Context, args: SteerArgs) -> Result<()> {
    let chat = context.adapted(&args.base.model, args.adapter.as_deref())?;
    let architecture = context.architecture(&args.base.model)?;
    let found = resolve::directions(
        &args.direction,
        args.layer,
        &chat,
        architecture.as_deref(),
        &context.device,
    )?;
    let set = Source::shipped().half(&chat, Half::Reporting, usize::MAX, 0, Cued::No)?;
    let seed = Seed::new(0);
    let score = |each: &[Direction], strength: f64| {
        let mut hook = SteerEach(each.iter().map(|d| Steer::new(d.clone(), strength)).collect());
        preference(&*chat.model, &mut hook, &set.broad, 1536)
    };
    let before = preference(&*chat.model, &mut (), &set.broad, 1536);
    let random: Vec<Direction> = found.iter().enumerate().map(|(i, d)| d.random_like(&seed, i)).collect();
    let mut points = Vec::new();
    for &strength in &args.strengths {
        crate::progress::check_stop()?;
        let shift = |d: &[Direction]| paired_shift(&before, &score(d, strength), &seed, DRAWS);
        points.push(Point {
            strength,
            shift: shift(&found),
            random: shift(&random),
        });
    }
    let cell = |f: Figure| format!("{:+.2} [{:+.2}, {:+.2}]", f.mean, f.lo, f.hi);
    let rows: Vec<String> = points
        .iter()
        .map(|p| format!("{:>8} {:>24} {:>24}", p.strength, cell(p.shift), cell(p.random)))
        .collect();
    let text = format!(
        "{:>8} {:>24} {:>24}\n{}",
        "strength",
        "shift of the margin",
        "random, same norm",
        rows.join("\n")
    );
    context.print(
        &text,
        &Curve {
            direction: found.iter().map(|d| &d.name[..]).collect::<Vec<_>>().join(" + "),
            norm: found.iter().map(|d| d.norm().powi(2)).sum::<f64>().sqrt(),
            points,
        },
    )
}
