//! The command is stopped by signals, meets itself in its folder, and loses whoever listens to it.
#![cfg(unix)]

#[allow(dead_code, reason = "shared with the tests of hostile files")]
#[path = "hostile/model.rs"]
mod model;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A model, some conversations, and a place for what comes out.
struct Lab {
    model: tempfile::TempDir,
    work: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let lab = Self {
            model: model::folder(),
            work: tempfile::tempdir().unwrap(),
        };
        let row = |text: &str| {
            format!(r#"{{"messages":[{{"role":"user","content":"hi"}},{{"role":"assistant","content":"{text}"}}]}}"#)
        };
        let rows = ["hello", "hi hi", "bus", "hub"].map(row).join("\n");
        std::fs::write(lab.work.path().join("rows.jsonl"), rows).unwrap();
        lab
    }

    fn out(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// `realign finetune` of this many steps.
    fn finetune(&self, out: &str, steps: usize) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_realign"));
        command.arg("finetune").arg("--model").arg(self.model.path());
        command.arg("--data").arg(self.work.path().join("rows.jsonl"));
        command.args(["--epochs", &steps.to_string(), "--batch", "4", "--rank", "2"]);
        command.arg("--out").arg(self.out(out));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// `realign sae train` of this many steps.
    fn sae_train(&self, out: &str, steps: usize) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_realign"));
        command.args(["sae", "train", "--model"]).arg(self.model.path());
        // Any text will do, and all of it is a batch.
        command.arg("--corpus").arg(self.work.path().join("rows.jsonl"));
        command.args(["--tokens", &(2048 * steps).to_string(), "--d-sae", "24", "-k", "3"]);
        command.arg("--out").arg(self.out(out));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn adapter(&self, out: &str) -> Vec<u8> {
        std::fs::read(self.out(out).join("adapter_model.safetensors")).unwrap()
    }

    fn wait_for_a_checkpoint(&self, out: &str, child: &mut Child) {
        let folder = self.out(out).join("checkpoints");
        let start = Instant::now();
        let any = || std::fs::read_dir(&folder).is_ok_and(|files| files.flatten().any(|f| f.path().is_dir()));
        while !any() {
            assert!(child.try_wait().unwrap().is_none(), "the training ended by itself");
            assert!(start.elapsed() < Duration::from_secs(60), "no checkpoint in a minute");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_signal_ends_after_its_step_and_the_same_command_goes_on_to_the_same_bits() {
    let lab = Lab::new();
    let steps = 1000;
    let whole = lab.finetune("whole", steps).output().unwrap();
    assert!(whole.status.success(), "{}", text(&whole));
    for (name, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let mut child = lab.finetune(name, steps).spawn().unwrap();
        lab.wait_for_a_checkpoint(name, &mut child);
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{name}: {}", text(&output));
        assert!(
            text(&output).contains("interrupted") && text(&output).contains("again to go on"),
            "{}",
            text(&output)
        );
        assert!(!lab.out(name).join("adapter_model.safetensors").exists());
        let output = lab.finetune(name, steps).output().unwrap();
        assert!(output.status.success(), "{name}: {}", text(&output));
        assert!(lab.adapter(name) == lab.adapter("whole"), "{name}: other bits");
    }
}

#[test]
fn sae_training_ends_after_its_step_and_goes_on_to_the_same_bits() {
    let lab = Lab::new();
    let steps = 3000;
    let whole = lab.sae_train("whole", steps).output().unwrap();
    assert!(whole.status.success(), "{}", text(&whole));
    let weights = |out: &str| std::fs::read(lab.out(out).join("sae_weights.safetensors")).unwrap();
    for (name, code) in [
        ("INT", Some(130)),
        ("TERM", Some(143)),
        ("HUP", Some(129)),
        ("KILL", None),
    ] {
        let mut child = lab.sae_train(name, steps).spawn().unwrap();
        lab.wait_for_a_checkpoint(name, &mut child);
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), code, "{name}: {}", text(&output));
        if code.is_some() {
            let said = text(&output);
            assert!(
                said.contains("interrupted") && said.contains("again to go on"),
                "{said}"
            );
        }
        assert!(!lab.out(name).join("sae_weights.safetensors").exists());
        let output = lab.sae_train(name, steps).output().unwrap();
        assert!(output.status.success(), "{name}: {}", text(&output));
        assert!(weights(name) == weights("whole"), "{name}: other bits");
    }
}

#[test]
fn two_signals_end_at_once_and_a_kill_even_sooner_with_whole_files() {
    let lab = Lab::new();
    let steps = 400;
    assert!(lab.finetune("whole", steps).output().unwrap().status.success());
    for (name, signals) in [
        ("twice", &["TERM", "TERM"][..]),
        ("mixed", &["INT", "TERM"]),
        ("killed", &["KILL"]),
    ] {
        let mut child = lab.finetune(name, steps).spawn().unwrap();
        lab.wait_for_a_checkpoint(name, &mut child);
        for one in signals {
            signal(&child, one);
        }
        assert!(!child.wait_with_output().unwrap().status.success());
        let output = lab.finetune(name, steps).output().unwrap();
        assert!(output.status.success(), "{name}: {}", text(&output));
        assert!(lab.adapter(name) == lab.adapter("whole"), "{name}: other bits");
    }
}

#[test]
fn a_second_process_is_told_who_works_in_the_folder() {
    let lab = Lab::new();
    let mut first = lab.finetune("shared", 100_000).spawn().unwrap();
    lab.wait_for_a_checkpoint("shared", &mut first);
    let second = lab.finetune("shared", 100_000).output().unwrap();
    let message = text(&second);
    assert_eq!(second.status.code(), Some(1), "{message}");
    assert!(
        message.contains(&format!("in use by process {}", first.id())),
        "{message}"
    );
    assert!(first.try_wait().unwrap().is_none(), "the first was disturbed");
    // The lock of a process that was killed is nobody's.
    first.kill().unwrap();
    first.wait().unwrap();
    let mut third = lab.finetune("shared", 100_000).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(third.try_wait().unwrap().is_none(), "the lock outlived its process");
    third.kill().unwrap();
    third.wait().unwrap();
}

#[test]
fn nobody_has_to_listen() {
    let lab = Lab::new();
    let mut command = lab.finetune("alone", 60);
    command.env("RUST_LOG", "trace");
    let mut child = command.spawn().unwrap();
    // The reading ends of both pipes are closed: writing to them fails from now on.
    drop((child.stdout.take(), child.stderr.take()));
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(!lab.adapter("alone").is_empty());
}

#[test]
fn a_folder_that_cannot_be_written_is_named_before_the_model_is_opened() {
    let lab = Lab::new();
    let file = lab.out("file");
    std::fs::write(&file, "precious").unwrap();
    for out in [Path::new("file"), Path::new("file/below"), Path::new("/proc/realign")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_realign"));
        command
            .args(["finetune", "--model", "/no/such/model", "--out"])
            .arg(lab.work.path().join(out));
        let output = command.output().unwrap();
        let message = text(&output);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(
            message.contains("file") || message.contains("/proc/realign"),
            "{message}"
        );
        assert!(!message.contains("no/such"), "{message}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}
