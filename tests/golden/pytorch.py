"""The model of PyTorch's example word_language_model, in PyTorch.

pytorch.py evaluate FILE FOLDER      prints the perplexity of FOLDER's ptb.test.txt
pytorch.py train FILE FOLDER [tied]  trains some steps on ptb.train.txt, writes FILE, prints the same

FILE is a .safetensors with words.txt beside it, one word a line in the order of the ids. The format
is read and written by hand: PyTorch comes without the package.
"""

import json
import math
import os
import struct
import sys

import torch
from torch import nn


class RNNModel(nn.Module):
    """The example's modules, under its names."""

    def __init__(self, vocab, width, layers, tied=False):
        super().__init__()
        self.encoder = nn.Embedding(vocab, width)
        self.rnn = nn.LSTM(width, width, layers)
        self.decoder = nn.Linear(width, vocab)
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, words, state=None):
        output, state = self.rnn(self.encoder(words), state)
        return self.decoder(output), state


def load(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header, data = json.loads(file.read(length)), bytearray(file.read())
    header.pop("__metadata__", None)

    def tensor(entry):
        assert entry["dtype"] == "F32", entry
        start, end = entry["data_offsets"]
        return torch.frombuffer(data[start:end], dtype=torch.float32).reshape(entry["shape"])

    return {name: tensor(entry) for name, entry in header.items()}


def save(path, tensors):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in tensors.items():
        content = tensor.detach().contiguous().numpy().tobytes()
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
        data += content
    header = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + data)


def words(folder, split):
    with open(os.path.join(folder, "ptb.%s.txt" % split), encoding="utf-8") as file:
        return [word for line in file for word in line.split() + ["<eos>"]]


def perplexity(model, ids):
    """Word by word in one stream, in pieces of 100 words."""
    state, costs = None, 0.0
    with torch.no_grad():
        for piece in range(0, len(ids) - 1, 100):
            x, y = ids[piece:piece + 100], ids[piece + 1:piece + 101]
            logits, state = model(x[:len(y), None], state)
            costs += nn.functional.cross_entropy(logits[:, 0].double(), y, reduction="sum").item()
    return math.exp(costs / (len(ids) - 1))


def evaluate(path, folder):
    tensors = load(path)
    vocab, width = tensors["encoder.weight"].shape
    model = RNNModel(vocab, width, sum("weight_ih" in name for name in tensors))
    model.load_state_dict(tensors)
    with open(os.path.join(os.path.dirname(path), "words.txt"), encoding="utf-8") as file:
        ids = {word: k for k, word in enumerate(file.read().splitlines())}
    assert len(ids) == vocab
    text = torch.tensor([ids[word] for word in words(folder, "test") if word in ids])
    print("PyTorch %s, Test Perplexity: %.6f" % (torch.__version__, perplexity(model, text)))


def train(path, folder, tied=""):
    torch.manual_seed(1)
    text = words(folder, "train")
    known = list(dict.fromkeys(text))  # in the order of their first occurrence, as in the example
    ids = {word: k for k, word in enumerate(known)}
    batch = torch.tensor([ids[word] for word in text[:8000]]).reshape(20, -1).t()
    model = RNNModel(len(known), 24, 2, tied == "tied")
    for k in range(0, len(batch) - 21, 20):
        logits, _ = model(batch[k:k + 20])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch[k + 1:k + 21].flatten())
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 2.0 * parameter.grad
    save(path, model.state_dict())
    with open(os.path.join(os.path.dirname(path), "words.txt"), "w", encoding="utf-8") as file:
        file.write("".join(word + "\n" for word in known))
    evaluate(path, folder)


if __name__ == "__main__":
    {"evaluate": evaluate, "train": train}[sys.argv[1]](*sys.argv[2:])
