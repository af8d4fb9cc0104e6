//! Training that is killed, has no room, loses its folder or finds its checkpoint damaged goes on to the same bits.
#![cfg(unix)]

use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use burn::tensor::{Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use realign_core::HookPoint;
use realign_run::{Checkpoints, Progress, Seed};
use realign_sae::{ActivationSource, Error, SaeConfig, TrainConfig, Trained};
use realign_tensor::test_device;

const FOLDER: &str = "REALIGN_SAE_TEST_FOLDER";
const STEPS: usize = 60;
const BATCH: usize = 64;
const WIDTH: usize = 16;

/// Random activations.
struct Noise(ChaCha8Rng);

impl ActivationSource for Noise {
    fn next_batch(&mut self) -> Option<Tensor<2>> {
        let x: Vec<f32> = (0..BATCH * WIDTH).map(|_| self.0.random::<f32>() - 0.5).collect();
        Some(Tensor::from_data(TensorData::new(x, [BATCH, WIDTH]), &test_device()))
    }

    fn skip(&mut self, batches: usize) {
        (0..batches).for_each(|_| drop(self.next_batch()));
    }
}

fn train(folder: Option<&Path>, report: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<Trained, Error> {
    let seed = Seed::new(3);
    let checkpoints = folder.map(|folder| Checkpoints::new(folder.join("checkpoints"), 2));
    let config = TrainConfig {
        batch_tokens: BATCH,
        aux_k: 8,
        // A latent that is silent for a batch is dead: its moments and its count are part of the state.
        dead_after_tokens: BATCH,
        checkpoint_every: 1,
        ..TrainConfig::new(BATCH * STEPS)
    };
    config.train(
        SaeConfig::new(WIDTH, 48, 3),
        &mut Noise(seed.stream("noise")),
        HookPoint::ResidPost(1),
        &seed,
        &test_device(),
        checkpoints.as_ref(),
        &mut |now: Progress<'_>| report(now.done),
    )
}

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn stop_at(step: u64) -> impl FnMut(u64) -> ControlFlow<()> {
    move |done| match done == step {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

/// Every bit that training makes: the weights, and the log.
fn bits(trained: &Trained) -> Vec<u8> {
    let sae = &trained.sae;
    let weights = [
        sae.w_enc.to_data(),
        sae.b_enc.to_data(),
        sae.w_dec.to_data(),
        sae.b_dec.to_data(),
    ];
    let numbers = weights.iter().flat_map(|data| data.iter::<f32>().collect::<Vec<_>>());
    let mut bytes: Vec<u8> = numbers.flat_map(|x| x.to_bits().to_le_bytes()).collect();
    for row in &trained.log {
        let numbers = [row.fvu, row.aux, row.l0, row.lr, row.dead as f64];
        bytes.extend(numbers.iter().flat_map(|x| x.to_bits().to_le_bytes()));
    }
    bytes
}

fn undisturbed() -> Vec<u8> {
    let trained = train(None, &mut go_on).unwrap();
    assert!(trained.log.iter().any(|row| row.aux > 0.0), "no latent was dead");
    bits(&trained)
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
    // Three seconds at least, on the fastest machine: there is time to be killed in.
    let mut slowly = |_| {
        std::thread::sleep(Duration::from_millis(3000 / STEPS as u64));
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
    while killed < 10 {
        let mut child = child("child_that_trains", "", dir.path()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(rng.random_range(10..250)));
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
    assert!(killed >= 2, "training ended after {killed} kills");
    let output = child("child_that_trains", "", dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        std::fs::read(dir.path().join("done")).unwrap() == undisturbed(),
        "other bits after {killed} kills"
    );
}

#[test]
fn a_damaged_checkpoint_costs_the_steps_since_the_one_before() {
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
    let files = ["manifest.json", "state.json", "weights.safetensors"];
    for ((what, damage), file) in damages.iter().flat_map(|damage| files.map(|file| (damage, file))) {
        let dir = tempfile::tempdir().unwrap();
        train(Some(dir.path()), &mut stop_at(20)).unwrap_err();
        let path = dir.path().join("checkpoints/step-000020").join(file);
        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, damage(good)).unwrap();
        let mut first = None;
        let resumed = train(Some(dir.path()), &mut |done| {
            first.get_or_insert(done);
            go_on(done)
        });
        assert_eq!(first, Some(20), "{what}: {file}");
        assert!(bits(&resumed.unwrap()) == whole, "{what}: {file}");
    }
}

#[test]
fn both_checkpoints_damaged_cost_all_steps() {
    let dir = tempfile::tempdir().unwrap();
    train(Some(dir.path()), &mut stop_at(20)).unwrap_err();
    for step in ["step-000019", "step-000020"] {
        std::fs::write(dir.path().join("checkpoints").join(step).join("state.json"), "{}").unwrap();
    }
    let mut first = None;
    let trained = train(Some(dir.path()), &mut |done| {
        first.get_or_insert(done);
        go_on(done)
    });
    assert_eq!(first, Some(1));
    assert!(bits(&trained.unwrap()) == undisturbed());
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

#[test]
#[ignore = "the process that the next test runs on a small disk"]
fn child_without_room() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut steps = 0;
    let error = train(Some(Path::new(&folder)), &mut |done| {
        steps = done;
        go_on(done)
    });
    let error = error.unwrap_err();
    assert!(
        matches!(error, Error::Run(realign_run::Error::NoRoom { needed, free, .. }) if needed > free),
        "{error}"
    );
    assert!(error.to_string().contains("checkpoints: "), "{error}");
    assert_eq!(steps, 0, "it had begun");
    // The last line of this test is reached only by what stands above.
    std::process::exit(77);
}

#[test]
fn checkpoints_that_have_no_room_are_an_error_before_the_first_step() {
    let allowed = Command::new("unshare").args(["-m", "true"]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "skipped: no right to mount a small file system");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // A checkpoint takes some twenty kilobytes, and three of them may be there at a time.
    let mount = format!("mount -t tmpfs -o size=32k tmpfs \"${FOLDER}\" &&");
    let inner = child("child_without_room", &mount, dir.path());
    let mut command = Command::new("unshare");
    command.arg("-m").arg(inner.get_program()).args(inner.get_args());
    let output = command.env(FOLDER, dir.path()).stdout(Stdio::null()).output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(77),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
