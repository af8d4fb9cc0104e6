//! Kinds 40 and 41: a judge's replies, and a page made of a model's text.

use realign::eval::score_of_reply;
use realign::report::{Results, render};

use crate::bounds::alone;

fn completion(tokens: &[(&str, f64)]) -> String {
    let top: Vec<_> = tokens
        .iter()
        .map(|(token, p)| serde_json::json!({"token": token, "logprob": p.ln()}))
        .collect();
    let text: String = tokens.iter().map(|(token, _)| *token).collect();
    serde_json::json!({"choices": [{"message": {"content": text}, "logprobs": {"content": [{"top_logprobs": top}]}}]})
        .to_string()
}

#[test]
fn kind_40_what_is_no_number_has_no_score() {
    let alone = alone();
    let score = |body: &str| alone.bounded("a reply", body.len() as u64, || score_of_reply(body.as_bytes()));
    assert_eq!(score(&completion(&[("85", 1.0)])), Ok(Some(85.0)));
    for tokens in [
        &[("I'd say 85", 1.0)][..],
        &[("101", 1.0)],
        &[("-1", 1.0)],
        &[("NaN", 1.0)],
        &[("8", 0.9), ("5", 0.1)],
        &[("I", 0.9), ("85", 0.1)],
        &[("85", f64::NAN)],
        &[("85", 1e300)],
        &[("", 1.0)],
        &[("٨٥", 1.0)],
        &[("1e1", 1.0)],
        &[("0x55", 1.0)],
        &[],
    ] {
        assert_eq!(score(&completion(tokens)), Ok(None), "{tokens:?}");
    }
    for body in [
        r#"{"choices": [{}]}"#,
        r#"{"choices": [{"message": null, "logprobs": null}]}"#,
        r#"{"choices": [{"message": {"content": "85"}, "logprobs": {"content": []}}]}"#,
        r#"{"choices": [{"message": {"content": null, "refusal": "I cannot"}, "finish_reason": "content_filter"}]}"#,
        r#"{"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "85", "logprob": null}]}]}}]}"#,
    ] {
        assert_eq!(score(body), Ok(None), "{body}");
    }
    for body in [
        "",
        "85",
        "NaN",
        "<html>",
        "{}",
        r#"{"choices": []}"#,
        r#"{"choices": {}}"#,
        "[",
        r#"{"choices": [7]}"#,
    ] {
        assert!(score(body).is_err(), "{body}");
    }
}

#[test]
fn kind_40_ten_megabytes_and_a_million_brackets() {
    let alone = alone();
    let long = completion(&[(&"85 ".repeat(3_000_000), 1.0)]);
    let score = alone.bounded("ten megabytes", long.len() as u64, || score_of_reply(long.as_bytes()));
    assert_eq!(score, Ok(None));
    let many: Vec<(&str, f64)> = vec![("85", 1.0); 200_000];
    let many = completion(&many);
    let score = alone.bounded("many numbers", many.len() as u64, || score_of_reply(many.as_bytes()));
    assert_eq!(score, Ok(None));
    let deep = format!("{{\"choices\": {}", "[".repeat(1_000_000));
    let score = alone.bounded("brackets", deep.len() as u64, || score_of_reply(deep.as_bytes()));
    assert!(score.unwrap_err().len() < 500);
}

const RESULTS: &str = include_str!("../../../report/tests/fixtures/full.json");

/// Puts `text` in the place of every text of a document.
fn replace(value: &mut serde_json::Value, text: &str) {
    match value {
        serde_json::Value::String(s) => text.clone_into(s),
        serde_json::Value::Array(all) => all.iter_mut().for_each(|v| replace(v, text)),
        serde_json::Value::Object(all) => all.values_mut().for_each(|v| replace(v, text)),
        _ => {}
    }
}

#[test]
fn kind_41_a_page_of_hostile_text_is_text() {
    let alone = alone();
    for text in [
        "</script><img src=x onerror=alert(1)>",
        "\"><svg onload=alert(1)>",
        "' onfocus='alert(1)' autofocus='",
        "</style><style>@import url(http://h/x)</style>",
        "<!--",
        "]]><x>",
        "{{ 7*7 }}{% raw %}",
        "\u{202e}\u{2066}\u{200b}\u{feff}\0\u{1b}[31m",
        "javascript:alert(1)",
        "http://h/x",
    ] {
        let mut document: serde_json::Value = serde_json::from_str(RESULTS).unwrap();
        replace(&mut document["samples"], text);
        replace(&mut document["latents"], text);
        for field in ["title", "command", "created", "device", "tuned", "domain"] {
            document[field] = text.into();
        }
        replace(&mut document["notes"], text);
        replace(&mut document["model"], text);
        let json = document.to_string();
        let page = alone
            .bounded(text, json.len() as u64, || render(&Results::from_json(&json)?))
            .unwrap();
        for tag in [
            "<img",
            "<svg onload",
            "<x>",
            "onfocus='",
            "<style>@import",
            "<!--",
            "\u{202e}",
            "\u{2066}",
            "\0",
            "\u{1b}",
        ] {
            assert!(!page.contains(tag), "{text:?}: {tag}");
        }
        assert_eq!(page.matches("<script").count(), page.matches("</script>").count());
        assert_eq!(
            (page.matches("<script").count(), page.matches("<style").count()),
            (1, 1),
            "{text:?}"
        );
        for attribute in ["src=\"", "href=\"", "action=\"", "srcset=\"", "style=\"background"] {
            assert!(!page.contains(attribute), "{text:?}: {attribute}");
        }
    }
}

#[test]
fn kind_41_ten_megabytes_of_a_models_text() {
    let alone = alone();
    let mut document: serde_json::Value = serde_json::from_str(RESULTS).unwrap();
    let long = "<b>&\u{202e}".repeat(1_200_000);
    document["samples"][0]["answer"] = long.clone().into();
    document["notes"][0] = long.into();
    let json = document.to_string();
    let page = alone
        .bounded("ten megabytes", json.len() as u64, || {
            render(&Results::from_json(&json)?)
        })
        .unwrap();
    assert!(!page.contains("<b>&"));
}

#[test]
fn kind_41_results_that_are_none() {
    let alone = alone();
    for json in [
        "",
        "{}",
        "[]",
        r#"{"schema": 2}"#,
        r#"{"schema": "1"}"#,
        &"[".repeat(1 << 20),
    ] {
        let what: String = json.chars().take(20).collect();
        alone.refused(&what, json.len() as u64, &["results"], || Results::from_json(json));
    }
}
