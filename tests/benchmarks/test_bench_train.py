"""The benchmark of the training step runs, and its candidates compute the same thing."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import torch

from benchmarks import bench_train, common, limits, tables


@pytest.fixture(autouse=True)
def _same_threads_afterwards():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.process
def test_quick_run_makes_a_record_with_every_candidate_and_target(capsys):
    path = bench_train.main(["--quick", "--threads", "1"])
    record = json.loads(path.read_text())
    one, _, allowed, started = record["tables"]
    has_peer = find_spec("transformers") is not None
    peers = ("stock", *(["transformers"] if has_peer else []), "lungfast")
    names = [f"{peer} {name}" for name in limits.precisions() for peer in peers]
    assert [row["candidate"] for row in one] == names
    assert all(row["ms an image"] > 0 for row in one)
    assert [row["precision"] for row in allowed] == list(limits.precisions())
    assert all(row["s"] > 0 for row in started)
    against = ["train-vs-hf"] if has_peer else []
    targets = ["train-vs-stock", "train-vs-stock-fp32", *against, "stack-9", "first-step", "help"]
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(str(path))]
    skipped = [line for line in lines if line.startswith("train-vs-hf skipped: transformers")]
    assert len(skipped) == (not has_peer)
    printed = [line.split() for line in lines if line not in skipped]
    assert [words[0] for words in printed] == targets
    assert all(words[1] == "ratio" and words[3] == "target" for words in printed)
    assert "| train-vs-stock |" in tables.section(record)


def test_a_target_is_met_from_its_own_side():
    assert common.Target("a", 4.0, at_least=4).met
    assert not common.Target("a", 5.1, at_most=5).met
    assert common.Target("a", 5.1).met is None


def test_stock_and_ours_see_the_same_loss():
    batch = bench_train.make_batch(4, 1, 2)
    step = bench_train.our_step(batch, 4, "fp32")
    stock = bench_train.stock_step(batch, 4, autocast=False)
    for _ in range(3):
        ours, theirs = step(), stock()
    assert ours.loss_K[0] == pytest.approx(theirs, rel=1e-5)
