//! `realign model`.

use realign_core::Weight;
use realign_model::{GgmlType, export, export_gguf};
use serde_json::json;

use super::Context;
use crate::args::{GgufType, ModelCommand};
use crate::error::{Failure, Result};
use crate::resolve;

/// Gets, describes or lists models.
pub fn run(context: &Context, command: ModelCommand) -> Result<()> {
    match command {
        ModelCommand::Get { model } => {
            let path = resolve::model(&model, context.show)?;
            context.print(&path.display().to_string(), &json!({"model": model, "path": path}))
        }
        ModelCommand::Info { model } => {
            let chat = context.model(&model)?;
            let s = *chat.model.shape();
            let rows = [
                ("model", chat.name.clone()),
                ("sha256", chat.sha256.clone()),
                ("layers", s.n_layers.to_string()),
                ("d_model", s.d_model.to_string()),
                (
                    "heads",
                    format!("{} ({} key/value) of {}", s.n_heads, s.n_kv_heads, s.d_head),
                ),
                ("d_mlp", s.d_mlp.to_string()),
                ("vocab", s.vocab.to_string()),
                ("context", s.context.to_string()),
            ];
            let text: Vec<String> = rows.iter().map(|(name, value)| format!("{name:<8} {value}")).collect();
            let object = json!({
                "model": chat.name, "sha256": chat.sha256, "n_layers": s.n_layers, "d_model": s.d_model,
                "n_heads": s.n_heads, "n_kv_heads": s.n_kv_heads, "d_head": s.d_head, "d_mlp": s.d_mlp,
                "vocab": s.vocab, "context": s.context,
            });
            context.print(&text.join("\n"), &object)
        }
        ModelCommand::Merge {
            base,
            adapter,
            out,
            kind,
        } => {
            let source = resolve::model(&base.model, context.show)?;
            let mut chat = context.model(&base.model)?;
            if let Some(folder) = &adapter {
                let lora = realign_lora::load_for(folder, &*chat.model, &context.device)?;
                if let Some((weight, _)) = lora
                    .saved
                    .iter()
                    .find(|(weight, _)| !matches!(weight, Weight::Linear { .. }))
                {
                    let message = format!(
                        "{}: it replaces the {weight:?}, which is written from the base model",
                        folder.display()
                    );
                    return Err(Failure::failed(message));
                }
                chat = chat.with_model(&base.model, realign_lora::merge(&*chat.model, &lora));
            }
            if out.extension().is_some_and(|extension| extension == "gguf") {
                let kind = match kind {
                    GgufType::F32 => GgmlType::F32,
                    GgufType::F16 => GgmlType::F16,
                    GgufType::Q8_0 => GgmlType::Q8_0,
                };
                export_gguf(&source, context.access(), &*chat.model, &out, kind)?;
            } else {
                export(&source, context.access(), &*chat.model, &out)?;
            }
            let object = json!({"model": base.model, "adapter": adapter, "out": out});
            context.print(&format!("written to {}", out.display()), &object)
        }
        ModelCommand::List => {
            let models = resolve::known();
            let line = |(name, cached): &(String, Option<std::path::PathBuf>)| match cached {
                Some(path) => format!("{name}  {}", path.display()),
                None => format!("{name}  not in the cache; get it with `realign model get {name}`"),
            };
            let text: Vec<String> = models.iter().map(line).collect();
            let object: Vec<_> = models
                .iter()
                .map(|(name, path)| json!({"name": name, "path": path}))
                .collect();
            context.print(&text.join("\n"), &json!({"models": object}))
        }
    }
}
