//! The model's variables.

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor, nn};

use super::lstm::{self, LstmStack, uniform};
use super::padding::padded_width;
use crate::config::{Config, RnnMode};
use crate::optimizer::{Optimizer, OptimizerType};
use crate::rnn::{BasicLSTMCell, CellType, LSTMBlockCell, RnnCell, kernel_from_libtorch};
use crate::tf;

/// The scope of layer `k`'s cell in TensorFlow's names.
pub(super) fn cell_scope(k: usize) -> String {
    format!("Model/RNN/multi_rnn_cell/cell_{k}")
}

/// The recurrent part's variables.
pub(super) enum Recurrent {
    /// `basic_lstm`: kept in libtorch's layout, mapped to TensorFlow's where variables go in or
    /// out.
    Lstm(Vec<LstmStack>),
    /// Other cells: kept under TensorFlow's names in TensorFlow's layout.
    Cells(tf::Variables),
}

impl Recurrent {
    /// New variables of layers of `width` units.
    fn new(config: &Config, cell: CellType, store: &nn::VarStore, width: i64) -> Result<Self> {
        if cell == CellType::BasicLstm {
            // One call for all layers lets cuDNN work on several at once. Dropout between them is
            // applied by this crate, the same in all modes, so each layer is then its own call.
            let has_dropout = config.keep_prob < 1.0;
            let (stacks, layers) =
                if has_dropout { (config.num_layers, 1) } else { (1, config.num_layers) };
            let path = |k| store.root() / "Model" / format!("cell_{k}");
            let stack = |k| LstmStack::new(store, path(k), config, layers, width);
            return Ok(Recurrent::Lstm((0..stacks).map(stack).collect::<Result<_>>()?));
        }
        let mut variables = tf::Variables::new();
        for k in 0..config.num_layers as usize {
            for (name, size) in cell.variable_shapes(width, width) {
                let init = cell.initial_bias(name).map_or(uniform(config), nn::Init::Const);
                let name = format!("{}/{}/{name}", cell_scope(k), cell.scope());
                let tensor = variable(store, &name.replace('/', "_"), &size, init)?;
                variables.insert(name, tensor);
            }
        }
        Ok(Recurrent::Cells(variables))
    }
}

/// A new variable `Model/name`.
fn variable(store: &nn::VarStore, name: &str, size: &[i64], init: nn::Init) -> Result<Tensor> {
    let variable = (store.root() / "Model").f_var(name, size, init);
    variable.with_context(|| format!("Model/{name} of shape {size:?}"))
}

/// All variables of the model, shared by its views.
pub struct PtbVariables {
    pub(super) config: Config,
    pub(super) cell: CellType,
    pub(super) device: Device,
    pub(super) kind: Kind,
    /// Units that a layer is computed with: `hidden_size`, or a few more that are always zero
    /// ([`padded_width`]).
    pub(super) width: i64,
    pub(super) embedding: Tensor,
    pub(super) recurrent: Recurrent,
    pub(super) softmax_w: Tensor,
    pub(super) softmax_b: Tensor,
    pub(super) optimizer: Optimizer,
}

/// The error of layers that do not fit into the memory.
#[derive(Debug, thiserror::Error)]
#[error("no memory for layers of hidden_size {hidden_size}")]
pub struct TooLarge {
    /// Units of a layer.
    pub hidden_size: i64,
}

impl PtbVariables {
    /// New variables: uniform in `[-init_scale, init_scale]`, the cells' biases as in TensorFlow; a
    /// function of `seed`. `kind` is `Float` to train, `Double` to compare.
    pub fn new(
        config: &Config,
        cell: CellType,
        device: Device,
        kind: Kind,
        seed: i64,
    ) -> Result<Self> {
        Self::with_width(config, cell, device, kind, seed, padded_width(config, cell, device))
    }

    /// New variables of layers of `width` units; those beyond `hidden_size` are zero.
    pub(super) fn with_width(
        config: &Config,
        cell: CellType,
        device: Device,
        kind: Kind,
        seed: i64,
        width: i64,
    ) -> Result<Self> {
        config.validate()?;
        tch::manual_seed(seed);
        let vocab = config.vocab_size;
        let mut store = nn::VarStore::new(device);
        store.set_kind(kind);
        // nn::lstm has no fallible form, so memory for a layer's weights is tried first.
        let _ = Tensor::f_empty([4 * width, 2 * width], (kind, device))
            .context(TooLarge { hidden_size: config.hidden_size })?;
        let var = |name, size: &[i64]| variable(&store, name, size, uniform(config));
        let embedding = var("embedding", &[vocab, width])?;
        let recurrent = Recurrent::new(config, cell, &store, width)?;
        let softmax_w = var("softmax_w", &[width, vocab])?;
        let softmax_b = var("softmax_b", &[vocab])?;
        let variables = PtbVariables {
            config: *config,
            cell,
            device,
            kind,
            width,
            embedding,
            recurrent,
            softmax_w,
            softmax_b,
            optimizer: Optimizer::GradientDescent,
        };
        if device != Device::Cpu || width != config.hidden_size {
            // Drawn on the CPU at `hidden_size`, so that a seed gives the same variables on every
            // device and with any padding.
            let drawn = Self::new(config, cell, Device::Cpu, kind, seed)?;
            variables.assign(&drawn.to_tensorflow()?)?;
        }
        Ok(variables)
    }

    /// The configuration that the variables were made for.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The cell of its layers.
    pub fn cell(&self) -> CellType {
        self.cell
    }

    /// The fastest mode that its layers can be run in.
    pub fn fastest_mode(&self) -> RnnMode {
        match self.recurrent {
            Recurrent::Lstm(_) => RnnMode::Cudnn,
            Recurrent::Cells(_) => RnnMode::Basic,
        }
    }

    /// Where the variables are.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The trainable variables, in the order of the model's gradients.
    pub fn trainable(&self) -> Vec<&Tensor> {
        [vec![&self.embedding], self.recurrent_variables(), vec![&self.softmax_w, &self.softmax_b]]
            .concat()
    }

    /// The recurrent layers' trainable variables.
    pub(super) fn recurrent_variables(&self) -> Vec<&Tensor> {
        match &self.recurrent {
            Recurrent::Lstm(stacks) => lstm::layers(stacks).flat_map(|layer| &layer[..3]).collect(),
            Recurrent::Cells(variables) => variables.values().collect(),
        }
    }

    /// The same variables trained by another optimizer than plain gradient descent, with new slots.
    pub fn with_optimizer(self, optimizer: OptimizerType) -> Self {
        let optimizer = Optimizer::new(optimizer, &self.trainable());
        PtbVariables { optimizer, ..self }
    }

    /// `tf.global_variables()`: the trainable variables, then the optimizer's slots; everything
    /// that a training step changes.
    pub fn global_variables(&self) -> Vec<&Tensor> {
        [self.trainable(), self.optimizer.slots()].concat()
    }

    /// The cells over these variables, one per layer, for a mode that is unrolled over time.
    pub(super) fn cells(&self, mode: RnnMode) -> Result<Vec<Box<dyn RnnCell>>> {
        let indices = 0..self.config.num_layers as usize;
        let forget_bias = self.config.forget_bias;
        match &self.recurrent {
            Recurrent::Lstm(stacks) => lstm::layers(stacks)
                .map(|[w_ih, w_hh, bias, second_bias]| -> Result<Box<dyn RnnCell>> {
                    if mode == RnnMode::Block {
                        let bias = bias + second_bias;
                        return Ok(Box::new(LSTMBlockCell::from_libtorch(w_ih, w_hh, &bias)?));
                    }
                    let (kernel, bias) = kernel_from_libtorch(w_ih, w_hh, bias)?;
                    Ok(Box::new(BasicLSTMCell::new(&kernel, &bias, forget_bias)?))
                })
                .collect(),
            Recurrent::Cells(variables) => {
                indices.map(|k| self.cell.build(variables, &cell_scope(k), forget_bias)).collect()
            }
        }
    }
}
