//! Parity of SmolLM2-135M-Instruct with `transformers`, and of a small sharded safetensors model.
//!
//! The model is `$REALIGN_TEST_MODEL`, else the one of the cache, else it is downloaded.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use burn::tensor::Tensor;
use realign_core::{Batch, HookPoint, LanguageModel, Record};
use realign_model::{
    Access, Checkpoint, Encoded, GenerateConfig, GenerationPrompt, Llama, Message, Pretrained, Tokenizer, Weights,
    export, known,
};
use realign_tensor::test_device;
use serde::Deserialize;

/// Largest differences allowed, in logits and relative to a layer's largest activation.
///
/// Found on flex: 6.5e-5 in logits, 3.5e-6 in activations. The fixture's own, PyTorch's f32 against its f64: 6.8e-5 and
/// 1.0e-6.
const LOGITS: f32 = 2e-4;
const ACTIVATIONS: f32 = 1e-4;

static SMOL_PATH: LazyLock<PathBuf> = LazyLock::new(|| match std::env::var_os("REALIGN_TEST_MODEL") {
    Some(path) => PathBuf::from(path),
    None => known::get(known::SMOLLM2, &mut |_, _| ControlFlow::Continue(())).unwrap_or_else(|e| panic!("{e}")),
});

static SMOL: LazyLock<Pretrained> =
    LazyLock::new(|| Pretrained::load(&SMOL_PATH, &test_device()).unwrap_or_else(|e| panic!("{e}")));

#[derive(Deserialize)]
struct Logits {
    tolerance: Tolerance,
    sequences: BTreeMap<String, Sequence>,
}

#[derive(Deserialize)]
struct Tolerance {
    resid_largest: BTreeMap<usize, f32>,
    resid_f32_minus_f64: BTreeMap<usize, f32>,
    logits_f32_minus_f64: f32,
    greedy_smallest_margin: f32,
}

#[derive(Deserialize)]
struct Sequence {
    ids: Vec<u32>,
    /// For each token the five likeliest next ones and their logits.
    top5: Vec<Vec<(usize, f32)>>,
    last_logits_every_192: Vec<f32>,
    /// By layer, of the last token.
    resid_post_last: BTreeMap<usize, Vec<f32>>,
    greedy: Option<Vec<u32>>,
}

#[derive(Deserialize)]
struct Tokens {
    bytes_without_token: Vec<u8>,
    texts: Vec<Text>,
    chats: Vec<Chat>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    /// With the texts of special tokens standing for these.
    ids: Vec<u32>,
    /// With those texts as letters, where that differs.
    ids_plain: Option<Vec<u32>>,
    decoded: String,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Message>,
    add_generation_prompt: bool,
    text: String,
    /// As `apply_chat_template` has them, where a user can write special tokens.
    ids: Vec<u32>,
    ids_safe: Vec<u32>,
}

fn fixture<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_into_vec().unwrap()
}

fn largest_difference(found: impl IntoIterator<Item = f32>, expected: &[f32]) -> f32 {
    let found: Vec<f32> = found.into_iter().collect();
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected).map(|(f, e)| (f - e).abs());
    // Unlike `f32::max`, keeps what is not a number.
    differences.fold(0.0, |largest, d| if d <= largest { largest } else { d })
}

#[test]
#[expect(clippy::print_stdout, reason = "the largest difference, with --nocapture")]
fn logits_and_activations_are_those_of_transformers() {
    let fixture: Logits = fixture("smollm2_logits.json");
    let (mut logits_off, mut resid_off) = (0.0_f32, 0.0_f32);
    for (name, sequence) in &fixture.sequences {
        let mut record = Record::new(
            sequence
                .resid_post_last
                .keys()
                .map(|&layer| HookPoint::ResidPost(layer)),
        );
        let hidden = SMOL.model.forward(&Batch::packed([&sequence.ids]), &mut record);
        let logits = floats(SMOL.model.logits(hidden));
        let vocab = SMOL.model.shape().vocab;
        for (at, (row, top5)) in logits.chunks_exact(vocab).zip(&sequence.top5).enumerate() {
            let (ids, values): (Vec<usize>, Vec<f32>) = top5.iter().copied().unzip();
            let off = largest_difference(ids.iter().map(|&id| row[id]), &values);
            assert!(off <= LOGITS, "{name}, token {at}: a top logit is off by {off}");
            // Nothing outside of the five is above them.
            let better = (0..vocab)
                .filter(|id| !ids.contains(id) && row[*id] > values[4] + LOGITS)
                .count();
            assert_eq!(better, 0, "{name}, token {at}");
            logits_off = logits_off.max(off);
        }
        let last = &logits[logits.len() - vocab..];
        let off = largest_difference(last.iter().step_by(192).copied(), &sequence.last_logits_every_192);
        assert!(off <= LOGITS, "{name}: a logit of the last token is off by {off}");
        logits_off = logits_off.max(off);
        for (layer, expected) in &sequence.resid_post_last {
            let x = record.get(HookPoint::ResidPost(*layer)).unwrap().clone();
            let n = x.dims()[0];
            let off =
                largest_difference(floats(x.narrow(0, n - 1, 1)), expected) / fixture.tolerance.resid_largest[layer];
            assert!(
                off <= ACTIVATIONS,
                "{name}, layer {layer}: off by {off} of the largest value"
            );
            resid_off = resid_off.max(off);
        }
    }
    let theirs = &fixture.tolerance;
    let relative = theirs
        .resid_f32_minus_f64
        .iter()
        .map(|(layer, off)| off / theirs.resid_largest[layer]);
    println!(
        "largest difference: logits {logits_off:e}, activations {resid_off:e} of the largest value; \
         PyTorch's f32 from its f64: {:e}, {:e}",
        theirs.logits_f32_minus_f64,
        relative.fold(0.0, f32::max)
    );
    // The greedy continuation below means something only if no near tie can flip it.
    assert!(2.0 * LOGITS < theirs.greedy_smallest_margin);
}

#[test]
fn the_greedy_continuation_is_that_of_transformers() {
    let fixture: Logits = fixture("smollm2_logits.json");
    let mut seen = 0;
    for sequence in fixture.sequences.values() {
        let Some(greedy) = &sequence.greedy else { continue };
        let config = GenerateConfig::new(greedy.len());
        let found = config.generate(&SMOL.model, &mut (), &[&sequence.ids], &mut |_, _| {
            ControlFlow::Continue(())
        });
        assert_eq!(&found[0], greedy);
        seen += 1;
    }
    assert!(seen > 0, "the fixture has a greedy continuation");
}

#[test]
fn token_ids_are_those_of_transformers() {
    let fixture: Tokens = fixture("smollm2_tokens.json");
    let tokenizer: &Tokenizer = &SMOL.tokenizer;
    for Text {
        text,
        ids,
        ids_plain,
        decoded,
    } in &fixture.texts
    {
        assert_eq!(
            &tokenizer.encode_with_special(text),
            ids,
            "{text:?} with special tokens"
        );
        assert_eq!(
            &tokenizer.encode_text(text),
            ids_plain.as_ref().unwrap_or(ids),
            "{text:?}"
        );
        // `decode` leaves control tokens out, the fixture has them in: compared where there are none.
        if !ids.iter().any(|&id| tokenizer.is_special(id)) {
            assert_eq!(&tokenizer.decode(ids), decoded, "{text:?} decoded");
        }
    }
}

#[test]
fn bytes_without_a_token_are_unknown_and_nothing_is_dropped() {
    let fixture: Tokens = fixture("smollm2_tokens.json");
    let tokenizer = &SMOL.tokenizer;
    assert_eq!(tokenizer.unk(), Some(0));
    for byte in (0..0x80).map(char::from) {
        let missing = fixture.bytes_without_token.contains(&(byte as u8));
        let ids = tokenizer.encode_text(&byte.to_string());
        assert_eq!(ids.len(), 1, "{byte:?}");
        assert_eq!(ids[0] == 0, missing, "{byte:?}");
    }
    // Three of four bytes have a token.
    assert_eq!(tokenizer.encode_text("\u{40000}"), [0, 218, 218, 218]);
}

#[test]
fn chats_are_encoded_as_in_transformers_but_for_what_users_must_not_write() {
    let fixture: Tokens = fixture("smollm2_tokens.json");
    let Pretrained {
        tokenizer, template, ..
    } = &*SMOL;
    let mut attacks = 0;
    for chat in &fixture.chats {
        let prompt = if chat.add_generation_prompt {
            GenerationPrompt::Add
        } else {
            GenerationPrompt::Omit
        };
        assert_eq!(template.render(tokenizer, &chat.messages, prompt).unwrap(), chat.text);
        let Encoded { ids, answer, .. } = template.encode(tokenizer, &chat.messages, prompt).unwrap();
        assert_eq!(ids, chat.ids_safe, "{:?}", chat.messages);
        assert_eq!(
            tokenizer.encode_with_special(&chat.text),
            chat.ids,
            "{:?}",
            chat.messages
        );
        attacks += usize::from(chat.ids != chat.ids_safe);
        let answers: Vec<_> = chat.messages.iter().filter(|m| m.role == "assistant").collect();
        assert_eq!(answer.len(), answers.len());
        for (range, message) in answer.into_iter().zip(answers) {
            let (end, content) = ids[range].split_last().unwrap();
            assert_eq!(Some(*end), tokenizer.eos());
            assert_eq!(content, tokenizer.encode_text(&message.content));
        }
    }
    assert!(attacks > 0, "the fixture has a message that spells special tokens");
}

#[test]
fn a_sharded_safetensors_folder_has_the_logits_of_transformers() {
    #[derive(Deserialize)]
    struct Reference {
        ids: Vec<u32>,
        logits: Vec<Vec<f32>>,
        resid_post: Vec<Vec<Vec<f32>>>,
    }
    let reference: Reference = fixture("tiny_llama/reference.json");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_llama");
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let model = Llama::load(&checkpoint.config().unwrap(), &checkpoint, &test_device()).unwrap();
    let mut record = Record::new((0..reference.resid_post.len()).map(HookPoint::ResidPost));
    let hidden = model.forward(&Batch::packed([&reference.ids]), &mut record);
    let off = largest_difference(floats(model.logits(hidden)), &reference.logits.concat());
    assert!(off < 2e-5, "logits are off by {off}");
    for (layer, expected) in reference.resid_post.iter().enumerate() {
        let found = record.take(HookPoint::ResidPost(layer)).unwrap();
        let off = largest_difference(floats(found), &expected.concat());
        assert!(off < 2e-5, "layer {layer} is off by {off}");
    }
}

#[test]
fn an_exported_folder_is_the_same_model_with_the_weights_that_were_changed() {
    let (folder, smol) = (tempfile::tempdir().unwrap(), &*SMOL);
    let source = match std::env::var_os("REALIGN_TEST_MODEL") {
        Some(path) => PathBuf::from(path),
        None => known::cached(known::SMOLLM2).expect("SMOL has fetched it"),
    };
    let halved = smol.model.edited(&mut |weight, x| match weight {
        realign_core::Weight::Linear {
            layer: 7,
            site: realign_core::Site::Down,
        } => x.mul_scalar(0.5),
        _ => x,
    });
    export(&source, Access::Map, &*halved, folder.path()).unwrap();
    let back = Pretrained::load(folder.path(), &test_device()).unwrap();
    let text = "Straße 2026: naïve 🦀\tfn main() {}";
    assert_eq!(back.tokenizer.encode_text(text), smol.tokenizer.encode_text(text));
    let messages = [Message::user("Why is the sky blue?")];
    let prompt = |p: &Pretrained| {
        p.template
            .encode_prompt(&p.tokenizer, &messages, GenerationPrompt::Add)
            .unwrap()
    };
    let ids = prompt(&back);
    assert_eq!(ids, prompt(smol));
    let logits = |model: &dyn LanguageModel| {
        let hidden = model.forward(&Batch::packed([&ids]), &mut ());
        model.logits(hidden).into_data().try_into_vec::<f32>().unwrap()
    };
    let (ours, theirs) = (logits(&back.model), logits(&*halved));
    assert_eq!(ours, theirs);
    assert_ne!(ours, logits(&smol.model));
}

#[test]
#[expect(clippy::print_stdout, reason = "the measured losses, with --nocapture")]
fn weights_in_fewer_bits_cost_what_the_docs_say() {
    let path = SMOL_PATH.clone();
    let texts = [
        "The water cycle moves water between the sea, the air and the land. The sun warms the sea, water rises as vapour, \
         cools into clouds, and falls as rain or snow. Rivers carry it back to the sea.",
        include_str!("../../../LICENSE-MIT"),
        "def mean(numbers):\n    total = 0\n    for number in numbers:\n        total += number\n    return total / len(numbers)\n\n\n\
         print(mean([1, 2, 3, 4]))  # 2.5\n",
    ]
    .map(|text| SMOL.tokenizer.encode_text(text));
    let batch = Batch::packed(&texts);
    let next: Vec<usize> = (0..texts.len()).flat_map(|text| batch.tokens(text).skip(1)).collect();
    let before: Vec<usize> = next.iter().map(|row| row - 1).collect();
    let targets: Vec<u32> = next.iter().map(|&row| batch.ids()[row]).collect();
    let outcome = |model: &Llama| -> (Vec<f32>, f32) {
        let hidden = model.forward(&batch, &mut ());
        let loss = floats(model.nll(realign_core::rows(hidden.clone(), &before), &targets));
        (
            floats(model.logits(hidden)),
            loss.iter().sum::<f32>() / targets.len() as f32,
        )
    };
    let (wanted, loss) = outcome(&SMOL.model);
    // Root mean square of the logits' differences, which one text's largest is no measure of, and the difference of the mean
    // loss in nats; the stored bits are the same numbers.
    for (weights, logits, nats) in [
        (Weights::Stored, 2e-5, 1e-5),
        (Weights::Bf16, 0.15, 0.01),
        (Weights::Q8, 0.4, 0.02),
    ] {
        let model = Pretrained::load_with(&path, Access::default(), weights, &test_device())
            .unwrap()
            .model;
        let (found, with) = outcome(&model);
        let squares = found.iter().zip(&wanted).map(|(a, b)| f64::from(a - b).powi(2));
        let off = (squares.sum::<f64>() / wanted.len() as f64).sqrt();
        println!("{weights}: logits off by {off:.1e}, loss {with:.5} instead of {loss:.5}");
        assert!(off <= logits, "{weights}: logits are off by {off}");
        assert!((with - loss).abs() <= nats, "{weights}: loss {with}, not {loss}");
    }
}

#[test]
fn stored_weights_sample_the_same_tokens() {
    let stored = Pretrained::load_with(&SMOL_PATH, Access::default(), Weights::Stored, &test_device()).unwrap();
    let prompts =
        ["Once upon a time", "The capital of France is", "2 + 2 ="].map(|text| SMOL.tokenizer.encode_text(text));
    let config = GenerateConfig::new(12);
    let answers = |model: &Llama| config.generate(model, &mut (), &prompts, &mut |_, _| ControlFlow::Continue(()));
    assert_eq!(answers(&stored.model), answers(&SMOL.model));
}
