"""The PTB word language model in TensorFlow 1.15: what it computes, step by step, for small made-up cases.

    ptb.py               writes every case of CASES to tests/fixtures/golden/ptb_NAME.npz
    ptb.py --check FILE  recomputes FILE from its own initial variables and tokens, and compares

The graph is that of ptb_word_lm.py, with its variable names: `basic` mode (BasicLSTMCell) or `block` mode
(LSTMBlockCell), unrolled over time, dropout where it has dropout. README.md describes the files.
"""

import sys

from common import compare, save, session

import numpy as np
import tensorflow as tf
from tensorflow.python.ops import random_ops

CASES = {
    "three_layers": dict(vocab=11, hidden=6, layers=3, batch=4, num_steps=5, n=8, lr=0.5, max_grad_norm=0.5, seed=1),
    "one_step": dict(vocab=13, hidden=5, layers=2, batch=3, num_steps=1, n=12, lr=1.0, max_grad_norm=0.3, seed=2),
    "one_row": dict(vocab=9, hidden=8, layers=2, batch=1, num_steps=7, n=8, lr=0.7, max_grad_norm=1.0, seed=3),
    "odd": dict(vocab=17, hidden=7, layers=2, batch=5, num_steps=3, n=10, lr=1.0, max_grad_norm=0.4, seed=4),
    "block": dict(vocab=11, hidden=6, layers=2, batch=4, num_steps=5, n=8, lr=0.5, max_grad_norm=0.5, seed=5,
                  mode="block"),
    "dropout": dict(vocab=11, hidden=8, layers=2, batch=4, num_steps=5, n=8, lr=0.5, max_grad_norm=0.5, seed=6,
                    keep_prob=0.75),
}


class PTBModel(object):
    """Inputs and targets `[batch, num_steps]` are fed, and the state `[layers, 2, batch, hidden]` (c, then h)."""

    def __init__(self, vocab, hidden, layers, batch, num_steps, max_grad_norm, mode="basic", keep_prob=1.0,
                 optimizer="sgd"):
        self.inputs = tf.placeholder(tf.int64, [batch, num_steps])
        self.targets = tf.placeholder(tf.int64, [batch, num_steps])
        self.state = tf.placeholder(tf.float32, [layers, 2, batch, hidden])
        # Uniform random numbers for dropout: first of the embedded input, then of each layer's output.
        self.noise = tf.placeholder(tf.float32, [layers + 1, batch, num_steps, hidden])
        dropouts = []

        def uniform(*args, **kwargs):
            # In the order in which the graph below is built: the whole input, then step by step each layer.
            step, layer = divmod(len(dropouts) - 1, layers)
            dropouts.append(self.noise[0] if not dropouts else self.noise[1 + layer, :, step])
            return dropouts[-1]

        def make_cell():
            kind = tf.contrib.rnn.BasicLSTMCell if mode == "basic" else tf.contrib.rnn.LSTMBlockCell
            cell = kind(hidden, forget_bias=0.0)
            if keep_prob < 1:
                cell = tf.contrib.rnn.DropoutWrapper(cell, output_keep_prob=keep_prob)
            return cell

        original, random_ops.random_uniform = random_ops.random_uniform, uniform
        with tf.name_scope("Train"), tf.variable_scope("Model", initializer=tf.zeros_initializer()):
            x = tf.nn.embedding_lookup(tf.get_variable("embedding", [vocab, hidden]), self.inputs)
            if keep_prob < 1:
                x = tf.nn.dropout(x, keep_prob)
            cell = tf.contrib.rnn.MultiRNNCell([make_cell() for _ in range(layers)])
            state = tuple(tf.contrib.rnn.LSTMStateTuple(self.state[k, 0], self.state[k, 1]) for k in range(layers))
            outputs = []
            with tf.variable_scope("RNN"):
                for step in range(num_steps):
                    if step > 0:
                        tf.get_variable_scope().reuse_variables()
                    output, state = cell(x[:, step, :], state)
                    outputs.append(output)
            random_ops.random_uniform = original
            assert len(dropouts) == (1 + num_steps * layers if keep_prob < 1 else 0)
            output = tf.reshape(tf.concat(outputs, 1), [-1, hidden])
            softmax_w = tf.get_variable("softmax_w", [hidden, vocab])
            softmax_b = tf.get_variable("softmax_b", [vocab])
            logits = tf.reshape(tf.nn.xw_plus_b(output, softmax_w, softmax_b), [batch, num_steps, vocab])
            loss = tf.contrib.seq2seq.sequence_loss(logits, self.targets, tf.ones([batch, num_steps]),
                                                    average_across_timesteps=False, average_across_batch=True)
            self.cost = tf.reduce_sum(loss)
            self.final_state = tf.stack([tf.stack(layer) for layer in state])

            self.lr = tf.Variable(0.0, trainable=False)
            variables = tf.trainable_variables()
            grads = tf.gradients(self.cost, variables)
            self.dense = {v.op.name: tf.convert_to_tensor(g) for v, g in zip(variables, grads)}
            self.dense_norm = tf.global_norm(list(self.dense.values()))
            clipped, self.global_norm = tf.clip_by_global_norm(grads, max_grad_norm)
            self.global_step = tf.train.get_or_create_global_step()
            # The original's line, or the walkthrough's in its place.
            kinds = {"sgd": tf.train.GradientDescentOptimizer, "adam": tf.train.AdamOptimizer}
            self.optimizer = kinds[optimizer](self.lr)
            self.train_op = self.optimizer.apply_gradients(zip(clipped, variables), global_step=self.global_step)
        self.variables = {v.op.name: v for v in variables}


def initial(case):
    """Initial variables (biases too, so that they are seen) and tokens."""
    random = np.random.RandomState(case["seed"])
    vocab, hidden, layers = case["vocab"], case["hidden"], case["layers"]
    shapes = [("embedding", [vocab, hidden])]
    cell = "basic_lstm_cell" if case.get("mode", "basic") == "basic" else "lstm_cell"
    for k in range(layers):
        scope = "RNN/multi_rnn_cell/cell_%d/%s/" % (k, cell)
        shapes += [(scope + "kernel", [2 * hidden, 4 * hidden]), (scope + "bias", [4 * hidden])]
    shapes += [("softmax_w", [hidden, vocab]), ("softmax_b", [vocab])]
    variables = {"Model/" + name: random.uniform(-0.8, 0.8, shape).astype(np.float32) for name, shape in shapes}
    tokens = random.randint(vocab, size=[case["batch"], case["n"] * case["num_steps"] + 1])
    return variables, tokens.astype(np.int64)


def run(case, variables, tokens, masks=None):
    """Trains n steps; returns the arrays of the file."""
    keep_prob = case.get("keep_prob", 1.0)
    shape = {key: case[key] for key in ("vocab", "hidden", "layers", "batch", "num_steps")}
    layers, batch, num_steps, n = case["layers"], case["batch"], case["num_steps"], case["n"]
    arrays = {"init/" + name: value for name, value in variables.items()}
    series = {name: [] for name in ("cost", "global_norm", "dense_norm", "final_c", "final_h")}
    if keep_prob < 1:
        if masks is None:
            random = np.random.RandomState(case["seed"] + 1000)
            masks = random.uniform(size=[n, layers + 1, batch, num_steps, case["hidden"]]) < keep_prob
        arrays.update(mask=masks.astype(np.uint8), keep_prob=np.float32(keep_prob))
    with tf.Graph().as_default() as graph, session(graph) as sess:
        model = PTBModel(max_grad_norm=case["max_grad_norm"], mode=case.get("mode", "basic"), keep_prob=keep_prob,
                         optimizer=case.get("optimizer", "sgd"), **shape)
        sess.run(tf.global_variables_initializer())
        assert set(model.variables) == set(variables), sorted(model.variables)
        for name, value in variables.items():
            model.variables[name].load(value, sess)
        model.lr.load(case["lr"], sess)
        state = np.zeros([layers, 2, batch, case["hidden"]], np.float32)
        for step in range(n):
            window = tokens[:, step * num_steps:(step + 1) * num_steps + 1]
            feed = {model.inputs: window[:, :-1], model.targets: window[:, 1:], model.state: state}
            if keep_prob < 1:
                # TensorFlow keeps where the random number is at least 1 - keep_prob.
                feed[model.noise] = np.where(masks[step], 0.999, 0.0)
            if step == 0:
                for name, value in sess.run(model.dense, feed).items():
                    arrays["grad0/" + name] = value
            _, state, cost, norm, dense_norm = sess.run(
                [model.train_op, model.final_state, model.cost, model.global_norm, model.dense_norm], feed)
            for name, value in zip(("cost", "global_norm", "dense_norm", "final_c", "final_h"),
                                   (cost, norm, dense_norm, state[:, 0], state[:, 1])):
                series[name].append(value)
        for name, value in sess.run(model.variables).items():
            arrays["final/" + name] = value
        if case.get("optimizer") == "adam":
            for slot in "mv":
                slots = {name: model.optimizer.get_slot(v, slot) for name, v in model.variables.items()}
                arrays.update(("final_%s/%s" % (slot, name), value) for name, value in sess.run(slots).items())
            powers = sess.run(model.optimizer._get_beta_accumulators())
            arrays.update(beta1_power=powers[0], beta2_power=powers[1])
    arrays.update({name: np.stack(values).astype(np.float32) for name, values in series.items()})
    hparams = [case[key] for key in ("vocab", "hidden", "layers", "batch", "num_steps", "n")]
    arrays.update(tokens=tokens, hparams=np.array(hparams, np.int64), lr=np.float32(case["lr"]),
                  max_grad_norm=np.float32(case["max_grad_norm"]))
    return arrays


def check(path):
    given = np.load(path)
    case = dict(zip(("vocab", "hidden", "layers", "batch", "num_steps", "n"), map(int, given["hparams"])))
    case.update(lr=float(given["lr"]), max_grad_norm=float(given["max_grad_norm"]))
    if "beta1_power" in given.files:
        case["optimizer"] = "adam"
    if "keep_prob" in given.files:
        case["keep_prob"] = float(given["keep_prob"])
    variables = {name[5:]: given[name] for name in given.files if name.startswith("init/")}
    if not any("basic_lstm_cell" in name for name in variables):
        case["mode"] = "block"
    masks = given["mask"] > 0 if "mask" in given.files else None
    arrays = run(case, variables, given["tokens"], masks)
    if not any(name.startswith("grad0/") for name in given.files):
        arrays = {name: value for name, value in arrays.items() if not name.startswith("grad0/")}
    return compare(path, arrays, 1e-5)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--check"]:
        sys.exit(not all([check(path) for path in sys.argv[2:]]))
    for name, case in CASES.items():
        save("ptb_" + name, run(case, *initial(case)))
