//! The rnn module against TensorFlow: every case of `rnn_cells*.npz`, all unrolls, float32 and
//! float64.
//!
//! `GOLDEN=folder cargo test --test rnn_golden` reads other files of the same layout
//! (tests/fixtures/golden/README.md); sizes come from the arrays, cell and unroll from the case's
//! name.

mod devices;

use anyhow::{Context, Result, bail, ensure};
use devices::{devices, host};
use ptb_word_lm::rnn::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

type Variables = BTreeMap<String, Tensor>;

/// Relative to the array's largest element.
const TOLERANCE: f64 = 1e-5;

#[test]
fn every_golden_case() -> Result<()> {
    let devices = devices();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden");
    let folder = std::env::var_os("GOLDEN").map_or(fixtures, PathBuf::from);
    let mut cases = 0;
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("rnn_cells") && name.ends_with(".npz") {
            for (name, case) in read_cases(&path)? {
                for &device in devices {
                    check_case(&name, &case, device)
                        .with_context(|| format!("{}, case {name}, {device:?}", path.display()))?;
                }
                cases += 1;
            }
        }
    }
    ensure!(cases > 0, "no case in {}", folder.display());
    println!("{cases} cases");
    Ok(())
}

/// `NAME/array` -> case name -> array name -> array.
fn read_cases(path: &Path) -> Result<BTreeMap<String, Variables>> {
    let mut cases = BTreeMap::<String, Variables>::new();
    for (name, array) in Tensor::read_npz(path).with_context(|| path.display().to_string())? {
        let (case, array_name) = name.split_once('/').with_context(|| format!("array {name}"))?;
        cases.entry(case.to_string()).or_default().insert(array_name.to_string(), array);
    }
    Ok(cases)
}

/// What a case's name says.
struct Spec<'a> {
    cell: &'a str,
    options: Vec<&'a str>,
}

impl<'a> Spec<'a> {
    fn of(name: &'a str) -> Result<Self> {
        const CELLS: [&str; 7] =
            ["basic_lstm", "basic_rnn", "bidirectional", "gru", "lstm_block", "lstm", "multi_lstm"];
        const OPTIONS: [&str; 8] =
            ["clip", "concat", "forget1", "peephole", "proj", "seqlen", "state", "static"];
        let cell = CELLS.into_iter().find(|cell| name.starts_with(cell)).context("unknown case")?;
        let rest = &name[cell.len()..];
        ensure!(rest.is_empty() || rest.starts_with('_'), "unknown case");
        let options: Vec<_> = rest.split('_').skip(1).collect();
        if let Some(option) = options.iter().find(|option| !OPTIONS.contains(option)) {
            bail!("unknown case: what is '{option}'?");
        }
        Ok(Spec { cell, options })
    }

    fn has(&self, option: &str) -> bool {
        self.options.contains(&option)
    }

    fn cell(&self, variables: &Variables, scope: &str) -> Result<Box<dyn RnnCell>> {
        let forget_bias =
            if self.has("forget1") || self.cell == "bidirectional" { 1.0 } else { 0.0 };
        Ok(match self.cell {
            "basic_rnn" => CellType::BasicRnn.build(variables, scope, f64::NAN)?,
            "gru" => CellType::Gru.build(variables, scope, f64::NAN)?,
            "basic_lstm" | "bidirectional" => {
                CellType::BasicLstm.build(variables, scope, forget_bias)?
            }
            "lstm_block" => Box::new(LSTMBlockCell::from_variables(variables, scope, forget_bias)?),
            "lstm" => {
                let projection = variables.get(&format!("{scope}/lstm_cell/projection/kernel"));
                ensure!(projection.is_some() == self.has("proj"), "projection");
                let options = LSTMCellOptions {
                    use_peepholes: self.has("peephole"),
                    cell_clip: self.has("clip").then_some(0.2),
                    num_proj: projection.map(|kernel| kernel.size()[1]),
                    proj_clip: (self.has("proj") && !self.has("peephole")).then_some(0.1),
                    ..Default::default()
                };
                Box::new(LSTMCell::from_variables(variables, scope, options)?)
            }
            "multi_lstm" => {
                let tuple = !self.has("concat");
                let cell = |variables: &Variables, scope: &str| -> Result<Box<dyn RnnCell>> {
                    let cell = CellType::BasicLstm.build(variables, scope, forget_bias)?;
                    // As in TensorFlow, the cells' states are concatenated too: the same tensor in
                    // the end.
                    Ok(if tuple { cell } else { Box::new(ConcatState::new(cell)) })
                };
                Box::new(MultiRNNCell::from_variables(variables, scope, tuple, cell)?)
            }
            cell => bail!("unknown cell {cell}"),
        })
    }

    /// `(output [batch, time, size], state)`
    fn run(
        &self,
        unroll: &str,
        variables: &Variables,
        input: &Tensor,
        lengths: Option<&[i64]>,
    ) -> Result<(Tensor, State)> {
        if self.cell == "bidirectional" {
            return self.run_bidirectional(unroll, variables, input, lengths);
        }
        let cell = self.cell(variables, "rnn")?;
        Ok(match unroll {
            "static" => {
                let (outputs, state) = static_rnn(cell.as_ref(), &input.unbind(1), None, lengths)?;
                (Tensor::stack(&outputs, 1), state)
            }
            "batch-major" => dynamic_rnn(cell.as_ref(), input, lengths, None, false)?,
            "time-major" => {
                let (output, state) =
                    dynamic_rnn(cell.as_ref(), &input.transpose(0, 1), lengths, None, true)?;
                (output.transpose(0, 1), state)
            }
            unroll => bail!("unknown unroll {unroll}"),
        })
    }

    fn run_bidirectional(
        &self,
        unroll: &str,
        variables: &Variables,
        input: &Tensor,
        lengths: Option<&[i64]>,
    ) -> Result<(Tensor, State)> {
        let fw = self.cell(variables, "bidirectional_rnn/fw")?;
        let bw = self.cell(variables, "bidirectional_rnn/bw")?;
        let (fw, bw) = (fw.as_ref(), bw.as_ref());
        let (output, states) = match unroll {
            "static" => {
                let (outputs, state_fw, state_bw) =
                    bidirectional_rnn(fw, bw, &input.unbind(1), None, None, lengths)?;
                (Tensor::stack(&outputs, 1), [state_fw, state_bw])
            }
            "batch-major" => {
                let ((output_fw, output_bw), states) =
                    bidirectional_dynamic_rnn(fw, bw, input, lengths, None, None, false)?;
                (Tensor::cat(&[output_fw, output_bw], 2), states.into())
            }
            "time-major" => {
                let ((output_fw, output_bw), states) = bidirectional_dynamic_rnn(
                    fw,
                    bw,
                    &input.transpose(0, 1),
                    lengths,
                    None,
                    None,
                    true,
                )?;
                (Tensor::cat(&[output_fw, output_bw], 2).transpose(0, 1), states.into())
            }
            unroll => bail!("unknown unroll {unroll}"),
        };
        Ok((output, states.into_iter().flatten().collect()))
    }
}

fn check_case(name: &str, case: &Variables, device: Device) -> Result<()> {
    let spec = Spec::of(name)?;
    let lengths = match case.get("seq_len") {
        Some(lengths) => Some(Vec::<i64>::try_from(lengths.to_kind(Kind::Int64))?),
        None => None,
    };
    let case: Variables =
        case.iter().map(|(name, t)| (name.clone(), t.to_device(device))).collect();
    let get = |array: &str| case.get(array).with_context(|| format!("no array {array}"));
    ensure!(!spec.has("seqlen") || lengths.is_some(), "no array seq_len");

    for kind in [Kind::Float, Kind::Double] {
        let mut first_output = None;
        // TensorFlow ran one of these, each must give its numbers.
        for unroll in ["static", "batch-major", "time-major"] {
            let leaf = |array: &Tensor| array.to_kind(kind).detach().copy().set_requires_grad(true);
            let input = leaf(get("input")?);
            let variables: Variables = case
                .iter()
                .filter_map(|(array, value)| {
                    Some((array.strip_prefix("init/")?.to_string(), leaf(value)))
                })
                .collect();
            let (output, state) = spec.run(unroll, &variables, &input, lengths.as_deref())?;
            let terms = &output * get("probe")?.to_kind(kind);
            let loss = terms.sum(kind);
            loss.backward();

            let mut worst = 0f64;
            let mut check = |array: &str, found: &Tensor| -> Result<()> {
                let expected = get(array)?;
                let scale = match array {
                    // The loss is a sum of terms of both signs, rounded at their size, not at its
                    // own.
                    "loss" => terms.abs().sum(kind),
                    _ => expected.abs().max(),
                };
                let error = compare(found, expected, scale.double_value(&[]))
                    .with_context(|| format!("{array}, {unroll}, {kind:?}"))?;
                worst = worst.max(error);
                Ok(())
            };
            check("output", &output)?;
            check("loss", &loss)?;
            check("grad_input", &input.grad())?;
            for (k, state) in state.iter().enumerate() {
                check(&format!("state/{k}"), state)?;
            }
            for (variable, value) in &variables {
                check(&format!("grad/{variable}"), &value.grad())?;
            }
            // Nothing of TensorFlow's is left unchecked.
            let count =
                |prefix: &str| case.keys().filter(|array| array.starts_with(prefix)).count();
            ensure!(
                count("state/") == state.len(),
                "{} states, expected {}",
                state.len(),
                count("state/")
            );
            ensure!(count("grad/") == variables.len(), "not every variable has its gradient");
            // Past the end of a sequence output and gradient are zero: exactly.
            for (k, length) in lengths.iter().flatten().enumerate() {
                for array in [&output, &input.grad()] {
                    let past = array.get(k as i64).slice(0, *length, None, 1);
                    ensure!(
                        past.count_nonzero(None::<i64>).int64_value(&[]) == 0,
                        "not zero past the end"
                    );
                }
            }
            println!("{name} {unroll} {kind:?} {device:?}: within {worst:.1e}");

            // And the unrolls are one loop: the same bits (a GPU's products may differ with the
            // layout of their factors).
            let output = output.detach();
            let first = first_output.get_or_insert_with(|| output.copy());
            let same = if device == Device::Cpu {
                *first == output
            } else {
                first.allclose(&output, 1e-5, 1e-6, false)
            };
            ensure!(same, "unrolls differ");
        }
    }
    Ok(())
}

/// The largest difference, relative to `scale`, the size of the numbers; an error if it is too
/// large anywhere.
fn compare(found: &Tensor, expected: &Tensor, scale: f64) -> Result<f64> {
    ensure!(
        found.size() == expected.size(),
        "shape {:?}, TensorFlow's {:?}",
        found.size(),
        expected.size()
    );
    let (found, expected) =
        (host(&found.detach()).to_kind(Kind::Double), host(expected).to_kind(Kind::Double));
    let difference = (&found - &expected).abs();
    let worst = difference.max().double_value(&[]);
    let relative = if worst == 0.0 { 0.0 } else { worst / scale };
    // A NaN is not within the tolerance either.
    ensure!(relative <= TOLERANCE, "off by {relative:e} of {scale:e}");
    // Small elements too must be right: to their own 1e-5, but for the rounding of the large ones
    // they are sums of.
    let allowed = expected.abs() * TOLERANCE + 2e-6 * scale;
    let elementwise = difference.le_tensor(&allowed).all().int64_value(&[]) == 1;
    ensure!(elementwise, "an element is off by more than {TOLERANCE:e} of itself");
    Ok(relative)
}
