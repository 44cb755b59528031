"""TensorFlow 1.15's rnn cells and unrolls: outputs, states and gradients of small made-up cases.

    rnn_cells.py               writes every case, in shapes of its own, to tests/fixtures/golden/rnn_cells_NAME.npz
    rnn_cells.py --check FILE  recomputes FILE from its own initial variables, inputs and probes, and compares

README.md describes the files.
"""

import sys

from common import compare, save, session

import numpy as np
import tensorflow as tf

rnn = tf.nn.rnn_cell
static, dynamic = tf.nn.static_rnn, tf.nn.dynamic_rnn

# NAME: what makes the cell of h units, and how it is unrolled. Where forget_bias isn't given, it is 1.0 for LSTMCell.
CASES = {
    "basic_rnn": (lambda h: rnn.BasicRNNCell(h), dynamic),
    "basic_lstm": (lambda h: rnn.BasicLSTMCell(h, forget_bias=0.0), dynamic),
    "basic_lstm_forget1": (lambda h: rnn.BasicLSTMCell(h, forget_bias=1.0), static),
    "basic_lstm_seqlen": (lambda h: rnn.BasicLSTMCell(h, forget_bias=0.0), dynamic),
    "basic_lstm_static_seqlen": (lambda h: rnn.BasicLSTMCell(h, forget_bias=0.0), static),
    "gru": (lambda h: rnn.GRUCell(h), dynamic),
    "lstm": (lambda h: rnn.LSTMCell(h), dynamic),
    "lstm_clip": (lambda h: rnn.LSTMCell(h, cell_clip=0.2), dynamic),
    "lstm_peephole": (lambda h: rnn.LSTMCell(h, use_peepholes=True), dynamic),
    "lstm_proj": (lambda h: rnn.LSTMCell(h, num_proj=3, proj_clip=0.1), dynamic),
    "lstm_peephole_proj": (lambda h: rnn.LSTMCell(h, use_peepholes=True, num_proj=3), dynamic),
    "lstm_block": (lambda h: tf.contrib.rnn.LSTMBlockCell(h, forget_bias=0.0), dynamic),
    "multi_lstm": (lambda h: rnn.MultiRNNCell([rnn.BasicLSTMCell(h, forget_bias=0.0) for _ in range(3)]), dynamic),
    "multi_lstm_concat_state": (lambda h: rnn.MultiRNNCell(
        [rnn.BasicLSTMCell(h, forget_bias=0.0, state_is_tuple=False) for _ in range(2)], state_is_tuple=False), static),
    "bidirectional": (lambda h: rnn.BasicLSTMCell(h, forget_bias=1.0), tf.nn.bidirectional_dynamic_rnn),
}
WITH_LENGTHS = ("basic_lstm_seqlen", "basic_lstm_static_seqlen", "gru", "lstm_peephole_proj", "bidirectional")

# batch, steps, inputs, units; and the cases' sequence lengths. An empty sequence is among them.
SHAPES = {
    "more": ((2, 5, 7, 5), [0, 4]),
    "one": ((1, 1, 1, 4), [1]),
}


def run(name, units, inputs, lengths, probe=None, variables=None, random=None):
    """One case's arrays."""
    make, unroll = CASES[name]
    batch, steps, _ = inputs.shape
    with tf.Graph().as_default() as graph, session(graph) as sess:
        x = tf.constant(inputs)
        options = dict(dtype=tf.float32, sequence_length=lengths)
        if unroll is static:
            outputs, state = static(make(units), tf.unstack(x, axis=1), **options)
            output = tf.stack(outputs, axis=1)
        elif unroll is dynamic:
            output, state = dynamic(make(units), x, **options)
        else:
            outputs, state = unroll(make(units), make(units), x, **options)
            output = tf.concat(outputs, 2)
        state = tf.contrib.framework.nest.flatten(state)
        tvars = tf.trainable_variables()
        if variables is None:
            variables = {v.op.name: random.uniform(-0.6, 0.6, v.shape.as_list()).astype(np.float32) for v in tvars}
            probe = random.uniform(-1, 1, output.shape.as_list()).astype(np.float32)
        loss = tf.reduce_sum(output * probe)
        grads = tf.gradients(loss, tvars + [x])
        sess.run(tf.global_variables_initializer())
        assert {v.op.name for v in tvars} == set(variables), tvars
        for v in tvars:
            v.load(variables[v.op.name], sess)
        computed = sess.run(dict(output=output, state=state, loss=loss, grads=grads))
    arrays = {"input": inputs, "probe": probe, "output": computed["output"], "loss": computed["loss"],
              "grad_input": computed["grads"][-1]}
    if lengths is not None:
        arrays["seq_len"] = np.array(lengths, np.int64)
    arrays.update({"state/%d" % k: value for k, value in enumerate(computed["state"])})
    for v, grad in zip(tvars, computed["grads"]):
        arrays["init/" + v.op.name] = variables[v.op.name]
        arrays["grad/" + v.op.name] = grad
    return {name + "/" + key: value for key, value in arrays.items()}


def check(path):
    given, computed = np.load(path), {}
    for name in sorted({key.split("/")[0] for key in given.files}):
        group = {key[len(name) + 1:]: given[key] for key in given.files if key.startswith(name + "/")}
        variables = {key[5:]: value for key, value in group.items() if key.startswith("init/")}
        # A bias is of 1, 2 (GRU's gates) or 4 times the units.
        if "basic_rnn" in name:
            units = [v for k, v in variables.items() if k.endswith("bias")][0].size
        elif "gru" in name:
            units = variables["rnn/gru_cell/candidate/bias"].size
        else:
            units = [v for k, v in variables.items() if k.endswith("bias")][0].size // 4
        lengths = group["seq_len"] if "seq_len" in group else None
        computed.update(run(name, units, group["input"], lengths, group["probe"], variables))
    return compare(path, computed, 1e-5)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--check"]:
        sys.exit(not all([check(path) for path in sys.argv[2:]]))
    for number, (file, ((batch, steps, depth, units), lengths)) in enumerate(sorted(SHAPES.items())):
        random, arrays = np.random.RandomState(100 + number), {}
        for name in sorted(CASES):
            inputs = random.uniform(-1, 1, [batch, steps, depth]).astype(np.float32)
            arrays.update(run(name, units, inputs, lengths if name in WITH_LENGTHS else None, random=random))
        save("rnn_cells_" + file, arrays)
