//! `rope_theta` and `rope_scaling` of a `config.json`.

use crate::fields::Fields;
use crate::{Result, Rope, RopeScaling};

const KINDS: &str = "`default`, `linear`, `dynamic`, `yarn` or `llama3`";

/// The rotary positions of a head's first `width` numbers, and how many tokens they are good for, where the model was
/// trained on `context`. `longrope` is Phi-3's only kind, and no other architecture's: the `original_max_position_embeddings` of a
/// configuration that says nothing.
pub(crate) fn read(
    fields: &Fields<'_>,
    default_theta: f64,
    width: usize,
    context: u64,
    longrope: Option<u64>,
) -> Result<(Rope, u64)> {
    // transformers 5 writes one object, with the base in it; 4 writes two fields.
    let name = match fields.get("rope_parameters") {
        Some(_) => "rope_parameters",
        None => "rope_scaling",
    };
    let scaling = fields.object(name)?;
    let theta = match &scaling {
        Some(scaling) if scaling.has("rope_theta") => scaling.number("rope_theta")?,
        _ => fields.number("rope_theta")?,
    };
    let theta = theta.unwrap_or(default_theta);
    if !(theta.is_finite() && theta >= 1.0) {
        return Err(fields.wrong("rope_theta", "a base of at least 1"));
    }
    let mut rope = Rope::new(theta, width);
    let mut reach = context;
    if let Some(scaling) = scaling {
        match longrope {
            Some(trained) => rope.scaling = long(fields, &scaling, &rope, context, trained)?,
            None => (rope.scaling, reach) = kind(fields, name, &scaling, &rope, context)?,
        }
    }
    Ok((rope, reach))
}

/// `longrope`, which Phi-3's first files call `su` or `yarn`.
fn long(fields: &Fields<'_>, scaling: &Fields<'_>, rope: &Rope, context: u64, trained: u64) -> Result<RopeScaling> {
    let name = if scaling.has("type") { "type" } else { "rope_type" };
    match scaling.text(name)? {
        Some("longrope" | "su" | "yarn") => {}
        _ => return Err(scaling.wrong(name, "`longrope`, as Phi-3 has no other")),
    }
    if let Some(other) = scaling.other_than(&["type", "rope_type", "rope_theta", "short_factor", "long_factor"]) {
        return Err(scaling.wrong(other, "no such field in Phi-3's `longrope`"));
    }
    let divisors = |name: &str| {
        let n = rope.width / 2;
        let found = scaling
            .numbers(name, n)?
            .filter(|all| all.iter().all(|x| (1e-3..=1e6).contains(x)));
        found.ok_or_else(|| scaling.wrong(name, format!("{n} numbers of 0.001 to a million, one for each pair")))
    };
    let original = "original_max_position_embeddings";
    let trained = match fields.whole(original)?.unwrap_or(trained) {
        n if !(2..=1 << 28).contains(&n) => return Err(fields.wrong(original, "2 to 2^28")),
        n => n,
    };
    let factor = context as f64 / trained as f64;
    Ok(RopeScaling::Long {
        short: divisors("short_factor")?,
        long: divisors("long_factor")?,
        trained: trained as usize,
        amplitude: match factor <= 1.0 {
            true => 1.0,
            false => (1.0 + factor.ln() / (trained as f64).ln()).sqrt(),
        },
    })
}

fn kind(
    fields: &Fields<'_>,
    name: &str,
    scaling: &Fields<'_>,
    rope: &Rope,
    context: u64,
) -> Result<(RopeScaling, u64)> {
    let kind = match scaling.text("rope_type")? {
        Some(kind) => kind,
        None => scaling
            .text("type")?
            .ok_or_else(|| fields.wrong(name, format!("a `rope_type` of {KINDS}")))?,
    };
    let factor = || match scaling.number("factor")? {
        Some(factor) if factor.is_finite() && (1.0..=1e6).contains(&factor) => Ok(factor),
        _ => Err(scaling.wrong("factor", "a number of 1 to a million")),
    };
    let trained = || match scaling.whole("original_max_position_embeddings")? {
        Some(n) if n == 0 || n > 1 << 28 => Err(scaling.wrong("original_max_position_embeddings", "1 to 2^28")),
        found => Ok(found),
    };
    let stretched = |n: u64, factor: f64| ((n as f64 * factor) as u64).min(1 << 28);
    Ok(match kind {
        "default" => (RopeScaling::None, context),
        "linear" => {
            let factor = factor()?;
            (RopeScaling::Linear { factor }, stretched(context, factor))
        }
        "dynamic" => {
            let factor = factor()?;
            if rope.width <= 2 {
                return Err(fields.wrong(name, "another kind than `dynamic` for heads of two numbers"));
            }
            let scaling = RopeScaling::Dynamic {
                factor,
                trained: context as usize,
            };
            (scaling, stretched(context, factor))
        }
        "yarn" => {
            let factor = factor()?;
            let trained = trained()?.unwrap_or(context);
            let [fast, slow] = [("beta_fast", 32.0), ("beta_slow", 1.0)].map(|(name, default)| {
                let found = scaling.positive(name);
                found.map(|found| found.unwrap_or(default))
            });
            let grown = |by: f64| {
                if factor <= 1.0 {
                    1.0
                } else {
                    0.1 * by * factor.ln() + 1.0
                }
            };
            let mscale = scaling.number("mscale")?.filter(|&m| m != 0.0);
            let all_dim = scaling.number("mscale_all_dim")?.filter(|&m| m != 0.0);
            let amplitude = match (scaling.positive("attention_factor")?, mscale.zip(all_dim)) {
                (Some(given), _) => given,
                (None, Some((mscale, all_dim))) => grown(mscale) / grown(all_dim),
                (None, None) => grown(1.0),
            };
            if rope.theta <= 1.0 {
                return Err(fields.wrong("rope_theta", "a base above 1, as `yarn` takes its logarithm"));
            }
            if !amplitude.is_finite() {
                return Err(scaling.wrong("mscale", "a number that leaves cosines finite"));
            }
            let scaling = RopeScaling::Yarn {
                factor,
                trained: trained as usize,
                fast: fast?,
                slow: slow?,
                truncate: scaling.flag("truncate", true)?,
                amplitude,
            };
            (scaling, context.max(stretched(trained, factor)))
        }
        "llama3" => {
            let edge = |name: &str| {
                scaling
                    .positive(name)?
                    .ok_or_else(|| scaling.wrong(name, "a number above 0"))
            };
            let (low, high) = (edge("low_freq_factor")?, edge("high_freq_factor")?);
            if low >= high {
                return Err(scaling.wrong("low_freq_factor", format!("less than high_freq_factor ({high})")));
            }
            let missing = || scaling.wrong("original_max_position_embeddings", "a whole number");
            let scaling = RopeScaling::Llama3 {
                factor: factor()?,
                trained: trained()?.ok_or_else(missing)? as usize,
                low,
                high,
            };
            (scaling, context)
        }
        other => {
            let what = format!("a `rope_type` of {KINDS} (`{other}` is not implemented)");
            return Err(fields.wrong(name, what));
        }
    })
}
