"""How pyctrd starts and ends: on demand, its lock, its sockets, its settings, and an idle end."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from tests.engine.stand import PYCTR, PYCTRD, TIMEOUT_S, Daemon, daemon, need
from tests.registry_stand import Authority, reserved_port

pytestmark = pytest.mark.system
# In namespaces of its own: the default places are empty, and every process ends with the first.
PRIVATE = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", "sh", "-c"]
EMPTY = "mount -t tmpfs none /run && mount -t tmpfs none /var/lib && mount -t tmpfs none /etc/default || exit 99; "


def private(script: str) -> subprocess.CompletedProcess[str]:
    """A shell script where nobody listens and nothing is stored."""
    need("unshare")
    done = subprocess.run([*PRIVATE, EMPTY + script], capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd="/tmp",
                          env={"PATH": os.environ["PATH"], "HOME": "/root", "PYCTR": PYCTR, "PYCTRD": PYCTRD})
    if done.returncode == 99:
        pytest.skip("needs mount and process namespaces")
    return done


def test_the_first_command_starts_it_and_many_share_one():
    """S62: the socket's mode among what is looked at."""
    done = private("""
for n in 1 2 3 4 5 6; do $PYCTR version --format '{{.Server.ApiVersion}}' & pids="$pids $!"; done
for pid in $pids; do wait $pid || echo failed; done
while [ $(pgrep -fc on-deman[d]) -gt 1 ]; do sleep 0.1; done # those that found another one end by themselves
pgrep -fc on-deman[d]
pid=$(pgrep -f on-deman[d])
ls -l /proc/$pid/fd | grep -c pipe
readlink /proc/$pid/cwd; grep -c . /run/pyctr/pyctrd.log; stat -c '%a %F' /run/pyctr/pyctr.sock
tr '\\0' '\\n' </proc/$pid/environ | sort | tr '\\n' ' '
grep Umask /proc/$pid/status
ps -o sid= -p $pid | tr -d ' ' | grep -qx $pid && echo session
""")
    assert done.stdout.splitlines() == [*["1.51"] * 6, "1", "0", "/", "1", "660 socket",
                                        "LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin Umask:\t0022", "session"], done.stderr


def test_a_plain_user_without_a_runtime_folder_is_told_what_to_do():
    done = private("""
user() { setpriv --reuid 12345 --regid 12345 --clear-groups env -i PATH="$PATH" HOME=/run/home "$@"; }
user test -x $PYCTR || { echo no; exit; }
chmod 755 /run; user $PYCTR images
""")
    if done.stdout == "no\n":
        pytest.skip("needs a checkout that other users may read")
    assert done.stderr.startswith("mkdir /run/user/12345/pyctr: permission denied\n")
    assert "hint: set XDG_RUNTIME_DIR to a folder of this user's" in done.stderr


def test_a_plain_user_has_an_engine_of_its_own():
    done = private("""
user() { setpriv --reuid 12345 --regid 12345 --clear-groups env -i PATH="$PATH" HOME=/run/home XDG_RUNTIME_DIR=/run/home/run "$@"; }
mkdir -p /run/home/run && chown -R 12345:12345 /run/home && user test -x $PYCTR || { echo no; exit; }
user $PYCTR info --format '{{.DockerRootDir}} {{join .SecurityOptions " "}}'
stat -c '%a %U' /run/home/run/pyctr /run/home/.local/share/pyctr; user $PYCTR images -q
grep -h Uid /proc/$(pgrep -f on-deman[d])/status
""")
    if done.stdout == "no\n":
        pytest.skip("needs a checkout that other users may read")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("/run/home/.local/share/pyctr ")
    assert "name=rootless" in lines[0]
    assert lines[1:] == ["700 UNKNOWN", "700 UNKNOWN", "Uid:\t12345\t12345\t12345\t12345"], done.stderr


def test_a_daemon_that_was_killed_is_started_again():
    done = private("""
$PYCTR version --format 'a{{.Server.ApiVersion}}'
kill -9 $(pgrep -f on-deman[d])
$PYCTR version --format 'b{{.Server.ApiVersion}}'
""")
    assert done.stdout.split() == ["a1.51", "b1.51"], done.stderr


def test_a_daemon_that_cannot_start_is_explained_by_its_log():
    done = private("mkdir -p /etc/pyctr && mount -t tmpfs none /etc/pyctr && echo '{\"bogus\": 1}' >/etc/pyctr/daemon.json; $PYCTR images; echo $?; umount /etc/pyctr")
    assert done.stdout.split() == ["1"]
    assert "the following directives don't match any configuration option: bogus" in done.stderr
    assert "/run/pyctr/pyctrd.log" in done.stderr


@pytest.mark.parametrize("words", [("-H", "unix:///nonexistent/api.sock")], ids=["-H"])
def test_another_host_is_never_started(words, tmp_path):
    done = subprocess.run([PYCTR, *words, "version"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
                          env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)})
    assert done.returncode == 1
    assert done.stdout.startswith("Client: pyctr")
    assert done.stderr.strip() == "Cannot connect to the Docker daemon at unix:///nonexistent/api.sock. Is the docker daemon running?"


def test_one_daemon_per_data_root_and_per_socket(tmp_path):
    with daemon(tmp_path / "one") as first:
        second = subprocess.run([PYCTRD, "-H", f"unix://{tmp_path}/two.sock", "--data-root", str(first.root)], capture_output=True,
                                text=True, timeout=TIMEOUT_S, check=False)
        assert second.returncode == 1
        assert f"{first.root} is in use by another pyctrd" in second.stderr
        third = subprocess.run([PYCTRD, "-H", first.host, "--data-root", str(tmp_path / "other")], capture_output=True, text=True,
                               timeout=TIMEOUT_S, check=False)
        assert third.returncode == 1
        assert "another process listens there" in third.stderr
        first.client.ping()


def test_a_socket_that_a_killed_daemon_left_is_taken_over(tmp_path):
    made = Daemon(tmp_path / "d")
    made.start()
    assert made.stop(signal.SIGKILL) == -signal.SIGKILL
    assert made.socket.exists()
    made.start()
    assert made.stop() == 0
    assert not made.socket.exists()


def test_it_ends_when_idle_but_not_while_somebody_listens(tmp_path):
    with daemon(tmp_path / "d", "--idle-exit", "3") as found:
        with found.client.request("GET", "/events"):
            time.sleep(4.5)
            found.client.ping()
        assert found.process.wait(TIMEOUT_S) == 0
        assert not found.socket.exists()


def test_it_ends_at_once_when_asked_whoever_listens(tmp_path):
    """The listener's stream is ended by then, not cut when the time for it is over."""
    with daemon(tmp_path / "d") as found:
        found.process.send_signal(signal.SIGHUP)
        words = [PYCTR, "events", "--since", "1h", "--format", "{{.Action}}"]
        listener = subprocess.Popen(words, env=found.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert listener.stdout.readline() == b"reload\n"
        assert found.stop() == 0
        assert listener.communicate(timeout=TIMEOUT_S) == (b"", b"")
        assert listener.returncode == 0


@pytest.mark.parametrize(("settings", "words", "message"), [
    ({"bogus": 1}, (), "the following directives don't match any configuration option: bogus"),
    ({"debug": "yes"}, (), "debug has to be true or false"),
    ({"insecure-registries": [1]}, (), "insecure-registries has to be a list of strings"),
    ({"group": "x"}, ("--group", "y"), "the following directives are specified both as a flag and in the configuration file: group: (from flag: y, from file: x)"),
    ({"max-concurrent-downloads": 0}, (), "invalid max-concurrent-downloads: 0"),
    ({}, ("--log-level", "loud"), "invalid logging level: loud\"\n  hint: known are debug, info"),
    ({}, ("--group", "nosuchgroup"), "could not give the socket to group nosuchgroup: no such group"),
    ({}, ("--nope",), "unknown flag: --nope"),
    ({}, ("-H", "ftp://x"), "unable to parse docker host `ftp://x`"),
    ({}, ("extra",), "unknown argument 'extra'"),
], ids=str)
def test_settings_that_are_wrong(settings, words, message, tmp_path):
    made = Daemon(tmp_path / "d", settings=settings)
    host = () if "-H" in words else ("-H", made.host)
    done = subprocess.run([PYCTRD, *host, "--data-root", str(made.root), "--config-file", str(made.folder / "daemon.json"), *words],
                          capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode in (1, 125)
    assert message in done.stderr


def test_a_socket_of_the_network_wants_certificates(tmp_path):
    """S62."""
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "stranger", "stranger")
    reserved = reserved_port()
    port = reserved.getsockname()[1]
    certificate, key = authority.issue(tmp_path, "server")
    words = ("-H", f"tcp://127.0.0.1:{port}", "--tlsverify", "--tlscacert", str(authority.path), "--tlscert", certificate, "--tlskey", key)
    with daemon(tmp_path / "d", *words) as found:
        def ask(program: str, by: Authority) -> subprocess.CompletedProcess[str]:
            folder = tmp_path / by.path.parent.name / "client"
            folder.mkdir(exist_ok=True)
            for path, name in zip(by.issue(folder, "client"), ("cert.pem", "key.pem")):
                os.rename(path, folder / name)
            (folder / "ca.pem").write_bytes(authority.path.read_bytes())
            more = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(folder)}
            return subprocess.run([program, "-H", f"tcp://127.0.0.1:{port}", "version", "--format", "{{.Server.APIVersion}}" if "docker" in program else "{{.Server.ApiVersion}}"],
                                  capture_output=True, text=True, env={**found.environment, **more}, check=False, timeout=TIMEOUT_S)

        assert ask(PYCTR, authority).stdout == "1.51\n"
        assert ask("/usr/bin/docker", authority).stdout == "1.51\n"
        assert ask(PYCTR, stranger).returncode == 1
    done = subprocess.run([PYCTRD, "-H", f"tcp://127.0.0.1:{port}", "--data-root", str(tmp_path / "x")], capture_output=True, text=True, timeout=TIMEOUT_S,
                          check=False)
    reserved.close()
    assert done.returncode == 1
    assert "needs TLS with certificates on both sides: --tlsverify, --tlscacert, --tlscert, --tlskey missing" in done.stderr


def test_a_socket_of_systemd(tmp_path):
    with Handed(tmp_path) as path:
        done = subprocess.run([PYCTR, "-H", f"unix://{path}", "version", "--format", "{{.Server.ApiVersion}}"], capture_output=True,
                              text=True, check=True, timeout=TIMEOUT_S, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)})
        assert done.stdout == "1.51\n"


class Handed:
    """pyctrd with a socket that its parent listens on, as systemd's socket units do it."""

    def __init__(self, folder):
        self.path, self.root = str(folder / "handed.sock"), str(folder / "handed")

    def __enter__(self) -> str:
        import socket

        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.path)
            listener.listen()
            script = 'exec 3<&"$1"; shift; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
            self.process = subprocess.Popen(["bash", "-c", script, "-", str(listener.fileno()), PYCTRD, "-H", "fd://", "--data-root", self.root],
                                            pass_fds=[listener.fileno()], stderr=subprocess.DEVNULL)
        return self.path

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        assert self.process.wait(TIMEOUT_S) == 0
