//! A process that writes checkpoints is killed at random moments; what it leaves is whole.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rand::RngExt;
use realign_run::{Error, Manifest, Reused, RunFolder, Seed, append_line, read_lines, retain_lines, write_atomic};

const FOLDER: &str = "REALIGN_RUN_TEST_FOLDER";
const FILES: [&str; 3] = ["weights", "optimizer", "order"];

fn open(path: &Path) -> RunFolder {
    let manifest = Manifest {
        schema: 1,
        command: vec!["kill".into()],
        config: serde_json::json!({ "steps": "until killed" }),
        model: BTreeMap::new(),
        data: BTreeMap::new(),
        versions: BTreeMap::new(),
        seed: 1,
        threads: 1,
        device: "none".into(),
    };
    RunFolder::open(path, &manifest).unwrap()
}

/// What the file of a step must hold; its length differs from step to step.
fn content(step: u64, file: &str) -> Vec<u8> {
    let mut rng = Seed::new(step).stream(file);
    let len = rng.random_range(0..100_000);
    (0..len).map(|_| rng.random()).collect()
}

/// Checks everything in the folder and returns the last step that was kept.
fn check(run: &RunFolder) -> u64 {
    let found = run.checkpoints("train", 2).unwrap().latest().unwrap();
    assert_eq!(found.skipped, [""; 0], "a checkpoint was left in parts");
    let Some(checkpoint) = found.checkpoint else { return 0 };
    for file in FILES {
        assert_eq!(checkpoint.read(file).unwrap(), content(checkpoint.step(), file));
    }
    checkpoint.step()
}

fn this_test(name: &str, shell: &str, folder: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{shell} exec \"$0\" \"$@\"")]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--ignored", "--nocapture"]);
    command.env(FOLDER, folder).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

#[test]
#[ignore = "the process that the next test kills"]
fn child_that_never_ends() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let run = open(Path::new(&folder));
    let mut step = check(&run);
    let log = run.file("metrics.jsonl");
    retain_lines(&log, |&logged: &u64| logged <= step).unwrap();
    let checkpoints = run.checkpoints("train", 2).unwrap();
    loop {
        step += 1;
        append_line(&log, &step).unwrap();
        let contents = FILES.map(|file| (file, content(step, file)));
        let files: Vec<(&str, &[u8])> = contents.iter().map(|(n, b)| (*n, &b[..])).collect();
        checkpoints.save(step, &files).unwrap();
        let stage = run.stage(&format!("s{}", step % 10), &step, || Ok::<_, Error>(step));
        assert_eq!(stage.unwrap().0, step);
    }
}

#[test]
fn a_run_killed_at_twenty_moments_is_whole_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Seed::new(20).stream("moments");
    let mut last = 0;
    for _ in 0..20 {
        let size = || std::fs::metadata(dir.path().join("metrics.jsonl")).map_or(0, |m| m.len());
        let before = size();
        let mut child = this_test("child_that_never_ends", "", dir.path()).spawn().unwrap();
        // However slow the machine is: some steps on (their lines have at most four bytes), and then some random time.
        let started = std::time::Instant::now();
        while size() <= before + 12 && started.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(rng.random_range(0..100_000)));
        assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        let run = open(dir.path());
        let step = check(&run);
        assert!(step >= last, "step {step} after step {last}");
        last = step;
        let logged: Vec<u64> = read_lines(run.file("metrics.jsonl")).unwrap();
        assert!(logged.iter().copied().eq(1..=logged.len() as u64), "{logged:?}");
        assert!(logged.len() as u64 >= step);
        for (stage, seconds) in run.timings().unwrap() {
            assert!(seconds >= 0.0, "{stage}");
        }
    }
    assert!(last > 20, "only {last} steps were kept in twenty attempts");
    let (_, reused) = open(dir.path()).stage("new", &0, || Ok::<_, Error>(0)).unwrap();
    assert!(matches!(reused, Reused::No(_)));
}

#[test]
#[ignore = "the process that the next test runs with a limit on the size of files"]
fn child_on_a_full_disk() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let path = Path::new(&folder).join("big.bin");
    let error = write_atomic(&path, &vec![1; 1 << 20]).unwrap_err();
    assert!(matches!(error, Error::NoSpace { needed: 1_048_576, .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains("big.bin") && error.contains("1048576 bytes"), "{error}");
    std::fs::write(Path::new(&folder).join("reached"), "").unwrap();
}

#[test]
fn a_full_disk_leaves_the_old_file_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    write_atomic(dir.path().join("big.bin"), b"old").unwrap();
    // Ignored, the signal becomes the error that a full disk gives.
    let limit = "trap '' XFSZ; ulimit -f 16;";
    let output = this_test("child_on_a_full_disk", limit, dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(dir.path().join("reached").exists());
    assert_eq!(std::fs::read(dir.path().join("big.bin")).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}
