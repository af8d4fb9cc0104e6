//! Generate: sample answers to several questions at a time, with a key/value cache.
//!
//! ```text
//! cargo run --release -p realign-examples --example 02_generate
//! cargo run --release -p realign-examples --example 02_generate -- "Why is the sky blue?" "Name a river."
//!
//! Q: What is the capital of Norway?
//! A: The capital of Norway is Oslo, the capital of a sovereign state in Scandinavia.
//! …
//! 69 tokens in all. The first answer alone: the same.
//! ```
//!
//! Each prompt has its own stream of random numbers, so batching changes nothing: the last line compares.

use std::ops::ControlFlow;

use realign::model::GenerateConfig;
use realign_examples::{Result, prompt};

const QUESTIONS: [&str; 3] = [
    "What is the capital of Norway?",
    "How do I keep bread fresh?",
    "Write one sentence about the sea.",
];

fn main() -> Result {
    let smollm2 = realign_examples::model()?;
    let mut questions: Vec<String> = std::env::args().skip(1).collect();
    if questions.is_empty() {
        questions = QUESTIONS.map(str::to_owned).to_vec();
    }
    let prompts = questions
        .iter()
        .map(|q| prompt(&smollm2, q))
        .collect::<Result<Vec<_>>>()?;

    let config = GenerateConfig::new(32)
        .with_temperature(0.6)
        .with_top_p(0.95)
        .with_stop(smollm2.tokenizer.eos());
    // The hook `()` does nothing; an adapter, a direction or a monitor could stand in its place.
    let mut tokens = 0;
    let answers = config.generate(&smollm2.model, &mut (), &prompts, &mut |_prompt, _token| {
        tokens += 1;
        ControlFlow::Continue(())
    });
    for (question, answer) in questions.iter().zip(&answers) {
        println!("Q: {question}\nA: {}\n", smollm2.tokenizer.decode(answer).trim());
    }

    // A prompt draws from the stream of its place; the first is the first in either call.
    let alone = config.generate(&smollm2.model, &mut (), &prompts[..1], &mut |_, _| {
        ControlFlow::Continue(())
    });
    let same = if alone[0] == answers[0] {
        "the same"
    } else {
        "not the same"
    };
    println!("{tokens} tokens in all. The first answer alone: {same}.");
    Ok(())
}
