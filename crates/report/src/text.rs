//! Model text made safe to look at: nothing hidden, nothing that the browser would obey.

/// More of one text than anybody reads, and little enough for a browser.
const LONGEST: usize = 100_000;

/// Replaces characters that a reader can't see, or that reorder what they see, by their code
/// points, as in `⟨U+202E⟩`. Line feeds and tabs stay. Of a text of more than a hundred thousand characters the rest is
/// counted, not shown.
///
/// Text that runs right to left by nature stays as it is; only the *controls* are shown. The joiners
/// that emoji and some scripts are spelled with stay too.
pub(crate) fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(LONGEST));
    let mut chars = text.chars();
    for c in chars.by_ref().take(LONGEST) {
        if hidden(c) {
            out.push_str(&format!("⟨U+{:04X}⟩", c as u32));
        } else {
            out.push(c);
        }
    }
    match chars.count() {
        0 => {}
        more => out.push_str(&format!("… ({more} characters more)")),
    }
    out
}

/// [`visible`] on one line: breaks become `↵`, tabs become `⇥`.
pub(crate) fn visible_line(text: &str) -> String {
    visible(&text.replace("\r\n", "↵").replace('\n', "↵").replace('\t', "⇥"))
}

/// Text for an SVG or HTML node or a double-quoted attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in visible(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// The text cut to at most `chars` characters, with an ellipsis where something is missing.
pub(crate) fn shorten(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    let kept: String = text.chars().take(chars.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// Lines of at most `width` characters, broken at blanks; a longer word is broken where it must be.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    for word in text.split_whitespace() {
        let mut rest: Vec<char> = word.chars().collect();
        if used > 0 && used + 1 + rest.len() > width {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        while rest.len() > width {
            lines.push(rest.drain(..width).collect());
        }
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        used += rest.len();
        line.extend(rest);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

fn hidden(c: char) -> bool {
    matches!(c,
        '\u{0}'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        | '\u{ad}' | '\u{34f}' | '\u{61c}'
        | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}'
        | '\u{200b}' | '\u{200e}' | '\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{fffe}' | '\u{ffff}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bidi_controls_are_shown_and_hebrew_stays() {
        assert_eq!(visible("a\u{202e}b\u{2066}"), "a⟨U+202E⟩b⟨U+2066⟩");
        assert_eq!(visible("שלום\n\tx"), "שלום\n\tx");
        assert_eq!(visible("\u{0}\u{7f}"), "⟨U+0000⟩⟨U+007F⟩");
    }

    #[test]
    fn a_line_shows_its_breaks() {
        assert_eq!(visible_line("a\r\nb\tc\n"), "a↵b⇥c↵");
    }

    #[test]
    fn shortening_counts_characters() {
        assert_eq!(shorten("ééééé", 5), "ééééé");
        assert_eq!(shorten("éé ééé", 4), "éé…");
        assert_eq!(shorten("abc", 0), "…");
    }

    fn unescape(text: &str) -> String {
        text.replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&quot;", "\"")
            .replace("&#39;", "'")
            .replace("&amp;", "&")
    }

    proptest! {
        #[test]
        fn escaped_text_holds_no_markup_and_loses_nothing(text in any::<String>()) {
            let escaped = escape(&text);
            prop_assert!(!escaped.contains(['<', '>', '"', '\'']));
            prop_assert!(!escaped.chars().any(hidden));
            prop_assert_eq!(unescape(&escaped), visible(&text));
        }

        #[test]
        fn wrapped_lines_fit_and_keep_every_letter(
            text in "[a-zé ]{0,200}",
            width in 1usize..40,
        ) {
            let lines = wrap(&text, width);
            prop_assert!(lines.iter().all(|l| (1..=width).contains(&l.chars().count())));
            let letters = |s: &str| s.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&lines.concat()), letters(&text));
        }
    }
}
