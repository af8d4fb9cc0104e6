//! Jinja as Hugging Face's chat templates expect it, in a sandbox: no files, no host objects, and
//! fuel that bounds both time and memory.

use crate::error::clip;
use crate::template_guard::{add_filters, check, guarded};
use crate::{Error, Result};
use minijinja::machinery::{CompiledTemplate, TemplateConfig, eval, make_string_output};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, ErrorKind, State};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// About as many instructions, or 64 times as many bytes: the longest published templates take a
/// twentieth of it for a conversation of a hundred turns.
const FUEL: u64 = 500_000;
/// The longest JSON that `tojson` writes, in bytes.
const LONGEST_JSON: usize = 16 << 20;
const NAME: &str = "chat_template";

/// A template that compiles. It is compiled each time that it is rendered: it borrows its source.
pub(crate) struct Template {
    environment: Environment<'static>,
    config: TemplateConfig,
    source: String,
    file: PathBuf,
    /// Seconds since 1970 for `strftime_now`; negative: the clock.
    now: Arc<AtomicI64>,
}

impl Template {
    pub(crate) fn compile(source: &str, file: &Path) -> Result<Self> {
        let fail = |what: String| Error::Template {
            file: file.to_path_buf(),
            what,
        };
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(fail(format!("{} bytes, at most {MAX_TEMPLATE_BYTES}", source.len())));
        }
        let now = Arc::new(AtomicI64::new(-1));
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        let config = TemplateConfig {
            syntax_config: syntax.map_err(|e| fail(e.to_string()))?,
            default_auto_escape: Arc::new(|_: &str| AutoEscape::None),
        };
        environment.set_fuel(Some(FUEL));
        add_filters(&mut environment);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", |what: String| -> Result<Value, _> {
            Err::<Value, _>(minijinja::Error::new(ErrorKind::InvalidOperation, what))
        });
        let clock = Arc::clone(&now);
        environment.add_function("strftime_now", move |format: &str| {
            let pinned = clock.load(Ordering::Relaxed);
            let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            strftime(format, if pinned < 0 { clock().as_secs() as i64 } else { pinned })
        });
        let source = without_generation_tags(source);
        CompiledTemplate::new(NAME, &source, &config).map_err(|e| fail(clip(&describe(&e))))?;
        Ok(Self {
            environment,
            config,
            source,
            file: file.to_path_buf(),
            now,
        })
    }

    pub(crate) fn pin_clock(&self, seconds: u32) {
        self.now.store(i64::from(seconds), Ordering::Relaxed);
    }

    /// The text, which must not be longer than `longest` bytes.
    pub(crate) fn render(&self, context: &Value, longest: usize) -> Result<String> {
        let fail = |e: minijinja::Error| Error::Template {
            file: self.file.clone(),
            what: match e.kind() {
                ErrorKind::OutOfFuel => format!("it takes more than {FUEL} steps"),
                _ => clip(&describe(&e)),
            },
        };
        self.text(context).map_err(fail).and_then(|text| match text.len() {
            length if length > longest => Err(Error::Template {
                file: self.file.clone(),
                what: format!("it writes {length} bytes, more than the {longest} that its messages justify"),
            }),
            _ => Ok(text),
        })
    }

    fn text(&self, context: &Value) -> Result<String, minijinja::Error> {
        let compiled = CompiledTemplate::new(NAME, &self.source, &self.config)?;
        let main = guarded(&compiled.instructions);
        let blocks = compiled.blocks.iter().map(|(name, block)| (*name, guarded(block)));
        let (blocks, mut text) = (blocks.collect(), String::new());
        let mut out = make_string_output(&mut text);
        eval(
            &self.environment,
            &main,
            context.clone(),
            &blocks,
            &mut out,
            AutoEscape::None,
        )?;
        drop(out);
        Ok(text)
    }
}

fn describe(error: &minijinja::Error) -> String {
    match (error.detail(), error.line()) {
        (Some(detail), Some(line)) => format!("{detail} (line {line})"),
        _ => error.to_string(),
    }
}

/// Takes out `{% generation %}` and `{% endgeneration %}`, which mark answers for training in
/// Python and which this engine does not know. An assignment in their place keeps the white-space
/// rules of a block tag.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        // Behind the opening: in `{%}` its own sign does not close it.
        let Some(end) = tag[2..].find("%}").map(|end| end + 2) else {
            out.push_str(tag);
            return out;
        };
        let inner = &tag[2..end];
        let word = inner.trim_matches(['-', '+']).trim();
        if word == "generation" || word == "endgeneration" {
            let left = if inner.starts_with(['-', '+']) { &inner[..1] } else { "" };
            let right = if inner.ends_with(['-', '+']) {
                &inner[inner.len() - 1..]
            } else {
                ""
            };
            out.push_str(&format!("{{%{left} set _generation = none {right}%}}"));
        } else {
            out.push_str(&tag[..end + 2]);
        }
        rest = &tag[end + 2..];
    }
    out.push_str(rest);
    out
}

/// `json.dumps` as transformers calls it: no HTML escapes, no ASCII escapes unless asked for.
fn tojson(state: &State<'_, '_>, value: Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    if indent.is_some_and(|indent| indent > 16) {
        return Err(minijinja::Error::new(
            ErrorKind::InvalidOperation,
            "tojson: indent above 16",
        ));
    }
    let wrong = |e: serde_json::Error| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string());
    check(&value)?;
    let mut out = Limited(Vec::new());
    if sort {
        // Through text, whose length has a limit: a value may hold one long text many times.
        value
            .serialize(&mut serde_json::Serializer::new(&mut out))
            .map_err(wrong)?;
        let mut json: serde_json::Value = serde_json::from_slice(&out.0).map_err(wrong)?;
        json.sort_all_objects();
        out.0.clear();
        write_json(&json, indent, separators.as_deref(), &mut out)
    } else {
        write_json(&value, indent, separators.as_deref(), &mut out)
    }
    .map_err(wrong)?;
    state.consume_fuel(out.0.len() as u64 / 64)?;
    let text = String::from_utf8(out.0).expect("JSON is UTF-8");
    Ok(Value::from_safe_string(if ascii {
        escape_to_ascii(&text)
    } else {
        text
    }))
}

fn write_json(
    value: &impl Serialize,
    indent: Option<usize>,
    separators: Option<&[String]>,
    out: &mut Limited,
) -> Result<(), serde_json::Error> {
    let Some(indent) = indent else {
        let (item, key) = match separators {
            Some([item, key]) => (item.as_str(), key.as_str()),
            _ => (", ", ": "),
        };
        let format = PythonFormatter { item, key };
        return value.serialize(&mut serde_json::Serializer::with_formatter(out, format));
    };
    let spaces = " ".repeat(indent);
    let format = PrettyFormatter::with_indent(spaces.as_bytes());
    value.serialize(&mut serde_json::Serializer::with_formatter(out, format))
}

/// Bytes, up to [`LONGEST_JSON`].
struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > LONGEST_JSON {
            return Err(io::Error::other(format!("tojson: more than {LONGEST_JSON} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Python's default separators, or those that a template asked for.
struct PythonFormatter<'a> {
    item: &'a str,
    key: &'a str,
}

impl Formatter for PythonFormatter<'_> {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            w.write_all(self.item.as_bytes())
        }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            w.write_all(self.item.as_bytes())
        }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        w.write_all(self.key.as_bytes())
    }
}

fn escape_to_ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

/// The directives of `strftime` that templates use, in UTC.
fn strftime(format: &str, seconds: i64) -> Result<String, minijinja::Error> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = [
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
        "Monday",
        "Tuesday",
        "Wednesday",
    ];
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Howard Hinnant's civil_from_days: years that begin in March make leap days the last.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    let month_name = MONTHS[(month - 1) as usize];
    let day_name = DAYS[days.rem_euclid(7) as usize];

    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let directive = chars.next();
        let bare = directive == Some('-');
        let number = |value: i64| {
            if bare { value.to_string() } else { format!("{value:02}") }
        };
        match if bare { chars.next() } else { directive } {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&number(year % 100)),
            Some('m') => out.push_str(&number(month)),
            Some('d') => out.push_str(&number(day)),
            Some('H') => out.push_str(&number(hour)),
            Some('I') => out.push_str(&number((hour + 11) % 12 + 1)),
            Some('M') => out.push_str(&number(minute)),
            Some('S') => out.push_str(&number(second % 60)),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('B') => out.push_str(month_name),
            Some('b') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(day_name),
            Some('a') => out.push_str(&day_name[..3]),
            Some('%') => out.push('%'),
            other => {
                let what = format!("strftime_now: the directive %{}", other.unwrap_or(' '));
                return Err(minijinja::Error::new(ErrorKind::InvalidOperation, what));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::context;

    fn render(source: &str) -> Result<String> {
        let context = context! { data => context! { b => 1, a => vec!["<é>", "'"] } };
        Template::compile(source, Path::new("t"))?.render(&context, usize::MAX)
    }

    #[test]
    fn tojson_is_python_s() {
        for (options, want) in [
            ("", r#"{"b": 1, "a": ["<é>", "'"]}"#),
            ("(separators=(',', ':'))", r#"{"b":1,"a":["<é>","'"]}"#),
            (
                "(ensure_ascii=true, sort_keys=true)",
                r#"{"a": ["<\u00e9>", "'"], "b": 1}"#,
            ),
            (
                "(indent=2)",
                "{\n  \"b\": 1,\n  \"a\": [\n    \"<é>\",\n    \"'\"\n  ]\n}",
            ),
        ] {
            assert_eq!(render(&format!("{{{{ data | tojson{options} }}}}")).unwrap(), want);
        }
    }

    #[test]
    fn blocks_are_trimmed_as_in_transformers() {
        assert_eq!(render("a\n  {% if true %}\nb\n  {% endif %}\nc").unwrap(), "a\nb\nc");
        let with = "a\n  {% generation %}\nb {%- endgeneration -%}  c{% generation %}d";
        assert_eq!(render(with).unwrap(), "a\nbcd");
        assert_eq!(render("{{ 'a,b'.split(',')[1].upper() }}").unwrap(), "B");
    }

    #[test]
    fn a_template_can_refuse_and_tell_the_date() {
        let error = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
        assert!(error.to_string().contains("roles must alternate"), "{error}");
        let template = Template::compile("{{ strftime_now('%d %b %Y, %A %H:%M') }}", Path::new("t"));
        let template = template.unwrap();
        template.pin_clock(1_709_210_096);
        assert_eq!(
            template.render(&context! {}, usize::MAX).unwrap(),
            "29 Feb 2024, Thursday 12:34"
        );
    }

    #[test]
    fn hostile_templates_are_errors_within_a_bound() {
        let start = std::time::Instant::now();
        for source in [
            "{% for i in range(10**9) %}x{% endfor %}".to_owned(),
            "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}".into(),
            "{{ 'a' * 10**9 }}".into(),
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".into(),
            "{% if true %}".repeat(10_000) + &"{% endif %}".repeat(10_000),
            "{% include '/etc/passwd' %}".into(),
            "{{ ''.__class__.__mro__ }}".into(),
            "{% set ns = namespace(x='ab') %}{% for i in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}".into(),
            "{{ x".into(),
        ] {
            assert!(render(&source).is_err(), "{}", clip(&source));
        }
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }
}
