//! The one grammar by which models are named.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::files::bad_name;
use crate::{Error, Result, known};

/// A model as a user names it; [`fmt::Display`] gives the text back.
///
/// | text | means |
/// |---|---|
/// | `path/to/dir`, `path/to/file.gguf` | files on this machine |
/// | `smollm2-135m-instruct` | a model of [`known::known`] |
/// | `org/name`, `org/name@revision`, `org/name:Q4_K_M` | a repository of the model hub; the part after `:` picks one of its GGUF files |
/// | `hf://org/name/file` | one file of a repository |
/// | `openai:URL#model` | a model behind an OpenAI-compatible server |
/// | `toy:NAME` | a model that is made, not read |
///
/// A local path wins over the others only if it exists *and* looks like a model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ModelSpec {
    /// A file or folder on this machine.
    Path(PathBuf),
    /// A model that this project knows by name.
    Known(String),
    /// A repository of the model hub.
    Repo {
        /// `org/name`.
        repo: String,
        /// Branch, tag or commit; none is the main branch.
        revision: Option<String>,
        /// Which of its GGUF files, by a part of the name.
        quant: Option<String>,
    },
    /// One file of a repository of the model hub.
    File {
        /// `org/name`.
        repo: String,
        /// Branch, tag or commit; none is the main branch.
        revision: Option<String>,
        /// The file's path in the repository.
        file: String,
    },
    /// A model behind an OpenAI-compatible server.
    OpenAi {
        /// The server's base address, up to and including `/v1` where it has that.
        url: String,
        /// What the server calls the model.
        model: String,
    },
    /// A small model made from a name alone.
    Toy(String),
}

impl FromStr for ModelSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |what: String| Error::Spec {
            text: crate::error::clip(text),
            what,
        };
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(refuse("is empty or holds a control character".to_owned()));
        }
        if let Some(rest) = text.strip_prefix("openai:") {
            return openai(rest).map_err(refuse);
        }
        if let Some(name) = text.strip_prefix("toy:") {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if name.is_empty() || !name.chars().all(plain) {
                return Err(refuse(
                    "expected `toy:NAME`, a name of letters, digits, `-`, `_` and `.`".to_owned(),
                ));
            }
            return Ok(Self::Toy(name.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("hf://") {
            return hf(rest).map_err(refuse);
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(refuse(format!(
                "`{scheme}://` is not known; try a path, `org/name` or `hf://org/name/file`"
            )));
        }
        let path = Path::new(text);
        let local = look(path);
        if local == Local::Model || (spelt_as_path(text) && local == Local::Other) {
            return Ok(Self::Path(path.to_path_buf()));
        }
        if spelt_as_path(text) {
            return Err(refuse("there is no such file or folder".to_owned()));
        }
        if known::find(text).is_some() {
            return Ok(Self::Known(text.to_owned()));
        }
        if text.contains('/') {
            return repo(text).map_err(|what| refuse(format!("{}; as a repository: {what}", local.tried())));
        }
        let names: Vec<&str> = known::known().iter().map(|model| model.name).collect();
        Err(refuse(format!(
            "{}; it is no known model ({}), and no repository (`org/name`)",
            local.tried(),
            names.join(", ")
        )))
    }
}

impl fmt::Display for ModelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |revision: &Option<String>| revision.as_ref().map(|r| format!("@{r}")).unwrap_or_default();
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Known(name) => f.write_str(name),
            Self::Repo { repo, revision, quant } => {
                let quant = quant.as_ref().map(|q| format!(":{q}")).unwrap_or_default();
                write!(f, "{repo}{}{quant}", at(revision))
            }
            Self::File { repo, revision, file } => write!(f, "hf://{repo}{}/{file}", at(revision)),
            Self::OpenAi { url, model } => write!(f, "openai:{url}#{model}"),
            Self::Toy(name) => write!(f, "toy:{name}"),
        }
    }
}

/// What lies at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Local {
    /// A weights' file, or a folder with a model's or an adapter's files.
    Model,
    /// Something else.
    Other,
    Nothing,
}

impl Local {
    fn tried(self) -> &'static str {
        match self {
            Self::Model => "there is a model of this name",
            Self::Other => {
                "there is a file or folder of this name, but it is no .gguf or .safetensors file and has no config.json"
            }
            Self::Nothing => "there is no file or folder of this name",
        }
    }
}

fn look(path: &Path) -> Local {
    let weights = |path: &Path| {
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        extension == "gguf" || extension == "safetensors"
    };
    if !path.exists() {
        return Local::Nothing;
    }
    let model = if path.is_dir() {
        ["config.json", "adapter_config.json"]
            .iter()
            .any(|name| path.join(name).is_file())
            || std::fs::read_dir(path).is_ok_and(|all| all.flatten().any(|entry| weights(&entry.path())))
    } else {
        weights(path)
    };
    if model { Local::Model } else { Local::Other }
}

/// Whether a text can only be meant as a path.
fn spelt_as_path(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let drive = |b: &[u8]| b.len() > 2 && b[0].is_ascii_alphabetic() && b[1] == b':' && matches!(b[2], b'/' | b'\\');
    matches!(text, "." | "..")
        || ["/", "./", "../", "~/"].iter().any(|start| text.starts_with(start))
        || text.ends_with('/')
        || text.contains('\\')
        || drive(text.as_bytes())
        || lower.ends_with(".gguf")
        || lower.ends_with(".safetensors")
}

fn openai(rest: &str) -> Result<ModelSpec, String> {
    let form = "expected `openai:URL#model`, such as openai:http://localhost:8080/v1#qwen3";
    let (url, model) = rest.rsplit_once('#').ok_or(form)?;
    let host = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))
        .ok_or(form)?;
    if host.is_empty() || host.starts_with('/') || host.contains(char::is_whitespace) || model.trim().is_empty() {
        return Err(form.to_owned());
    }
    Ok(ModelSpec::OpenAi {
        url: url.to_owned(),
        model: model.to_owned(),
    })
}

fn hf(rest: &str) -> Result<ModelSpec, String> {
    let mut parts = rest.splitn(3, '/');
    let (org, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let whole = format!("{org}/{name}");
    let Some(file) = parts.next() else {
        return repo(&whole);
    };
    if let Some(bad) = bad_name(file) {
        return Err(format!("the file's name {bad}"));
    }
    match repo(&whole)? {
        ModelSpec::Repo {
            repo,
            revision,
            quant: None,
        } => Ok(ModelSpec::File {
            repo,
            revision,
            file: file.to_owned(),
        }),
        _ => Err("expected `hf://org/name/file`: a file's name needs no `:QUANT`".to_owned()),
    }
}

/// `org/name[@revision][:QUANT]`.
fn repo(text: &str) -> Result<ModelSpec, String> {
    let (rest, quant) = match text.rsplit_once(':') {
        Some((rest, quant)) => (rest, Some(quant)),
        None => (text, None),
    };
    let (repo, revision) = match rest.split_once('@') {
        Some((repo, revision)) => (repo, Some(revision)),
        None => (rest, None),
    };
    if let Some(bad) = bad_repo(repo) {
        return Err(format!("`{repo}` {bad}"));
    }
    if let Some(bad) = revision.and_then(bad_revision) {
        return Err(format!("the revision after `@` {bad}"));
    }
    if quant.is_some_and(|q| q.is_empty() || !q.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')) {
        return Err("expected a quantisation such as Q4_K_M after `:`".to_owned());
    }
    Ok(ModelSpec::Repo {
        repo: repo.to_owned(),
        revision: revision.map(str::to_owned),
        quant: quant.map(str::to_owned),
    })
}

/// Says what is wrong with a repository's name.
pub(crate) fn bad_repo(repo: &str) -> Option<&'static str> {
    let good = |part: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty() && part.len() <= 96 && part.chars().all(plain) && !part.starts_with(['.', '-'])
    };
    match repo.split_once('/') {
        Some((org, name)) if good(org) && good(name) && !repo.contains("..") => None,
        _ => Some("is not `org/name` in letters, digits, `-`, `_` and `.`"),
    }
}

/// Says what is wrong with the name of a branch, tag or commit.
pub(crate) fn bad_revision(revision: &str) -> Option<&'static str> {
    let strange = |c: char| !c.is_ascii_graphic() || matches!(c, '@' | '?' | '#' | '%' | '*' | '^' | '~');
    if revision.contains(strange) {
        Some("is no branch, tag or commit")
    } else {
        bad_name(revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ModelSpec {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn every_form_is_printed_as_it_was_written() {
        for text in [
            "smollm2-135m-instruct",
            "org/name",
            "org/name@main",
            "org/name:Q4_K_M",
            "org/name@refs/pr/1:Q8_0",
            "hf://org/name/sub/model-Q4_K_M.gguf",
            "hf://org/name@v1.0/model.gguf",
            "openai:http://localhost:8080/v1#qwen3",
            "openai:https://host/v1?key=a#b#org/name:free",
            "toy:tiny",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(parse("hf://org/name"), parse("org/name"));
    }

    #[test]
    fn the_parts_are_told_apart() {
        let spec = parse("org/na.me@v1:Q4_K_M");
        let (revision, quant) = (Some("v1".to_owned()), Some("Q4_K_M".to_owned()));
        assert_eq!(
            spec,
            ModelSpec::Repo {
                repo: "org/na.me".to_owned(),
                revision,
                quant
            }
        );
        let spec = parse("openai:https://host/v1#org/name");
        assert_eq!(
            spec,
            ModelSpec::OpenAi {
                url: "https://host/v1".to_owned(),
                model: "org/name".to_owned()
            }
        );
        assert_eq!(parse(known::SMOLLM2), ModelSpec::Known(known::SMOLLM2.to_owned()));
    }

    #[test]
    fn a_local_path_wins_only_if_it_looks_like_a_model() {
        let folder = tempfile::tempdir().unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let file = folder.path().join("model.gguf");
        let error = text(&file).parse::<ModelSpec>().unwrap_err().to_string();
        assert!(error.contains("no such file"), "{error}");
        // A relative path that could be a repository's name: this crate's own folders.
        let error = "src".parse::<ModelSpec>().unwrap_err().to_string();
        assert!(
            error.contains("no config.json") && error.contains(known::SMOLLM2),
            "{error}"
        );
        assert!(matches!(parse("tests/fixtures"), ModelSpec::Repo { .. }));
        assert_eq!(
            parse("tests/fixtures/tiny_llama"),
            ModelSpec::Path("tests/fixtures/tiny_llama".into())
        );
        // Spelt as a path, it is one, whatever is there.
        assert_eq!(parse("./src"), ModelSpec::Path("./src".into()));
        std::fs::write(&file, "GGUF").unwrap();
        assert_eq!(parse(&text(&file)), ModelSpec::Path(file.clone()));
        assert_eq!(
            parse(&text(folder.path())),
            ModelSpec::Path(folder.path().to_path_buf())
        );
    }

    #[test]
    fn what_is_outside_of_the_grammar_is_refused() {
        for text in [
            "",
            "a\nb",
            "org/",
            "/no/such/folder",
            "../../no/such",
            "org/name/more",
            "org/..",
            ".org/name",
            "org/name@",
            "org/name@../x",
            "org/name:",
            "org/name:Q4-K",
            "hf://org",
            "hf://org/name/",
            "hf://org/name/../../x",
            "hf://org/name:Q4/file",
            "openai:localhost#m",
            "openai:http://host",
            "openai:http://#m",
            "openai:http://h#",
            "toy:",
            "toy:a/b",
            "ftp://host/x",
            "https://huggingface.co/org/name",
            "nonsense",
        ] {
            let error = text.parse::<ModelSpec>().expect_err(text);
            assert!(matches!(error, Error::Spec { .. }), "{text}: {error}");
        }
    }
}
