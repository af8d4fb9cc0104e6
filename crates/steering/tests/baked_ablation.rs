//! A baked ablation on every architecture: with biases, learned positions, experts, and norms behind the maps.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use realign_core::{Batch, HookPoint, LanguageModel, Record};
use realign_model::{Checkpoint, Decoder};
use realign_steering::{Direction, bake_ablation};

fn component(x: &Tensor<2>, unit: &Tensor<2>) -> f32 {
    let along = x.clone().matmul(unit.clone().transpose()).abs().max();
    let length = x.clone().powi_scalar(2).sum_dim(1).sqrt().max();
    let number = |x: Tensor<1>| x.into_data().try_into_vec::<f32>().unwrap()[0];
    number(along) / number(length)
}

#[test]
fn nothing_of_the_direction_is_left_in_any_architectures_stream() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/architectures");
    let mut seen = 0;
    for entry in fs::read_dir(root).unwrap() {
        let folder = entry.unwrap().path();
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let model = Decoder::load(&checkpoint.config().unwrap(), &checkpoint, &Device::flex()).unwrap();
        let (d_model, n_layers) = (model.shape().d_model, model.shape().n_layers);
        let numbers: Vec<f32> = (0..d_model)
            .map(|i| ((i * i * 7 + i) % 13) as f32 / 13.0 - 0.5)
            .collect();
        let vector = Tensor::from_data(TensorData::new(numbers, [d_model]), &Device::flex());
        let direction = Direction::new(HookPoint::ResidPost(0), vector, "test");
        let unit: Tensor<2> = direction.unit().vector.unsqueeze();
        let baked = bake_ablation(&model, &direction, 0..n_layers);
        let points = || (0..n_layers).flat_map(|l| [HookPoint::ResidMid(l), HookPoint::ResidPost(l)]);
        let batch = Batch::packed([[3u32, 1, 4, 1, 5, 9, 2, 6, 5]]);
        let kept = |model: &dyn LanguageModel| {
            let mut record = Record::new(points());
            model.forward(&batch, &mut record);
            points()
                .map(|at| component(record.get(at).unwrap(), &unit))
                .fold(0.0, f32::max)
        };
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let (before, after) = (kept(&model), kept(&*baked));
        assert!(before > 0.05 && after < 1e-5, "{name}: {before} before, {after} after");
        seen += 1;
    }
    assert!(seen >= 11);
}
