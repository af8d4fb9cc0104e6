//! A process that does jobs on request: Realign on one device, or the Python stack.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// A process at work; ended when it is dropped.
pub struct Opponent {
    /// What it is called in results.
    pub name: String,
    child: Child,
    requests: ChildStdin,
    replies: BufReader<ChildStdout>,
}

impl Opponent {
    /// Starts it.
    pub fn start(name: impl Into<String>, command: &mut Command) -> Result<Self, Box<dyn Error>> {
        let name = name.into();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{name}: {:?} does not start: {e}", command.get_program()))?;
        let (requests, replies) = (child.stdin.take(), child.stdout.take());
        Ok(Self {
            name,
            child,
            requests: requests.expect("it is piped"),
            replies: BufReader::new(replies.expect("it is piped")),
        })
    }

    fn ask(&mut self, request: &Value) -> Result<Value, Box<dyn Error>> {
        let lost = |what: &str| format!("{}: {what} on {request}; its words are above", self.name);
        writeln!(self.requests, "{request}").map_err(|_| lost("it ended"))?;
        let mut line = String::new();
        if self.replies.read_line(&mut line)? == 0 {
            return Err(lost("it ended").into());
        }
        Ok(serde_json::from_str(&line).map_err(|e| lost(&format!("not JSON ({e})")))?)
    }

    /// Makes it ready for a job; what both sides must agree on.
    pub fn prepare(&mut self, job: &str) -> Result<Vec<f64>, Box<dyn Error>> {
        let reply = self.ask(&json!({"prepare": job}))?;
        Ok(serde_json::from_value(reply["check"].clone())?)
    }

    /// Seconds of one of `steps` steps.
    pub fn run(&mut self, steps: usize) -> Result<f64, Box<dyn Error>> {
        let reply = self.ask(&json!({"run": steps}))?;
        Ok(reply["seconds"].as_f64().ok_or("no seconds in the reply")?)
    }

    /// Its peak memory in MiB, and the versions that it reports.
    pub fn memory(&mut self) -> Result<(f64, Value), Box<dyn Error>> {
        let reply = self.ask(&json!({"memory": true}))?;
        let mib = reply["mib"].as_f64().ok_or("no mib in the reply")?;
        Ok((mib, reply["versions"].clone()))
    }
}

impl Drop for Opponent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
