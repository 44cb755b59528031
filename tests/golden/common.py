"""What the scripts share: quiet, repeatable TensorFlow, and where the files go."""

import logging
import os
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
warnings.filterwarnings("ignore")

import numpy as np
import tensorflow as tf

logging.getLogger("tensorflow").setLevel(logging.ERROR)
if not tf.__version__.startswith("1.15"):
    raise SystemExit("golden: expected TensorFlow 1.15, found " + tf.__version__)

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures")


def session(graph=None, **config):
    """A session on one thread, so that sums are always added up in the same order."""
    return tf.Session(graph=graph, config=tf.ConfigProto(
        intra_op_parallelism_threads=1, inter_op_parallelism_threads=1, **config))


def save(name, arrays):
    """Writes tests/fixtures/golden/NAME.npz; numpy puts no date into it."""
    path = os.path.join(FIXTURES, "golden", name + ".npz")
    np.savez(path, **arrays)
    print("%s: %d arrays, %d bytes" % (os.path.relpath(path), len(arrays), os.path.getsize(path)))


def compare(path, computed, tolerance):
    """Compares what was computed with the file's arrays of the same names; returns whether all are close."""
    given, good, worst = np.load(path), True, 0.0
    for name in sorted(computed):
        if name not in given.files:
            print("%s: not in the file" % name)
            good = False
            continue
        difference = np.max(np.abs(computed[name] - given[name]) / (1 + np.abs(given[name])), initial=0.0)
        worst = max(worst, difference)
        if computed[name].shape != given[name].shape or not difference <= tolerance:
            print("%s: differs by %g" % (name, difference))
            good = False
    left = sorted(set(given.files) - set(computed))
    print("%s: %d arrays, largest difference %.2g%s" % (
        os.path.basename(path), len(computed), worst, ", not compared: %s" % left if left else ""))
    return good
