//! tf.nn.rnn_cell and the unrolls.
