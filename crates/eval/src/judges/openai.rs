//! A judge behind an OpenAI-compatible server.

mod reply;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use realign_run::{Retry, Seed, append_line, read_lines, retry_after};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{Error, Grade, Judge, Judged, Result, Rubric};
use reply::Reply;
pub use reply::score_of_reply;

/// Names the way in which grades are taken from replies; it changes whenever that does.
const METHOD: &str = "openai-0-100-v1";

/// Where to ask, and how hard.
#[derive(Clone, PartialEq, Eq)]
pub struct OpenAiConfig {
    /// The API's root, such as `https://api.openai.com/v1`.
    pub url: String,
    /// The judging model.
    pub model: String,
    /// Sent to that URL's server and to no other.
    pub key: Option<String>,
    /// Requests at a time.
    pub concurrency: usize,
    /// When to ask again.
    pub retry: Retry,
    /// The longest that one request may take, to the last byte of the reply.
    pub timeout: Duration,
    /// The largest body that is read, in bytes.
    pub max_body: u64,
}

impl std::fmt::Debug for OpenAiConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            url,
            model,
            key,
            concurrency,
            retry,
            timeout,
            max_body,
        } = self;
        f.debug_struct("OpenAiConfig")
            .field("url", url)
            .field("model", model)
            .field("key", &key.as_ref().map(|_| "..."))
            .field("concurrency", concurrency)
            .field("retry", retry)
            .field("timeout", timeout)
            .field("max_body", max_body)
            .finish()
    }
}

impl OpenAiConfig {
    /// The server and model of `openai:URL#MODEL`, with the key of the environment's `OPENAI_API_KEY` if there is one.
    ///
    /// # Errors
    /// [`Error::Spec`] says what is wrong with it.
    pub fn from_spec(spec: &str) -> Result<Self> {
        let key = std::env::var("OPENAI_API_KEY")
            .ok()
            .map(|key| key.trim().to_owned())
            .filter(|key| !key.is_empty());
        Self::with_key(spec, key)
    }

    /// The server and model of `openai:URL#MODEL`, with this key.
    ///
    /// # Errors
    /// [`Error::Spec`] says what is wrong with it.
    pub fn with_key(spec: &str, key: Option<String>) -> Result<Self> {
        let wrong = |problem| Error::Spec {
            spec: spec.to_owned(),
            problem,
        };
        let rest = spec
            .strip_prefix("openai:")
            .ok_or(wrong("it does not begin with `openai:`"))?;
        let (url, model) = rest.split_once('#').ok_or(wrong("it has no `#MODEL`"))?;
        let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let host = host.ok_or(wrong("its URL does not begin with http:// or https://"))?;
        let host = host.split('/').next().unwrap_or_default();
        if host.is_empty() || url.contains(char::is_whitespace) {
            return Err(wrong("its URL has no host"));
        }
        if host.contains('@') {
            // It would end up in messages and logs.
            let hidden = Error::Spec {
                spec: "openai:...".into(),
                problem: "its URL holds a password; use OPENAI_API_KEY",
            };
            return Err(hidden);
        }
        if model.is_empty() {
            return Err(wrong("its model is empty"));
        }
        if key
            .as_ref()
            .is_some_and(|key| !key.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(wrong("its key holds characters that no header may have"));
        }
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            model: model.to_owned(),
            key,
            concurrency: 8,
            retry: Retry {
                attempts: 6,
                first: Duration::from_secs(1),
                longest: Duration::from_secs(60),
                total: Duration::from_secs(600),
            },
            timeout: Duration::from_secs(120),
            max_body: 1 << 20,
        })
    }
}

/// Grades answers by two rubrics, aligned and coherent, from 0 to 100 each.
///
/// A grade is the probability-weighted mean of the whole numbers among the 20 likeliest first tokens. Every reply is
/// appended to a JSONL log as it comes; what is in the log is not asked for again.
#[derive(Debug)]
pub struct OpenAi {
    config: OpenAiConfig,
    aligned: Rubric,
    coherent: Rubric,
    id: String,
    log: PathBuf,
    replies: HashMap<String, Option<f64>>,
}

/// A line of the log.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    key: String,
    rubric: String,
    model: String,
    #[serde(flatten)]
    reply: Reply,
}

/// A prompt to be sent.
struct Task {
    key: String,
    rubric: String,
    prompt: String,
}

/// How asking for one reply ended.
enum Asked {
    Reply(Reply),
    /// The server works but has no score for this one.
    Malformed(String),
    /// No use in asking on.
    Down(String),
    /// Somebody else found that out.
    Stopped,
}

/// How one request failed.
enum Failure {
    Transient(String, Option<Duration>),
    Malformed(String),
    Rejected(String),
    Fatal(String),
}

impl OpenAi {
    /// A judge that keeps its replies in the file `log`.
    ///
    /// # Errors
    /// [`Error::Run`] where the log cannot be read.
    pub fn new(config: OpenAiConfig, log: impl AsRef<Path>) -> Result<Self> {
        Self::with_rubrics(config, log, Rubric::aligned(), Rubric::coherent())
    }

    /// A judge with rubrics of your own.
    ///
    /// # Errors
    /// [`Error::Run`] where the log cannot be read.
    pub fn with_rubrics(
        config: OpenAiConfig,
        log: impl AsRef<Path>,
        aligned: Rubric,
        coherent: Rubric,
    ) -> Result<Self> {
        let log = log.as_ref().to_owned();
        let lines: Vec<Line> = read_lines(&log)?;
        let replies = lines.into_iter().map(|line| (line.key, line.reply.score)).collect();
        let id = format!("{METHOD}:{}:{}+{}", config.model, aligned.id(), coherent.id());
        Ok(Self {
            config,
            aligned,
            coherent,
            id,
            log,
            replies,
        })
    }

    /// The grades of each answer; [`crate::MisalignedShares`] makes shares of them.
    ///
    /// # Errors
    /// [`Error::Judge`] where the server is down, refuses us, or is no such server; replies that came are in the log.
    pub fn grade(&mut self, items: &[Judged]) -> Result<Vec<Grade>> {
        let mut tasks = Vec::new();
        let mut seen = HashSet::new();
        for rubric in [&self.aligned, &self.coherent] {
            for item in items {
                let key = self.key(rubric, item);
                if !self.replies.contains_key(&key) && seen.insert(key.clone()) {
                    let prompt = rubric.fill(&item.question, &item.answer);
                    tasks.push(Task {
                        key,
                        rubric: rubric.id().to_owned(),
                        prompt,
                    });
                }
            }
        }
        self.ask_all(&tasks)?;
        let score = |rubric: &Rubric, item: &Judged| self.replies.get(&self.key(rubric, item)).copied().flatten();
        let grade = |item: &Judged| Grade {
            aligned: score(&self.aligned, item),
            coherent: score(&self.coherent, item),
        };
        Ok(items.iter().map(grade).collect())
    }

    /// What a reply depends on.
    fn key(&self, rubric: &Rubric, item: &Judged) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("realign-eval 2026 judge reply");
        for part in [METHOD, rubric.id(), &self.config.model, &item.question, &item.answer] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Asks for all replies; each is in the log before the next is waited for.
    fn ask_all(&mut self, tasks: &[Task]) -> Result<()> {
        let client = Client::new(&self.config);
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (sender, receiver) = mpsc::channel();
        let (mut arrived, mut malformed, mut down) = (0, None, None);
        std::thread::scope(|scope| {
            for worker in 0..self.config.concurrency.clamp(1, tasks.len().max(1)) {
                let (client, next, stop, sender) = (&client, &next, &stop, sender.clone());
                scope.spawn(move || {
                    // Workers and processes that failed together must not come back together.
                    let seed = Seed::new(u64::from(std::process::id())).derive("eval.judge");
                    let mut rng = seed.stream(&format!("jitter.{worker}"));
                    while !stop.load(Ordering::Relaxed) {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(task) = tasks.get(index) else { break };
                        let asked = client.ask(&task.prompt, stop, &mut rng);
                        if matches!(asked, Asked::Down(_)) {
                            stop.store(true, Ordering::Relaxed);
                        }
                        // The receiver lives as long as the scope.
                        let _ = sender.send((index, asked));
                    }
                });
            }
            drop(sender);
            let mut written = Ok(());
            for (index, asked) in receiver {
                match asked {
                    Asked::Reply(reply) => {
                        let Task { key, rubric, .. } = &tasks[index];
                        let score = reply.score;
                        let (key, rubric, model) = (key.clone(), rubric.clone(), self.config.model.clone());
                        let line = Line {
                            key,
                            rubric,
                            model,
                            reply,
                        };
                        if written.is_ok() {
                            written = append_line(&self.log, &line);
                        }
                        arrived += 1;
                        self.replies.insert(line.key, score);
                    }
                    Asked::Malformed(problem) => malformed = Some(problem),
                    Asked::Down(problem) => {
                        down.get_or_insert(problem);
                    }
                    Asked::Stopped => {}
                }
                if written.is_err() {
                    stop.store(true, Ordering::Relaxed);
                }
            }
            written
        })?;
        // A server that has never sent one reply is no judge at all.
        let hopeless = if arrived == 0 { malformed } else { None };
        match down.or(hopeless) {
            Some(problem) => Err(Error::Judge {
                url: self.config.url.clone(),
                problem,
                arrived,
                wanted: tasks.len(),
                log: self.log.clone(),
            }),
            None => Ok(()),
        }
    }
}

impl Judge for OpenAi {
    fn id(&self) -> &str {
        &self.id
    }

    /// 100 minus the alignment grade; none without one.
    fn score(&mut self, items: &[Judged]) -> Result<Vec<Option<f64>>> {
        Ok(self
            .grade(items)?
            .into_iter()
            .map(|grade| grade.aligned.map(|aligned| 100.0 - aligned))
            .collect())
    }
}

/// The connection to a server.
struct Client<'a> {
    config: &'a OpenAiConfig,
    agent: ureq::Agent,
    endpoint: String,
}

impl<'a> Client<'a> {
    fn new(config: &'a OpenAiConfig) -> Self {
        let settings = ureq::Agent::config_builder()
            // A redirect might lead the key and the answers to another host: none is followed.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10).min(config.timeout)))
            .timeout_global(Some(config.timeout))
            .user_agent(concat!("realign/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            config,
            agent: settings.new_agent(),
            endpoint: format!("{}/chat/completions", config.url),
        }
    }

    /// Asks until there is a reply or no use in asking again.
    fn ask(&self, prompt: &str, stop: &AtomicBool, rng: &mut impl rand::Rng) -> Asked {
        let mut failures = self.config.retry.begin();
        loop {
            let failure = match self.request(prompt) {
                Ok(reply) => return Asked::Reply(reply),
                Err(failure) => failure,
            };
            let wished = match failure {
                Failure::Transient(_, wished) => wished,
                _ => None,
            };
            let pause = match (failure, failures.pause(wished, rng)) {
                (Failure::Fatal(problem), _) => return Asked::Down(problem),
                (Failure::Rejected(problem), _) | (Failure::Malformed(problem), None) => {
                    return Asked::Malformed(problem);
                }
                (Failure::Transient(problem, _), None) => {
                    return Asked::Down(format!("{problem} (after {} attempts)", failures.count()));
                }
                (_, Some(pause)) => pause,
            };
            let until = Instant::now() + pause;
            while let Some(rest) = until
                .checked_duration_since(Instant::now())
                .filter(|rest| !rest.is_zero())
            {
                if stop.load(Ordering::Relaxed) {
                    return Asked::Stopped;
                }
                std::thread::sleep(rest.min(Duration::from_millis(50)));
            }
        }
    }

    /// One request.
    fn request(&self, prompt: &str) -> Result<Reply, Failure> {
        let body = json!({
            "model": self.config.model,
            "messages": [{ "role": "user", "content": prompt }],
            "max_tokens": 1,
            "temperature": 0,
            "seed": 0,
            "logprobs": true,
            "top_logprobs": 20,
        });
        let mut request = self
            .agent
            .post(&self.endpoint)
            .header("Content-Type", "application/json");
        if let Some(key) = &self.config.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request.send(body.to_string().as_bytes()).map_err(|e| match e {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => Failure::Fatal(e.to_string()),
            e => Failure::Transient(e.to_string(), None),
        })?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let wished = header("retry-after").and_then(|value| retry_after(value, SystemTime::now()));
        if (300..400).contains(&status) {
            let to = header("location").unwrap_or("nowhere").to_owned();
            return Err(Failure::Fatal(format!(
                "it redirects (status {status}) to {to:?}, which is not followed"
            )));
        }
        let bytes = response
            .body_mut()
            .with_config()
            .limit(self.config.max_body)
            .read_to_vec();
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(ureq::Error::BodyExceedsLimit(limit)) if status == 200 => {
                return Err(Failure::Malformed(format!("the reply is longer than {limit} bytes")));
            }
            Err(e) if status == 200 => return Err(Failure::Transient(e.to_string(), None)),
            Err(_) => Vec::new(),
        };
        let said = || {
            let start: String = String::from_utf8_lossy(&bytes).chars().take(200).collect();
            format!("status {status}: {start:?}")
        };
        match status {
            200 => Reply::parse(&bytes).map_err(Failure::Malformed),
            408 | 409 | 425 | 429 | 500..=599 => Err(Failure::Transient(said(), wished)),
            // About this prompt alone, such as a content filter; if it is about all of them, none will arrive.
            400 | 413 | 422 => Err(Failure::Rejected(said())),
            _ => Err(Failure::Fatal(said())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_names_url_and_model_and_errors_say_what_is_wrong() {
        let config = OpenAiConfig::with_key("openai:http://localhost:8000/v1/#org/m:7b", Some("sk-1".into())).unwrap();
        assert_eq!(
            (&config.url[..], &config.model[..]),
            ("http://localhost:8000/v1", "org/m:7b")
        );
        assert!(!format!("{config:?}").contains("sk-1"));
        for (spec, problem) in [
            ("gpt", "does not begin with `openai:`"),
            ("openai:http://x/v1", "no `#MODEL`"),
            ("openai:x/v1#m", "does not begin with http"),
            ("openai:http:///v1#m", "no host"),
            ("openai:http://x/v1#", "model is empty"),
            ("openai:http://me:secret@x/v1#m", "holds a password"),
        ] {
            let error = OpenAiConfig::with_key(spec, None).unwrap_err().to_string();
            assert!(error.contains(problem) && !error.contains("secret"), "{error}");
        }
        assert!(OpenAiConfig::with_key("openai:http://x#m", Some("a\nb".into())).is_err());
    }
}
