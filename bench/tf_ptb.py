"""The peer in TensorFlow: the original's graph through compat.v1, in a current TensorFlow (with its oneDNN) or in TensorFlow 1.15.

As in the original the cells are unrolled over time, and the final state is fetched and fed back at every step. --rnn-mode basic has
BasicLSTMCell, op by op; block has the fused op of LSTMBlockCell, one per time step.
"""

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # compat.v1's rnn cells live there.

import numpy as np  # noqa: E402
import tensorflow.compat.v1 as tf  # noqa: E402

import ptb  # noqa: E402


class BlockCell(tf.nn.rnn_cell.BasicLSTMCell):
    """BasicLSTMCell's variables with LSTMBlockCell's op. tf.contrib's own class is gone from TensorFlow 2; the op is not."""

    def call(self, inputs, state):
        c, h = state
        peephole = tf.zeros([self._num_units])
        out = tf.raw_ops.LSTMBlockCell(x=inputs, cs_prev=c, h_prev=h, w=self._kernel, wci=peephole, wcf=peephole, wco=peephole,
                                       b=self._bias, forget_bias=self._forget_bias, cell_clip=-1.0, use_peephole=False)
        return out.h, tf.nn.rnn_cell.LSTMStateTuple(out.cs, out.h)


@tf.RegisterGradient("PtbLSTMBlockCell")
def _block_cell_grad(op, *grads):
    """The gradient as tf.contrib.rnn registers it."""
    x, c_prev, h_prev, w, wci, wcf, wco, b = op.inputs
    i, cs, f, o, ci, co, _ = op.outputs
    g = tf.raw_ops.LSTMBlockCellGrad(x=x, cs_prev=c_prev, h_prev=h_prev, w=w, wci=wci, wcf=wcf, wco=wco, b=b, i=i, cs=cs, f=f, o=o,
                                     ci=ci, co=co, cs_grad=grads[1], h_grad=grads[6], use_peephole=False)
    xh_grad = tf.matmul(g.dicfo, w, transpose_b=True)
    size = int(x.shape[1])
    w_grad = tf.matmul(tf.concat([x, h_prev], 1), g.dicfo, transpose_a=True)
    b_grad = tf.raw_ops.BiasAddGrad(out_backprop=g.dicfo)
    return xh_grad[:, :size], g.cs_prev_grad, xh_grad[:, size:], w_grad, g.wci_grad, g.wcf_grad, g.wco_grad, b_grad


class PTBModel:
    def __init__(self, c, is_training, rnn_mode):
        self.inputs = tf.placeholder(tf.int64, [c.batch, c.num_steps])
        self.targets = tf.placeholder(tf.int64, [c.batch, c.num_steps])
        dropout = is_training and c.keep_prob < 1

        def make_cell():
            cell = (BlockCell if rnn_mode == "block" else tf.nn.rnn_cell.BasicLSTMCell)(
                c.hidden, forget_bias=0.0, state_is_tuple=True, name="basic_lstm_cell")
            return tf.nn.rnn_cell.DropoutWrapper(cell, output_keep_prob=c.keep_prob) if dropout else cell

        uniform = tf.random_uniform_initializer(-c.init_scale, c.init_scale)
        with tf.variable_scope("Model", initializer=uniform):
            cell = tf.nn.rnn_cell.MultiRNNCell([make_cell() for _ in range(c.layers)], state_is_tuple=True)
            self.initial_state = state = cell.zero_state(c.batch, tf.float32)
            x = tf.nn.embedding_lookup(tf.get_variable("embedding", [c.vocab, c.hidden]), self.inputs)
            if dropout:
                x = tf.nn.dropout(x, rate=1 - c.keep_prob)
            outputs = []
            with tf.variable_scope("RNN"), tf.get_default_graph().gradient_override_map({"LSTMBlockCell": "PtbLSTMBlockCell"}):
                for time_step in range(c.num_steps):
                    if time_step > 0:
                        tf.get_variable_scope().reuse_variables()
                    output, state = cell(x[:, time_step, :], state)
                    outputs.append(output)
            self.final_state = state
            output = tf.reshape(tf.concat(outputs, 1), [-1, c.hidden])
            logits = tf.nn.xw_plus_b(output, tf.get_variable("softmax_w", [c.hidden, c.vocab]),
                                     tf.get_variable("softmax_b", [c.vocab]))
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tf.reshape(self.targets, [-1]), logits=logits)
        self.cost = tf.reduce_sum(loss) / c.batch
        self.variables = tf.trainable_variables()
        self.train_op = tf.no_op()
        if is_training:
            grads, _ = tf.clip_by_global_norm(tf.gradients(self.cost, self.variables), c.max_grad_norm)
            self.train_op = tf.train.GradientDescentOptimizer(ptb.LEARNING_RATE).apply_gradients(zip(grads, self.variables))


def main():
    parser = ptb.arguments(__doc__.splitlines()[0])
    parser.add_argument("--inter", type=int, help="inter-op threads; default: as --threads")
    parser.add_argument("--rnn-mode", choices=["basic", "block"], default="basic")
    args = parser.parse_args()
    tf.disable_v2_behavior()
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.set_random_seed(0)
    c = ptb.config_of(args)
    if args.mode == "test":
        c = c._replace(batch=1, num_steps=1)

    (ids,), vocab = ptb.read_ids(args.data, [args.mode])
    c = c._replace(vocab=vocab)
    producer = ptb.Producer(ids, c.batch, c.num_steps)
    model = PTBModel(c, args.mode == "train", args.rnn_mode)
    session = tf.Session(config=tf.ConfigProto(intra_op_parallelism_threads=args.threads,
                                               inter_op_parallelism_threads=args.inter or args.threads))
    session.run(tf.global_variables_initializer())
    if args.init:
        given = np.load(args.init)
        for variable in model.variables:
            variable.load(given[variable.op.name], session)

    fetches = {"cost": model.cost, "final_state": model.final_state, "train_op": model.train_op}
    state = session.run(model.initial_state)

    def step(i):
        nonlocal state
        feed = dict(zip((model.inputs, model.targets), producer.batch(i)))
        for (c, h), value in zip(model.initial_state, state):
            feed[c], feed[h] = value
        values = session.run(fetches, feed)
        state = values["final_state"]
        return float(values["cost"])

    ptb.measure(step, args, producer.epoch_size, c.batch * c.num_steps, tf.__version__)


if __name__ == "__main__":
    main()
