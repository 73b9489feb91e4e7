"""Stop: the first signal asks, the second ends; tried on real processes with real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from suffuse.training.signals import Stop, Stopped

START = """
    import os, signal, subprocess, sys, time
    from suffuse.training.signals import Stop, Stopped
    def ready():
        print("ready", flush=True)
    def swallow():
        while True:
            try:
                time.sleep(60)
            except Exception:
                pass
"""
# A trainer in small: its step is not interrupted, and it saves before it leaves.
LOOP = """
    with Stop() as stop:
        ready()
        while not stop.requested:
            time.sleep(0.02)
        time.sleep({saving})
        print("saved", flush=True)
    sys.exit(stop.exit_code)
"""
BLOCKED = """
    try:
        with Stop() as stop:
            with stop.interruptible():
                ready()
                {work}
    except Stopped as stopped:
        print("saved", stopped, flush=True)
        sys.exit(stopped.exit_code)
"""


def run(body: str, *signums: int) -> tuple[int, str, str]:
    """Run a program, send it signals once it is ready; returns exit code, output, errors."""
    code = textwrap.dedent(START) + textwrap.dedent(body)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == "ready\n"
            for i, signum in enumerate(signums):
                if i:
                    process.stderr.readline()  # an empty line, after the terminal's ^C
                    process.stderr.readline()  # the first signal was handled: two at once could arrive as one
                process.send_signal(signum)
            out, err = process.communicate(timeout=20)
            return process.returncode, out, err
        finally:
            process.kill()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_lets_the_step_finish_and_save(signum, code):
    returned, out, err = run(LOOP.format(saving=0.0), signum)
    assert (returned, out) == (code, "saved\n")
    assert err == "\nfinishing this step, then saving; a second signal leaves at once\n"


@pytest.mark.parametrize(("first", "second", "code"), [(2, 2, 130), (2, 15, 143), (15, 2, 130)])
def test_the_second_signal_leaves_at_once(first, second, code):
    start = time.monotonic()
    assert run(LOOP.format(saving=60.0), first, second)[:2] == (code, "")
    assert time.monotonic() - start < 20  # not after the 60 s that saving would take


@pytest.mark.parametrize(
    "work",
    [
        "time.sleep(60)",  # a data wait
        "subprocess.run(['sleep', '9'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)",  # a compiler
        "os.read(os.pipe()[0], 1)",
        "swallow()",  # a library that takes any exception for its own
    ],
)
def test_a_long_wait_is_interrupted_at_once(work):
    returned, out, err = run(BLOCKED.format(work=work), signal.SIGTERM)
    assert (returned, out) == (143, "saved stopped by SIGTERM\n")
    assert err == "\nstopping here; a second signal leaves at once\n"


def test_a_forked_child_dies_of_sigterm_and_leaves_ctrl_c_to_its_parent():
    """Pools end their workers by SIGTERM, and a terminal sends Ctrl-C to parent and workers alike."""
    body = """
    with Stop() as stop:
        child = os.fork()
        if child == 0:
            time.sleep(60)
        os.kill(child, signal.SIGINT)
        time.sleep(0.2)
        print("ready", os.waitpid(child, os.WNOHANG), flush=True)
        os.kill(child, signal.SIGTERM)
        print(os.waitpid(child, 0)[1], stop.requested)
    """
    code = textwrap.dedent(START) + textwrap.dedent(body)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=20)
    assert done.stdout == f"ready (0, 0)\n{int(signal.SIGTERM)} False\n"
    assert done.stderr == ""


def test_handlers_are_restored_whatever_happens():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Stop():
        assert signal.getsignal(signal.SIGINT) != before[0]
    with pytest.raises(ValueError, match="mine"), Stop():
        raise ValueError("mine")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_nested_stops_tell_the_outer_one(capfd):
    with Stop() as outer:
        with Stop() as inner:
            signal.raise_signal(signal.SIGTERM)
        assert (inner.exit_code, outer.exit_code) == (143, 143)
        with Stop() as later:
            assert later.requested
        with pytest.raises(Stopped), outer.interruptible():
            raise AssertionError("the block was entered")
    assert capfd.readouterr().err.count("finishing this step") == 1


def test_an_outer_interruptible_block_holds_within_an_inner_stop(capfd):
    with Stop() as outer, pytest.raises(Stopped), outer.interruptible(), Stop():
        signal.raise_signal(signal.SIGINT)
    assert outer.exit_code == 130
    assert "stopping here" in capfd.readouterr().err


def test_check_and_interruptible_pass_until_asked():
    stop = Stop()
    assert (stop.requested, stop.exit_code) == (False, 0)
    stop.check()
    with stop.interruptible():
        pass
    stop.request(signal.SIGINT)
    stop.request(signal.SIGTERM)  # the first one counts
    with pytest.raises(Stopped, match="stopped by SIGINT") as caught:
        stop.check()
    assert caught.value.exit_code == stop.exit_code == 130


def test_after_an_interruptible_block_signals_only_ask(capfd):
    with Stop() as stop:
        with stop.interruptible():
            pass
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
    assert "finishing this step" in capfd.readouterr().err


def test_another_thread_stops_by_request():
    """Handlers belong to the main thread; a trainer in a server's thread must still run, and stop when asked."""
    codes = []

    def work() -> None:
        with Stop() as stop:
            stop.request()
            codes.append(stop.exit_code)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert codes == [143]
