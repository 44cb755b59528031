//! TensorFlow 1.15's own run of the original's PTBModel, for some steps from given variables:
//! tests/fixtures/golden, or the folder named by GOLDEN.

use std::path::PathBuf;

use ptb_word_lm::config::Config;
use ptb_word_lm::model::PtbVariables;
use ptb_word_lm::rnn::CellType;
use ptb_word_lm::tf::{self, Variables};
use tch::{Device, Kind, Tensor};

/// A golden file.
pub struct Golden {
    pub name: String,
    pub arrays: Variables,
    pub config: Config,
    pub steps: i64,
}

impl Golden {
    /// The files whose runs were trained by gradient descent.
    pub fn all() -> Vec<Golden> {
        Self::read_all().into_iter().filter(|golden| !golden.is_adam()).collect()
    }

    /// Whether the run was trained by Adam.
    pub fn is_adam(&self) -> bool {
        self.arrays.contains_key("beta1_power")
    }

    pub fn read_all() -> Vec<Golden> {
        let folder =
            std::env::var_os("GOLDEN").map_or("tests/fixtures/golden".into(), PathBuf::from);
        let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
            .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
            .map(|entry| entry.unwrap().path())
            .filter(|p| {
                p.file_name().unwrap().to_string_lossy().starts_with("ptb_")
                    && p.extension().is_some_and(|e| e == "npz")
            })
            .collect();
        paths.sort();
        assert!(!paths.is_empty(), "{}: no ptb_*.npz", folder.display());
        paths.iter().map(Golden::read).collect()
    }

    fn read(path: &PathBuf) -> Golden {
        let arrays = tf::read_npz(path).unwrap();
        let hparams = Vec::<i64>::try_from(&arrays["hparams"]).unwrap();
        let [vocab_size, hidden_size, num_layers, batch_size, num_steps, steps] = hparams[..]
        else {
            panic!("{}: hparams {hparams:?}", path.display())
        };
        let config = Config {
            vocab_size,
            hidden_size,
            num_layers,
            batch_size,
            num_steps,
            max_grad_norm: arrays["max_grad_norm"].double_value(&[]),
            learning_rate: arrays["lr"].double_value(&[]),
            keep_prob: arrays.get("keep_prob").map_or(1.0, |t| t.double_value(&[])),
            ..Config::SMALL
        };
        Golden { name: path.display().to_string(), arrays, config, steps }
    }

    /// The arrays under `group/`, by the rest of their names.
    pub fn group(&self, group: &str) -> Variables {
        let prefix = format!("{group}/");
        let strip = |(name, t): (&String, &Tensor)| {
            Some((name.strip_prefix(&prefix)?.to_owned(), t.shallow_clone()))
        };
        // Block mode calls its cells lstm_cell; the canonical names are basic mode's.
        let (variables, others) =
            tf::canonical(self.arrays.iter().filter_map(strip).collect()).unwrap();
        assert!(others.is_empty(), "{}: {:?}", self.name, others.keys());
        variables
    }

    /// Step k's dropout masks, as TensorFlow drew them; none where the file has none.
    pub fn masks(&self, k: i64, kind: Kind, device: Device) -> Vec<Tensor> {
        let Some(kept) = self.arrays.get("mask") else { return Vec::new() };
        let scaled =
            |place| kept.get(k).get(place).to_device(device).to_kind(kind) / self.config.keep_prob;
        (0..=self.config.num_layers).map(scaled).collect()
    }

    pub fn variables(&self, kind: Kind, device: Device) -> PtbVariables {
        let variables =
            PtbVariables::new(&self.config, CellType::BasicLstm, device, kind, 0).unwrap();
        variables.assign(&self.group("init")).unwrap();
        variables
    }

    /// Step k reads columns k*num_steps..(k+1)*num_steps of the tokens; the targets stand one to
    /// the right.
    pub fn batch(&self, k: i64, device: Device) -> (Tensor, Tensor) {
        let column =
            |start| self.arrays["tokens"].narrow(1, start, self.config.num_steps).to_device(device);
        (column(k * self.config.num_steps), column(k * self.config.num_steps + 1))
    }

    pub fn at(&self, name: &str, k: i64) -> f64 {
        self.arrays[name].double_value(&[k])
    }
}
