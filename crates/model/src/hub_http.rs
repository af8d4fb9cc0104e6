//! What the hub client says on the wire: requests, redirects, the token, limits.

use std::io::{ErrorKind, Read};
use std::ops::ControlFlow;
use std::time::{Duration, Instant, SystemTime};

use realign_run::{Retry, Seed, retry_after};
use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body};

use crate::error::clip;
use crate::{Error, Result};

/// A name server that does not answer is given up after this.
const RESOLVE: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_secs(3);
/// All that is asked before the file itself: what an unreachable hub may cost.
const ASK: Duration = Duration::from_secs(5);
/// A transfer in which nothing comes for this long is broken.
const STALL: Duration = Duration::from_secs(10);
const MAX_REDIRECTS: usize = 5;
const MAX_HEADERS: usize = 32 << 10;
/// Longest list of a repository's files.
const MAX_JSON: u64 = 16 << 20;

/// A client of one hub.
pub(crate) struct Http<'a> {
    agent: Agent,
    endpoint: &'a str,
    token: Option<&'a str>,
    retry: Retry,
}

/// Asked again and again while there is nothing to do but wait; [`ControlFlow::Break`] gives up.
pub(crate) type Waiting<'w> = dyn FnMut() -> ControlFlow<()> + 'w;

/// What the hub says of a file, checked.
#[derive(Debug)]
pub(crate) struct Remote {
    /// Name of its content; a SHA-256 for large files.
    pub(crate) etag: String,
    pub(crate) commit: String,
    pub(crate) size: u64,
}

impl Remote {
    /// The content's SHA-256, where the hub tells it.
    pub(crate) fn sha256(&self) -> Option<&str> {
        (self.etag.len() == 64 && self.etag.bytes().all(|b| b.is_ascii_hexdigit())).then_some(&*self.etag)
    }
}

impl<'a> Http<'a> {
    pub(crate) fn new(endpoint: &'a str, token: Option<&'a str>, retry: Retry) -> Self {
        let config = Agent::config_builder()
            // Followed here, so that each is judged and the token stays at home.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .max_response_header_size(MAX_HEADERS)
            .timeout_resolve(Some(RESOLVE))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(STALL))
            .timeout_per_read(Some(STALL))
            .user_agent(concat!("realign/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: config.new_agent(),
            endpoint,
            token,
            retry,
        }
    }

    /// Asks what is at `url` without asking for it.
    pub(crate) fn head(&self, url: &str, waiting: &mut Waiting<'_>) -> Result<Remote> {
        let mut at = url.to_owned();
        let mut left = ASK;
        for _ in 0..=MAX_REDIRECTS {
            let token = self.token_for(&at).map(|token| format!("Bearer {token}"));
            let response = self.patiently(&at, waiting, &mut || {
                let mut request = self.agent.head(&at).header("accept-encoding", "identity");
                if let Some(token) = &token {
                    request = request.header("authorization", token);
                }
                let start = Instant::now();
                let limit = left.max(Duration::from_millis(1));
                let response = request.config().timeout_global(Some(limit)).build().call();
                left = left.saturating_sub(start.elapsed());
                response
            })?;
            let headers = response.headers();
            // A redirect that already names the commit leads to the file's bytes; one that does not is a renamed repo.
            let redirect = response.status().is_redirection();
            if redirect && header(headers, "x-repo-commit").is_none() {
                at = self.redirected(&at, headers)?;
                continue;
            }
            if !redirect && !response.status().is_success() {
                return Err(self.refused(&at, response.status().as_u16()));
            }
            return remote(&at, headers);
        }
        Err(hub(url, format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// Asks for the bytes from `from` on; the answer may begin earlier, at the start that is returned.
    pub(crate) fn get(&self, url: &str, from: u64, waiting: &mut Waiting<'_>) -> Result<(u64, Box<dyn Read>)> {
        let range = (from > 0).then(|| format!("bytes={from}-"));
        let (at, response) = self.follow(url, range.as_deref(), None, waiting)?;
        match response.status().as_u16() {
            200 => Ok((0, Box::new(response.into_body().into_reader()))),
            206 if from > 0 => {
                let said = header(response.headers(), "content-range").unwrap_or_default();
                let start = said
                    .strip_prefix("bytes ")
                    .and_then(|r| r.split_once('-'))
                    .and_then(|r| r.0.parse().ok());
                if start != Some(from) {
                    let what = format!("asked for the bytes from {from} on, was given {:?}", clip(said));
                    return Err(hub(&at, what));
                }
                Ok((from, Box::new(response.into_body().into_reader())))
            }
            // What is here may be longer than what is there: begin anew.
            416 if from > 0 => self.get(url, 0, waiting),
            status => Err(self.refused(&at, status)),
        }
    }

    /// A short JSON text.
    pub(crate) fn json(&self, url: &str) -> Result<serde_json::Value> {
        let (at, mut response) = self.follow(url, None, Some(ASK), &mut || ControlFlow::Continue(()))?;
        if !response.status().is_success() {
            return Err(self.refused(&at, response.status().as_u16()));
        }
        let text = response
            .body_mut()
            .with_config()
            .limit(MAX_JSON)
            .read_to_vec()
            .map_err(|e| failed(&at, &e))?;
        serde_json::from_slice(&text).map_err(|e| hub(&at, format!("expected JSON: {e}")))
    }

    fn follow(
        &self,
        url: &str,
        range: Option<&str>,
        limit: Option<Duration>,
        waiting: &mut Waiting<'_>,
    ) -> Result<(String, Response<Body>)> {
        let mut at = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let token = self.token_for(&at).map(|token| format!("Bearer {token}"));
            let response = self.patiently(&at, waiting, &mut || {
                let mut request = self.agent.get(&at).header("accept-encoding", "identity");
                if let Some(token) = &token {
                    request = request.header("authorization", token);
                }
                if let Some(range) = range {
                    request = request.header("range", range);
                }
                request.config().timeout_global(limit).build().call()
            })?;
            if !response.status().is_redirection() {
                return Ok((at, response));
            }
            at = self.redirected(&at, response.headers())?;
        }
        Err(hub(url, format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// Asks until there is an answer that another attempt would not change, or as often as there may be attempts.
    fn patiently(
        &self,
        url: &str,
        waiting: &mut Waiting<'_>,
        ask: &mut dyn FnMut() -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>> {
        let mut failures = self.retry.begin();
        let mut rng = jitter();
        loop {
            let answer = ask();
            let wished = match &answer {
                Ok(response) if passing(response.status().as_u16()) => {
                    header(response.headers(), "retry-after").and_then(|wish| retry_after(wish, SystemTime::now()))
                }
                // A hub that cannot be reached is not waited for.
                Err(ureq::Error::Io(e)) if hung_up(e.kind()) => None,
                _ => return answer.map_err(|e| failed(url, &e)),
            };
            match failures.pause(wished, &mut rng) {
                Some(pause) => wait(pause, waiting, url)?,
                None => return answer.map_err(|e| failed(url, &e)),
            }
        }
    }

    /// The token goes to the hub's own scheme, host and port, and nowhere else.
    fn token_for(&self, url: &str) -> Option<&str> {
        let (here, home) = (origin(url)?, origin(self.endpoint)?);
        self.token.filter(|_| here == home)
    }

    fn redirected(&self, from: &str, headers: &HeaderMap) -> Result<String> {
        let refuse = |what: &str| hub(from, format!("redirect {what}"));
        let to = header(headers, "location").ok_or_else(|| refuse("without an address"))?;
        let (scheme, host, port) = origin(from).ok_or_else(|| refuse("from an address that is none"))?;
        let url = if to.starts_with("//") {
            format!("{scheme}:{to}")
        } else if to.starts_with('/') {
            format!("{scheme}://{host}:{port}{to}")
        } else {
            to.to_owned()
        };
        let (new, ..) = origin(&url).ok_or_else(|| refuse("to something that is no http address"))?;
        if scheme == "https" && new != "https" {
            return Err(refuse("from https to plain http"));
        }
        Ok(url)
    }

    fn refused(&self, url: &str, status: u16) -> Error {
        let what = match (status, self.token.is_some()) {
            (401 | 403, false) => "no access without a token, or no such repository; set HF_TOKEN",
            (401 | 403, true) => "the token gives no access",
            (404, _) => "no such repository, revision or file",
            (429, _) => "too many requests; try again later",
            _ => "unexpected answer",
        };
        hub(url, format!("{what} (HTTP {status})"))
    }
}

/// Whether a status says that the next answer may be another one.
fn passing(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502..=504)
}

/// Whether a server ended a connection without a word.
fn hung_up(kind: ErrorKind) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// Random numbers for pauses: processes that failed together must not come back together.
pub(crate) fn jitter() -> impl rand::Rng {
    Seed::new(u64::from(std::process::id())).stream("hub.jitter")
}

/// Waits, unless it is asked to give up.
pub(crate) fn wait(pause: Duration, waiting: &mut Waiting<'_>, what: &str) -> Result<()> {
    let until = Instant::now() + pause;
    loop {
        if waiting().is_break() {
            let what = clip(what.split('?').next().unwrap_or_default());
            return Err(Error::Interrupted { what });
        }
        let rest = until.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Ok(());
        }
        std::thread::sleep(rest.min(Duration::from_millis(50)));
    }
}

fn remote(url: &str, headers: &HeaderMap) -> Result<Remote> {
    let need =
        |name: &str| header(headers, name).ok_or_else(|| hub(url, format!("no header `{name}`: is this a hub?")));
    let commit = need("x-repo-commit")?;
    if !is_commit(commit) {
        return Err(hub(
            url,
            format!("x-repo-commit: expected a commit in hex, found {:?}", clip(commit)),
        ));
    }
    let etag = match header(headers, "x-linked-etag") {
        Some(etag) => etag,
        None => need("etag")?,
    };
    let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    // It becomes a file's name.
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if etag.is_empty() || etag.len() > 128 || !etag.bytes().all(plain) {
        let what = format!("etag: expected letters, digits, `-` and `_`, found {:?}", clip(etag));
        return Err(hub(url, what));
    }
    let size = match header(headers, "x-linked-size") {
        Some(size) => size,
        None => need("content-length")?,
    };
    let size = size
        .parse()
        .map_err(|_| hub(url, format!("size: expected a number, found {:?}", clip(size))))?;
    Ok(Remote {
        etag: etag.to_ascii_lowercase(),
        commit: commit.to_ascii_lowercase(),
        size,
    })
}

/// Whether a text is a full commit id.
pub(crate) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

pub(crate) fn hub(url: &str, what: impl Into<String>) -> Error {
    // What follows the question mark may be a signature that gives access.
    let url = url.split('?').next().unwrap_or_default();
    Error::Hub {
        url: clip(url),
        what: what.into(),
    }
}

/// Scheme, host and port of an address.
pub(crate) fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let default = match &*scheme {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    if uri.authority()?.as_str().contains('@') {
        return None;
    }
    Some((
        scheme,
        uri.host()?.to_ascii_lowercase(),
        uri.port_u16().unwrap_or(default),
    ))
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn failed(url: &str, error: &ureq::Error) -> Error {
    let what = match error {
        ureq::Error::HostNotFound => "there is no such host; is this machine offline?".to_owned(),
        ureq::Error::Timeout(_) => format!("cannot be reached: {error}"),
        ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
            format!("cannot be reached: {e}")
        }
        _ => clip(&error.to_string()),
    };
    hub(url, what)
}
