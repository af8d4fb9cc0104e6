//! The hub client against a server of its own that behaves, and misbehaves.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use realign_model::{Error, Hub, ModelSpec};
use realign_run::Retry;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const REPO: &str = "org/name";
const FILE: &str = "sub/model.gguf";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_secret";

/// A request: its first line and its headers in lower case.
#[derive(Clone, Debug)]
struct Request {
    line: String,
    headers: Vec<String>,
}

impl Request {
    fn is_head(&self) -> bool {
        self.line.starts_with("HEAD")
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find_map(|h| h.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The first byte that is asked for.
    fn start(&self) -> usize {
        let range = self
            .header("range")
            .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-'));
        range.map_or(0, |start| start.parse().unwrap())
    }
}

/// A server whose every connection carries one request.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(mut answer: impl FnMut(&Request) -> Vec<u8> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let Some(request) = read_request(&stream) else { continue };
                log.lock().unwrap().push(request.clone());
                // The client may hang up first.
                let _ = stream.write_all(&answer(&request));
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    fn gets(&self) -> Vec<Request> {
        self.requests().into_iter().filter(|r| !r.is_head()).collect()
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let line = lines.next()?.ok()?;
    let headers = lines.map_while(Result::ok).take_while(|l| !l.is_empty()).map(|l| {
        let (name, value) = l.split_once(": ").unwrap();
        format!("{}: {value}", name.to_ascii_lowercase())
    });
    Some(Request {
        line,
        headers: headers.collect(),
    })
}

fn response(status: &str, headers: &[String], body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\n{}\r\n\r\n",
        headers.join("\r\n")
    );
    [head.as_bytes(), body].concat()
}

fn content() -> Vec<u8> {
    (0..700_000_u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect()
}

fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The headers by which a hub describes a large file.
fn described(etag: &str, commit: &str, size: usize) -> Vec<String> {
    vec![
        format!("X-Repo-Commit: {commit}"),
        format!("X-Linked-ETag: \"{etag}\""),
        format!("X-Linked-Size: {size}"),
        "ETag: \"something-else\"".to_owned(),
    ]
}

/// What a well-behaved hub answers for a file.
fn good(request: &Request, content: &[u8]) -> Vec<u8> {
    let mut headers = described(&sha(content), COMMIT, content.len());
    let start = request.start();
    headers.push(format!("Content-Length: {}", content.len() - start));
    if request.is_head() {
        response("200 OK", &headers, b"")
    } else if start > 0 {
        headers.push(format!(
            "Content-Range: bytes {start}-{}/{}",
            content.len() - 1,
            content.len()
        ));
        response("206 Partial Content", &headers, &content[start..])
    } else {
        response("200 OK", &headers, content)
    }
}

fn hub(endpoint: &str, cache: &Path, more: &[(&str, &str)]) -> Hub {
    let vars: Vec<(String, OsString)> = [("HF_ENDPOINT", endpoint), ("HF_TOKEN", TOKEN)]
        .into_iter()
        .chain([("HF_HUB_CACHE", cache.to_str().unwrap())])
        .chain(more.iter().copied())
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let hub = Hub::from_vars(&|name| vars.iter().rfind(|v| v.0 == name).map(|v| v.1.clone())).unwrap();
    hub.with_retry(Retry {
        attempts: 3,
        first: Duration::from_millis(5),
        longest: Duration::from_secs(2),
        total: Duration::from_secs(10),
    })
}

fn fetch(hub: &Hub) -> Result<PathBuf, Error> {
    hub.fetch(REPO, "main", FILE, &mut |_, _| ControlFlow::Continue(()))
}

fn repo_folder(cache: &TempDir) -> PathBuf {
    cache.path().join("models--org--name")
}

fn incomplete(cache: &TempDir, content: &[u8]) -> PathBuf {
    repo_folder(cache)
        .join("blobs")
        .join(format!("{}.incomplete", sha(content)))
}

/// That nothing in the cache looks like a finished file.
fn assert_nothing_final(cache: &TempDir) {
    let blobs = std::fs::read_dir(repo_folder(cache).join("blobs"))
        .into_iter()
        .flatten();
    for blob in blobs {
        let name = blob.unwrap().file_name().into_string().unwrap();
        assert!(name.ends_with(".incomplete"), "{name} was left");
    }
    assert!(!repo_folder(cache).join("snapshots").exists());
}

#[test]
fn a_file_is_laid_out_as_in_python_and_the_second_call_opens_no_socket() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|request| good(request, &content()));
    let hub = hub(&server.address, cache.path(), &[]);
    let mut seen = Vec::new();
    let path = hub
        .fetch(REPO, "main", FILE, &mut |done, total| {
            seen.push((done, total));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(path, repo_folder(&cache).join("snapshots").join(COMMIT).join(FILE));
    assert_eq!(std::fs::read(&path).unwrap(), content());
    let size = content().len() as u64;
    assert_eq!((seen[0], seen[seen.len() - 1]), ((0, Some(size)), (size, Some(size))));
    assert!(seen.windows(2).all(|w| w[0] <= w[1]));
    #[cfg(unix)]
    assert_eq!(
        std::fs::read_link(&path).unwrap(),
        Path::new("../../../blobs").join(sha(&content()))
    );
    assert_eq!(
        std::fs::read_to_string(repo_folder(&cache).join("refs/main")).unwrap(),
        COMMIT
    );
    assert!(!incomplete(&cache, &content()).exists());

    let requests = server.requests();
    assert_eq!(requests[0].line, "HEAD /org/name/resolve/main/sub/model.gguf HTTP/1.1");
    assert_eq!(requests[0].header("authorization"), Some("Bearer hf_secret"));
    assert_eq!(fetch(&hub).unwrap(), path);
    assert_eq!(hub.cached(REPO, COMMIT, FILE), Some(path));
    assert_eq!(server.requests().len(), requests.len());
}

#[test]
fn a_connection_that_breaks_is_resumed_in_the_same_call() {
    let cache = tempfile::tempdir().unwrap();
    let mut broken = false;
    let server = Server::start(move |request| {
        let mut answer = good(request, &content());
        if !request.is_head() && !broken {
            broken = true;
            answer.truncate(answer.len() - 350_000);
        }
        answer
    });
    let path = fetch(&hub(&server.address, cache.path(), &[])).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), content());
    let starts: Vec<usize> = server.gets().iter().map(Request::start).collect();
    assert_eq!(starts.len(), 2);
    assert!(starts[0] == 0 && starts[1] > 0 && starts[1] <= 350_000, "{starts:?}");
}

#[test]
fn an_interrupted_download_goes_on_in_the_next_call() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|request| good(request, &content()));
    let hub = hub(&server.address, cache.path(), &[]);
    let stop = &mut |done: u64, _| {
        if done > 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let error = hub.fetch(REPO, "main", FILE, stop).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    assert_nothing_final(&cache);
    let kept = std::fs::metadata(incomplete(&cache, &content())).unwrap().len() as usize;
    assert!(kept > 0 && kept < content().len());
    assert_eq!(std::fs::read(fetch(&hub).unwrap()).unwrap(), content());
    assert_eq!(server.gets().last().unwrap().start(), kept);
}

#[test]
fn a_beginning_that_is_another_files_is_thrown_away() {
    for length in [1000, 700_000, 800_000] {
        let cache = tempfile::tempdir().unwrap();
        let part = incomplete(&cache, &content());
        std::fs::create_dir_all(part.parent().unwrap()).unwrap();
        std::fs::write(&part, vec![9; length]).unwrap();
        let server = Server::start(|request| good(request, &content()));
        let path = fetch(&hub(&server.address, cache.path(), &[])).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), content());
    }
}

#[test]
fn a_server_without_ranges_sends_the_file_again() {
    let cache = tempfile::tempdir().unwrap();
    let part = incomplete(&cache, &content());
    std::fs::create_dir_all(part.parent().unwrap()).unwrap();
    std::fs::write(&part, &content()[..1000]).unwrap();
    let server = Server::start(|request| {
        let request = Request {
            headers: Vec::new(),
            ..request.clone()
        };
        good(&request, &content())
    });
    let path = fetch(&hub(&server.address, cache.path(), &[])).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), content());
}

#[test]
fn other_content_than_announced_is_refused_and_removed() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|request| {
        let mut wrong = content();
        wrong[500_000] ^= 1;
        let mut headers = described(&sha(&content()), COMMIT, wrong.len());
        headers.push(format!("Content-Length: {}", wrong.len()));
        response("200 OK", &headers, if request.is_head() { b"" } else { &wrong })
    });
    let error = fetch(&hub(&server.address, cache.path(), &[])).unwrap_err().to_string();
    assert!(
        error.contains("SHA-256: expected") && error.contains(&sha(&content())),
        "{error}"
    );
    assert_nothing_final(&cache);
    assert!(!incomplete(&cache, &content()).exists());
}

#[test]
fn more_than_announced_is_refused_and_less_is_kept() {
    for (sent, said) in [
        (700_000, "more than the 600000 bytes"),
        (500_000, "500000 of 600000 bytes are kept"),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(move |request| {
            let (headers, content) = (described(&sha(b"x"), COMMIT, 600_000), content());
            // No length: the body ends with the connection.
            response(
                "200 OK",
                &headers,
                if request.is_head() { b"" } else { &content[..sent] },
            )
        });
        let error = fetch(&hub(&server.address, cache.path(), &[])).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert_nothing_final(&cache);
    }
}

#[test]
fn a_redirect_to_another_host_gets_no_token() {
    let cache = tempfile::tempdir().unwrap();
    let store = Server::start(|request| good(request, &content()));
    // Another port is another host.
    let location = format!("Location: {}/blob?signature=x", store.address);
    let server = Server::start(move |request| {
        if request.line.contains("/org/name/") {
            return response(
                "307 Temporary Redirect",
                &["Location: /new/name/resolve/main/f".to_owned()],
                b"",
            );
        }
        let mut headers = described(&sha(&content()), COMMIT, content().len());
        headers.push(location.clone());
        response("302 Found", &headers, b"")
    });
    let path = fetch(&hub(&server.address, cache.path(), &[])).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), content());
    assert!(
        server
            .requests()
            .iter()
            .all(|r| r.header("authorization") == Some("Bearer hf_secret"))
    );
    assert_eq!(store.requests().len(), 1);
    assert_eq!(store.requests()[0].header("authorization"), None);
}

#[test]
fn endless_redirects_end() {
    let server = Server::start(|_| response("302 Found", &["Location: /again".to_owned()], b""));
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(&hub(&server.address, cache.path(), &[])).unwrap_err().to_string();
    assert!(error.contains("redirects"), "{error}");
}

#[test]
fn a_hub_that_refuses_connections_or_says_nothing_costs_at_most_five_seconds() {
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for (address, limit) in [(refusing, 1000), (silent.local_addr().unwrap(), 5500)] {
        let (cache, start) = (tempfile::tempdir().unwrap(), Instant::now());
        let error = fetch(&hub(&format!("http://{address}"), cache.path(), &[])).unwrap_err();
        assert!(start.elapsed() < Duration::from_millis(limit), "{:?}", start.elapsed());
        assert!(error.to_string().contains("cannot be reached"), "{error}");
    }
}

#[test]
fn refusals_say_what_is_wrong() {
    for (status, said) in [
        ("404 Not Found", "no such repository"),
        ("401 Unauthorized", "token"),
        ("500 Oh", "500"),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(move |_| response(status, &["Content-Length: 0".to_owned()], b""));
        let error = fetch(&hub(&server.address, cache.path(), &[])).unwrap_err().to_string();
        assert!(error.contains(said) && !error.contains(TOKEN), "{error}");
        assert_nothing_final(&cache);
    }
}

/// A server that gives each kind of request these answers first, an empty one being no answer, and then good ones.
fn troubled(troubles: &'static [(&'static str, &'static str)]) -> Server {
    let mut left = [troubles.to_vec(), troubles.to_vec()];
    Server::start(move |request| match left[usize::from(request.is_head())].pop() {
        None => good(request, &content()),
        Some(("", _)) => Vec::new(),
        Some((status, header)) => response(status, &["Content-Length: 0".to_owned(), header.to_owned()], b""),
    })
}

#[test]
fn passing_troubles_pass() {
    for troubles in [
        &[
            ("429 Too Many Requests", "X: x"),
            ("503 Service Unavailable", "Retry-After: soon"),
        ][..],
        &[("", ""), ("500 Internal Server Error", "X: x")],
        &[("", ""), ("", "")],
    ] {
        let cache = tempfile::tempdir().unwrap();
        let server = troubled(troubles);
        let path = fetch(&hub(&server.address, cache.path(), &[])).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), content());
        assert_eq!((server.requests().len(), server.gets().len()), (6, 3), "{troubles:?}");
    }
    let (cache, start) = (tempfile::tempdir().unwrap(), Instant::now());
    let server = troubled(&[("429 Too Many Requests", "Retry-After: 1")]);
    fetch(&hub(&server.address, cache.path(), &[])).unwrap();
    // Once before each of the two requests.
    let waited = start.elapsed();
    assert!(
        waited >= Duration::from_secs(2) && waited < Duration::from_secs(20),
        "{waited:?}"
    );
}

#[test]
fn lasting_troubles_end() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|_| response("429 Too Many Requests", &["Content-Length: 0".to_owned()], b""));
    let error = fetch(&hub(&server.address, cache.path(), &[])).unwrap_err().to_string();
    assert!(error.contains("too many requests") && error.contains("429"), "{error}");
    assert_eq!(server.requests().len(), 3);

    let server = Server::start(|_| Vec::new());
    let error = fetch(&hub(&server.address, cache.path(), &[])).unwrap_err();
    assert!(matches!(error, Error::Hub { .. }), "{error}");
    assert_eq!(server.requests().len(), 3);

    // It is there, and not a byte of it comes.
    let server = Server::start(|request| match request.is_head() {
        true => good(request, &content()),
        false => response("200 OK", &["Content-Length: 700000".to_owned()], b""),
    });
    let error = fetch(&hub(&server.address, cache.path(), &[])).unwrap_err().to_string();
    assert!(error.contains("0 of 700000 bytes are kept"), "{error}");
    assert_eq!(server.gets().len(), 3);
    assert_nothing_final(&cache);

    // What no other attempt would change is not tried again.
    let server = Server::start(|_| response("404 Not Found", &["Content-Length: 0".to_owned()], b""));
    fetch(&hub(&server.address, cache.path(), &[])).unwrap_err();
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn who_waits_for_a_busy_hub_may_be_interrupted() {
    let cache = tempfile::tempdir().unwrap();
    let headers = ["Content-Length: 0".to_owned(), "Retry-After: 2".to_owned()];
    let server = Server::start(move |_| response("503 Service Unavailable", &headers, b""));
    let (hub, start) = (hub(&server.address, cache.path(), &[]), Instant::now());
    let error = hub
        .fetch(REPO, "main", FILE, &mut |_, _| ControlFlow::Break(()))
        .unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[cfg(unix)]
#[test]
fn a_file_larger_than_the_disk_is_refused_before_its_first_byte() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|request| {
        assert!(request.is_head(), "it was asked for");
        response("200 OK", &described(&sha(b"x"), COMMIT, 1 << 60), b"")
    });
    let error = fetch(&hub(&server.address, cache.path(), &[])).unwrap_err();
    let room = matches!(error, Error::Run(realign_run::Error::NoRoom { needed, free, .. }) if needed > free);
    assert!(room, "{error}");
    let said = error.to_string();
    assert!(
        said.contains("blobs") && said.contains(&(1_u64 << 60).to_string()),
        "{said}"
    );
    assert_nothing_final(&cache);
}

#[test]
fn names_from_the_server_cannot_leave_the_cache() {
    let etag = sha(&content());
    for (etag, commit) in [
        ("../../x", COMMIT),
        ("a/b", COMMIT),
        ("..", COMMIT),
        (&*etag, "../../x"),
        (&*etag, "main"),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let headers = described(etag, commit, 10);
        let server = Server::start(move |_| response("200 OK", &headers, b""));
        let error = fetch(&hub(&server.address, cache.path(), &[])).unwrap_err().to_string();
        assert!(error.contains("expected"), "{error}");
        assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0);
    }
}

#[test]
fn headers_without_end_are_cut_off() {
    let server = Server::start(|_| {
        let mut headers = described(&sha(b"x"), COMMIT, 1);
        headers.push(format!("X-Long: {}", "x".repeat(10 << 20)));
        response("200 OK", &headers, b"")
    });
    let cache = tempfile::tempdir().unwrap();
    assert!(matches!(
        fetch(&hub(&server.address, cache.path(), &[])),
        Err(Error::Hub { .. })
    ));
}

#[test]
fn names_from_the_caller_are_checked_before_any_request() {
    let server = Server::start(|request| good(request, &content()));
    let cache = tempfile::tempdir().unwrap();
    let hub = hub(&server.address, cache.path(), &[]);
    for (repo, revision, file) in [
        ("../x", "main", FILE),
        (REPO, "../x", FILE),
        (REPO, "main", "../x"),
        (REPO, "main", "/etc/passwd"),
    ] {
        assert!(
            hub.fetch(repo, revision, file, &mut |_, _| ControlFlow::Continue(()))
                .is_err()
        );
    }
    assert!(server.requests().is_empty());
}

#[test]
fn offline_only_the_cache_is_asked() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|request| good(request, &content()));
    for name in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
        let error = fetch(&hub(&server.address, cache.path(), &[(name, "1")]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("not in the cache") && error.contains("HF_HUB_OFFLINE"),
            "{error}"
        );
    }
    assert!(server.requests().is_empty());
    let path = fetch(&hub(&server.address, cache.path(), &[])).unwrap();
    assert_eq!(
        fetch(&hub(&server.address, cache.path(), &[("HF_HUB_OFFLINE", "1")])).unwrap(),
        path
    );
}

#[test]
fn the_token_may_come_from_a_file_or_be_forbidden() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("my-token");
    std::fs::write(&file, "hf_file\n").unwrap();
    let file = file.to_str().unwrap();
    for (vars, sent) in [
        (vec![("HF_TOKEN", ""), ("HF_TOKEN_PATH", file)], Some("Bearer hf_file")),
        (vec![("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], None),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(|request| good(request, &content()));
        let hub = hub(&server.address, cache.path(), &vars);
        fetch(&hub).unwrap();
        assert_eq!(server.requests()[0].header("authorization"), sent);
        assert!(!format!("{hub:?}").contains("hf_"));
    }
}

/// A hub with one repository of these files.
fn repository(files: &'static [(&'static str, &'static str)]) -> Server {
    Server::start(move |request| {
        if request.line.contains("/api/models/org/name/revision/") {
            let names: Vec<String> = files.iter().map(|f| format!(r#"{{"rfilename":"{}"}}"#, f.0)).collect();
            let body = format!(r#"{{"sha":"{COMMIT}","siblings":[{}]}}"#, names.join(","));
            return response("200 OK", &[format!("Content-Length: {}", body.len())], body.as_bytes());
        }
        match files.iter().find(|f| request.line.contains(&format!("/{} ", f.0))) {
            Some(file) => good(request, file.1.as_bytes()),
            None => response("404 Not Found", &["Content-Length: 0".to_owned()], b""),
        }
    })
}

#[test]
fn a_repository_is_fetched_whole_and_then_opens_no_socket() {
    let server = repository(&[
        ("README.md", "no part of the model"),
        ("config.json", "{}"),
        ("tokenizer.json", "[]"),
        (
            "model.safetensors.index.json",
            r#"{"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#,
        ),
        ("one.safetensors", "1"),
        ("two.safetensors", "2"),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let hub = hub(&server.address, cache.path(), &[]);
    let spec: ModelSpec = "org/name".parse().unwrap();
    let go = &mut |_, _| ControlFlow::Continue(());
    let folder = spec.fetch_from(&hub, go).unwrap();
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let index = "model.safetensors.index.json";
    assert_eq!(
        names,
        [
            "config.json",
            index,
            "one.safetensors",
            "tokenizer.json",
            "two.safetensors"
        ]
    );
    let asked = server.requests().len();
    assert_eq!(spec.fetch_from(&hub, go).unwrap(), folder);
    assert_eq!(server.requests().len(), asked);
    // A shard that is gone is fetched again.
    std::fs::remove_file(folder.join("two.safetensors")).unwrap();
    assert_eq!(spec.fetch_from(&hub, go).unwrap(), folder);
    assert!(folder.join("two.safetensors").is_file());
}

#[test]
fn a_quantisation_picks_its_file_and_without_one_the_choice_is_shown() {
    let server = repository(&[
        ("m.Q4_1.gguf", "small"),
        ("m-Q8_0.gguf", "large"),
        ("m-IQ4_1.gguf", "other"),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let hub = hub(&server.address, cache.path(), &[]);
    let go = &mut |_, _| ControlFlow::Continue(());
    let spec: ModelSpec = "org/name:q4_1".parse().unwrap();
    let path = spec.fetch_from(&hub, go).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "small");
    let asked = server.requests().len();
    assert_eq!(spec.fetch_from(&hub, go).unwrap(), path);
    assert_eq!(server.requests().len(), asked);
    for text in ["org/name", "org/name:Q2_K"] {
        let error = text
            .parse::<ModelSpec>()
            .unwrap()
            .fetch_from(&hub, go)
            .unwrap_err()
            .to_string();
        assert!(error.contains("m.Q4_1.gguf, m-Q8_0.gguf"), "{error}");
    }
}

#[test]
fn an_index_cannot_name_a_file_outside_of_its_folder() {
    let server = repository(&[
        ("config.json", "{}"),
        (
            "model.safetensors.index.json",
            r#"{"weight_map":{"a":"../../../evil"}}"#,
        ),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let spec: ModelSpec = "org/name".parse().unwrap();
    let go = &mut |_, _| ControlFlow::Continue(());
    let error = spec
        .fetch_from(&hub(&server.address, cache.path(), &[]), go)
        .unwrap_err()
        .to_string();
    assert!(error.contains("weight_map") && error.contains("evil"), "{error}");
}
