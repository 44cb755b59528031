"""Small checkpoints that TensorFlow 1.15 itself writes, each with the same values beside it in a .npz.

Under tests/fixtures/tf_checkpoint:
    basic        the example's, after three steps: tf.train.Saver, basic mode, learning rate and global step
    block        the same in block mode (LSTMBlockCell), whose names differ
    ptb_adam     the same with AdamOptimizer for GradientDescentOptimizer: its slots, under the scopes of that graph
    adam         Adam's slots besides, in a shard per device
    partitioned  the embedding partitioned in two slices
    slices       the example's model on two devices, every variable partitioned along a dimension
    grid         two variables in slices of unequal sizes that are no columns or rows
    gap          a variable of which a slice is missing
    overlap      a variable whose slices overlap
    v1           the example's model of mid-2016, under its names and in format V1
    v1_kinds     format V1: every dtype that it can hold, a scalar and an empty variable
    v1_slices, v1_grid, v1_gap, v1_overlap  as above in format V1
    peepholes    the example's graph of LSTMCells with peepholes
    projection   the same with a projection
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


V1, V2 = tf.train.SaverDef.V1, tf.train.SaverDef.V2


def write(name, sess, variables, saver, step=None):
    """Saves with `saver`, and the values as .npz."""
    os.makedirs(os.path.join(OUT, name))
    saver.save(sess, os.path.join(OUT, name, "model.ckpt"), global_step=step, write_meta_graph=False)
    np.savez(os.path.join(OUT, name, "values.npz"), **{v.op.name: sess.run(v) for v in variables})


def ptb(name, mode="basic", optimizer="sgd"):
    case = dict(CASE, mode=mode)
    variables, tokens = initial(case)
    shape = {key: case[key] for key in ("vocab", "hidden", "layers", "batch", "num_steps")}
    with tf.Graph().as_default() as graph, session(graph) as sess:
        model = PTBModel(max_grad_norm=5.0, mode=mode, optimizer=optimizer, **shape)
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


def slices(name, version):
    """The example's model; the values are those of the whole variables."""
    variables, _ = initial(dict(CASE, seed=11))
    axes = {"embedding": 0, "kernel": 1, "bias": 0, "softmax_w": 1, "softmax_b": 0}
    with tf.Graph().as_default() as graph, session(graph, device_count={"CPU": 2}) as sess:
        for k, (key, value) in enumerate(sorted(variables.items())):
            def part(shape, dtype, partition_info, value=value):
                places = zip(partition_info.var_offset, shape)
                return tf.constant(value[tuple(slice(start, start + size) for start, size in places)], dtype)
            partitioner = tf.fixed_size_partitioner(2 + k % 2, axis=axes[key.split("/")[-1]])
            with tf.device("/cpu:%d" % (k % 2)):
                tf.get_variable(key, value.shape, initializer=part, partitioner=partitioner)
        sess.run(tf.global_variables_initializer())
        saver = tf.train.Saver(write_version=version, sharded=True, save_relative_paths=True)
        write(name, sess, [], saver, step=5)
    np.savez(os.path.join(OUT, name, "values.npz"), **variables)


def raw_slices(name, version, parts, **whole):
    """Slices by the Saver's own op; `parts` are (variable, ((start, end) of each dimension))."""
    folder = os.path.join(OUT, name)
    os.makedirs(folder)
    names, specs, data = [], [], []
    for variable, extents in parts:
        value = whole[variable]
        names.append(variable)
        spec = ":".join("%d,%d" % (start, end - start) for start, end in extents)
        specs.append("%s %s" % (" ".join(str(size) for size in value.shape), spec))
        data.append(tf.constant(value[tuple(slice(start, end) for start, end in extents)]))
    path = os.path.join(folder, "model.ckpt")
    with session() as sess:
        if version == V1:
            save = tf.raw_ops.SaveSlices(
                filename=path, tensor_names=names, shapes_and_slices=specs, data=data)
        else:
            save = tf.raw_ops.SaveV2(
                prefix=path, tensor_names=names, shape_and_slices=specs, tensors=data)
        sess.run(save)
    np.savez(os.path.join(folder, "values.npz"), **whole)


def grid(name, version):
    random = np.random.RandomState(12)
    whole = {"flat": random.randn(4, 3).astype(np.float32), "cube": random.randint(-99, 99, [70, 2, 3])}
    raw_slices(name, version, [
        ("flat", ((0, 2), (0, 2))), ("flat", ((2, 4), (0, 2))),
        ("flat", ((0, 1), (2, 3))), ("flat", ((1, 4), (2, 3))),
        # Numbers of more than one byte in the slices' keys.
        ("cube", ((0, 66), (0, 2), (0, 3))),
        ("cube", ((66, 70), (0, 1), (0, 3))), ("cube", ((66, 70), (1, 2), (0, 3))),
    ], **whole)


def wrong(name, version, parts):
    raw_slices(name, version, [("Model/embedding", part) for part in parts],
               **{"Model/embedding": np.arange(8, dtype=np.float32).reshape(4, 2)})


def v1():
    """Mid-2016's variables; their order and shapes are the same today."""
    variables, _ = initial(dict(CASE, seed=13))
    names = [("Model/RNN/multi_rnn_cell/cell_", "model/RNN/MultiRNNCell/Cell"),
             ("basic_lstm_cell/kernel", "BasicLSTMCell/Linear/Matrix"),
             ("basic_lstm_cell/bias", "BasicLSTMCell/Linear/Bias"), ("Model/", "model/")]
    with tf.Graph().as_default() as graph, session(graph) as sess:
        for key, value in sorted(variables.items()):
            for new, old in names:
                key = key.replace(new, old)
            tf.get_variable(key, initializer=value)
        tf.get_variable("model/Variable", initializer=np.float32(0.5), trainable=False)
        sess.run(tf.global_variables_initializer())
        saver = tf.train.Saver(write_version=V1, save_relative_paths=True)
        write("v1", sess, tf.global_variables(), saver, step=3)


def v1_kinds():
    random = np.random.RandomState(14)
    dtypes = ["float32", "float64", "float16", "int8", "uint8", "int16", "int32", "int64"]
    values = {name: random.uniform(-99, 99, [2, 3]).astype(name) for name in dtypes}
    values["not_finite"] = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)
    values["empty"] = np.zeros([0, 3], np.float32)
    values["scalar"] = np.int64(-1 << 40)
    with tf.Graph().as_default() as graph, session(graph) as sess:
        variables = [tf.get_variable(name, initializer=value) for name, value in sorted(values.items())]
        for name, value in [("bool", True), ("string", "abc"), ("complex", 1j)]:
            tf.get_variable(name, initializer=tf.constant(value))
        sess.run(tf.global_variables_initializer())
        write("v1_kinds", sess, variables, tf.train.Saver(write_version=V1, save_relative_paths=True))


def lstm_cells(name, **options):
    """The example's model of two LSTMCells, which the program does not have in this form."""
    with tf.Graph().as_default() as graph, session(graph) as sess:
        with tf.variable_scope("Model", initializer=tf.random_uniform_initializer(-1, 1, seed=15)):
            embedding = tf.get_variable("embedding", [9, 4])
            cells = [tf.nn.rnn_cell.LSTMCell(4, **options) for _ in range(2)]
            cell = tf.nn.rnn_cell.MultiRNNCell(cells)
            with tf.variable_scope("RNN"):
                cell(tf.nn.embedding_lookup(embedding, [0]), cell.zero_state(1, tf.float32))
            tf.get_variable("softmax_w", [cell.output_size, 9])
            tf.get_variable("softmax_b", [9])
        sess.run(tf.global_variables_initializer())
        write(name, sess, tf.global_variables(), tf.train.Saver(save_relative_paths=True))


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
    ptb("ptb_adam", optimizer="adam")
    adam()
    partitioned()
    for prefix, version in [("", V2), ("v1_", V1)]:
        slices(prefix + "slices", version)
        grid(prefix + "grid", version)
        wrong(prefix + "gap", version, [((0, 2), (0, 2)), ((3, 4), (0, 2))])
        wrong(prefix + "overlap", version, [((0, 3), (0, 2)), ((2, 4), (0, 2))])
    v1()
    v1_kinds()
    lstm_cells("peepholes", use_peepholes=True)
    lstm_cells("projection", num_proj=3)
    object_based()
    scalar()
    cudnn()
    for folder, _, files in sorted(os.walk(OUT)):
        for file in sorted(files):
            path = os.path.join(folder, file)
            print("%s: %d bytes" % (os.path.relpath(path), os.path.getsize(path)))
