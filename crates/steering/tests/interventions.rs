//! Interventions on a tiny random model.

use burn::tensor::{Device, Tensor};
use realign_core::{Batch, HookPoint, LanguageModel, Record, rows};
use realign_model::{Llama, LlamaConfig};
use realign_run::Seed;
use realign_sae::{Activation, Sae, SaeConfig};
use realign_steering::{Ablate, Clamp, Direction, Patch, Steer, SteerEach, Tokens, bake_ablation};

const AT: HookPoint = HookPoint::ResidPost(1);

fn model() -> Llama {
    Llama::random(&LlamaConfig::tiny(), 7, &Device::flex())
}

fn batch() -> Batch {
    Batch::packed([&[1, 2, 3, 9][..], &[4, 5]])
}

fn direction(at: HookPoint, name: &str) -> Direction {
    let like = Direction::new(at, Tensor::full([32], 0.25, &Device::flex()), name);
    Direction {
        name: name.into(),
        ..like.random_like(&Seed::new(name.len() as u64), 0)
    }
}

fn numbers<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.to_data().try_into_vec().unwrap()
}

fn bits(x: &Tensor<2>) -> Vec<u32> {
    numbers(x).into_iter().map(f32::to_bits).collect()
}

fn largest(x: Tensor<2>) -> f32 {
    x.abs().max().into_scalar()
}

/// The stream at `at` after a hook.
fn after(model: &dyn LanguageModel, at: HookPoint, hook: impl realign_core::Hook) -> Tensor<2> {
    let mut hook = (hook, Record::new([at]));
    model.watch(&batch(), &mut hook);
    hook.1.take(at).unwrap()
}

/// The largest component of any row along the direction.
fn along(x: Tensor<2>, direction: &Direction) -> f32 {
    largest(x.matmul(direction.unit().vector.unsqueeze_dim(1)))
}

#[test]
fn strength_0_is_bit_identical_to_no_hook() {
    let model = model();
    let plain = model.logits(model.forward(&batch(), &mut ()));
    let steered = model.logits(model.forward(&batch(), &mut Steer::new(direction(AT, "d"), 0.0)));
    assert_eq!(bits(&plain), bits(&steered));
    let steered = model.logits(model.forward(&batch(), &mut Steer::new(direction(AT, "d"), 1.0)));
    assert!(largest(plain - steered) > 1e-3);
}

#[test]
fn steering_adds_the_vector_where_it_is_asked_to() {
    let model = model();
    let direction = direction(AT, "d");
    let plain = after(&model, AT, ());
    let steered = after(&model, AT, Steer::new(direction.clone(), -2.0).on(Tokens::From(2)));
    // Positions 0 to 3 of the first sequence, 0 and 1 of the second.
    let change = numbers(&(steered - plain));
    for (token, change) in change.chunks(32).enumerate() {
        for (change, x) in change.iter().zip(direction.to_vec()) {
            let wanted = if [2, 3].contains(&token) { -2.0 * x } else { 0.0 };
            assert!((change - wanted).abs() < 1e-5, "token {token}: {change} for {wanted}");
        }
    }
}

#[test]
fn steering_composes() {
    let model = model();
    let (a, b) = (direction(AT, "a"), direction(AT, "bb"));
    let (up, down) = (Steer::new(a.clone(), 1.5), Steer::new(a.clone(), -1.5));
    let plain = after(&model, AT, ());
    assert!(largest(after(&model, AT, (up.clone(), down)) - plain.clone()) < 1e-5);
    let both = after(&model, AT, (up.clone(), Steer::new(b.clone(), 1.0)));
    let each = after(&model, AT, SteerEach(vec![up, Steer::new(b.clone(), 1.0)]));
    assert_eq!(bits(&both), bits(&each));
    let sum = after(&model, AT, Steer::new(a.times(1.5).plus(&b), 1.0));
    assert!(largest(both - sum) < 1e-5);
}

#[test]
fn steering_keeps_the_stream_on_the_gradient_tape() {
    let model = model();
    let direction = direction(AT, "d");
    let tracked = direction.vector.clone().autodiff().require_grad();
    let mut hook = Steer::new(
        Direction {
            vector: tracked.clone(),
            ..direction
        },
        2.0,
    )
    .on(Tokens::From(1));
    let hidden = model.forward(&batch(), &mut hook);
    let gradients = model.nll(hidden, &[2, 3, 9, 1, 5, 1]).sum().backward();
    assert!(tracked.grad(&gradients).unwrap().abs().max().into_scalar::<f32>() > 0.0);
}

#[test]
fn ablation_leaves_no_component_and_nothing_else_changed() {
    let model = model();
    let direction = direction(AT, "d");
    let plain = after(&model, AT, ());
    assert!(along(plain.clone(), &direction) > 0.05);
    let ablated = after(&model, AT, Ablate::new(&direction));
    assert!(along(ablated.clone(), &direction) < 1e-5);
    let other = direction.orthogonal_like(&Seed::new(1), 0);
    assert!(along(ablated - plain, &other) < 1e-5);
}

#[test]
fn ablation_acts_at_several_points() {
    let model = model();
    let direction = direction(AT, "d");
    let points = [HookPoint::ResidPost(0), HookPoint::ResidMid(2), HookPoint::ResidPost(2)];
    let mut hook = (Ablate::new(&direction).at(points), Record::new(points));
    model.watch(&batch(), &mut hook);
    for at in points {
        assert!(along(hook.1.take(at).unwrap(), &direction) < 1e-5, "{at}");
    }
}

#[test]
fn ablation_towards_a_mean_leaves_the_means_component() {
    let model = model();
    let direction = direction(AT, "d");
    let plain = after(&model, AT, ());
    let mean: Tensor<1> = plain.clone().mean_dim(0).reshape([32]);
    let ablated = after(&model, AT, Ablate::new(&direction).towards(mean.clone()));
    assert!(along(ablated - mean.clone().unsqueeze(), &direction) < 1e-5);
    assert!(along(mean.unsqueeze(), &direction) > 1e-3);
}

#[test]
fn baked_ablation_writes_nothing_along_the_direction() {
    let model = model();
    let direction = direction(AT, "d");
    let written = |layer| [HookPoint::AttnOut(layer), HookPoint::MlpOut(layer)];
    let points: Vec<HookPoint> = (0..3)
        .flat_map(written)
        .chain([HookPoint::Embed, HookPoint::ResidPost(2)])
        .collect();
    let components = |model: &dyn LanguageModel| {
        let mut record = Record::new(points.clone());
        model.watch(&batch(), &mut record);
        points
            .iter()
            .map(|&at| (at, along(record.take(at).unwrap(), &direction)))
            .collect::<Vec<_>>()
    };
    assert!(components(&model).iter().all(|&(_, x)| x > 1e-4));
    assert!(
        components(&*bake_ablation(&model, &direction, 0..3))
            .iter()
            .all(|&(_, x)| x < 1e-5)
    );
    for (at, x) in components(&*bake_ablation(&model, &direction, 1..2)) {
        assert_eq!(at.layer() == Some(1), x < 1e-5, "{at}: {x}");
    }
}

#[test]
fn baking_equals_ablating_every_write() {
    let model = model();
    let direction = direction(AT, "d");
    let writes = (0..3).flat_map(|layer| [HookPoint::AttnOut(layer), HookPoint::MlpOut(layer)]);
    let mut hook = Ablate::new(&direction).at(writes.chain([HookPoint::Embed]));
    let hooked = model.forward(&batch(), &mut hook);
    let baked = bake_ablation(&model, &direction, 0..3).forward(&batch(), &mut ());
    assert!(largest(hooked - baked) < 1e-4);
}

#[test]
fn a_clamped_latent_has_its_value_and_the_error_stays() {
    let model = model();
    let mut sae: Sae = SaeConfig::new(32, 64, 8).init(&Seed::new(3), &Device::flex());
    let plain = after(&model, AT, ());
    for activation in [sae.activation.clone(), Activation::BatchTopK { threshold: 0.1 }] {
        sae.activation = activation;
        clamps(&model, &sae, plain.clone());
    }
}

fn clamps(model: &Llama, sae: &Sae, plain: Tensor<2>) {
    let active = sae.encode(plain.clone()).to_vecs().1[0] as usize;
    let was = numbers(&sae.encode(plain.clone()).dense_column(active));
    let clamped = after(model, AT, Clamp::new(sae, AT, active, 2.5));
    let row = numbers(&sae.decoder_row(active));
    let change = numbers(&(clamped - plain.clone()));
    for (token, change) in change.chunks(32).enumerate() {
        for (change, x) in change.iter().zip(&row) {
            assert!((change - (2.5 - was[token]) * x).abs() < 1e-4, "token {token}");
        }
    }
    // Set to what it is, it changes nothing on that token.
    let same = after(model, AT, Clamp::new(sae, AT, active, f64::from(was[0])));
    assert!(largest(rows(same - plain, &[0])) < 1e-6);
}

#[test]
fn patching_copies_the_chosen_tokens() {
    let model = model();
    let mut other = Record::new([AT]);
    model.watch(&Batch::packed([&[7, 8, 6][..]]), &mut other);
    let source = rows(other.take(AT).unwrap(), &[2, 0]);
    let plain = numbers(&after(&model, AT, ()));
    let patched = numbers(&after(&model, AT, Patch::new(AT, source.clone(), vec![1, 4])));
    let source = numbers(&source);
    for token in 0..6 {
        let row = |x: &[f32], i: usize| x[i * 32..(i + 1) * 32].to_vec();
        let wanted = match token {
            1 => row(&source, 0),
            4 => row(&source, 1),
            _ => row(&plain, token),
        };
        assert_eq!(row(&patched, token), wanted, "token {token}");
    }
}

#[test]
#[should_panic(expected = "the direction is [16]")]
fn another_width_panics_with_both_shapes() {
    let narrow = Direction::new(AT, Tensor::ones([16], &Device::flex()), "narrow");
    after(&model(), AT, Steer::new(narrow, 1.0));
}
