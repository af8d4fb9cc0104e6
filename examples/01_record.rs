//! Record activations: keep the residual stream of every block in one pass over several texts.
//!
//! ```text
//! cargo run --release -p realign-examples --example 01_record
//!
//! 32 tokens, d_model 576
//! hook point                   first norm other norm   cos same  cos other
//! blocks.0.hook_resid_post           54.1       47.1      0.999      0.999
//! …
//! blocks.16.hook_resid_post       23048.0      192.9      0.964      0.935
//! …
//! blocks.29.hook_resid_post        5156.3      792.6      0.961      0.885
//! ```
//!
//! In the middle blocks the first token's norm is a hundred times that of the others, which is why nothing here is ever
//! averaged or trained over it. The last columns compare the last tokens of texts: two sentences that mean the same end
//! nearer to each other than two that do not.

use realign::burn::tensor::Tensor;
use realign::core::{Batch, HookPoint, LanguageModel, Record, rows};
use realign::model::Pretrained;
use realign_examples::Result;

const TEXTS: [&str; 3] = [
    "The doctor told me to rest for a few days.",
    "My physician said that I should take it easy this week.",
    "The old bridge was painted green last summer.",
];

fn main() -> Result {
    let Pretrained { model, tokenizer, .. } = realign_examples::model()?;

    // Three texts of different lengths, packed without padding.
    let batch = Batch::packed(TEXTS.map(|text| tokenizer.encode_text(text)));
    let first: Vec<usize> = batch.segments().iter().map(|s| s.tokens.start).collect();
    let last: Vec<usize> = batch.segments().iter().map(|s| s.tokens.end - 1).collect();
    let others: Vec<usize> = (0..batch.len()).filter(|token| !first.contains(token)).collect();

    // A hook says what it wants; `watch` runs the model no further than that, and computes no logits.
    let points: Vec<HookPoint> = (0..model.shape().n_layers).map(HookPoint::ResidPost).collect();
    let mut record = Record::new(points.clone());
    model.watch(&batch, &mut record);

    println!("{} tokens, d_model {}", batch.len(), model.shape().d_model);
    println!(
        "{:<28} {:>10} {:>10} {:>10} {:>10}",
        "hook point", "first norm", "other norm", "cos same", "cos other"
    );
    for at in points {
        let resid = record.take(at).ok_or("the pass did not reach this point")?;
        let norm = |tokens: &[usize]| mean(&norms(rows(resid.clone(), tokens)));
        let ends = rows(resid.clone(), &last);
        println!(
            "{:<28} {:>10.1} {:>10.1} {:>10.3} {:>10.3}",
            at.to_string(),
            norm(&first),
            norm(&others),
            cosine(&ends, 0, 1),
            cosine(&ends, 0, 2),
        );
    }
    Ok(())
}

/// The length of each row.
fn norms(x: Tensor<2>) -> Vec<f32> {
    (x.clone() * x).sum_dim(1).sqrt().into_data().iter::<f32>().collect()
}

fn mean(values: &[f32]) -> f32 {
    values.iter().sum::<f32>() / values.len() as f32
}

/// The cosine between two rows.
fn cosine(x: &Tensor<2>, a: usize, b: usize) -> f32 {
    let (a, b) = (rows(x.clone(), &[a]), rows(x.clone(), &[b]));
    let dot: f32 = (a.clone() * b.clone()).sum().into_scalar();
    dot / (norms(a)[0] * norms(b)[0])
}
