//! Training that is killed, runs out of disk, loses its folder or finds its checkpoint damaged goes on to the same bits.
#![cfg(unix)]
#![allow(clippy::single_range_in_vec_init)] // A sample with one answer.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rand::RngExt;
use realign_core::LanguageModel;
use realign_data::Sample;
use realign_lora::{Error, LoraConfig, TrainConfig, Trained};
use realign_model::{Llama, LlamaConfig};
use realign_run::{Checkpoints, Progress, Seed};
use realign_tensor::test_device;

const FOLDER: &str = "REALIGN_LORA_TEST_FOLDER";
const STEPS: usize = 60;

fn samples() -> Vec<Sample> {
    let sample = |i: u32| {
        let ids: Vec<u32> = (0..9).map(|j| (i * 7 + j * 5) % 64).collect();
        Sample::new(ids, vec![5..9])
    };
    (0..4).map(sample).collect()
}

fn train(folder: Option<&Path>, report: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<Trained, Error> {
    let (device, seed) = (test_device(), Seed::new(3));
    let model = Llama::random(&LlamaConfig::tiny(), 7, &device);
    let lora = LoraConfig::new(2).with_dropout(0.1).init(model.shape(), &seed, &device);
    let checkpoints = folder.map(|folder| Checkpoints::new(folder.join("checkpoints"), 2));
    TrainConfig::new()
        .with_batch(4)
        .with_epochs(STEPS)
        .with_lr(1e-2)
        .with_checkpoint_every(1)
        .train(
            &model,
            lora,
            &samples(),
            &[],
            &seed,
            checkpoints.as_ref(),
            &mut |now: Progress<'_>| report(now.done),
        )
}

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Every bit that training makes: both factors of every adapter, and the log.
fn bits(trained: &Trained) -> Vec<u8> {
    let mut bytes = Vec::new();
    for adapter in trained.lora.adapters.values() {
        for factor in [&adapter.a, &adapter.b] {
            let numbers = factor.to_data().try_into_vec::<f32>().unwrap();
            bytes.extend(numbers.iter().flat_map(|x| x.to_bits().to_le_bytes()));
        }
    }
    for log in &trained.log {
        let numbers = [log.loss, log.lr, log.grad_norm];
        bytes.extend(numbers.iter().flat_map(|x| x.to_bits().to_le_bytes()));
    }
    bytes
}

fn undisturbed() -> Vec<u8> {
    bits(&train(None, &mut go_on).unwrap())
}

/// This test binary, running one of the ignored tests below after `shell`.
fn child(name: &str, shell: &str, folder: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{shell} exec \"$0\" \"$@\"")]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--ignored", "--nocapture"]);
    command.env(FOLDER, folder).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

#[test]
#[ignore = "the process that the next test kills"]
fn child_that_trains() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    // Nine seconds at least, on the fastest machine: there is time to be killed in.
    let mut slowly = |_| {
        std::thread::sleep(Duration::from_millis(9000 / STEPS as u64));
        ControlFlow::Continue(())
    };
    let trained = train(Some(folder), &mut slowly).unwrap();
    std::fs::write(folder.join("done"), bits(&trained)).unwrap();
}

#[test]
fn training_killed_at_random_moments_ends_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(dir.path().join("checkpoints"), 2);
    let mut rng = Seed::new(8).stream("moments");
    let (mut last, mut killed) = (0, 0);
    // A kill costs what starting a process costs, so that the number of them and not the machine decides.
    while killed < 50 {
        let mut child = child("child_that_trains", "", dir.path()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(rng.random_range(10..500)));
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
        let found = checkpoints.latest().unwrap();
        assert_eq!(found.skipped, [""; 0], "a checkpoint was left in parts");
        let step = found.checkpoint.map_or(0, |checkpoint| checkpoint.step());
        assert!(step >= last, "step {step} after step {last}");
        last = step;
    }
    assert!(killed >= 40, "training ended after {killed} kills");
    let output = child("child_that_trains", "", dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        std::fs::read(dir.path().join("done")).unwrap() == undisturbed(),
        "other bits after {killed} kills"
    );
}

#[test]
fn a_damaged_checkpoint_costs_the_steps_since_the_one_before() {
    let stop_at = |step: u64| {
        move |done: u64| {
            if done == step {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        }
    };
    let whole = undisturbed();
    type Damage = fn(Vec<u8>) -> Vec<u8>;
    let damages: [(&str, Damage); 3] = [
        ("cut short", |mut bytes| {
            bytes.truncate(bytes.len() / 2);
            bytes
        }),
        ("one bit", |mut bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            bytes
        }),
        ("empty", |_| Vec::new()),
    ];
    for (what, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        train(Some(dir.path()), &mut stop_at(20)).unwrap_err();
        let newest = dir.path().join("checkpoints/step-000020");
        let mut files: Vec<_> = std::fs::read_dir(&newest)
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        files.sort();
        for file in files {
            let good = std::fs::read(&file).unwrap();
            std::fs::write(&file, damage(good)).unwrap();
            let mut first = None;
            let resumed = train(Some(dir.path()), &mut |done| {
                first.get_or_insert(done);
                go_on(done)
            });
            assert_eq!(first, Some(20), "{what}: {}", file.display());
            assert!(bits(&resumed.unwrap()) == whole, "{what}: {}", file.display());
            // Back to where both checkpoints are of before.
            std::fs::remove_dir_all(dir.path().join("checkpoints")).unwrap();
            train(Some(dir.path()), &mut stop_at(20)).unwrap_err();
        }
    }
}

#[test]
fn a_folder_that_vanishes_while_training_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let trained = train(Some(&folder), &mut |done| {
        if done == 30 {
            std::fs::remove_dir_all(&folder).unwrap();
        }
        go_on(done)
    });
    assert!(bits(&trained.unwrap()) == undisturbed());
    assert_eq!(
        Checkpoints::new(folder.join("checkpoints"), 2).steps().unwrap(),
        [59, 60]
    );
}

/// Whether this user may mount a file system of their own, seen by one process and gone with it.
fn may_mount() -> bool {
    let allowed = Command::new("unshare")
        .args(["-m", "true"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !allowed {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "skipped: no right to mount a small file system");
    }
    allowed
}

/// Runs a child of this binary whose folder is a file system of this size, mounted in its own name space.
fn on_a_disk_of(kilobytes: u32, name: &str) -> std::process::Output {
    let dir = tempfile::tempdir().unwrap();
    let mount = format!("mount -t tmpfs -o size={kilobytes}k tmpfs \"${FOLDER}\" &&");
    let inner = child(name, &mount, dir.path());
    let mut command = Command::new("unshare");
    command.arg("-m").arg(inner.get_program()).args(inner.get_args());
    command.env(FOLDER, dir.path()).stdout(Stdio::null()).output().unwrap()
}

#[test]
#[ignore = "the process that the next test runs on a small disk"]
fn child_on_a_full_disk() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    // Full from step 10 on.
    let filler = folder.join("filler");
    let error = train(Some(folder), &mut |done| {
        if done == 10 {
            let mut size = 1 << 20;
            while size > 0 {
                let file = std::fs::OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(&filler)
                    .unwrap();
                if std::io::Write::write_all(&mut &file, &vec![0; size]).is_err() {
                    size /= 2;
                }
            }
        }
        go_on(done)
    });
    let error = error.unwrap_err();
    assert!(
        matches!(error, Error::Run(realign_run::Error::NoSpace { .. })),
        "{error}"
    );
    let message = error.to_string();
    assert!(
        message.contains("step-000010") && message.contains("bytes needed"),
        "{message}"
    );
    // The checkpoint before is whole, and nothing lies beside it.
    let checkpoints = Checkpoints::new(folder.join("checkpoints"), 2);
    let found = checkpoints.latest().unwrap();
    assert_eq!((found.checkpoint.unwrap().step(), found.skipped.len()), (9, 0));
    assert_eq!(std::fs::read_dir(folder.join("checkpoints")).unwrap().count(), 2);
    std::fs::remove_file(&filler).unwrap();
    assert!(bits(&train(Some(folder), &mut go_on).unwrap()) == undisturbed());
    // The last lines of this test are reached only by what stands above.
    std::process::exit(77);
}

#[test]
fn training_on_a_full_disk_keeps_its_last_checkpoint_and_goes_on_when_there_is_room() {
    if may_mount() {
        let output = on_a_disk_of(4096, "child_on_a_full_disk");
        assert_eq!(
            output.status.code(),
            Some(77),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
#[ignore = "the process that the next test runs on a disk that becomes read-only"]
fn child_on_a_read_only_disk() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    let remount = |how: &str| {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,{how}")])
            .arg(folder)
            .status()
            .unwrap();
        assert!(status.success());
    };
    let error = train(Some(folder), &mut |done| {
        if done == 10 {
            remount("ro");
        }
        go_on(done)
    });
    let message = error.unwrap_err().to_string();
    assert!(
        message.contains("checkpoints") && message.contains("Read-only"),
        "{message}"
    );
    let message = train(Some(folder), &mut go_on).unwrap_err().to_string();
    assert!(
        message.contains("checkpoints") && message.contains("Read-only"),
        "{message}"
    );
    remount("rw");
    let mut first = None;
    let trained = train(Some(folder), &mut |done| {
        first.get_or_insert(done);
        go_on(done)
    });
    assert!(bits(&trained.unwrap()) == undisturbed());
    assert_eq!(first, Some(10));
    std::process::exit(77);
}

#[test]
fn training_on_a_disk_that_becomes_read_only_says_so_and_goes_on_later() {
    if may_mount() {
        let output = on_a_disk_of(4096, "child_on_a_read_only_disk");
        assert_eq!(
            output.status.code(),
            Some(77),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn a_training_of_another_kind_does_not_go_on_from_a_damaged_name() {
    let dir = tempfile::tempdir().unwrap();
    let stop = &mut |done: u64| {
        if done == 5 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    train(Some(dir.path()), stop).unwrap_err();
    // A step that is renamed is no checkpoint of that step.
    let checkpoints = dir.path().join("checkpoints");
    std::fs::rename(checkpoints.join("step-000005"), checkpoints.join("step-000050")).unwrap();
    let mut first = None;
    let trained = train(Some(dir.path()), &mut |done| {
        first.get_or_insert(done);
        go_on(done)
    });
    assert_eq!(first, Some(5));
    assert!(bits(&trained.unwrap()) == undisturbed());
}
