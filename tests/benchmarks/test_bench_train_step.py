"""The benchmark of the training step runs, and its candidates compute the same thing."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import bench_train_step


@pytest.fixture(autouse=True)
def _same_threads_afterwards():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_quick_run_makes_a_record_with_every_candidate():
    record = json.loads(bench_train_step.run(quick=True, threads=1).read_text())
    one, grid, limits = record["tables"]
    assert [row["candidate"] for row in one][:4] == [row["candidate"] for row in grid]
    assert all(row["s/image"] > 0 for row in one)
    assert {row["precision"] for row in limits} == {"fp32", "bf16"}


def test_stock_and_ours_see_the_same_loss():
    batch = bench_train_step.make_batch(4, 1, 2)
    step = bench_train_step.our_step(batch, 4, "fp32")
    stock = bench_train_step.stock_step(batch, 4, autocast=False)
    for _ in range(3):
        ours, theirs = step(), stock()
    assert ours.loss_K[0] == pytest.approx(theirs, rel=1e-5)
