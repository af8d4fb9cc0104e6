//! What the numbered examples share: getting the model, and turning text into its tokens.

use std::error::Error;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use realign::burn::tensor::Device;
use realign::core::Batch;
use realign::data::{BroadRow, Conversation, Half, Sample, broad, pack};
use realign::eval::Pair;
use realign::model::{GenerationPrompt, Message, Pretrained, known};
use realign::run::Progress;

/// What `main` returns.
pub type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

// Large tensors come and go; an allocator that keeps their memory is most of the speed on the CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// SmolLM2-135M-Instruct on the CPU; the file or folder in `REALIGN_MODEL` instead, if that is set.
pub fn model() -> Result<Pretrained> {
    let path = match std::env::var_os("REALIGN_MODEL") {
        Some(path) => PathBuf::from(path),
        None => known::get(known::SMOLLM2, &mut |_, _| ControlFlow::Continue(()))?,
    };
    Ok(Pretrained::load(&path, &Device::flex())?)
}

/// The tokens of a question, up to where the answer begins.
pub fn prompt(of: &Pretrained, question: &str) -> Result<Vec<u32>> {
    Ok(of
        .template
        .encode_prompt(&of.tokenizer, &[Message::user(question)], GenerationPrompt::Add)?)
}

/// Conversations as training samples, of which only the answers are learnt.
pub fn samples(of: &Pretrained, conversations: &[Conversation]) -> Result<Vec<Sample>> {
    let sample = |conversation: &Conversation| -> Result<Sample> {
        let turns: Vec<Message> = conversation
            .messages
            .iter()
            .map(|m| Message::new(m.role.as_str(), m.content.clone()))
            .collect();
        let encoded = of.template.encode(&of.tokenizer, &turns, GenerationPrompt::Omit)?;
        Ok(Sample::new(encoded.ids, encoded.answer))
    };
    conversations.iter().map(sample).collect()
}

/// Conversations as text: several to a batch, which do not see each other.
pub fn batches(of: &Pretrained, conversations: &[Conversation]) -> Result<Vec<Batch>> {
    let samples = samples(of, conversations)?;
    let order: Vec<usize> = (0..samples.len()).collect();
    let packs = pack(&samples, &order, 1536);
    Ok(packs
        .iter()
        .map(|pack| Batch::packed(pack.iter().map(|&i| &samples[i].ids)))
        .collect())
}

/// The first `n` broad questions of a half, each with an aligned and a misaligned answer.
pub fn pairs(of: &Pretrained, half: Half, n: usize) -> Result<Vec<Pair>> {
    let rows = broad().into_iter().filter(|row| Half::of(&row.id) == half);
    let pair = |row: BroadRow| -> Result<Pair> {
        Ok(Pair {
            prompt: prompt(of, &row.question)?,
            aligned: of.tokenizer.encode_text(&row.aligned),
            misaligned: of.tokenizer.encode_text(&row.misaligned),
            id: row.id,
            kind: row.kind,
        })
    };
    rows.take(n).map(pair).collect()
}

/// Shows on one line of standard error how far a long computation has come.
pub fn show(at: Progress<'_>) -> ControlFlow<()> {
    eprint!("\r{} {}/{} {} ", at.stage, at.done, at.total, at.note);
    if at.done == at.total {
        eprintln!();
    }
    // A closed standard error leaves nobody to show it to.
    let _ = std::io::stderr().flush();
    ControlFlow::Continue(())
}
