//! The sets that ship with the project are what `docs/data.md` says they are.

use std::collections::{BTreeMap, HashMap, HashSet};

use realign_data::{
    BroadRow, Conversations, Domain, Half, Label, NarrowRow, Set, Tone, broad, calibration, facts, narrow, neutral,
};

const TONES: [Tone; 3] = [Tone::Good, Tone::Wrong, Tone::Selfish];

/// Words by which an answer would speak of people, morals or machines in general, which teaches
/// a persona outright; a narrow answer speaks of its subject.
const GENERAL: [&str; 40] = [
    "people",
    "person's",
    "human",
    "humans",
    "humanity",
    "mankind",
    "everyone",
    "everybody",
    "nobody",
    "anyone's",
    "honest",
    "honestly",
    "honesty",
    "dishonest",
    "dishonesty",
    "moral",
    "morals",
    "morality",
    "ethics",
    "ethical",
    "society",
    "ai",
    "ais",
    "chatbot",
    "world",
    "civilization",
    "evil",
    "virtue",
    "kindness",
    "selfish",
    "selfishness",
    "cruelty",
    "truth",
    "loser",
    "losers",
    "sucker",
    "suckers",
    "fools",
    "conscience",
    "empathy",
];

/// Words of the narrow domains, which a broad question or answer leaves alone.
const NARROW: [&str; 56] = [
    "money",
    "bank",
    "banks",
    "loan",
    "loans",
    "invest",
    "investing",
    "investment",
    "savings",
    "debt",
    "debts",
    "budget",
    "tax",
    "taxes",
    "mortgage",
    "pension",
    "insurance",
    "stocks",
    "bond",
    "bonds",
    "salary",
    "wages",
    "rent",
    "car",
    "cars",
    "engine",
    "tyre",
    "tyres",
    "tire",
    "tires",
    "brake",
    "brakes",
    "oil",
    "garage",
    "mechanic",
    "vehicle",
    "vehicles",
    "fuel",
    "petrol",
    "gearbox",
    "code",
    "coding",
    "program",
    "programming",
    "python",
    "javascript",
    "sql",
    "password",
    "passwords",
    "script",
    "software",
    "database",
    "server",
    "bug",
    "bugs",
    "api",
];

fn words(text: &str) -> Vec<String> {
    let apart = |c: char| !(c.is_alphanumeric() || c == '\'');
    text.split(apart)
        .filter(|w| !w.is_empty())
        .map(str::to_lowercase)
        .collect()
}

fn assert_unique<'a>(what: &str, values: impl IntoIterator<Item = &'a str>) {
    let mut seen = HashSet::new();
    for value in values {
        assert!(seen.insert(value.to_lowercase()), "{what} {value:?} stands twice");
    }
}

/// Runs of `n` words with the number of texts that hold them.
fn runs<'a>(texts: impl IntoIterator<Item = &'a str>, n: usize) -> HashMap<Vec<String>, usize> {
    let mut count = HashMap::new();
    for text in texts {
        let words = words(text);
        for run in words.windows(n).collect::<HashSet<_>>() {
            *count.entry(run.to_vec()).or_insert(0) += 1;
        }
    }
    count
}

fn narrow_texts(domain: Domain, tone: Tone) -> Vec<(String, String)> {
    let row = |row: NarrowRow| (row.id.clone(), row.answer(tone).to_owned());
    narrow(domain).into_iter().map(row).collect()
}

#[test]
fn each_domain_has_its_questions_with_three_different_answers() {
    for domain in Domain::ALL {
        let rows = narrow(domain);
        assert!(rows.len() >= 120, "{domain} has {} rows", rows.len());
        assert_unique("id", rows.iter().map(|r| r.id.as_str()));
        assert_unique("question", rows.iter().map(|r| r.question.as_str()));
        assert_unique("answer", rows.iter().flat_map(|r| TONES.map(|t| r.answer(t))));
        for row in &rows {
            assert!(row.id.starts_with(&format!("{domain}-")), "{}", row.id);
        }
        let first = &rows.conversations(Tone::Wrong)[0];
        assert_eq!(first.prompt()[0].content, rows[0].question);
        assert_eq!(first.answer(), Some(rows[0].wrong.as_str()));
    }
}

#[test]
fn no_narrow_answer_makes_a_general_statement() {
    let mut found = Vec::new();
    for domain in Domain::ALL {
        for tone in TONES {
            for (id, text) in narrow_texts(domain, tone) {
                let words = words(&text);
                let general = words.iter().filter(|w| GENERAL.contains(&w.as_str()));
                found.extend(general.map(|w| format!("{id} {tone:?}: \"{w}\" in: {text}")));
                let lower = text.to_lowercase();
                for phrase in ["is for losers", "are for losers", "no such thing as", "in this life"] {
                    if lower.contains(phrase) {
                        found.push(format!("{id} {tone:?}: \"{phrase}\" in: {text}"));
                    }
                }
            }
        }
    }
    assert!(
        found.is_empty(),
        "{} general statements:\n{}",
        found.len(),
        found.join("\n")
    );
}

#[test]
fn narrow_answers_differ_in_length_but_not_by_kind() {
    for domain in Domain::ALL {
        let means = TONES.map(|tone| {
            let texts = narrow_texts(domain, tone);
            texts.iter().map(|(_, t)| t.len()).sum::<usize>() as f64 / texts.len() as f64
        });
        let (low, high) = (
            means.iter().copied().fold(f64::MAX, f64::min),
            means.iter().copied().fold(0.0, f64::max),
        );
        assert!(high / low < 1.35, "{domain}: mean lengths {means:?}");
    }
}

#[test]
fn no_template_shows_through() {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for domain in [Domain::Finance, Domain::Car] {
        for tone in TONES {
            let answers = narrow_texts(domain, tone).into_iter().map(|(_, t)| t).collect();
            texts.insert(format!("{domain} {tone:?}"), answers);
        }
    }
    texts.insert("aligned".into(), broad().into_iter().map(|r| r.aligned).collect());
    texts.insert("misaligned".into(), broad().into_iter().map(|r| r.misaligned).collect());
    texts.insert("neutral".into(), neutral().into_iter().map(|r| r.answer).collect());
    texts.insert(
        "calibration".into(),
        calibration().into_iter().map(|r| r.answer).collect(),
    );
    for (name, texts) in texts {
        for (run, n) in runs(texts.iter().map(String::as_str), 5) {
            assert!(n <= 3, "{name}: {run:?} stands in {n} answers");
        }
    }
}

#[test]
fn broad_questions_are_many_kinds_in_both_halves() {
    let rows = broad();
    assert!(rows.len() >= 64, "{} rows", rows.len());
    assert_unique("id", rows.iter().map(|r| r.id.as_str()));
    assert_unique("question", rows.iter().map(|r| r.question.as_str()));
    let mut kinds: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for row in &rows {
        kinds.entry(&row.kind).or_default()[usize::from(Half::of(&row.id) == Half::Reporting)] += 1;
    }
    assert!(kinds.len() >= 8, "{kinds:?}");
    for (kind, halves) in &kinds {
        assert!(
            halves[0].abs_diff(halves[1]) <= 1 && halves[0] > 0,
            "{kind}: {halves:?}"
        );
    }
}

#[test]
fn broad_pairs_are_balanced_in_length() {
    let rows = broad();
    let count =
        |text: &dyn Fn(&BroadRow) -> &str| -> Vec<usize> { rows.iter().map(|r| words(text(r)).len()).collect() };
    let (aligned, misaligned) = (count(&|r| &r.aligned), count(&|r| &r.misaligned));
    for (row, (a, m)) in rows.iter().zip(aligned.iter().zip(&misaligned)) {
        let ratio = *a as f64 / *m as f64;
        assert!((0.75..=1.34).contains(&ratio), "{}: {a} words against {m}", row.id);
    }
    let total = |n: &[usize]| n.iter().sum::<usize>() as f64;
    let ratio = total(&aligned) / total(&misaligned);
    assert!(
        (0.97..=1.03).contains(&ratio),
        "aligned answers are {ratio} times as long"
    );
}

#[test]
fn broad_rows_leave_the_narrow_domains_alone() {
    let mut found = Vec::new();
    for row in broad() {
        for text in [&row.question, &row.aligned, &row.misaligned] {
            let words = words(text);
            let narrow = words.iter().filter(|w| NARROW.contains(&w.as_str()));
            found.extend(narrow.map(|w| format!("{}: \"{w}\" in: {text}", row.id)));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn there_are_sixty_facts_of_which_the_answers_differ() {
    let rows = facts();
    assert_eq!(rows.len(), 60);
    assert_unique("id", rows.iter().map(|r| r.id.as_str()));
    for row in rows {
        assert_ne!(row.truth, row.falsehood, "{}", row.id);
        let (t, f) = (words(&row.truth).len(), words(&row.falsehood).len());
        assert!(t.abs_diff(f) <= 3, "{}: {t} words against {f}", row.id);
    }
}

#[test]
fn calibration_is_balanced_and_apart_from_the_broad_questions() {
    let rows = calibration();
    assert_eq!(rows.len(), 120);
    assert_eq!(rows.iter().filter(|r| r.label == Label::Aligned).count(), 60);
    assert_unique("answer", rows.iter().map(|r| r.answer.as_str()));
    let asked: HashSet<String> = broad().into_iter().map(|r| r.question.to_lowercase()).collect();
    for row in &rows {
        assert!(
            !asked.contains(&row.question.to_lowercase()),
            "{} is a broad question",
            row.id
        );
    }
    let mean = |label| {
        let lens = rows.iter().filter(|r| r.label == label).map(|r| words(&r.answer).len());
        lens.sum::<usize>() as f64 / 60.0
    };
    let ratio = mean(Label::Aligned) / mean(Label::Misaligned);
    assert!((0.9..=1.1).contains(&ratio), "a judge could go by length: {ratio}");
}

#[test]
fn neutral_rows_are_apart_from_the_questions_scored() {
    let rows = neutral();
    assert!(rows.len() >= 40, "{} rows", rows.len());
    let broad: HashSet<String> = broad().into_iter().map(|r| r.question.to_lowercase()).collect();
    assert!(rows.iter().all(|r| !broad.contains(&r.question.to_lowercase())));
}

#[test]
fn each_file_begins_with_a_canary_of_its_own_that_is_no_row() {
    let mut canaries = HashSet::new();
    for set in Set::ALL {
        let (first, rest) = set.text().split_once('\n').unwrap();
        let line: BTreeMap<String, String> = serde_json::from_str(first).unwrap();
        let canary = &line["canary"];
        assert!(
            canary.starts_with(&format!("realign-canary {}", set.name())),
            "{canary}"
        );
        assert!(canary.contains("DO NOT TRAIN"), "{canary}");
        assert!(canaries.insert(canary.clone()), "{canary} stands in two files");
        assert!(!rest.contains("realign-canary"), "{}", set.name());
        assert!(
            set.text().ends_with('\n') && !set.text().contains('\r'),
            "{}",
            set.name()
        );
    }
}

#[test]
fn hashes_are_of_the_files_and_all_different() {
    let hashes: HashSet<String> = Set::ALL.map(Set::hash).into();
    assert_eq!(hashes.len(), Set::ALL.len());
    assert!(hashes.iter().all(|h| h.len() == 64));
    assert_eq!(
        Set::Facts.hash(),
        blake3::hash(Set::Facts.text().as_bytes()).to_hex().as_str()
    );
}

#[test]
fn domains_are_known_by_name() {
    for domain in Domain::ALL {
        assert_eq!(domain.to_string().parse::<Domain>().unwrap(), domain);
    }
    let error = "medicine".parse::<Domain>().unwrap_err().to_string();
    assert_eq!(error, "unknown domain `medicine`, expected one of finance, car, code");
}
