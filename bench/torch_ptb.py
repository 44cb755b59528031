"""The peer in PyTorch: the same model as a PyTorch user writes it, eager or under torch.compile.

nn.Embedding, nn.LSTM, nn.Linear, cross_entropy, clip_grad_norm_, torch.optim.SGD; the state detached and fed back. It is the same
arithmetic as TensorFlow's but for two things, which --faithful mends (for check.py, not for timing): nn.LSTM has two biases that both
learn, and the embedding's gradient is dense, so repeated words enter the norm for clipping as their sum.
"""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import ptb


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embedding = nn.Embedding(c.vocab, c.hidden)
        self.lstm = nn.LSTM(c.hidden, c.hidden, c.layers, batch_first=True, dropout=1 - c.keep_prob)
        self.linear = nn.Linear(c.hidden, c.vocab)
        self.dropout = nn.Dropout(1 - c.keep_prob)
        for name, parameter in self.named_parameters():
            nn.init.zeros_(parameter) if "lstm.bias" in name else nn.init.uniform_(parameter, -c.init_scale, c.init_scale)

    def forward(self, x, state):
        return self.after_embedding(self.embedding(x), state)

    def after_embedding(self, embedded, state):
        output, state = self.lstm(self.dropout(embedded), state)
        return self.linear(self.dropout(output)), state


def assign(model, path, c):
    """Sets the parameters from variables in TensorFlow's layout: one kernel per cell, gates in the order i, j, f, o."""
    given = np.load(path)
    order = np.concatenate([np.arange(c.hidden) + gate * c.hidden for gate in (0, 2, 1, 3)])
    values = {"embedding.weight": given["Model/embedding"], "linear.weight": given["Model/softmax_w"].T,
              "linear.bias": given["Model/softmax_b"]}
    for k in range(c.layers):
        cell = "Model/RNN/multi_rnn_cell/cell_%d/basic_lstm_cell/" % k
        kernel, bias = given[cell + "kernel"][:, order], given[cell + "bias"][order]
        values.update({"lstm.weight_ih_l%d" % k: kernel[:c.hidden].T, "lstm.weight_hh_l%d" % k: kernel[c.hidden:].T,
                       "lstm.bias_ih_l%d" % k: bias, "lstm.bias_hh_l%d" % k: np.zeros_like(bias)})
    model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in values.items()})


def faithful_step(model, x, y, state, c):
    """A training step with one bias, and clipping by TensorFlow's norm: the embedding's rows enter one by one."""
    rows = model.embedding(x)
    rows.retain_grad()
    logits, state = model.after_embedding(rows, state)
    loss = cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum") / c.batch
    model.zero_grad()
    loss.backward()
    trained = [p for name, p in model.named_parameters() if "bias_hh" not in name]
    # In double precision: float32's norm() is off by 3e-5 here already, with its few accumulators for two million squares.
    grads = [rows.grad] + [p.grad for p in trained if p is not model.embedding.weight]
    norm = torch.stack([g.double().norm() for g in grads]).norm().float()
    with torch.no_grad():
        for p in trained:
            p -= ptb.LEARNING_RATE * c.max_grad_norm / norm.clamp(min=c.max_grad_norm) * p.grad
    return loss.item(), [s.detach() for s in state]


def main():
    parser = ptb.arguments(__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="under torch.compile")
    parser.add_argument("--faithful", action="store_true", help="one bias and TensorFlow's norm")
    parser.add_argument("--chunk", type=int, default=1, help="words per step in mode test")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--tf32", action="store_true", help="on a GPU, all products in TF32 (PyTorch's default: in cuDNN only)")
    parser.add_argument("--strict", action="store_true", help="on a GPU, float32 in cuDNN too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = args.tf32
    torch.backends.cudnn.allow_tf32 = not args.strict
    c = ptb.config_of(args)
    if args.mode == "test":
        c = c._replace(batch=1, num_steps=args.chunk)

    (ids,), vocab = ptb.read_ids(args.data, [args.mode])
    c = c._replace(vocab=vocab)
    producer = ptb.Producer(torch.from_numpy(ids).to(args.device), c.batch, c.num_steps)
    model = Model(c).to(args.device)
    if args.init:
        assign(model, args.init, c)
    call = torch.compile(model) if args.compile else model
    optimizer = torch.optim.SGD(model.parameters(), lr=ptb.LEARNING_RATE)
    state = [torch.zeros(c.layers, c.batch, c.hidden, device=args.device) for _ in range(2)]

    def train_step(i):
        nonlocal state
        x, y = producer.batch(i)
        if args.faithful:
            cost, state = faithful_step(model, x, y, state, c)
            return cost
        optimizer.zero_grad()
        logits, state = call(x, state)
        state = [s.detach() for s in state]
        # The mean over batch and time, times the number of steps: TensorFlow's cost.
        loss = cross_entropy(logits.flatten(0, 1), y.flatten()) * c.num_steps
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), c.max_grad_norm)
        optimizer.step()
        return loss.item()

    def eval_step(i):
        nonlocal state
        x, y = producer.batch(i)
        with torch.no_grad():
            logits, state = call(x, state)
            return cross_entropy(logits.flatten(0, 1), y.flatten()).item() * c.num_steps

    training = args.mode == "train"
    model.train(training)
    ptb.measure(train_step if training else eval_step, args, producer.epoch_size, c.batch * c.num_steps, torch.__version__)


if __name__ == "__main__":
    main()
