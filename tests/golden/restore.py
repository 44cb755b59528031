"""Restores checkpoints in TensorFlow 1.15 and compares: restore.py PREFIX NPZ [PREFIX NPZ ...]

Each PREFIX is read by tf.train.load_checkpoint, then by a tf.train.Saver, into the example's own graph if it holds a
model and else into variables of its own; either way the values must be those of the .npz, to the last bit. Exits with
1 and says what differs otherwise.
"""

import os
import sys

from common import session
from ptb import PTBModel

import numpy as np
import tensorflow as tf


def same(name, found, expected):
    if found.dtype == tf.bfloat16.as_numpy_dtype:
        found = found.astype(np.float32)  # what bfloat16 becomes in a .npz
    if found.dtype != expected.dtype or found.shape != expected.shape or found.tobytes() != expected.tobytes():
        sys.exit("%s: expected %r, found %r" % (name, expected, found))


def example_graph(values):
    """The original's training graph for a checkpoint of its variables."""
    vocab, hidden = values["Model/embedding"].shape
    block = any("/lstm_cell/" in name for name in values)
    layers = sum(name.endswith("_cell/kernel") for name in values)
    PTBModel(vocab=vocab, hidden=hidden, layers=layers, batch=2, num_steps=2, max_grad_norm=5.0,
             mode="block" if block else "basic", optimizer="adam" if "Train/Model/beta1_power" in values else "sgd")


def restore(prefix, npz):
    values = dict(np.load(npz))
    reader = tf.train.load_checkpoint(prefix)
    names = set(reader.get_variable_to_shape_map())
    if names != set(values):
        sys.exit("%s: expected %s, found %s" % (prefix, sorted(values), sorted(names)))
    for name in sorted(values):
        same(name, reader.get_tensor(name), values[name])
    with tf.Graph().as_default() as graph, session(graph) as sess:
        if "Model/embedding" in values:
            example_graph(values)
        else:
            dtypes = reader.get_variable_to_dtype_map()
            for name in values:
                tf.get_variable(name, values[name].shape, dtypes[name], initializer=tf.zeros_initializer())
        saver = tf.train.Saver()
        saver.restore(sess, prefix)
        variables = tf.global_variables()
        if {v.op.name for v in variables} != set(values):
            sys.exit("%s: expected the graph's variables, %s" % (prefix, sorted(v.op.name for v in variables)))
        for v, value in zip(variables, sess.run(variables)):
            same(v.op.name, value, values[v.op.name])
    state = tf.train.latest_checkpoint(os.path.dirname(prefix))
    if not state or not tf.train.checkpoint_exists(state):
        sys.exit("%s: the file checkpoint beside it names none that exists" % prefix)
    print("%s: %d variables restored" % (prefix, len(values)))


if __name__ == "__main__":
    if len(sys.argv) < 3 or len(sys.argv) % 2 == 0:
        sys.exit(__doc__)
    for prefix, npz in zip(sys.argv[1::2], sys.argv[2::2]):
        restore(prefix, npz)
