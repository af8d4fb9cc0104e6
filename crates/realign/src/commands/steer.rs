//! `realign steer`: a direction's effect at several strengths.

use realign_data::Half;
use realign_eval::{Figure, paired_shift, preference};
use realign_run::Seed;
use realign_steering::{Direction, Steer};
use serde::Serialize;

use super::Context;
use super::eval::DRAWS;
use crate::args::SteerArgs;
use crate::error::Result;
use crate::questions::{Cued, Source};

#[derive(Serialize)]
struct Curve {
    direction: String,
    norm: f64,
    points: Vec<Point>,
}

#[derive(Serialize)]
struct Point {
    strength: f64,
    shift: Figure,
    random: Figure,
}

/// Prints the paired shift at each strength, beside a random direction of the same norm.
pub fn run(context: &Context, args: SteerArgs) -> Result<()> {
    let chat = context.adapted(&args.base.model, args.adapter.as_deref())?;
    let direction = Direction::load(&args.direction, &context.device)?;
    let set = Source::shipped().half(&chat, Half::Reporting, usize::MAX, 0, Cued::No)?;
    let seed = Seed::new(0);
    let score = |d: &Direction, s: f64| preference(&*chat.model, &mut Steer::new(d.clone(), s), &set.broad, 1536);
    let before = preference(&*chat.model, &mut (), &set.broad, 1536);
    let random = direction.random_like(&seed, 0);
    let mut points = Vec::new();
    for &strength in &args.strengths {
        crate::progress::check_stop()?;
        let shift = |d| paired_shift(&before, &score(d, strength), &seed, DRAWS);
        points.push(Point {
            strength,
            shift: shift(&direction),
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
            direction: direction.name.clone(),
            norm: direction.norm(),
            points,
        },
    )
}
