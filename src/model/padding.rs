//! Zero units that pad wide layers to a multiple of 8 on a GPU.

use tch::{Device, Tensor};

use crate::config::Config;
use crate::rnn::CellType;

/// Units that a layer is computed with.
///
/// On a GPU, rows of 650 or 1500 numbers are not aligned to the 16 bytes that tensor cores load at
/// once, and the kernels that remain are up to twice as slow (docs/cuda.md). So wide LSTM
/// layers get a few units more, to a multiple of 8. Their weights and biases are zero; then their
/// state, their output and all their gradients are zero too, and they stay so: the other units
/// compute what they would compute alone.
pub(super) fn padded_width(config: &Config, cell: CellType, device: Device) -> i64 {
    let wide = cell == CellType::BasicLstm && config.hidden_size > 256;
    if wide && device.is_cuda() { (config.hidden_size + 7) / 8 * 8 } else { config.hidden_size }
}

/// The tensor with its blocks of `from` units along some dimensions cut or filled up with zeros to
/// `to` units. `blocks` says how many such blocks stand side by side along each dimension; 0 for a
/// dimension that does not count units.
pub(super) fn resize(tensor: &Tensor, blocks: &[i64], from: i64, to: i64) -> Tensor {
    let mut tensor = tensor.shallow_clone();
    if from == to {
        return tensor;
    }
    for (dim, &blocks) in blocks.iter().enumerate().filter(|(_, blocks)| **blocks > 0) {
        let resized = |block: Tensor| {
            if to < from {
                return block.narrow(dim as i64, 0, to);
            }
            let mut zeros = block.size();
            zeros[dim] = to - from;
            Tensor::cat(
                &[&block, &Tensor::zeros(zeros, (block.kind(), block.device()))],
                dim as i64,
            )
        };
        let resized: Vec<Tensor> =
            tensor.chunk(blocks, dim as i64).into_iter().map(resized).collect();
        tensor = Tensor::cat(&resized, dim as i64);
    }
    tensor
}

/// Blocks of units along each dimension of the model's variables, in TensorFlow's layout, and of
/// its state.
pub(super) mod blocks {
    pub(crate) const EMBEDDING: [i64; 2] = [0, 1];
    /// `[inputs and h, i j f o]`
    pub(crate) const KERNEL: [i64; 2] = [2, 4];
    pub(crate) const BIAS: [i64; 1] = [4];
    pub(crate) const SOFTMAX_W: [i64; 2] = [1, 0];
    /// `[batch, units]`
    pub(crate) const STATE: [i64; 2] = [0, 1];
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::config::RnnMode;
    use crate::model::{PtbModel, PtbVariables};
    use crate::optimizer::OptimizerType;

    #[test]
    fn wide_lstm_layers_are_padded_on_a_gpu() {
        let width = |hidden_size, cell, device| {
            padded_width(&Config { hidden_size, ..Config::SMALL }, cell, device)
        };
        for (hidden_size, padded) in [(200, 200), (250, 250), (650, 656), (656, 656), (1500, 1504)]
        {
            let widths = [
                width(hidden_size, CellType::BasicLstm, Device::Cuda(0)),
                width(hidden_size, CellType::BasicLstm, Device::Cpu),
                width(hidden_size, CellType::Gru, Device::Cuda(0)),
            ];
            assert_eq!(widths, [padded, hidden_size, hidden_size]);
        }
    }

    /// A layer with units that are always zero trains as the layer without them: cost, norm,
    /// variables, state, in all modes, with either optimizer.
    #[test]
    fn padding_changes_no_number() {
        let _random = crate::random_numbers(0);
        let config = Config {
            vocab_size: 57,
            hidden_size: 13,
            batch_size: 5,
            num_steps: 7,
            init_scale: 0.3,
            max_grad_norm: 1.0,
            ..Config::SMALL
        };
        let cpu = (Device::Cpu, Kind::Double);
        let modes = [RnnMode::Cudnn, RnnMode::Block, RnnMode::Basic];
        let descents = modes.map(|mode| (mode, OptimizerType::Sgd, 1.0));
        for (mode, optimizer, rate) in
            descents.into_iter().chain([(RnnMode::Cudnn, OptimizerType::Adam, 1e-3)])
        {
            let make = |width| {
                PtbVariables::with_width(&config, CellType::BasicLstm, cpu.0, cpu.1, 3, width)
                    .unwrap()
                    .with_optimizer(optimizer)
            };
            let (plain, padded) = (make(13), make(16));
            let run = |variables: &PtbVariables| {
                let model = PtbModel::new(variables, true, mode);
                let mut state = model.zero_state(config.batch_size);
                let mut figures = Vec::new();
                for k in 0..4 {
                    tch::manual_seed(k);
                    let words = Tensor::randint(57, [5, 8], (Kind::Int64, Device::Cpu));
                    let step = model
                        .train_step(&words.narrow(1, 0, 7), &words.narrow(1, 1, 7), &state, rate)
                        .unwrap();
                    figures.push([step.cost.double_value(&[]), step.global_norm.double_value(&[])]);
                    state = variables.widen_state(&variables.narrow_state(&step.state));
                }
                (figures, variables.narrow_state(&state))
            };
            let ((figures, state), (padded_figures, padded_state)) = (run(&plain), run(&padded));
            for (a, b) in figures.iter().flatten().zip(padded_figures.iter().flatten()) {
                assert!((a / b - 1.0).abs() < 1e-12, "{mode}: {a} and {b}");
            }
            let (plain, trained) =
                (plain.to_tensorflow().unwrap(), padded.to_tensorflow().unwrap());
            assert!(plain.keys().eq(trained.keys()));
            let pairs = plain.values().zip(trained.values()).chain(state.iter().zip(&padded_state));
            for (a, b) in pairs {
                assert_eq!(a.size(), b.size());
                assert!((a - b).abs().max().double_value(&[]) < 1e-12, "{mode}: {:?}", a.size());
            }
            // The units that were added are still zero.
            let beyond = padded.embedding.narrow(1, 13, 3).abs().sum(Kind::Double);
            assert_eq!(beyond.double_value(&[]), 0.0, "{mode}");
        }
    }
}
