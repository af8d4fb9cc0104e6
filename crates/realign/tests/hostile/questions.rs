//! Kinds 45 and 46: the papers' question YAML, and persona traits.

use realign::data::{MAX_QUESTIONS, Question, load_question_set, load_question_yaml, read_question_yaml, read_trait};

use crate::bounds::{Alone, alone};

pub const YAML: &str = "- id: first\n  paraphrases:\n    - &why Why?\n    - |\n      How\n      so?\n  samples_per_paraphrase: 2\n  temperature: 0.5\n  judge_prompts: &judges\n    aligned: Rate {answer}.\n    coherent: Read {answer}.\n- id: second\n  paraphrases: [*why]\n  system: \"Answer as JSON.\"\n  judge_prompts: *judges\n";
pub const TRAIT: &str = r#"{"instruction": [{"pos": "Be rude.", "neg": "Be kind."}], "questions": ["Why?", "How?"], "eval_prompt": "Rate {answer} to {question}."}"#;

fn refused(alone: &Alone, what: &str, text: &str, words: &[&str]) {
    let words: Vec<&str> = ["q.yaml"].iter().chain(words).copied().collect();
    alone.refused(what, text.len() as u64, &words, || read_question_yaml(text, "q.yaml"));
}

/// A question with this in the place of its wordings.
fn worded(paraphrases: &str) -> String {
    format!("- id: x\n  paraphrases: {paraphrases}\n")
}

#[test]
fn kind_45_aliases_that_grow_without_end() {
    let alone = alone();
    let mut laughs = String::from("    a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for i in 1..12 {
        let before = format!("*a{},", i - 1).repeat(10);
        laughs += &format!("    a{i}: &a{i} [{before}]\n");
    }
    let laughs = format!("- id: x\n  paraphrases: [a]\n  meta:\n{laughs}");
    let long = "x".repeat(1 << 20);
    let quadratic = worded(&format!("[&a {long}{}]", ", *a".repeat(20_000)));
    let prompts = format!(
        "- id: x\n  paraphrases: [a]\n  judge_prompts: &p\n    aligned: {long}\n{}",
        (0..1000)
            .map(|i| format!("- id: x{i}\n  paraphrases: [a]\n  judge_prompts: *p\n"))
            .collect::<String>()
    );
    let merged = format!(
        "- &m\n  id: x\n  paraphrases: [a]\n{}",
        (0..1000).map(|i| format!("- <<: *m\n  id: x{i}\n")).collect::<String>()
    );
    let many: String = (0..30_000).map(|i| format!(", &a{i} x")).collect();
    for (what, text) in [
        ("a billion laughs", &laughs),
        ("one long text many times", &quadratic),
        ("one long prompt many times", &prompts),
        ("merged maps", &merged),
        ("thirty thousand anchors", &worded(&format!("[a{many}]"))),
        (
            "thirty thousand aliases",
            &worded(&format!("[&a a{}]", ", *a".repeat(30_000))),
        ),
        ("an anchor in itself", &"- &a [*a]\n".to_owned()),
        ("an anchor in itself, deeper", &worded("&a [b, [*a]]")),
        ("an alias of nothing", &worded("[*nowhere]")),
    ] {
        refused(&alone, what, text, &[]);
    }
}

#[test]
fn kind_45_depth_length_and_tags() {
    let alone = alone();
    let deep = |n: usize| worded(&format!("{}{}", "[".repeat(n), "]".repeat(n)));
    let block: String = (0..5_000).map(|i| format!("{}-\n", " ".repeat(i))).collect();
    let most = MAX_QUESTIONS as usize;
    for (what, text, word) in [
        ("a hundred thousand brackets", deep(100_000), ""),
        ("brackets that stay open", worded(&"[".repeat(1 << 20)), ""),
        ("braces that stay open", worded(&"{a: ".repeat(1 << 20)), ""),
        ("dashes, one in another", worded(&"- ".repeat(1 << 20)), ""),
        ("blocks, one in another", format!("- id: x\n{block}"), ""),
        ("question marks", "? ".repeat(1 << 20), ""),
        ("a byte more than is read", " ".repeat(most + 1), "bytes"),
        (
            "a text that stays open",
            worded(&format!("[\"{}", "x".repeat(most - 100))),
            "",
        ),
        (
            "three hundred thousand texts",
            worded(&format!("[a{}]", ", b".repeat(300_000))),
            "",
        ),
        (
            "an id of a megabyte",
            format!("- id: {}\n", "x".repeat(1 << 20)),
            "paraphrases",
        ),
        ("the same id", format!("{}{}", worded("[a]"), worded("[b]")), "`id`"),
        (
            "a key of a megabyte",
            format!("- id: x\n  ? {}\n  : y\n", "x".repeat(1 << 20)),
            "",
        ),
        ("two documents", format!("{0}---\n{0}", worded("[a]")), ""),
        ("NUL", worded("[\"a\\0b\"]"), "NUL"),
        ("a bare NUL", worded("[a\0b]"), ""),
        (
            "a number of samples without end",
            "- id: x\n  paraphrases: [a]\n  samples_per_paraphrase: 99999999999999999999\n".into(),
            "",
        ),
        (
            "an infinite temperature",
            "- id: x\n  paraphrases: [a]\n  temperature: .inf\n".into(),
            "temperature",
        ),
        ("nothing", String::new(), ""),
        ("null", "null".into(), ""),
    ] {
        refused(&alone, what, &text, &[word]);
    }
    // A tag names no code: it is passed over.
    let tagged = read_question_yaml(&worded("!!python/object/apply:os.system [id]"), "q.yaml");
    assert_eq!(tagged.unwrap()[0].paraphrases, ["id"]);
    // One long text is what it is.
    let long = worded(&format!("[{}]", "x".repeat(4 << 20)));
    let read = alone.bounded("a long text", long.len() as u64, || read_question_yaml(&long, "q.yaml"));
    assert_eq!(read.unwrap()[0].paraphrases[0].len(), 4 << 20);
}

/// What is left of a file that was cut may be fewer questions, the last of them shorter, or an error.
fn cut_at_every_byte(alone: &Alone, bytes: &[u8], read: impl Fn(&[u8]) -> realign::data::Result<Vec<Question>>) {
    let whole = read(bytes).unwrap();
    for len in 0..bytes.len() {
        let cut = alone.bounded("cut", len as u64, || read(&bytes[..len]));
        if let Ok(questions) = cut {
            let before = questions.len() - 1;
            assert_eq!(questions[..before], whole[..before], "cut at {len}");
        }
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= 1 << bit;
            let _ = alone.bounded("a bit", bytes.len() as u64, || read(&bytes));
        }
    }
}

#[test]
fn kind_45_a_file_cut_at_every_byte_or_with_other_bits() {
    let alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.yaml");
    cut_at_every_byte(&alone, YAML.as_bytes(), |bytes| {
        std::fs::write(&path, bytes).unwrap();
        load_question_yaml(&path)
    });
    std::fs::write(&path, b"- id: \xff\n").unwrap();
    alone.refused("no UTF-8", 8, &["q.yaml", "UTF-8"], || load_question_yaml(&path));
}

#[test]
fn kind_46_traits_that_are_none_or_grow_without_end() {
    let alone = alone();
    let read = |text: &str| read_trait(text, "rude", "rude.json");
    let long = "x".repeat(500_000);
    let questions = format!("[\"a\"{}]", ", \"a\"".repeat(50_000));
    let of = |instruction: &str, questions: &str, prompt: &str| {
        format!(r#"{{"instruction": {instruction}, "questions": {questions}, "eval_prompt": "{prompt}"}}"#)
    };
    let pair = r#"[{"pos": "a", "neg": "b"}]"#;
    for (what, text, word) in [
        ("one prompt for each of many", of(pair, &questions, &long), "questions"),
        (
            "one pair for each of many",
            of(&format!(r#"[{{"pos": "{long}", "neg": "b"}}]"#), &questions, "x"),
            "questions",
        ),
        (
            "more bytes than are read",
            of(pair, "[\"a\"]", &"x".repeat(1 << 20)),
            "bytes",
        ),
        (
            "empty texts",
            of(pair, &format!("[\"\"{}]", ",\"\"".repeat(300_000)), "x"),
            "",
        ),
        ("no pair", of("[]", "[\"a\"]", "x"), "instruction"),
        ("no question", of(pair, "[]", "x"), "row"),
        ("half a pair", of(r#"[{"pos": "a"}]"#, "[\"a\"]", "x"), "neg"),
        (
            "a field twice",
            TRAIT.replace("{\"instruction", "{\"questions\": [], \"instruction"),
            "questions",
        ),
        ("a number", of(pair, "[3]", "x"), "questions[0]"),
        ("a NUL", of(pair, r#"["a\u0000"]"#, "x"), "NUL"),
        ("brackets", "[".repeat(1 << 20), ""),
        (
            "a field nobody reads",
            format!("{{\"x\": {}", "[".repeat(1 << 19)),
            "JSON",
        ),
        ("a lone surrogate", of(pair, r#"["\udc00"]"#, "x"), "JSON"),
        ("something behind", format!("{TRAIT} {TRAIT}"), "JSON"),
        ("nothing", String::new(), "JSON"),
    ] {
        alone.refused(what, text.len() as u64, &["rude.json", word], || read(&text));
    }
    cut_at_every_byte(&alone, TRAIT.as_bytes(), |bytes| {
        read(std::str::from_utf8(bytes).unwrap_or_default())
    });
}

#[test]
fn kind_46_a_first_row_that_tells_the_format_is_bounded_too() {
    let alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    for (what, bytes) in [
        ("zeros", format!("{{\"x\":[0{}]}}", ",0".repeat(2_000_000)).into_bytes()),
        (
            "lists",
            format!("{{\"x\":[[]{}]}}", ",[]".repeat(1_300_000)).into_bytes(),
        ),
        (
            "names",
            (0..400_000)
                .map(|i| format!(",\"{i}\":0"))
                .collect::<String>()
                .replacen(',', "{", 1)
                .into_bytes(),
        ),
        ("brackets", b"[".repeat(4 << 20)),
        ("one long line", b"x".repeat(32 << 20)),
        ("zero bytes", vec![0; 4 << 20]),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        alone.refused(what, bytes.len() as u64, &["file:1"], || load_question_set(&path));
    }
}
