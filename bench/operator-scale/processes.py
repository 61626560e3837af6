"""Child processes: their logs, their memory and CPU time out of /proc, and their end, whatever becomes of this one."""

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import time

TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1024.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(number=signal.SIGKILL):
    """The kernel ends this process where its parent ends before it."""
    _libc.prctl(_PR_SET_PDEATHSIG, number)


def prepare_child():
    """In the child, before its program begins: it ends with this process, and may have as many connections as in a container."""
    die_with_parent()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Process:
    """A program that runs until `stop`."""

    def __init__(self, name, command, log, environment=None):
        self.name, self.log = name, log
        with open(log, "ab") as file:
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                                           env=environment, preexec_fn=prepare_child)
        self.pid = self._child.pid

    def ensure_running(self):
        if (status := self._child.poll()) is not None:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                end = "".join(file.readlines()[-10:])
            sys.exit(f"{self.name} ended with {status}; its log ends:\n{end}")

    def await_(self, what, probe, seconds=120):
        """Waits until the probe gives something."""
        end = time.monotonic() + seconds
        while not (found := probe()):
            self.ensure_running()
            if time.monotonic() > end:
                sys.exit(f"{self.name}: not {what} within {seconds} s (log: {self.log})")
            time.sleep(0.2)
        return found

    def stop(self):
        """By its own handle: no other process can be meant."""
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(20)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()

    def memory(self, word):
        """In MiB, by the words of /proc/PID/status: VmRSS, RssAnon, RssFile, VmHWM."""
        with open(f"/proc/{self.pid}/status", encoding="ascii") as file:
            for line in file:
                if line.startswith(word + ":"):
                    return int(line.split()[1]) / MIB
        self.ensure_running()
        raise RuntimeError(f"/proc/{self.pid}/status has no {word}")

    def cpu(self):
        """CPU time of all its threads, in seconds."""
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def machine_busy():
    """Seconds of CPU time that all processes of this machine have used, and that there were."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(field) / TICKS for field in file.readline().split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)
