//! Batches of a text.

use std::sync::Arc;

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use super::Split;

/// The original's `ptb_producer`: cuts a text into `batch_size` rows, and the rows into steps of
/// `num_steps` words.
///
/// The rows are read side by side. With `batch_size` 2 and `num_steps` 3, the text
/// `a b c d e f g h i j k l m n` gives two steps; the targets are the inputs shifted by one word:
///
/// ```text
///            step 0   step 1
/// row 0      a b c    d e f    g
///  targets   b c d    e f g
/// row 1      h i j    k l m    n
///  targets   i j k    l m n
/// ```
pub struct Producer {
    rows: Rows,
    batch_size: i64,
    /// Words in a row.
    batch_len: i64,
    num_steps: i64,
    epoch_size: i64,
}

/// Where the text of a producer is kept.
enum Rows {
    /// On the host: the split's own tokens, from which each batch is copied.
    Host(Arc<Vec<i32>>),
    /// On a GPU: `[batch_size, batch_len]` ids, so that a step transfers nothing.
    Device(Tensor),
}

impl Producer {
    /// Arranges `split` on `device`. As in the original, trailing words that fill no column are
    /// dropped.
    ///
    /// # Errors
    /// A text that is too short for a single step; a GPU without enough memory.
    pub fn new(split: &Split, batch_size: i64, num_steps: i64, device: Device) -> Result<Self> {
        ensure!(
            batch_size > 0 && num_steps > 0,
            "batch_size {batch_size} and num_steps {num_steps}: both must be 1 or more"
        );
        let batch_len = split.tokens.len() as i64 / batch_size;
        // The last column is only a target.
        let epoch_size = (batch_len - 1) / num_steps;
        ensure!(
            epoch_size > 0,
            "{}: {} too few for batch_size {batch_size} and num_steps {num_steps} \
             (at least {} are needed): decrease batch_size or num_steps",
            split.name,
            match split.tokens.len() {
                1 => "1 token is".to_owned(),
                tokens => format!("{tokens} tokens are"),
            },
            batch_size.saturating_mul(num_steps.saturating_add(1)),
        );
        let rows = match device {
            Device::Cpu => Rows::Host(split.tokens.clone()),
            _ => Rows::Device(
                Tensor::f_from_slice(&split.tokens[..(batch_size * batch_len) as usize])?
                    .f_view([batch_size, batch_len])?
                    .f_to_device(device)?,
            ),
        };
        Ok(Producer { rows, batch_size, batch_len, num_steps, epoch_size })
    }

    /// Number of steps in an epoch.
    pub fn epoch_size(&self) -> i64 {
        self.epoch_size
    }

    /// Number of rows.
    pub fn batch_size(&self) -> i64 {
        self.batch_size
    }

    /// Words of each row in a step.
    pub fn num_steps(&self) -> i64 {
        self.num_steps
    }

    /// Inputs and targets of step `i`, each `[batch_size, num_steps]`, int64.
    pub fn batch(&self, i: i64) -> (Tensor, Tensor) {
        inputs_and_targets(&self.words(i).to_kind(Kind::Int64))
    }

    /// Words of step `i`, `[batch_size, num_steps + 1]`, int32, for [`inputs_and_targets`].
    pub(crate) fn words(&self, i: i64) -> Tensor {
        let (start, len) = (i * self.num_steps, self.num_steps + 1);
        match &self.rows {
            Rows::Host(tokens) => {
                let row =
                    |row: i64| &tokens[(row * self.batch_len + start) as usize..][..len as usize];
                let rows: Vec<&[i32]> = (0..self.batch_size).map(row).collect();
                Tensor::from_slice(&rows.concat()).view([self.batch_size, len])
            }
            Rows::Device(rows) => rows.narrow(1, start, len),
        }
    }

    /// The `len` words that start at each of these columns of these rows, `[places, len]`, int64.
    pub(crate) fn words_at(&self, places: &[(i64, i64)], len: i64) -> Result<Tensor> {
        let words = match &self.rows {
            Rows::Host(tokens) => {
                let words = |&(row, column)| {
                    &tokens[(row * self.batch_len + column) as usize..][..len as usize]
                };
                let words: Vec<&[i32]> = places.iter().map(words).collect();
                Tensor::f_from_slice(&words.concat())?.f_view([places.len() as i64, len])?
            }
            Rows::Device(rows) => {
                let words = |&(row, column)| rows.f_get(row)?.f_narrow(0, column, len);
                Tensor::f_stack(&places.iter().map(words).collect::<Result<Vec<_>, _>>()?, 0)?
            }
        };
        Ok(words.to_kind(Kind::Int64))
    }
}

/// The inputs and, shifted by one word, the targets of `words`: `[batch_size, num_steps + 1]` ->
/// twice `[batch_size, num_steps]`.
pub(crate) fn inputs_and_targets(words: &Tensor) -> (Tensor, Tensor) {
    let num_steps = words.size()[1] - 1;
    let from = |start| words.narrow(1, start, num_steps).contiguous();
    (from(0), from(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_of(tokens: Vec<i32>) -> Split {
        Split { name: "test".into(), tokens: Arc::new(tokens), ..Split::default() }
    }

    #[test]
    fn producer_cuts_as_the_original() {
        // reader_test.py: raw data [4,3,2,1,0,5,6,1,1,1,1,0,3,4,1], batch_size 3, num_steps 2.
        let split = split_of(vec![4, 3, 2, 1, 0, 5, 6, 1, 1, 1, 1, 0, 3, 4, 1]);
        let producer = Producer::new(&split, 3, 2, Device::Cpu).unwrap();
        assert_eq!(producer.epoch_size(), 2);
        let rows = |t: &Tensor| Vec::<Vec<i64>>::try_from(t).unwrap();
        let (x, y) = producer.batch(0);
        assert_eq!(rows(&x), [[4, 3], [5, 6], [1, 0]]);
        assert_eq!(rows(&y), [[3, 2], [6, 1], [0, 3]]);
        let (x, y) = producer.batch(1);
        assert_eq!(rows(&x), [[2, 1], [1, 1], [3, 4]]);
        assert_eq!(rows(&y), [[1, 0], [1, 1], [4, 1]]);
    }

    #[test]
    fn words_at_a_place_are_those_of_the_batches() {
        let split = split_of((0..103).collect());
        let shared = Producer::new(&split, 2, 7, Device::Cpu).unwrap();
        // As it is on a GPU.
        let rows = Tensor::from_slice(&split.tokens[..102]).view([2, 51]);
        let device = Producer {
            rows: Rows::Device(rows),
            ..Producer::new(&split, 2, 7, Device::Cpu).unwrap()
        };
        let (x, y) = shared.batch(3);
        for producer in [shared, device] {
            let words = |column| producer.words_at(&[(0, column), (1, column)], 7).unwrap();
            assert_eq!((words(21), words(22)), (x.copy(), y.copy()));
            let words = producer.words_at(&[(1, 48), (0, 0), (1, 5)], 3).unwrap();
            assert_eq!(
                Vec::<Vec<i64>>::try_from(words).unwrap(),
                [[99, 100, 101], [0, 1, 2], [56, 57, 58]]
            );
        }
    }

    #[test]
    fn too_short_a_text_says_what_to_decrease() {
        let split = split_of((0..10).collect());
        let error = Producer::new(&split, 5, 2, Device::Cpu).err().unwrap().to_string();
        assert!(Producer::new(&split, 0, 2, Device::Cpu).is_err());
        assert!(Producer::new(&split, 5, -1, Device::Cpu).is_err());
        assert!(
            error.contains("decrease batch_size or num_steps") && error.contains("15"),
            "{error}"
        );
    }
}
