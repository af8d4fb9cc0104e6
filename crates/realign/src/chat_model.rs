//! A language model with the tokenizer and the chat template that turn conversations into its tokens.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use realign_core::{Hook, LanguageModel};
use realign_data::Sample;
use realign_eval::Encode;
use realign_model::{Access, ChatTemplate, GenerateConfig, GenerationPrompt, Message, Pretrained, Tokenizer, Weights};

use crate::error::{Failure, Result};
use crate::progress::check_stop;

/// A model that can be talked to. Cloning is cheap.
#[derive(Clone)]
pub struct ChatModel {
    /// What the user calls it.
    pub name: String,
    /// SHA-256 of its weights.
    pub sha256: String,
    /// The weights.
    pub model: Arc<dyn LanguageModel>,
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    template: Arc<ChatTemplate>,
}

impl ChatModel {
    /// Reads a model's files.
    pub fn load(name: &str, path: &Path, access: Access, weights: Weights, device: &Device) -> Result<Self> {
        let Pretrained {
            model,
            tokenizer,
            template,
            sha256,
        } = Pretrained::load_with(path, access, weights, device)?;
        Ok(Self {
            name: name.to_owned(),
            sha256,
            model: Arc::new(model),
            tokenizer: Arc::new(tokenizer),
            template: Arc::new(template),
        })
    }

    /// The same tokenizer and template around other weights.
    pub fn with_model(&self, name: &str, model: Box<dyn LanguageModel>) -> Self {
        Self {
            name: name.to_owned(),
            model: Arc::from(model),
            ..self.clone()
        }
    }

    /// The prompt of a question; an error if the template refuses it or it does not fit the model.
    pub fn try_prompt(&self, system: Option<&str>, question: &str) -> Result<Vec<u32>> {
        let messages = turns(system, question);
        let ids = self
            .template
            .encode_prompt(&self.tokenizer, &messages, GenerationPrompt::Add)?;
        let context = self.model.shape().context;
        if ids.len() >= context {
            let start: String = question.chars().take(40).collect();
            let message = format!(
                "the question `{start}…` has {} tokens; {} takes fewer than {context}",
                ids.len(),
                self.name
            );
            return Err(Failure::failed(message));
        }
        Ok(ids)
    }

    /// A conversation as a training sample: the answer and the end of its turn are learnt.
    pub fn sample(&self, messages: &[realign_data::Message]) -> Result<Sample> {
        let messages: Vec<Message> = messages
            .iter()
            .map(|m| Message::new(m.role.to_string(), m.content.clone()))
            .collect();
        let encoded = self
            .template
            .encode(&self.tokenizer, &messages, GenerationPrompt::Omit)?;
        Ok(Sample::new(encoded.ids, encoded.answer))
    }

    /// Samples an answer to each prompt.
    pub fn answers(
        &self,
        hook: &mut dyn Hook,
        prompts: &[Vec<u32>],
        sampling: &GenerateConfig,
        mut on_token: impl FnMut(usize, &str),
    ) -> Result<Vec<String>> {
        let config = sampling.clone().with_stop(self.tokenizer.eos());
        let answers = config.generate(&*self.model, hook, prompts, &mut |prompt, token| {
            on_token(prompt, &self.tokenizer.decode(&[token]));
            match check_stop() {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        check_stop()?;
        Ok(answers
            .iter()
            .map(|ids| self.tokenizer.decode(ids).trim().to_owned())
            .collect())
    }
}

fn turns(system: Option<&str>, question: &str) -> Vec<Message> {
    system
        .map(Message::system)
        .into_iter()
        .chain([Message::user(question)])
        .collect()
}

impl Encode for ChatModel {
    fn prompt(&self, system: Option<&str>, question: &str) -> Vec<u32> {
        // Whoever brings text from outside asks `try_prompt` first; see `questions`.
        self.try_prompt(system, question).unwrap_or_default()
    }

    fn answer(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode_text(text)
    }
}
