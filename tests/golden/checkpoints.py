"""Small checkpoints that TensorFlow 1.15 itself writes, each with the same values beside it in a .npz.

Under tests/fixtures/tf_checkpoint:
    basic        the example's, after three steps: tf.train.Saver, basic mode, learning rate and global step
    block        the same in block mode (LSTMBlockCell), whose names differ
    adam         Adam's slots besides, in a shard per device
    partitioned  the embedding partitioned in two slices, which no reader of whole variables can read
    object       tf.train.Checkpoint, the object-based kind of TensorFlow 2, with a string entry and bfloat16 and others
    scalar       nothing but the global step; the smallest there is
    cudnn        cuDNN's opaque buffer as `Model/lstm_params`, laid out by TensorFlow's own converter (.npz alone)
"""

import os
import shutil

from common import FIXTURES, session
from ptb import PTBModel, initial

import numpy as np
import tensorflow as tf
from tensorflow.contrib.cudnn_rnn.python.ops.cudnn_rnn_ops import CudnnParamsFormatConverterLSTM

OUT = os.path.join(FIXTURES, "tf_checkpoint")
CASE = dict(vocab=9, hidden=4, layers=2, batch=2, num_steps=3, n=3, seed=7)


def write(name, sess, variables, saver, step=None):
    """Saves with `saver`, and the values as .npz."""
    os.makedirs(os.path.join(OUT, name))
    saver.save(sess, os.path.join(OUT, name, "model.ckpt"), global_step=step, write_meta_graph=False)
    np.savez(os.path.join(OUT, name, "values.npz"), **{v.op.name: sess.run(v) for v in variables})


def ptb(name, mode="basic"):
    case = dict(CASE, mode=mode)
    variables, tokens = initial(case)
    shape = {key: case[key] for key in ("vocab", "hidden", "layers", "batch", "num_steps")}
    with tf.Graph().as_default() as graph, session(graph) as sess:
        model = PTBModel(max_grad_norm=5.0, mode=mode, **shape)
        sess.run(tf.global_variables_initializer())
        for key, value in variables.items():
            model.variables[key].load(value, sess)
        model.lr.load(0.5, sess)
        for step in range(case["n"]):
            window = tokens[:, 3 * step:3 * step + 4]
            sess.run(model.train_op, {model.inputs: window[:, :-1], model.targets: window[:, 1:],
                                      model.state: np.zeros([2, 2, 2, 4])})
        # As tf.train.Supervisor does: PREFIX ends with the global step.
        write(name, sess, tf.global_variables(), tf.train.Saver(save_relative_paths=True), model.global_step)


def adam():
    random = np.random.RandomState(8)
    with tf.Graph().as_default() as graph, session(graph, device_count={"CPU": 2}) as sess:
        with tf.variable_scope("Model"):
            with tf.device("/cpu:0"):
                embedding = tf.get_variable("embedding", initializer=random.randn(5, 3).astype(np.float32))
            with tf.device("/cpu:1"):
                softmax_w = tf.get_variable("softmax_w", initializer=random.randn(3, 5).astype(np.float32))
            loss = tf.reduce_sum(tf.matmul(embedding, softmax_w) ** 2)
            tf.train.AdamOptimizer().minimize(loss, global_step=tf.train.get_or_create_global_step())
        sess.run(tf.global_variables_initializer())
        sess.run(graph.get_operation_by_name("Model/Adam"))
        write("adam", sess, tf.global_variables(), tf.train.Saver(sharded=True, save_relative_paths=True))


def partitioned():
    random = np.random.RandomState(9)
    with tf.Graph().as_default() as graph, session(graph) as sess:
        with tf.variable_scope("Model"):
            tf.get_variable("embedding", [6, 3], initializer=tf.random_uniform_initializer(seed=9),
                            partitioner=tf.fixed_size_partitioner(2))
            tf.get_variable("softmax_b", initializer=random.randn(5).astype(np.float32))
        sess.run(tf.global_variables_initializer())
        write("partitioned", sess, tf.global_variables(), tf.train.Saver(save_relative_paths=True))


def object_based():
    random = np.random.RandomState(10)
    values = {name: random.uniform(-9, 9, [2, 3]).astype(dtype) for name, dtype in [
        ("float32", np.float32), ("float64", np.float64), ("float16", np.float16), ("int8", np.int8),
        ("uint8", np.uint8), ("int16", np.int16), ("int32", np.int32), ("int64", np.int64)]}
    with tf.Graph().as_default() as graph, session(graph) as sess:
        variables = {name: tf.Variable(value, name=name) for name, value in values.items()}
        variables["bfloat16"] = tf.Variable(tf.cast(values["float32"], tf.bfloat16))
        variables["Model/softmax_b"] = tf.Variable(random.randn(5).astype(np.float32))
        variables["flag"] = tf.Variable(True)
        checkpoint = tf.train.Checkpoint(**variables)
        sess.run(tf.global_variables_initializer())
        os.makedirs(os.path.join(OUT, "object"))
        checkpoint.save(os.path.join(OUT, "object", "model.ckpt"), session=sess)
        values["bfloat16"] = sess.run(tf.cast(variables["bfloat16"], tf.float32))
        values["Model.Ssoftmax_b"] = sess.run(variables["Model/softmax_b"])
        values["save_counter"] = sess.run(checkpoint.save_counter)
    np.savez(os.path.join(OUT, "object", "values.npz"),
             **{name + "/.ATTRIBUTES/VARIABLE_VALUE": value for name, value in values.items()})


def scalar():
    with tf.Graph().as_default() as graph, session(graph) as sess:
        tf.train.get_or_create_global_step()
        sess.run(tf.global_variables_initializer())
        write("scalar", sess, tf.global_variables(), tf.train.Saver(save_relative_paths=True))


def cudnn():
    # The op that lays the buffer out needs a GPU. What it does not decide, which gate is which and how a kernel is cut,
    # is TensorFlow's converter's; cuDNN's own part is to put all weights, then all biases, one after the other.
    variables, _ = initial(CASE)
    layers, hidden = CASE["layers"], CASE["hidden"]
    scope = "Model/RNN/multi_rnn_cell/cell_%d/basic_lstm_cell/"
    kernels = [variables[scope % k + "kernel"] for k in range(layers)]
    biases = [variables[scope % k + "bias"] for k in range(layers)]
    with tf.Graph().as_default() as graph, session(graph) as sess:
        convert = CudnnParamsFormatConverterLSTM(layers, hidden, hidden)
        weights, halves = convert._tf_canonical_to_cu_canonical([tf.constant(v) for v in kernels + biases], None)
        opaque = np.concatenate([value.ravel() for value in sess.run(list(weights) + list(halves))])
    folder = os.path.join(OUT, "cudnn")
    os.makedirs(folder)
    values = {name: value for name, value in variables.items() if "RNN" not in name}
    np.savez(os.path.join(folder, "opaque.npz"), **dict(values, **{"Model/lstm_params": opaque}))
    np.savez(os.path.join(folder, "values.npz"), **variables)


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    ptb("basic")
    ptb("block", "block")
    adam()
    partitioned()
    object_based()
    scalar()
    cudnn()
    for folder, _, files in sorted(os.walk(OUT)):
        for file in sorted(files):
            path = os.path.join(folder, file)
            print("%s: %d bytes" % (os.path.relpath(path), os.path.getsize(path)))
