"""Waiting calls of one key are joined; errors, cancellations and urgency reach the right ones."""

import asyncio
import threading

import pytest

from flash_ray.serving.batching import Batcher


class Device:
    """Runs batches and remembers them; holds the first one until it is let go."""

    def __init__(self, hold: bool = False):
        self.batches = []
        self.free = threading.Event()
        if not hold:
            self.free.set()

    def __call__(self, key, items):
        self.batches.append((key, list(items)))
        self.free.wait()
        if "bad" in items:
            raise ValueError("bad item")
        return [f"{key}:{item}" for item in items]


def run(scenario):
    return asyncio.run(asyncio.wait_for(scenario, 60))


async def all_waiting():
    """Lets every task that was made reach its first real wait."""
    for _ in range(20):
        await asyncio.sleep(0)


async def held(device, batcher, calls):
    """Tasks of `calls` that came in while the device was busy with one of its own."""
    first = asyncio.create_task(batcher.ask("a", "first"))
    while not device.batches:
        await asyncio.sleep(0.001)
    tasks = [asyncio.create_task(batcher.ask(*call)) for call in calls]
    await all_waiting()
    return first, tasks


def test_the_size_of_a_batch_is_its_keys():
    async def scenario():
        device = Device(hold=True)
        batcher = Batcher(device, most={"a": 1, "b": 2}.__getitem__)
        calls = [("a", 1), ("a", 2), ("b", 3), ("b", 4), ("b", 5)]
        first, tasks = await held(device, batcher, calls)
        device.free.set()
        await asyncio.gather(first, *tasks)
        return device.batches[1:]

    assert run(scenario()) == [("a", [1]), ("a", [2]), ("b", [3, 4]), ("b", [5])]


def test_an_idle_device_takes_a_call_at_once_and_a_busy_one_finds_a_batch():
    async def scenario():
        device = Device(hold=True)
        batcher = Batcher(device, most=lambda _: 3)
        calls = [("a", 1), ("b", 2), ("a", 3), ("a", 4), ("a", 5)]
        first, tasks = await held(device, batcher, calls)
        device.free.set()
        assert await first == "a:first"
        assert await asyncio.gather(*tasks) == ["a:1", "b:2", "a:3", "a:4", "a:5"]
        return device.batches

    assert run(scenario()) == [("a", ["first"]), ("a", [1, 3, 4]), ("b", [2]), ("a", [5])]


def test_urgent_calls_go_first():
    async def scenario():
        device = Device(hold=True)
        batcher = Batcher(device, most=lambda _: 3)
        first, tasks = await held(device, batcher, [("a", 1), ("b", 2, True)])
        device.free.set()
        await asyncio.gather(first, *tasks)
        return [key for key, _ in device.batches]

    assert run(scenario()) == ["a", "b", "a"]


def test_a_call_that_was_cancelled_is_left_out():
    async def scenario():
        device = Device(hold=True)
        batcher = Batcher(device, most=lambda _: 3)
        first, tasks = await held(device, batcher, [("a", 1), ("a", 2), ("b", 3)])
        tasks[0].cancel()
        tasks[2].cancel()
        await all_waiting()
        device.free.set()
        assert await tasks[1] == "a:2"
        await first
        assert await batcher.ask("b", 4) == "b:4"
        return device.batches

    assert run(scenario()) == [("a", ["first"]), ("a", [2]), ("b", [4])]


def test_an_error_is_its_batch_s_alone():
    async def scenario():
        device = Device()
        batcher = Batcher(device, most=lambda _: 3)
        with pytest.raises(ValueError, match="bad item"):
            await batcher.ask("a", "bad")
        assert await batcher.ask("a", 1) == "a:1"

    run(scenario())


def test_of_a_batch_with_a_bad_item_the_others_are_answered():
    async def scenario():
        device = Device(hold=True)
        batcher = Batcher(device, most=lambda _: 3)
        first, tasks = await held(device, batcher, [("a", 1), ("a", "bad"), ("a", 3)])
        device.free.set()
        await first
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert answers[0] == "a:1" and answers[2] == "a:3"
        assert str(answers[1]) == "bad item"
        return device.batches

    batch, *alone = run(scenario())[1:]
    assert batch == ("a", [1, "bad", 3])
    assert alone == [("a", [1]), ("a", ["bad"]), ("a", [3])]


def test_the_event_loop_stays_free_while_a_batch_runs():
    async def scenario():
        device = Device(hold=True)
        batcher = Batcher(device, most=lambda _: 3)
        first, _ = await held(device, batcher, [])
        await asyncio.sleep(0)  # it would hang here
        device.free.set()
        await first

    run(scenario())
