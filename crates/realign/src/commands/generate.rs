//! `realign generate`: answers, with or without an adapter or a direction.

use std::io::Write;

use realign_core::Hook;
use realign_model::GenerateConfig;
use realign_steering::{Steer, SteerEach};
use serde::Serialize;

use super::{Context, out};
use crate::args::GenerateArgs;
use crate::error::Result;
use crate::resolve;

#[derive(Serialize)]
struct Answers {
    model: String,
    prompt: String,
    answers: Vec<String>,
}

/// Samples answers; a single one is printed as it comes.
pub fn run(context: &Context, args: GenerateArgs) -> Result<()> {
    let chat = context.adapted(&args.base.model, args.adapter.as_deref())?;
    let mut hook: Box<dyn Hook> = match &args.direction {
        Some(path) => {
            let architecture = context.architecture(&args.base.model)?;
            let found = resolve::directions(path, args.layer, &chat, architecture.as_deref(), &context.device)?;
            let each = found.into_iter().map(|direction| Steer::new(direction, args.strength));
            Box::new(SteerEach(each.collect()))
        }
        None => Box::new(()),
    };
    let mut config = GenerateConfig::new(args.max_tokens)
        .with_temperature(args.temperature)
        .with_seed(args.seed);
    config.top_p = args.top_p;
    config.top_k = args.top_k;
    let prompt = chat.try_prompt(args.system.as_deref(), &args.prompt)?;
    let prompts = vec![prompt; args.n.max(1)];
    let live = prompts.len() == 1 && !context.global.json;
    let answers = chat.answers(&mut *hook, &prompts, &config, |_, token| {
        if live {
            // A reader that has gone is noticed at the next line.
            let _ = write!(std::io::stdout(), "{token}").and_then(|()| std::io::stdout().flush());
        }
    })?;
    if live {
        return out("");
    }
    let text = answers.join("\n---\n");
    context.print(
        &text,
        &Answers {
            model: chat.name.clone(),
            prompt: args.prompt,
            answers,
        },
    )
}
