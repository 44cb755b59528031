//! What holds of every cell and unroll, whatever the shapes, lengths, masks and cuts. In float64,
//! gradients included.

use anyhow::Result;
use proptest::prelude::*;
use ptb_word_lm::rnn::*;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

type Variables = BTreeMap<String, Tensor>;

const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

/// Numbers in (-1, 1) that look random and are a function of `seed` and the shape.
fn values(seed: u64, shape: &[i64]) -> Tensor {
    let numel = shape.iter().product::<i64>();
    ((Tensor::arange(numel, DOUBLE) + 1.0) * (seed as f64 * 0.377 + 1.618)).sin().reshape(shape)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum AnyCell {
    Plain(CellType),
    /// LSTMCell with everything on
    FullLstm,
    Block,
    /// a GRU on a BasicLSTMCell, state as tuple or concatenated
    Multi(bool),
}

/// A cell, its variables' values, and what it runs over.
#[derive(Debug, Clone)]
struct Problem {
    cell: AnyCell,
    batch: i64,
    time: i64,
    input_size: i64,
    num_units: i64,
    /// input and output dropout, if any
    keep_prob: Option<f64>,
    forget_bias: f64,
    /// one per example, 0 ..= time
    lengths: Vec<i64>,
    /// 0 ..= time
    cut: i64,
    seed: u64,
}

fn problem() -> impl Strategy<Value = Problem> {
    let cell = prop_oneof![
        3 => prop::sample::select(CellType::ALL.to_vec()).prop_map(AnyCell::Plain),
        1 => Just(AnyCell::FullLstm),
        1 => Just(AnyCell::Block),
        2 => any::<bool>().prop_map(AnyCell::Multi),
    ];
    let sizes = (1..5i64, 1..8i64, 1..5i64, 1..5i64);
    (cell, sizes, prop::option::of(0.2..1.0), -2.0..2.0, 0..1000u64).prop_flat_map(
        |(cell, (batch, time, input_size, num_units), keep_prob, forget_bias, seed)| {
            (prop::collection::vec(0..=time, batch as usize), 0..=time).prop_map(
                move |(lengths, cut)| Problem {
                    cell,
                    batch,
                    time,
                    input_size,
                    num_units,
                    keep_prob,
                    forget_bias,
                    lengths,
                    cut,
                    seed,
                },
            )
        },
    )
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() }
}

/// Dropout masks, `[batch, size]` per step.
#[derive(Debug, Default)]
struct Masks {
    input: Vec<Tensor>,
    output: Vec<Tensor>,
}

impl Problem {
    /// Everything any cell may want, under TensorFlow's names.
    fn variables(&self) -> Variables {
        let (input_size, num_units) = (self.input_size, self.num_units);
        let mut variables = Variables::new();
        let mut add = |name: String, shape: &[i64]| {
            variables.insert(name.clone(), values(self.seed + name.len() as u64, shape) * 0.8);
        };
        for cell in CellType::ALL {
            for (name, shape) in cell.variable_shapes(input_size, num_units) {
                add(format!("rnn/{}/{name}", cell.scope()), &shape);
            }
        }
        for (k, cell, input_size) in
            [(0, CellType::BasicLstm, input_size), (1, CellType::Gru, num_units)]
        {
            for (name, shape) in cell.variable_shapes(input_size, num_units) {
                add(format!("rnn/multi_rnn_cell/cell_{k}/{}/{name}", cell.scope()), &shape);
            }
        }
        // num_proj 2
        add("full/lstm_cell/kernel".into(), &[input_size + 2, 4 * num_units]);
        add("full/lstm_cell/bias".into(), &[4 * num_units]);
        add("full/lstm_cell/projection/kernel".into(), &[num_units, 2]);
        for gate in ["i", "f", "o"] {
            add(format!("full/lstm_cell/w_{gate}_diag"), &[num_units]);
        }
        variables
    }

    fn cell_without_dropout(&self, variables: &Variables) -> Result<Box<dyn RnnCell>> {
        Ok(match self.cell {
            AnyCell::Plain(cell) => cell.build(variables, "rnn", self.forget_bias)?,
            AnyCell::FullLstm => {
                let options = LSTMCellOptions {
                    use_peepholes: true,
                    cell_clip: Some(0.5),
                    num_proj: Some(2),
                    proj_clip: Some(0.3),
                    forget_bias: self.forget_bias,
                };
                Box::new(LSTMCell::from_variables(variables, "full", options)?)
            }
            AnyCell::Block => {
                Box::new(LSTMBlockCell::from_variables(variables, "rnn", self.forget_bias)?)
            }
            AnyCell::Multi(tuple) => {
                let cell = |variables: &Variables, scope: &str| {
                    let cell =
                        if scope.ends_with('0') { CellType::BasicLstm } else { CellType::Gru };
                    cell.build(variables, scope, self.forget_bias)
                };
                Box::new(MultiRNNCell::from_variables(variables, "rnn", tuple, cell)?)
            }
        })
    }

    fn cell(&self, variables: &Variables, masks: &Masks) -> Result<Box<dyn RnnCell>> {
        let cell = self.cell_without_dropout(variables)?;
        let fixed =
            |masks: &[Tensor]| masks_in_order(masks.iter().map(Tensor::shallow_clone).collect());
        Ok(match self.keep_prob {
            Some(_) => Box::new(DropoutWrapper::with_masks(
                cell,
                Some(fixed(&masks.input)),
                Some(fixed(&masks.output)),
            )),
            None => cell,
        })
    }

    fn masks(&self) -> Masks {
        let output_size = match self.cell {
            AnyCell::FullLstm => 2,
            _ => self.num_units,
        };
        let masks = |seed, size| {
            (0..self.time)
                .map(|time| {
                    let keep_prob = self.keep_prob.unwrap_or(1.0);
                    let keep =
                        values(seed + time as u64, &[self.batch, size]).lt(2.0 * keep_prob - 1.0);
                    keep.to_kind(Kind::Double) / keep_prob
                })
                .collect()
        };
        Masks {
            input: masks(self.seed, self.input_size),
            output: masks(self.seed + 50, output_size),
        }
    }

    /// Runs `forward(variables, inputs [batch, time, input_size], initial state) -> (outputs
    /// [batch, time, size], state)` and differentiates a weighted sum of all that comes out.
    fn run<F>(&self, forward: F) -> Result<Outcome>
    where
        F: FnOnce(&Variables, &Tensor, &State) -> Result<(Tensor, State)>,
    {
        let leaf = |x: Tensor| x.set_requires_grad(true);
        let variables: Variables =
            self.variables().into_iter().map(|(name, x)| (name, leaf(x))).collect();
        let inputs = leaf(values(self.seed + 1, &[self.batch, self.time, self.input_size]));
        let sizes = self.cell_without_dropout(&variables)?.state_size();
        let initial: State = (sizes.iter().zip(2..))
            .map(|(size, k)| leaf(values(self.seed + k, &[self.batch, *size])))
            .collect();

        let (outputs, state) = forward(&variables, &inputs, &initial)?;
        let mut results = vec![outputs];
        results.extend(state);
        let weigh =
            |(x, k): (&Tensor, u64)| (x * values(self.seed + k, &x.size())).sum(Kind::Double);
        let loss: Tensor = results.iter().zip(20..).map(weigh).sum();
        loss.backward();
        let leaves = variables.values().chain([&inputs]).chain(&initial);
        let gradients =
            leaves.map(|leaf| if leaf.grad().defined() { leaf.grad() } else { leaf.zeros_like() });
        let gradients = gradients.collect();
        Ok(Outcome { results: results.iter().map(Tensor::detach).collect(), gradients })
    }
}

#[derive(Debug)]
struct Outcome {
    /// outputs, then states
    results: Vec<Tensor>,
    /// of all variables, the inputs, the initial states
    gradients: Vec<Tensor>,
}

impl Outcome {
    fn ensure_equals(&self, other: &Outcome) -> Result<()> {
        for (what, ours, others) in [
            ("result", &self.results, &other.results),
            ("gradient", &self.gradients, &other.gradients),
        ] {
            anyhow::ensure!(
                ours.len() == others.len(),
                "{} {what}s and {}",
                ours.len(),
                others.len()
            );
            for (k, (a, b)) in ours.iter().zip(others).enumerate() {
                anyhow::ensure!(
                    a.size() == b.size(),
                    "{what} {k}: {:?} and {:?}",
                    a.size(),
                    b.size()
                );
                let error =
                    if a.numel() == 0 { 0.0 } else { (a - b).abs().max().double_value(&[]) };
                anyhow::ensure!(error <= 1e-10, "{what} {k} differs by {error:e}");
            }
        }
        Ok(())
    }
}

/// Lets `?` be used in properties.
fn held(property: impl FnOnce() -> Result<()>) -> Result<(), TestCaseError> {
    property().map_err(|error| TestCaseError::fail(format!("{error:#}")))
}

fn stack_time((outputs, state): (Vec<Tensor>, State)) -> (Tensor, State) {
    (Tensor::stack(&outputs, 1), state)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_lstms_are_one_function(problem in problem()) {
        held(|| lstms_agree(&problem))?;
    }

    #[test]
    fn the_layouts_are_permutations(input_size in 1..6i64, num_units in 1..6i64, seed in 0..1000u64) {
        held(|| {
            let kernel = values(seed, &[input_size + num_units, 4 * num_units]);
            let bias = values(seed + 1, &[4 * num_units]);
            let (w_ih, w_hh, b) = kernel_to_libtorch(&kernel, &bias, input_size)?;
            anyhow::ensure!(kernel_from_libtorch(&w_ih, &w_hh, &b)? == (kernel, bias), "not the same bits");
            Ok(())
        })?;
    }

    #[test]
    fn dynamic_rnn_is_static_rnn(problem in problem(), with_lengths: bool) {
        held(|| {
            let masks = problem.masks();
            let lengths = with_lengths.then_some(&problem.lengths[..]);
            let by_list = problem.run(|variables, inputs, state| {
                let cell = problem.cell(variables, &masks)?;
                Ok(stack_time(static_rnn(cell.as_ref(), &inputs.unbind(1), Some(state), lengths)?))
            })?;
            by_list.ensure_equals(&problem.run(|variables, inputs, state| {
                let cell = problem.cell(variables, &masks)?;
                dynamic_rnn(cell.as_ref(), inputs, lengths, Some(state), false)
            })?)?;
            by_list.ensure_equals(&problem.run(|variables, inputs, state| {
                let cell = problem.cell(variables, &masks)?;
                let inputs = inputs.transpose(0, 1);
                let (outputs, state) = dynamic_rnn(cell.as_ref(), &inputs, lengths, Some(state), true)?;
                Ok((outputs.transpose(0, 1), state))
            })?)
        })?;
    }

    #[test]
    fn a_sequence_cut_and_carried_is_the_whole(problem in problem()) {
        held(|| cut_anywhere(&problem))?;
    }

    #[test]
    fn lengths_are_a_loop_over_examples(problem in problem()) {
        held(|| lengths_by_example(&problem))?;
    }

    #[test]
    fn backward_starts_at_each_sequences_end(problem in problem(), with_lengths: bool) {
        held(|| bidirectional_by_example(&problem, with_lengths))?;
    }

    #[test]
    fn concatenated_state_is_the_tuple(problem in problem()) {
        held(|| {
            let masks = problem.masks();
            let tuple = problem.run(|variables, inputs, state| {
                let cell = problem.cell(variables, &masks)?;
                dynamic_rnn(cell.as_ref(), inputs, Some(&problem.lengths), Some(state), false)
            })?;
            tuple.ensure_equals(&problem.run(|variables, inputs, state| {
                let cell = ConcatState::new(problem.cell(variables, &masks)?);
                let initial = [Tensor::cat(state, 1)];
                let (outputs, joined) =
                    dynamic_rnn(&cell, inputs, Some(&problem.lengths), Some(&initial), false)?;
                anyhow::ensure!(joined.len() == 1 && cell.state_size() == [joined[0].size()[1]]);
                let sizes: Vec<_> = state.iter().map(|state| state.size()[1]).collect();
                Ok((outputs, joined[0].split_with_sizes(&sizes, 1)))
            })?)
        })?;
    }

    #[test]
    fn multi_rnn_cell_is_one_cell_after_another(problem in problem(), tuple: bool) {
        let problem = Problem { cell: AnyCell::Multi(tuple), keep_prob: None, ..problem };
        held(|| {
            let stacked = problem.run(|variables, inputs, state| {
                let cell = problem.cell_without_dropout(variables)?;
                dynamic_rnn(cell.as_ref(), inputs, None, Some(state), false)
            })?;
            stacked.ensure_equals(&problem.run(|variables, inputs, state| {
                let n = problem.num_units;
                let state = if tuple { state } else { &state[0].split_with_sizes([n, n, n], 1) };
                let layer = |k: usize, cell: CellType| {
                    cell.build(variables, &format!("rnn/multi_rnn_cell/cell_{k}"), problem.forget_bias)
                };
                let lower = layer(0, CellType::BasicLstm)?;
                let (outputs, mut new_state) =
                    dynamic_rnn(lower.as_ref(), inputs, None, Some(&state[..2]), false)?;
                let upper = layer(1, CellType::Gru)?;
                let (outputs, upper) = dynamic_rnn(upper.as_ref(), &outputs, None, Some(&state[2..]), false)?;
                new_state.extend(upper);
                Ok((outputs, if tuple { new_state } else { vec![Tensor::cat(&new_state, 1)] }))
            })?)
        })?;
    }

    #[test]
    fn dropout_leaves_the_state_alone(problem in problem()) {
        let problem = Problem { keep_prob: Some(problem.keep_prob.unwrap_or(0.5)), ..problem };
        held(|| {
            let masks = problem.masks();
            let wrapped = problem.run(|variables, inputs, state| {
                let cell = problem.cell(variables, &masks)?;
                dynamic_rnn(cell.as_ref(), inputs, None, Some(state), false)
            })?;
            // Masking all inputs before and all outputs after: nothing in between.
            wrapped.ensure_equals(&problem.run(|variables, inputs, state| {
                let cell = problem.cell_without_dropout(variables)?;
                let inputs = inputs * Tensor::stack(&masks.input, 1);
                let (outputs, state) = dynamic_rnn(cell.as_ref(), &inputs, None, Some(state), false)?;
                Ok((outputs * Tensor::stack(&masks.output, 1), state))
            })?)
        })?;
    }

    #[test]
    fn a_state_saver_carries_the_state(problem in problem()) {
        held(|| saved_state_carries(&problem))?;
    }

    #[test]
    fn dropout_masks_keep_the_expectation(keep_prob in 0.05..1.0, seed in 0..1000i64) {
        tch::manual_seed(seed);
        let mask = dropout_mask(&[100, 100], keep_prob, Kind::Double, Device::Cpu).unwrap();
        let kept = mask.gt(0.0).to_kind(Kind::Double);
        prop_assert_eq!(&mask, &(&kept / keep_prob), "elements are 0 or 1 / keep_prob");
        // 10,000 draws: six standard deviations
        let deviation = (keep_prob * (1.0 - keep_prob) / 1e4).sqrt();
        let share = kept.mean(Kind::Double).double_value(&[]);
        prop_assert!((share - keep_prob).abs() <= 6.0 * deviation, "kept {share} of {keep_prob}");
    }
}

/// A cell of a kernel and a bias.
type MakeCell<'a> = dyn Fn(&Tensor, &Tensor) -> Result<Box<dyn RnnCell>> + 'a;

/// BasicLSTMCell, LSTMCell, LSTMBlockCell by either door, and libtorch's whole-sequence LSTM.
fn lstms_agree(problem: &Problem) -> Result<()> {
    let problem = &Problem { cell: AnyCell::Plain(CellType::BasicLstm), ..problem.clone() };
    let forget_bias = problem.forget_bias;
    let (kernel, bias) = ("rnn/basic_lstm_cell/kernel", "rnn/basic_lstm_cell/bias");
    let of_cell = |make: &MakeCell| {
        problem.run(|variables, inputs, state| {
            let cell = make(&variables[kernel], &variables[bias])?;
            dynamic_rnn(cell.as_ref(), inputs, None, Some(state), false)
        })
    };
    // TensorFlow adds the forget bias to the third quarter, f of i, j, f, o.
    let fold = |bias: &Tensor| {
        let n = problem.num_units;
        bias + Tensor::cat(
            &[
                Tensor::zeros([2 * n], DOUBLE),
                Tensor::full([n], forget_bias, DOUBLE),
                Tensor::zeros([n], DOUBLE),
            ],
            0,
        )
    };

    let basic =
        of_cell(&|kernel, bias| Ok(Box::new(BasicLSTMCell::new(kernel, bias, forget_bias)?)))?;
    basic.ensure_equals(&of_cell(&|kernel, bias| {
        let variables = BTreeMap::from([
            ("lstm_cell/kernel".to_string(), kernel.shallow_clone()),
            ("lstm_cell/bias".to_string(), bias.shallow_clone()),
        ]);
        let options = LSTMCellOptions { forget_bias, ..Default::default() };
        Ok(Box::new(LSTMCell::from_variables(&variables, "", options)?))
    })?)?;
    basic.ensure_equals(&of_cell(&|kernel, bias| {
        Ok(Box::new(LSTMBlockCell::new(kernel, bias, forget_bias)?))
    })?)?;
    basic.ensure_equals(&of_cell(&|kernel, bias| {
        let (w_ih, w_hh, b) = kernel_to_libtorch(kernel, &fold(bias), problem.input_size)?;
        Ok(Box::new(LSTMBlockCell::from_libtorch(&w_ih, &w_hh, &b)?))
    })?)?;
    basic.ensure_equals(&problem.run(|variables, inputs, state| {
        let (w_ih, w_hh, b) =
            kernel_to_libtorch(&variables[kernel], &fold(&variables[bias]), problem.input_size)?;
        let (c, h) = (state[0].unsqueeze(0), state[1].unsqueeze(0));
        let no_bias = b.zeros_like();
        let weights = [w_ih, w_hh, b, no_bias];
        let (outputs, h, c) = inputs.lstm(&[h, c], &weights, true, 1, 0.0, true, false, true);
        Ok((outputs, vec![c.squeeze_dim(0), h.squeeze_dim(0)]))
    })?)
}

fn cut_anywhere(problem: &Problem) -> Result<()> {
    let masks = problem.masks();
    let whole = problem.run(|variables, inputs, state| {
        let cell = problem.cell(variables, &masks)?;
        dynamic_rnn(cell.as_ref(), inputs, Some(&problem.lengths), Some(state), false)
    })?;
    whole.ensure_equals(&problem.run(|variables, inputs, state| {
        let cell = problem.cell(variables, &masks)?;
        let mut state: State = state.iter().map(Tensor::shallow_clone).collect();
        let mut outputs = vec![];
        for (start, steps) in [(0, problem.cut), (problem.cut, problem.time - problem.cut)] {
            if steps > 0 {
                let lengths: Vec<_> =
                    problem.lengths.iter().map(|length| (length - start).clamp(0, steps)).collect();
                let part = inputs.narrow(1, start, steps);
                let (output, new_state) =
                    dynamic_rnn(cell.as_ref(), &part, Some(&lengths), Some(&state), false)?;
                outputs.push(output);
                state = new_state;
            }
        }
        Ok((Tensor::cat(&outputs, 1), state))
    })?)
}

/// Runs `forward(example, its masks, its inputs [steps, input_size], its state)` on each example's
/// own steps, alone.
fn by_example<F>(
    problem: &Problem,
    inputs: &Tensor,
    state: &State,
    size: i64,
    forward: F,
) -> Result<(Tensor, State)>
where
    F: Fn(usize, &[Tensor], &[Tensor]) -> Result<(Vec<Tensor>, State)>,
{
    let mut outputs = vec![];
    let mut states: Vec<State> = state.iter().map(|_| vec![]).collect();
    for (k, length) in problem.lengths.iter().enumerate() {
        let row = |x: &Tensor| x.narrow(0, k as i64, 1);
        let own_state: State = state.iter().map(row).collect();
        let steps = row(inputs).unbind(1);
        let (mut own, own_state) = match *length {
            0 => (vec![], own_state),
            length => forward(k, &steps[..length as usize], &own_state)?,
        };
        own.resize_with(problem.time as usize, || Tensor::zeros([1, size], DOUBLE));
        outputs.push(Tensor::stack(&own, 1));
        for (states, own) in states.iter_mut().zip(own_state) {
            states.push(own);
        }
    }
    Ok((Tensor::cat(&outputs, 0), states.iter().map(|rows| Tensor::cat(rows, 0)).collect()))
}

fn lengths_by_example(problem: &Problem) -> Result<()> {
    let masks = problem.masks();
    let batched = problem.run(|variables, inputs, state| {
        let cell = problem.cell(variables, &masks)?;
        dynamic_rnn(cell.as_ref(), inputs, Some(&problem.lengths), Some(state), false)
    })?;
    batched.ensure_equals(&problem.run(|variables, inputs, state| {
        let size = masks.output[0].size()[1];
        by_example(problem, inputs, state, size, |k, steps, state| {
            let own =
                |masks: &[Tensor]| masks.iter().map(|mask| mask.narrow(0, k as i64, 1)).collect();
            let masks = Masks { input: own(&masks.input), output: own(&masks.output) };
            static_rnn(problem.cell(variables, &masks)?.as_ref(), steps, Some(state), None)
        })
    })?)
}

fn bidirectional_by_example(problem: &Problem, with_lengths: bool) -> Result<()> {
    let mut problem = Problem { keep_prob: None, ..problem.clone() };
    if !with_lengths {
        problem.lengths = vec![problem.time; problem.batch as usize];
    }
    let problem = &problem;
    let lengths = with_lengths.then_some(&problem.lengths[..]);
    let size = problem.masks().output[0].size()[1];
    // The same cell in both directions, from the same state; the results are the backward ones.
    let expected = problem.run(|variables, inputs, state| {
        let cell = problem.cell_without_dropout(variables)?;
        by_example(problem, inputs, state, size, |_, steps, state| {
            let back_to_front: Vec<_> = steps.iter().rev().map(Tensor::shallow_clone).collect();
            let (mut outputs, state) =
                static_rnn(cell.as_ref(), &back_to_front, Some(state), None)?;
            outputs.reverse();
            Ok((outputs, state))
        })
    })?;
    expected.ensure_equals(&problem.run(|variables, inputs, state| {
        let cell = problem.cell_without_dropout(variables)?;
        let (outputs, _, state_bw) = bidirectional_rnn(
            cell.as_ref(),
            cell.as_ref(),
            &inputs.unbind(1),
            None,
            Some(state),
            lengths,
        )?;
        Ok((Tensor::stack(&outputs, 1).narrow(2, size, size), state_bw))
    })?)?;
    expected.ensure_equals(&problem.run(|variables, inputs, state| {
        let cell = problem.cell_without_dropout(variables)?;
        let inputs = inputs.transpose(0, 1);
        let ((_, bw), (_, state_bw)) = bidirectional_dynamic_rnn(
            cell.as_ref(),
            cell.as_ref(),
            &inputs,
            lengths,
            None,
            Some(state),
            true,
        )?;
        Ok((bw.transpose(0, 1), state_bw))
    })?)
}

fn saved_state_carries(problem: &Problem) -> Result<()> {
    let masks = problem.masks();
    let variables = problem.variables();
    let cell = problem.cell(&variables, &masks)?;
    let inputs = values(problem.seed, &[problem.batch, problem.time, problem.input_size])
        .set_requires_grad(true);
    let (expected, expected_state) = dynamic_rnn(cell.as_ref(), &inputs, None, None, false)?;

    let cell = problem.cell(&variables, &masks)?;
    let zeros = cell.zero_state(problem.batch, DOUBLE);
    let names: Vec<_> = (0..zeros.len()).map(|k| format!("state_{k}")).collect();
    let mut saver: BTreeMap<_, _> = names.iter().cloned().zip(zeros).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut outputs = vec![];
    let steps = inputs.unbind(1);
    for steps in [&steps[..problem.cut as usize], &steps[problem.cut as usize..]] {
        if !steps.is_empty() {
            let (own, state) =
                static_state_saving_rnn(cell.as_ref(), steps, &mut saver, &names, None)?;
            outputs.extend(own);
            anyhow::ensure!(
                state.iter().all(Tensor::requires_grad),
                "the returned state is cut off"
            );
        }
    }
    anyhow::ensure!(Tensor::stack(&outputs, 1) == expected, "outputs differ");
    for (name, expected) in names.iter().zip(expected_state) {
        anyhow::ensure!(saver[*name] == expected, "{name} differs");
        anyhow::ensure!(!saver[*name].requires_grad(), "{name} keeps the graph of the call before");
    }
    Ok(())
}
