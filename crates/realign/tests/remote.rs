//! A device that another process lends: the same numbers, a token that is checked, a server that dies.
#![cfg(feature = "remote")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const REALIGN: &str = env!("CARGO_BIN_EXE_realign");
const TOKEN: &str = "REALIGN_REMOTE_TOKEN";

struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(token: &str) -> Self {
        let mut process = Command::new(REALIGN)
            .args(["device-server", "--listen", "127.0.0.1:0", "--json"])
            .env(TOKEN, token)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(process.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = said["address"].as_str().unwrap().to_owned();
        Self { process, address }
    }

    fn client(&self, token: &str, args: &[&str]) -> Command {
        let mut command = Command::new(REALIGN);
        command
            .args(args)
            .args(["--device", &format!("remote:{}", self.address)]);
        command.env(TOKEN, token);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn logits(output: Output) -> Vec<f64> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let logits = said["logits"].as_array().unwrap();
    logits.iter().map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn a_lent_device_computes_the_same_logits() {
    let server = Server::start("secret");
    let args = ["logits", "--ids", "1,4093,198,2683,5", "--json"];
    let here = logits(Command::new(REALIGN).args(args).output().unwrap());
    let there = logits(server.client("secret", &args).output().unwrap());
    assert_eq!(here.len(), there.len());
    for (here, there) in here.iter().zip(&there) {
        assert!((here - there).abs() < 1e-3, "{here} here, {there} there");
    }
}

#[test]
fn a_wrong_token_is_refused_and_nobody_listening_is_said() {
    let server = Server::start("secret");
    let said = |output: Output| {
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    for token in ["", "wrong"] {
        let words = said(server.client(token, &["generate", "hi"]).output().unwrap());
        assert!(words.contains("refuses the token"), "{words}");
    }
    let started = Instant::now();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let output = Command::new(REALIGN)
        .args(["generate", "hi", "--device", &format!("remote:{nobody}")])
        .output()
        .unwrap();
    let words = said(output);
    assert!(words.contains("no device server answers"), "{words}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_server_for_other_machines_needs_a_token() {
    let output = Command::new(REALIGN)
        .args(["device-server", "--listen", "0.0.0.0:0"])
        .env_remove(TOKEN)
        .output()
        .unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && words.contains("without a token"), "{words}");
}

#[test]
fn a_server_that_is_killed_is_an_error_within_seconds() {
    let mut server = Server::start("secret");
    let mut client = server
        .client("secret", &["generate", "Count to a thousand.", "--max-tokens", "1000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first letter: the model is loaded and runs.
    client.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    let killed = Instant::now();
    let output = client.wait_with_output().unwrap();
    assert!(killed.elapsed() < Duration::from_secs(20), "{:?}", killed.elapsed());
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(
        words.contains(&server.address) && words.contains("device server"),
        "{words}"
    );
}
