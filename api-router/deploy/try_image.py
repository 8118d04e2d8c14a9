#!/usr/bin/env python3
"""Makes an image of a Dockerfile in a plain directory, and runs it as an engine would: without one.

    try_image.py DOCKERFILE STAGE PROGRAM

The root directory is read-only, the process is the first one of its system, as the image's user and without any
capability; only the working directory and /tmp can be written. It must become healthy by the image's own check, answer
/live, and end by the image's signal with exit code 0. Needs root on Linux; says SKIPPED otherwise.
"""

import ctypes
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

PATIENCE_SECONDS = 60
PR_SET_NO_NEW_PRIVS = 38


def instructions(path, stage):
    """The instructions of a stage, in their order, as pairs."""
    text = re.sub(r"\\\n", " ", open(path).read())
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    begins = [at for at, line in enumerate(lines) if line[0] == "FROM"] + [len(lines)]
    begin = next(at for at in begins if lines[at][1].endswith(f" AS {stage}"))
    end = next(at for at in begins if at > begin)
    return [(name, rest.strip()) for name, rest in lines[begin:end]]


class Image:
    """What an engine would know of the image."""

    def __init__(self, dockerfile, name, program, folder):
        stage = instructions(dockerfile, name)
        said = dict(stage)
        if not said["FROM"].startswith("scratch "):
            sys.exit(f"the stage {name} is not made of nothing: this check does not know its base")
        self.root = os.path.join(folder, "root")
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "image-root.sh")
        subprocess.run([script, program, self.root], check=True)
        for copied in (rest for name, rest in stage if name == "COPY"):
            self.own(copied)
        # A container engine creates these.
        for made in ["proc", "sys", "dev"]:
            os.makedirs(os.path.join(self.root, made), exist_ok=True)
        user, group = said["USER"].split(":")
        self.user, self.group = int(user), int(group)
        self.workdir = said["WORKDIR"]
        self.environment = dict(word.split("=", 1) for name, rest in stage if name == "ENV" for word in shlex.split(rest))
        self.signal = getattr(signal, said["STOPSIGNAL"])
        self.entrypoint = json.loads(said["ENTRYPOINT"])
        self.health = json.loads(said["HEALTHCHECK"].split(" CMD ", 1)[1])

    def own(self, copied):
        """`/image…` of the build is the root here: what is copied is there already, but for its owner."""
        words = copied.split()
        source, target = words[-2:]
        if not re.fullmatch("/image(-[a-z]+)?" + re.escape(target.rstrip("/")), source.rstrip("/")):
            sys.exit(f"COPY {copied}: this check only knows copies of /image to their own place")
        owner = [word.split("=", 1)[1] for word in words if word.startswith("--chown=")]
        user, group = map(int, owner[0].split(":")) if owner else (0, 0)
        for folder, _, files in os.walk(self.root + target):
            for name in [folder] + [os.path.join(folder, file) for file in files]:
                os.lchown(name, user, group)

    def command(self, words, mounts):
        """Runs words in the root directory; with mounts as the first process of a system."""
        told = [self.root, self.workdir, str(self.user), str(self.group), "mounts" if mounts else "none"]
        inner = [sys.executable, os.path.abspath(__file__), "--inner", *told, *words]
        if not mounts:
            return inner
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", *inner]


def inner(root, workdir, user, group, mounts, *words):
    """In the new process: makes the root directory this process's own, gives up all rights, and becomes the program."""
    if mounts == "mounts":
        mount = lambda *options: subprocess.run(["mount", *options], check=True)
        mount("--bind", root, root)
        mount("-o", "remount,bind,ro,nosuid,nodev", root)
        mount("-t", "proc", "proc", root + "/proc")
        mount("-t", "tmpfs", "-o", "mode=1777,size=16m,nosuid,nodev", "tmpfs", root + "/tmp")
        mount("-t", "tmpfs", "-o", f"mode=0700,uid={user},gid={group}", "tmpfs", root + workdir)
    os.chroot(root)
    os.chdir(workdir)
    os.setgroups([])
    os.setresgid(int(group), int(group), int(group))
    os.setresuid(int(user), int(user), int(user))
    if ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        sys.exit("rights could not be given up")
    os.execve(words[0], list(words), dict(os.environ))


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def child_of(pid):
    """The process that `unshare` has forked, as this system counts."""
    children = open(f"/proc/{pid}/task/{pid}/children").read().split()
    return int(children[0]) if children else None


def status_of(pid):
    lines = (line.split(":", 1) for line in open(f"/proc/{pid}/status").read().splitlines())
    return {name: rest.split() for name, rest in lines}


def check_rights(image, pid):
    """Checks the rights of the process, as the kernel reports them."""
    status = status_of(pid)
    assert status["Uid"] == [str(image.user)] * 4, status["Uid"]
    assert status["Gid"] == [str(image.group)] * 4, status["Gid"]
    assert status["Groups"] == [], status["Groups"]
    assert int(status["CapEff"][0], 16) == int(status["CapPrm"][0], 16) == 0, status["CapEff"]
    assert status["NoNewPrivs"] == ["1"]
    assert status["NSpid"][-1] == "1", status["NSpid"]
    mounts = [line.split() for line in open(f"/proc/{pid}/mountinfo")]
    root = [line for line in mounts if line[4] == "/"][-1]
    assert "ro" in root[5].split(","), root


def try_out(image):
    """Runs the image until it has answered, and ends it."""
    address = f"127.0.0.1:{free_port()}"
    bind = next(name for name in image.environment if name.endswith("_BIND"))
    environment = {**image.environment, bind: address}
    process = subprocess.Popen(image.command(image.entrypoint, True), env=environment, stdout=subprocess.DEVNULL)
    try:
        probe = image.command(image.health, False)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (asked := subprocess.run(probe, env=environment, capture_output=True, text=True)).returncode != 0:
            assert process.poll() is None, f"it ended with {process.returncode}"
            assert time.monotonic() < deadline, f"it never became healthy: {asked.stderr}"
            time.sleep(0.1)
        check_rights(image, child_of(process.pid))
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://{address}/live") as live:
            assert live.status == 200
        os.kill(child_of(process.pid), image.signal)
        code = process.wait(PATIENCE_SECONDS)
        assert code == 0, f"the signal ended it with {code}"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def size_of(root):
    files = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
    return len(files), sum(os.path.getsize(file) for file in files)


def main(dockerfile, stage, program):
    probe = ["unshare", "--mount", "--pid", "--fork", "true"]
    if os.geteuid() != 0 or not shutil.which("unshare") or subprocess.run(probe, stderr=subprocess.DEVNULL).returncode:
        print("SKIPPED: the image is tried by root only, where namespaces can be made")
        return
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        image = Image(dockerfile, stage, program, folder)
        count, size = size_of(image.root)
        try_out(image)
        print(f"the image has {count} files, {size / 1e6:.1f} MB, most of it {program}; read-only and as user "
              f"{image.user} it became healthy, answered /live, and ended by its signal")


if __name__ == "__main__":
    if sys.argv[1] == "--inner":
        inner(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
