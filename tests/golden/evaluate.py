"""Evaluates a checkpoint in TensorFlow 1.15, as the original does: evaluate.py PREFIX FOLDER [COPY [v1]]

PREFIX is what `ptb-word-lm export --format tf-checkpoint` wrote (or the original), FOLDER holds ptb.train.txt (for the
vocabulary) and ptb.test.txt. The example's graph is restored by tf.train.Saver and reads the test text word by word
(batch_size and num_steps 1), the state fed back. With COPY the Saver writes the variables again, for `import`;
with `v1` in format V1 and under the names of mid-2016.
"""

import collections
import math
import os
import sys

from common import session
from ptb import PTBModel

import numpy as np
import tensorflow as tf


def words(folder, split):
    with open(os.path.join(folder, "ptb.%s.txt" % split), encoding="utf-8") as f:
        return f.read().replace("\n", " <eos> ").split()


def name_of_2016(name):
    for new, old in [("Model/RNN/multi_rnn_cell/cell_", "model/RNN/MultiRNNCell/Cell"), ("Train/Model/", "model/"),
                     ("basic_lstm_cell/kernel", "BasicLSTMCell/Linear/Matrix"),
                     ("basic_lstm_cell/bias", "BasicLSTMCell/Linear/Bias"), ("Model/", "model/")]:
        name = name.replace(new, old)
    return name


def vocabulary(folder):
    """The words' ids: their ranks by count, then in alphabetical order."""
    counts = collections.Counter(words(folder, "train"))
    return {word: k for k, (word, _) in enumerate(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))}


def main(prefix, folder, copy=None, version="v2"):
    ids = vocabulary(folder)
    tokens = np.array([ids[word] for word in words(folder, "test") if word in ids], np.int64)
    shapes = tf.train.load_checkpoint(prefix).get_variable_to_shape_map()
    vocab, hidden = shapes["Model/embedding"]
    layers = sum(name.endswith("_cell/kernel") for name in shapes)
    mode = "block" if any("/lstm_cell/" in name for name in shapes) else "basic"
    with tf.Graph().as_default() as graph, session(graph) as sess:
        model = PTBModel(vocab=vocab, hidden=hidden, layers=layers, batch=1, num_steps=1, max_grad_norm=5.0, mode=mode)
        saver = tf.train.Saver()
        saver.restore(sess, prefix)
        if copy and version == "v1":
            variables = {name_of_2016(v.op.name): v for v in tf.global_variables()
                         if v.op.name != "Model/global_step"}
            tf.train.Saver(variables, write_version=tf.train.SaverDef.V1).save(sess, copy)
        elif copy:
            saver.save(sess, copy)
        state, costs = np.zeros([layers, 2, 1, hidden], np.float32), 0.0
        for k in range(len(tokens) - 1):
            feed = {model.inputs: [tokens[k:k + 1]], model.targets: [tokens[k + 1:k + 2]], model.state: state}
            state, cost = sess.run([model.final_state, model.cost], feed)
            costs += float(cost)
    print("TensorFlow %s, Test Perplexity: %.6f (%d words)" % (tf.__version__, math.exp(costs / (len(tokens) - 1)), len(tokens) - 1))


if __name__ == "__main__":
    main(*sys.argv[1:])
