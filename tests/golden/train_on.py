"""Continues the training of a checkpoint in TensorFlow 1.15.

train_on.py PREFIX FOLDER BATCH_SIZE NUM_STEPS MAX_NORM N

PREFIX is what `ptb-word-lm export --format tf-checkpoint` wrote at the end of an epoch. The
example's graph, with AdamOptimizer where the checkpoint has its slots, is restored by
tf.train.Saver, with the learning rate and the slots. Then it trains the first N steps of the next
epoch over FOLDER's ptb.train.txt, and prints the cost of each.
"""

import sys

from common import session
from evaluate import vocabulary, words
from ptb import PTBModel

import numpy as np
import tensorflow as tf


def main(prefix, folder, batch, num_steps, max_norm, n):
    batch, num_steps, n = int(batch), int(num_steps), int(n)
    ids = vocabulary(folder)
    tokens = np.array([ids[word] for word in words(folder, "train")], np.int64)
    data = tokens[:len(tokens) // batch * batch].reshape([batch, -1])
    shapes = tf.train.load_checkpoint(prefix).get_variable_to_shape_map()
    vocab, hidden = shapes["Model/embedding"]
    layers = sum(name.endswith("_cell/kernel") for name in shapes)
    with tf.Graph().as_default() as graph, session(graph) as sess:
        model = PTBModel(
            vocab=vocab, hidden=hidden, layers=layers, batch=batch, num_steps=num_steps,
            max_grad_norm=float(max_norm),
            mode="block" if any("/lstm_cell/" in name for name in shapes) else "basic",
            optimizer="adam" if "Train/Model/beta1_power" in shapes else "sgd")
        tf.train.Saver().restore(sess, prefix)
        state = np.zeros([layers, 2, batch, hidden], np.float32)
        for k in range(n):
            window = data[:, k * num_steps:(k + 1) * num_steps + 1]
            feed = {model.inputs: window[:, :-1], model.targets: window[:, 1:], model.state: state}
            _, state, cost = sess.run([model.train_op, model.final_state, model.cost], feed)
            print("COST %.9g" % cost)


main(*sys.argv[1:])
