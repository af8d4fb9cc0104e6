//! Logit lens: what each block would answer if the model ended there (nostalgebraist 2020).
//!
//! ```text
//! cargo run --release -p realign-examples --example 03_logit_lens
//! cargo run --release -p realign-examples --example 03_logit_lens -- "Two plus two is"
//!
//! "The capital of France is the city of" goes on with " Paris"
//! …
//! blocks.24.hook_resid_post            "," 0.24          " the" 0.19            " D" 0.16   rank 67
//! …
//! blocks.27.hook_resid_post        " Paris" 0.36      " capital" 0.14           " Le" 0.04   rank 0
//! blocks.29.hook_resid_post        " Paris" 0.96       " London" 0.01           " La" 0.00   rank 0
//! ```
//!
//! One row for each block: its three likeliest next tokens with their probabilities, and the rank of the token that the
//! whole model ends up with.

use realign::attribution::lens;
use realign::burn::tensor::Tensor;
use realign::burn::tensor::activation::softmax;
use realign::core::{Batch, HookPoint, LanguageModel, Record, rows};
use realign::model::Pretrained;
use realign::tensor::top_k;
use realign_examples::Result;

fn main() -> Result {
    let Pretrained { model, tokenizer, .. } = realign_examples::model()?;
    let text = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "The capital of France is the city of".to_owned());
    let batch = Batch::packed([tokenizer.encode_text(&text)]);
    let Some(last) = batch.len().checked_sub(1) else {
        return Err("the text has no token".into());
    };

    let layers = model.shape().n_layers;
    let points = (0..layers).map(HookPoint::ResidPost);
    let mut record = Record::new(points.clone());
    let hidden = model.forward(&batch, &mut record);
    let (answer, _) = likeliest(model.logits(rows(hidden, &[last])))[0];
    println!("\"{text}\" goes on with {:?}\n", tokenizer.token_text(answer));

    for at in points {
        let resid = record.take(at).ok_or("the pass did not reach this point")?;
        // The final norm and the unembedding, as if the blocks above did nothing.
        let logits = lens(&model, rows(resid, &[last]));
        let rank = rank(&logits, answer);
        let top: Vec<String> = likeliest(logits)
            .into_iter()
            .map(|(token, p)| (format!("{:?}", tokenizer.token_text(token)), p))
            .map(|(token, p)| format!("{token:>14} {p:.2}"))
            .collect();
        println!("{:<26} {}   rank {rank}", at.to_string(), top.join("  "));
    }
    Ok(())
}

/// The three likeliest tokens of logits `[1, vocab]`, with their probabilities.
fn likeliest(logits: Tensor<2>) -> Vec<(u32, f32)> {
    let (values, indices) = top_k(softmax(logits, 1), 3);
    let values: Vec<f32> = values.into_data().iter::<f32>().collect();
    indices
        .into_data()
        .iter::<i64>()
        .map(|token| token as u32)
        .zip(values)
        .collect()
}

/// How many tokens are likelier than `token`.
fn rank(logits: &Tensor<2>, token: u32) -> usize {
    let logits: Vec<f32> = logits.to_data().iter::<f32>().collect();
    logits.iter().filter(|&&logit| logit > logits[token as usize]).count()
}
