"""Reads a run's event files with TensorBoard's own reader: events.py FOLDER -> {tag: [[step, value], ...]} as JSON.

`events.py --write FOLDER` makes tests/fixtures/events instead: what TensorFlow 1.15 itself writes.
"""
import json
import sys

if sys.argv[1] == "--write":
    import tensorflow.compat.v1 as tf
    writer = tf.summary.FileWriter(sys.argv[2])
    writer.add_session_log(tf.SessionLog(status=tf.SessionLog.START), 1)
    for step, loss in [(1, 184.25), (101, 132.125)]:
        values = [tf.Summary.Value(tag="Train/Training_Loss", simple_value=loss),
                  tf.Summary.Value(tag="Train/Learning_Rate", simple_value=1.0)]
        writer.add_summary(tf.Summary(value=values), step)
    writer.close()
else:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    accumulator = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
    accumulator.Reload()
    print(json.dumps({tag: [[event.step, event.value] for event in accumulator.Scalars(tag)]
                      for tag in accumulator.Tags()["scalars"]}))
