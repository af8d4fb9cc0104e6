//! Claims about the page.

use super::*;
use crate::results::Real;

const FULL: &str = include_str!("../../tests/fixtures/full.json");
const AUDIT: &str = include_str!("../../tests/fixtures/audit.json");
const SECTIONS: [&str; 7] = ["done", "shifted", "said", "inside", "steered", "undone", "trust"];

fn page(json: &str) -> String {
    render(&Results::from_json(json).unwrap()).unwrap()
}

fn has(page: &str, section: &str) -> bool {
    page.contains(&format!("<section id=\"{section}\">"))
}

#[test]
fn the_story_is_told_in_order() {
    let page = page(FULL);
    let at: Vec<usize> = SECTIONS
        .iter()
        .map(|s| {
            page.find(&format!("<section id=\"{s}\">"))
                .unwrap_or_else(|| panic!("{s}"))
        })
        .collect();
    assert!(at.is_sorted());
    assert_eq!(page.matches("<section ").count(), page.matches("</section>").count());
    assert!(page.contains("<span class=\"main-number\">+0.69</span>"));
}

#[test]
fn the_page_asks_the_network_for_nothing() {
    for page in [page(FULL), page(AUDIT)] {
        assert!(page.contains("default-src 'none'"));
        let lower = page.to_lowercase().replace("objecturl(", "");
        for bad in [
            "http:", "https:", "src=\"", "href=\"", "url(", "@import", "<link", "<iframe",
        ] {
            assert!(!lower.contains(bad), "{bad}");
        }
    }
}

#[test]
fn model_text_cannot_become_markup_or_hide() {
    let page = page(FULL);
    assert!(FULL.contains("</script><img src=x onerror=alert(1)>"));
    assert!(!page.contains("<img"));
    assert!(!page.contains("<b>love"));
    assert_eq!(page.matches("</script>").count(), 1);
    assert!(FULL.contains('\u{202e}') && !page.contains('\u{202e}'));
    assert!(page.contains("⟨U+202E⟩") && page.contains("⟨U+0007⟩"));
}

#[test]
fn hostile_text_is_escaped_in_every_field() {
    const HOSTILE: &str = "\"'><x-hostile onfocus=alert(1)>\u{202e}";
    let mut value: serde_json::Value = serde_json::from_str(FULL).unwrap();
    poison(&mut value, HOSTILE);
    let page = page(&value.to_string());
    assert!(!page.contains("<x-hostile"));
    assert!(!page.contains("\"'>") && !page.contains('\u{202e}'));
    assert!(page.matches("x-hostile").count() > 50);
}

/// Appends the text to every string of a document.
fn poison(value: &mut serde_json::Value, text: &str) {
    match value {
        serde_json::Value::String(s) => s.push_str(text),
        serde_json::Value::Array(all) => all.iter_mut().for_each(|v| poison(v, text)),
        serde_json::Value::Object(all) => all.values_mut().for_each(|v| poison(v, text)),
        _ => {}
    }
}

#[test]
fn the_same_results_give_the_same_bytes() {
    assert_eq!(page(FULL), page(FULL));
}

#[test]
fn an_audit_leaves_out_what_it_lacks() {
    let page = page(AUDIT);
    let present: Vec<&str> = SECTIONS.into_iter().filter(|s| has(&page, s)).collect();
    assert_eq!(present, ["done", "shifted", "trust"]);
    assert!(page.contains("made no clear difference"));
    assert!(!page.contains("targets reached") && !page.contains("The judge"));
}

#[test]
fn results_without_an_arm_still_make_a_page() {
    let page = render(&Results::default()).unwrap();
    assert!(page.contains("No model was evaluated"));
}

#[test]
fn numbers_that_are_not_finite_never_reach_the_page() {
    let mut results = Results::from_json(FULL).unwrap();
    let mut value = serde_json::to_value(&results).unwrap();
    nullify(&mut value);
    let all_null = Results::from_json(&value.to_string()).unwrap();
    results.timings.insert("sae", Real(f64::NAN));
    for results in [&all_null, &results] {
        let page = render(results).unwrap();
        let text = page.replace("infinite", "");
        assert!(!text.contains("NaN") && !text.contains(">inf"), "not finite");
    }
}

/// Makes null of each number in each figure.
fn nullify(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(all) if all.contains_key("mean") => {
            for name in ["mean", "lo", "hi"] {
                all[name] = serde_json::Value::Null;
            }
        }
        serde_json::Value::Array(all) => all.iter_mut().for_each(nullify),
        serde_json::Value::Object(all) => all.values_mut().for_each(nullify),
        _ => {}
    }
}

#[test]
fn an_example_shorter_than_its_peak_does_not_panic() {
    let mut results = Results::from_json(FULL).unwrap();
    let example = &mut results.latents[0].top_examples[0];
    example.peak = usize::MAX;
    example.activations.truncate(2);
    results.latents[1].top_examples[0] = crate::Example::default();
    render(&results).unwrap();
}

#[test]
fn every_figure_is_drawn_for_a_phone_and_tells_its_values() {
    let page = page(FULL);
    let figures = page.matches("<figure ").count();
    assert_eq!(page.matches("<div class=\"narrow\">").count(), figures);
    assert_eq!(page.matches("class=\"save\"").count(), figures);
    assert!(page.contains("Organism, merely wrong: +0.69 [+0.44, +0.95], n = 32"));
    assert!(page.contains("viewBox=\"0 0 328 "));
}
