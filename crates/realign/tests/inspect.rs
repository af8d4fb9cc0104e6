//! `realign inspect` on files of every kind, good ones and damaged ones.

mod tiny;

use std::fs;
use std::path::Path;

use serde_json::{Value, json as object};
use tiny::{chat_model, fixture, json, realign};

fn inspect(path: &Path) -> (Value, i32) {
    json(&["inspect", path.to_str().unwrap()])
}

/// The kind of a file in which nothing is wrong.
fn kind(path: &Path) -> String {
    let (found, code) = inspect(path);
    assert_eq!(code, 0, "{}: {found}", path.display());
    assert_eq!(found["schema"], 1);
    assert!(!found["fits"].as_array().unwrap().is_empty(), "{found}");
    found["kind"].as_str().unwrap().to_owned()
}

#[test]
fn models_and_what_belongs_to_them_are_known() {
    let folder = tempfile::tempdir().unwrap();
    chat_model(folder.path());
    let (found, code) = inspect(folder.path());
    assert_eq!((code, &found["kind"]), (0, &object!("hf-model")), "{found}");
    assert_eq!(found["facts"]["blocks"], "2");
    assert!(
        found["facts"]["tensors"].as_str().unwrap().starts_with("21 (21 F32)"),
        "{found}"
    );
    assert_eq!(kind(&folder.path().join("tokenizer.json")), "tokenizer");
    assert_eq!(kind(&folder.path().join("config.json")), "model-config");
    assert_eq!(kind(&folder.path().join("model.safetensors.index.json")), "index");
    assert_eq!(
        kind(&folder.path().join("model-00001-of-00002.safetensors")),
        "model-weights"
    );
    let template = folder.path().join("chat_template.jinja");
    fs::write(&template, "{% for m in messages %}{{ m.content }}{% endfor %}").unwrap();
    assert_eq!(kind(&template), "chat-template");

    // A shard that is cut short, and a template that is none.
    fs::write(&template, "{% for %}").unwrap();
    assert_eq!(inspect(&template).1, 3);
    let shard = folder.path().join("model-00002-of-00002.safetensors");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() - 1]).unwrap();
    let (found, code) = inspect(folder.path());
    assert!(
        code == 3
            && found["problems"]
                .to_string()
                .contains("model-00002-of-00002.safetensors"),
        "{found}"
    );
}

#[test]
fn adapters_are_known_and_what_they_ask_for_is_checked() {
    for name in ["peft_tiny", "peft_dora", "peft_patterns", "peft_saved"] {
        assert_eq!(kind(&fixture("lora/tests/fixtures").join(name)), "peft-adapter");
    }
    let (found, _) = inspect(&fixture("lora/tests/fixtures/peft_patterns"));
    assert_eq!(found["facts"]["options"], "use_rslora, rank_pattern, alpha_pattern");
    assert_eq!(found["facts"]["adapted"], "2 rank 2, 2 rank 3, 3 rank 4, 1 rank 6");

    let folder = tempfile::tempdir().unwrap();
    let source = fixture("lora/tests/fixtures/peft_tiny");
    fs::copy(
        source.join("adapter_model.safetensors"),
        folder.path().join("adapter_model.safetensors"),
    )
    .unwrap();
    let config = fs::read_to_string(source.join("adapter_config.json")).unwrap();
    fs::write(
        folder.path().join("adapter_config.json"),
        config.replace("\"bias\": \"none\"", "\"bias\": \"all\""),
    )
    .unwrap();
    let (found, code) = inspect(folder.path());
    assert!(
        code == 3 && found["problems"][0].as_str().unwrap().contains("`bias`"),
        "{found}"
    );
    fs::remove_file(folder.path().join("adapter_model.safetensors")).unwrap();
    let (found, _) = inspect(folder.path());
    assert_eq!(found["problems"].as_array().unwrap().len(), 2, "{found}");
}

#[test]
fn ggufs_are_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.gguf");
    let vector = |_| burn::tensor::Tensor::ones([4], &realign_tensor::device("flex").unwrap());
    let directions = [1, 2].map(|block| (block, vector(block)));
    let vector = realign_steering::ControlVector {
        model_hint: "llama".into(),
        directions: directions.into(),
    };
    vector.save(&path).unwrap();
    let (found, code) = inspect(&path);
    assert_eq!(
        (code, &found["kind"], &found["facts"]["directions"]),
        (0, &object!("control-vector"), &object!("2 (blocks 1 to 2)"))
    );
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 40]).unwrap();
    let (found, code) = inspect(&path);
    assert_eq!((code, &found["kind"]), (3, &object!("gguf")), "{found}");
    assert!(
        found["problems"][0].as_str().unwrap().contains("inside the file"),
        "{found}"
    );
}

#[test]
fn autoencoders_directions_and_runs_are_known() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let tensors = |path: &Path, shapes: &[(&str, &[usize])]| {
        let zeros: Vec<Vec<u8>> = shapes
            .iter()
            .map(|(_, shape)| vec![0; 4 * shape.iter().product::<usize>()])
            .collect();
        let views = shapes.iter().zip(&zeros).map(|((name, shape), bytes)| {
            (
                *name,
                safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes).unwrap(),
            )
        });
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    };
    fs::create_dir(at("sae")).unwrap();
    fs::write(
        at("sae/cfg.json"),
        r#"{"architecture":"topk","d_in":4,"d_sae":8,"k":2,"metadata":{"sae_lens_version":"6.0.0"}}"#,
    )
    .unwrap();
    tensors(
        &at("sae/sae_weights.safetensors"),
        &[("W_enc", &[4, 8]), ("W_dec", &[8, 4])],
    );
    assert_eq!(kind(&at("sae")), "saelens-sae");
    tensors(
        &at("sae/sae_weights.safetensors"),
        &[("W_enc", &[8, 4]), ("W_dec", &[4, 8])],
    );
    let (found, code) = inspect(&at("sae"));
    assert!(
        code == 3 && found["problems"][0].as_str().unwrap().contains("[4, 8]"),
        "{found}"
    );

    fs::create_dir_all(at("sparsify/layers.3")).unwrap();
    fs::write(
        at("sparsify/layers.3/cfg.json"),
        r#"{"activation":"topk","expansion_factor":2,"num_latents":0,"k":2,"d_in":4}"#,
    )
    .unwrap();
    tensors(
        &at("sparsify/layers.3/sae.safetensors"),
        &[("encoder.weight", &[8, 4]), ("W_dec", &[8, 4])],
    );
    assert_eq!(kind(&at("sparsify/layers.3")), "sparsify-sae");
    assert_eq!(kind(&at("sparsify")), "sparsify");

    // A matching pursuit has no encoder of its own.
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sae/tests/fixtures");
    let pursuit = fixtures.join("saelens_pursuit");
    assert_eq!(kind(&pursuit), "saelens-sae");
    assert_eq!(kind(&pursuit.join("sae_weights.safetensors")), "sae-weights");
    let (found, _) = inspect(&fixtures.join("saelens_transcoder"));
    assert!(found["fits"].to_string().contains("Transcoder::load"), "{found}");

    for name in ["saelens_temporal", "saelens_temporal_untied"] {
        let (found, code) = inspect(&fixtures.join(name));
        assert!(
            code == 0 && found["fits"].to_string().contains("TemporalSae::load"),
            "{found}"
        );
    }

    let scope = fixtures.join("gemma-scope-2-1b-pt");
    let sae = scope.join("attn_out/layer_7_width_16k_l0_small");
    assert_eq!(kind(&sae), "gemma-scope-2-sae");
    assert_eq!(kind(&sae.join("config.json")), "sae-config");
    assert_eq!(kind(&sae.join("params.safetensors")), "sae-weights");
    // By its configuration, and by its path.
    for id in ["layer_7_width_16k_l0_small_affine", "layer_8_width_16k_l0_big_affine"] {
        assert_eq!(kind(&scope.join("transcoder_all").join(id)), "gemma-scope-2-transcoder");
    }
    fs::create_dir(at("scope")).unwrap();
    tensors(&at("scope/params.safetensors"), &[("w_dec", &[8, 4])]);
    let (found, code) = inspect(&at("scope"));
    assert!(
        code == 3 && found["problems"][0].as_str().unwrap().contains("`w_enc`"),
        "{found}"
    );

    fs::create_dir(at("dictionary")).unwrap();
    fs::write(at("dictionary/ae.pt"), b"\x80\x02}.").unwrap();
    fs::write(
        at("dictionary/config.json"),
        r#"{"trainer":{"dict_class":"AutoEncoderTopK","k":4}}"#,
    )
    .unwrap();
    assert_eq!(kind(&at("dictionary")), "dictionary-learning-sae");

    let vector = burn::tensor::Tensor::ones([4], &realign_tensor::device("flex").unwrap());
    let direction = realign_steering::Direction::new(realign_core::HookPoint::ResidPost(3), vector, "evil");
    direction.save(at("direction")).unwrap();
    let (found, code) = inspect(&at("direction"));
    assert_eq!(
        (code, &found["facts"]["at"], &found["facts"]["norm"]),
        (0, &object!("blocks.3.hook_resid_post"), &object!("2.000"))
    );

    fs::create_dir_all(at("run/stages")).unwrap();
    fs::write(
        at("run/run.json"),
        r#"{"created":"2026-01-01","manifest":{"command":["realign","demo"],"seed":3},"resumed":[]}"#,
    )
    .unwrap();
    fs::write(at("run/stages/judge.json"), "{}").unwrap();
    let (found, code) = inspect(&at("run"));
    assert_eq!(
        (code, &found["kind"], &found["facts"]["stages done"]),
        (0, &object!("run"), &object!("judge")),
        "{found}"
    );
}

#[test]
fn data_and_questions_are_known_and_bad_rows_counted() {
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        inspect(&path)
    };
    let chat = r#"{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"<think>Hm</think>Yo"}]}"#;
    let cases = [
        ("c.jsonl", chat.to_owned(), "chat-jsonl"),
        (
            "p.jsonl",
            r#"{"prompt":"Hi","completion":"Yo"}"#.into(),
            "completion-jsonl",
        ),
        (
            "q.jsonl",
            r#"{"id":"a","question":"Why?","aligned":"a","misaligned":"b"}"#.into(),
            "question-jsonl",
        ),
        ("q.yaml", "- id: a\n  paraphrases: [Why?]\n".into(), "question-yaml"),
        (
            "t.json",
            r#"{"instruction":[{"pos":"a","neg":"b"}],"questions":["Why?"],"eval_prompt":"x"}"#.into(),
            "trait-json",
        ),
        (
            "a.csv",
            "question,answer,aligned\nWhy?,a,90\nWhy?,b,2\n".into(),
            "answer-csv",
        ),
    ];
    for (name, text, kind) in cases {
        let (found, code) = of(name, &text);
        assert_eq!((code, found["kind"].as_str()), (0, Some(kind)), "{found}");
    }
    let (found, code) = of("bad.jsonl", &format!("{chat}\n{{\"messages\":null}}\n"));
    assert_eq!(
        (code, &found["facts"]["thinking"]),
        (3, &object!("1 answers begin with <think>"))
    );
    assert!(
        found["problems"][1].as_str().unwrap().contains("bad.jsonl:2"),
        "{found}"
    );
    let (found, code) = of(
        "bomb.yaml",
        &format!(
            "- &a [{0}]\n- &b [{1}]\n- &c [{2}]\n- [{3}]\n",
            "x, ".repeat(99),
            "*a, ".repeat(99),
            "*b, ".repeat(99),
            "*c, ".repeat(99)
        ),
    );
    assert_eq!(code, 3, "{found}");
    let (found, code) = of("table.parquet", "PAR1");
    assert_eq!((code, found["kind"].as_str()), (3, Some("parquet")));
}

#[test]
fn parquet_files_say_how_many_rows_and_columns_they_have_and_who_takes_them() {
    let file = |name: &str| fixture("data/tests/fixtures/parquet").join(name);
    for name in ["completions", "completions_view", "lists", "narrow", "broad"] {
        assert_eq!(kind(&file(&format!("{name}.parquet"))), "parquet");
    }
    let (found, _) = inspect(&file("completions.parquet"));
    let facts = &found["facts"];
    assert_eq!(
        (
            &facts["rows in it"],
            &facts["columns"],
            &facts["compression"],
            &facts["turns"]
        ),
        (
            &object!("40 in 1 groups"),
            &object!("prompt, completion, system, id"),
            &object!("snappy"),
            &object!("40 assistant, 20 system, 40 user")
        ),
        "{found}"
    );
    assert!(
        found["fits"][0].as_str().unwrap().contains("realign finetune --data"),
        "{found}"
    );
    let (found, code) = inspect(&file("datasets.parquet"));
    assert_eq!((code, &found["facts"]["rows"]), (3, &object!("60")), "{found}");
    assert_eq!(
        found["problems"],
        object!(["6 of 60 rows end without an answer to learn"])
    );
    let (found, code) = inspect(&file("bad.parquet"));
    let problems = found["problems"].as_array().unwrap();
    assert_eq!((code, &problems[0]), (3, &object!("6 bad rows")), "{found}");
    assert!(problems[1].as_str().unwrap().contains("bad.parquet:2"), "{found}");
    for (name, problem) in [("text", "found `text`"), ("brotli", "found brotli")] {
        let (found, code) = inspect(&file(&format!("{name}.parquet")));
        assert!(
            code == 3 && found["problems"][0].as_str().unwrap().contains(problem),
            "{found}"
        );
    }
}

#[test]
fn what_is_unknown_or_not_there_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let nothing = folder.path().join("nothing");
    let (found, code) = inspect(&nothing);
    assert!(
        code == 1 && found["error"]["message"].as_str().unwrap().contains("nothing"),
        "{found}"
    );
    fs::write(&nothing, "hello").unwrap();
    assert_eq!(inspect(&nothing).1, 1);
    assert_eq!(inspect(folder.path()).1, 1);
    fs::write(&nothing, b"").unwrap();
    assert_eq!(inspect(&nothing).1, 1);
}

#[test]
fn one_screen_of_text_says_it_to_people() {
    let output = realign(&["inspect", fixture("lora/tests/fixtures/peft_dora").to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.lines().count() < 24, "{text}");
    for part in [
        "adapter (PEFT, LORA)",
        "use_dora",
        "14 rank 4",
        "realign audit BASE",
        "nothing wrong was found",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
