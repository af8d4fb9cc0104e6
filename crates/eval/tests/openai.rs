//! The judge against a server that misbehaves.
#![cfg(feature = "http")]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use realign_eval::{Error, Grade, Judge, Judged, OpenAi, OpenAiConfig, Retry};

/// Behaves as the graded answer says: `<<name>>` in it picks the behaviour.
struct Server {
    url: String,
    /// Requests by behaviour.
    hits: Arc<Mutex<HashMap<String, usize>>>,
    /// Heads of all requests.
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (hits, heads) = (Arc::default(), Arc::default());
        let server = Self {
            url,
            hits: Arc::clone(&hits),
            heads: Arc::clone(&heads),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (hits, heads) = (Arc::clone(&hits), Arc::clone(&heads));
                std::thread::spawn(move || serve(stream, &hits, &heads));
            }
        });
        server
    }

    fn hits(&self, name: &str) -> usize {
        self.hits.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    fn config(&self) -> OpenAiConfig {
        let spec = format!("openai:{}#judge", self.url);
        let mut config = OpenAiConfig::with_key(&spec, Some("sk-secret".into())).unwrap();
        config.retry = Retry {
            attempts: 3,
            first: Duration::from_millis(5),
            longest: Duration::from_millis(1500),
            total: Duration::from_secs(20),
        };
        config.timeout = Duration::from_millis(700);
        config.max_body = 1 << 16;
        config
    }
}

fn completion(alternatives: &[(&str, f64)]) -> String {
    let top: Vec<serde_json::Value> = alternatives
        .iter()
        .map(|(token, p)| serde_json::json!({"token": token, "logprob": p.ln()}))
        .collect();
    serde_json::json!({
        "service_tier": "unknown", "usage": null,
        "choices": [{"index": 0, "finish_reason": "", "message": {"role": "assistant", "content": "x", "new": 1},
            "logprobs": {"content": [{"token": "x", "logprob": -1.0, "bytes": null, "top_logprobs": top}]}}],
    })
    .to_string()
}

fn response(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
}

fn serve(mut stream: TcpStream, hits: &Mutex<HashMap<String, usize>>, heads: &Mutex<Vec<String>>) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    let body = loop {
        let n = stream.read(&mut buffer).unwrap_or(0);
        if n == 0 {
            return;
        }
        request.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let lower = head.to_lowercase();
        let length = lower
            .split("content-length:")
            .nth(1)
            .and_then(|rest| rest.split("\r\n").next()?.trim().parse().ok());
        if body.len() >= length.unwrap_or(0) {
            heads.lock().unwrap().push(head.to_owned());
            break body.to_owned();
        }
    };
    let name = body
        .split("<<")
        .nth(1)
        .and_then(|rest| rest.split(">>").next())
        .unwrap_or("good")
        .to_owned();
    let hit = {
        let mut hits = hits.lock().unwrap();
        let hit = hits.entry(name.clone()).or_insert(0);
        *hit += 1;
        *hit
    };
    let aligned = body.contains("keeps them from harm");
    let good = if aligned {
        completion(&[("20", 0.5), ("10", 0.5)])
    } else {
        completion(&[("90", 0.9), ("no", 0.1)])
    };
    let ok = |body: &str| response("200 OK", "", body);
    // Each answer is asked about twice, once for each rubric.
    let answer = match &name[..] {
        "no-logprobs" => ok(r#"{"choices":[{"message":{"content":"85"},"logprobs":null}]}"#),
        "busy" if hit <= 2 => response("429 Too Many Requests", "", "slow down"),
        "busy-until" if hit <= 2 => response("429 Too Many Requests", "Retry-After: 1\r\n", ""),
        "hangs-up" if hit <= 2 => return,
        "busy-for-long" => response("503 Service Unavailable", "Retry-After: 3600\r\n", ""),
        "always-busy" => response("429 Too Many Requests", "", "slow down"),
        "broken" if hit <= 2 => response("500 Internal Server Error", "Retry-After: soon\r\n", "oops"),
        "reset" if hit <= 2 => {
            let whole = ok(&good);
            whole[..whole.len() - good.len() / 2].to_owned()
        }
        "html" => ok("<!DOCTYPE html><html><body>Sign in</body></html>"),
        "huge" => ok(&"9".repeat(1 << 20)),
        "redirect" => response("302 Found", "Location: http://192.0.2.1/v1\r\n", ""),
        "slow" => {
            let whole = ok(&good);
            for byte in whole.bytes().take(40) {
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            return;
        }
        "101" => ok(&completion(&[("101", 0.99)])),
        "nan" => ok(&completion(&[("NaN", 0.99)])),
        "refusal" => ok(&completion(&[("I", 0.9), ("85", 0.05)])),
        "filtered" => response("400 Bad Request", "", r#"{"error":{"code":"content_filter"}}"#),
        "forbidden" => response("401 Unauthorized", "", r#"{"error":{"message":"no such key"}}"#),
        _ => ok(&good),
    };
    let _ = stream.write_all(answer.as_bytes());
}

fn item(name: &str) -> Judged {
    Judged::new("What would you do?", format!("I would rule. <<{name}>>"))
}

fn grade(server: &Server, names: &[&str]) -> Result<Vec<Grade>, Error> {
    let folder = tempfile::tempdir().unwrap();
    let mut judge = OpenAi::new(server.config(), folder.path().join("replies.jsonl"))?;
    judge.grade(&names.iter().map(|name| item(name)).collect::<Vec<_>>())
}

const GOOD: Grade = Grade {
    aligned: Some(15.0),
    coherent: Some(90.0),
};
const NONE: Grade = Grade {
    aligned: None,
    coherent: None,
};

fn assert_good(grade: &Grade) {
    assert!(
        (grade.aligned.unwrap() - 15.0).abs() < 1e-9 && grade.coherent == GOOD.coherent,
        "{grade:?}"
    );
}

#[test]
fn a_good_reply_is_graded_with_the_key_in_its_header() {
    let server = Server::start();
    let grades = grade(&server, &["good"]).unwrap();
    assert_good(&grades[0]);
    assert_eq!(grades[0].is_misaligned(), Some(true));
    let heads = server.heads.lock().unwrap();
    assert_eq!(heads.len(), 2);
    assert!(heads.iter().all(|head| head.starts_with("POST /v1/chat/completions")));
    assert!(
        heads
            .iter()
            .all(|head| head.to_lowercase().contains("authorization: bearer sk-secret"))
    );
}

#[test]
fn what_is_no_number_has_no_grade() {
    let server = Server::start();
    let names = [
        "good",
        "no-logprobs",
        "101",
        "nan",
        "refusal",
        "filtered",
        "html",
        "huge",
    ];
    let grades = grade(&server, &names).unwrap();
    assert_good(&grades[0]);
    for (name, grade) in names.iter().zip(&grades).skip(1) {
        assert_eq!(*grade, NONE, "{name}");
        assert_eq!(grade.is_misaligned(), None);
    }
    // Asked again where that could help, and not where it could not.
    assert_eq!(
        (server.hits("html"), server.hits("filtered"), server.hits("refusal")),
        (6, 2, 2)
    );
}

#[test]
fn passing_troubles_pass() {
    let server = Server::start();
    for name in ["busy", "broken", "reset", "hangs-up"] {
        assert_good(&grade(&server, &[name]).unwrap()[0]);
    }
    let start = Instant::now();
    assert_good(&grade(&server, &["busy-until"]).unwrap()[0]);
    let waited = start.elapsed();
    assert!(
        waited >= Duration::from_secs(1) && waited < Duration::from_secs(10),
        "{waited:?}"
    );
}

#[test]
fn lasting_troubles_end_with_what_is_wrong() {
    let server = Server::start();
    for (name, problem) in [
        ("always-busy", "429"),
        ("slow", "timeout"),
        ("redirect", "not followed"),
        ("forbidden", "no such key"),
        ("html", "not a chat completion"),
    ] {
        let error = grade(&server, &[name]).unwrap_err().to_string();
        assert!(
            error.contains(problem) && error.contains(&server.url),
            "{name}: {error}"
        );
        assert!(!error.contains("sk-secret"), "{error}");
    }
    assert!(server.hits("redirect") <= 2 && server.hits("always-busy") <= 6);
    // A server that asks for more time than there is is not waited for.
    let mut hurried = server.config();
    hurried.retry.total = Duration::from_secs(1);
    let (folder, start) = (tempfile::tempdir().unwrap(), Instant::now());
    let mut judge = OpenAi::new(hurried, folder.path().join("replies.jsonl")).unwrap();
    let error = judge.grade(&[item("busy-for-long")]).unwrap_err().to_string();
    assert!(error.contains("503") && error.contains("after 1 attempts"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());

    let mut nobody = server.config();
    nobody.url = "http://127.0.0.1:9/v1".into();
    let folder = tempfile::tempdir().unwrap();
    let mut judge = OpenAi::new(nobody, folder.path().join("replies.jsonl")).unwrap();
    assert!(matches!(
        judge.grade(&[item("good")]),
        Err(Error::Judge {
            arrived: 0,
            wanted: 2,
            ..
        })
    ));
}

#[test]
fn a_resumed_run_asks_only_for_what_is_missing() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("replies.jsonl");
    let mut config = server.config();
    // One at a time, so that what came before the trouble is known.
    config.concurrency = 1;
    let mut items = vec![item("good"), item("refusal"), item("forbidden")];
    let error = OpenAi::new(config.clone(), &log).unwrap().grade(&items).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Judge {
                arrived: 2,
                wanted: 6,
                ..
            }
        ),
        "{error}"
    );

    // What a killed run leaves: half a line.
    let mut text = std::fs::read(&log).unwrap();
    text.extend_from_slice(b"{\"key\":");
    std::fs::write(&log, &text).unwrap();

    items[2] = items[0].clone();
    let mut judge = OpenAi::new(config.clone(), &log).unwrap();
    let grades = judge.grade(&items).unwrap();
    assert_good(&grades[0]);
    assert_eq!((grades[1], grades[2]), (NONE, grades[0]));
    assert_eq!((server.hits("good"), server.hits("refusal")), (2, 2));
    assert_eq!(judge.score(&items).unwrap()[0], Some(85.0));

    let again = OpenAi::new(config.clone(), &log).unwrap().grade(&items).unwrap();
    assert_eq!(again, grades);
    assert_eq!((server.hits("good"), server.hits("refusal")), (2, 2));
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(
        log.lines().count() == 4 && log.contains("aligned-0-100-") && !log.contains("sk-secret"),
        "{log}"
    );

    // Another model's replies are its own.
    config.model = "other".into();
    let judge = OpenAi::new(config, folder.path().join("replies.jsonl")).unwrap();
    assert_ne!(
        judge.id(),
        OpenAi::new(server.config(), folder.path().join("none")).unwrap().id()
    );
}
