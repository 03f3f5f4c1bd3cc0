"""bundle: from the store and from a saved archive, as root and as a plain user; what it makes runs with pyruntime run."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyruntime.errors import InvalidImage, UnpackError, UsageError
from pyruntime.image.archive_blobs import FolderBlobs
from pyruntime.image.archive_load import load_archive
from pyruntime.image.archive_save import save_archive
from pyruntime.image.archive_store import save_from_store
from pyruntime.image.bundle import BundleOptions, bundle_from_archive, bundle_from_store
from pyruntime.image.commit import commit_layer
from pyruntime.image.importing import import_rootfs
from pyruntime.image.reference import parse_reference
from pyruntime.image.runtime_config import RuntimeOptions
from pyruntime.image.store import Store
from pyruntime.image.unpack_maps import granted
from tests.image_samples import archive, layer, make_image
from tests.images import busybox_tar, debian_tar
from tests.plain_user import need_readable_checkout
from tests.system.test_rootless import DROP, FIRST, UID, account

__all__ = ["account"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
REPOSITORY = Path(__file__).resolve().parents[2]
PLAIN_USER = 65534


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[Store]:
    with Store.open(str(tmp_path_factory.mktemp("bundles") / "store")) as made:
        add(made, busybox_tar(), "busybox:1", ['CMD ["echo","from the image"]', "ENV GREETING=hi", "USER web", "WORKDIR /srv/made",
                                               "VOLUME /data /bin/../vol", "LABEL run.oci.seccomp_bpf_data=AAAA kind=test", "STOPSIGNAL SIGINT"])  # fmt: skip
        yield made


def add(store: Store, tar: Path, name: str, changes: list[str]) -> None:
    with open(tar, "rb") as file:
        import_rootfs(store, file.read, reference=parse_reference(name), changes=changes)


def options(*args: str, user: str = "", **more) -> BundleOptions:
    return BundleOptions(RuntimeOptions(args=args or None, **more), user)


def run(program: str, bundle: Path, name: str, *, root: Path) -> str:
    done = subprocess.run([program, "--root", str(root), "run", "--bundle", str(bundle), name], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=90, check=False)  # fmt: skip
    assert done.returncode == 0, done
    return done.stdout


def listing(root: Path) -> dict[str, tuple]:
    found = {}
    for top, folders, files in os.walk(root):
        for name in folders + files:
            path = Path(top, name)
            status = path.lstat()
            found[str(path.relative_to(root))] = (
                status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns if path.is_file() else 0, path.readlink() if path.is_symlink() else None)  # fmt: skip
    return found


def test_a_bundle_runs(store, program, own_host, tmp_path):
    bundle = tmp_path / "b"
    bundle_from_store(store, "busybox:1", str(bundle))
    assert sorted(os.listdir(bundle)) == ["config.json", "rootfs"]
    assert run(program, bundle, "arch-a", root=tmp_path / "state") == "from the image\n"
    document = json.loads((bundle / "config.json").read_text())
    assert document["annotations"]["kind"] == "test"
    assert "run.oci.seccomp_bpf_data" not in document["annotations"]
    assert (bundle / "rootfs/data").is_dir()
    assert (bundle / "rootfs/vol").is_dir()
    assert document["process"]["user"] == {"uid": 33, "gid": 33, "additionalGids": [33, 77]}


def test_options_and_what_the_container_sees(store, program, own_host, tmp_path):
    script = 'id -u; id -G; pwd; echo "$GREETING $HOME $HOSTNAME"; hostname; grep -e Seccomp: -e CapEff -e NoNewPrivs /proc/self/status; ls -ln /srv/page'
    bundle_from_store(store, "busybox:1", str(tmp_path / "b"), options=options("sh", "-c", script, hostname="web", no_new_privileges=True))
    seen = run(program, tmp_path / "b", "arch-b", root=tmp_path / "state").split("\n")
    assert seen[:5] == ["33", "33 77", "/srv/made", "hi /srv web", "web"]
    assert [line.split()[1] for line in seen[5:8]] == ["0000000000000000", "1", "2"]
    assert seen[8].split()[2:4] == ["33", "33"]


def test_root_has_dockers_capabilities(store, program, own_host, tmp_path):
    bundle_from_store(store, "busybox:1", str(tmp_path / "b"), options=options("grep", "Cap", "/proc/self/status", user="0"))
    seen = dict(line.split() for line in run(program, tmp_path / "b", "arch-c", root=tmp_path / "state").splitlines())
    assert seen == {"CapInh:": "0" * 16, "CapAmb:": "0" * 16} | dict.fromkeys(("CapPrm:", "CapEff:", "CapBnd:"), "00000000a80425fb")


def test_the_same_from_a_saved_archive(store, tmp_path):
    out = io.BytesIO()
    save_from_store(store, ["busybox:1"], out.write)
    out.seek(0)
    config = bundle_from_archive(out.read, str(tmp_path / "a"))
    assert config.digest == store.find("busybox:1").id
    bundle_from_store(store, "busybox:1", str(tmp_path / "b"))
    assert sorted(os.listdir(tmp_path / "a")) == ["config.json", "rootfs"]
    assert (tmp_path / "a/config.json").read_text() == (tmp_path / "b/config.json").read_text()
    assert listing(tmp_path / "a/rootfs") == listing(tmp_path / "b/rootfs")


def test_the_files_are_the_tars(store, tmp_path):
    bundle_from_store(store, "busybox:1", str(tmp_path / "b"))
    (tmp_path / "tar").mkdir()
    subprocess.run(["tar", "-C", str(tmp_path / "tar"), "--numeric-owner", "-xpf", str(busybox_tar())], check=True)
    ours, theirs = listing(tmp_path / "b/rootfs"), listing(tmp_path / "tar")
    for made in ("data", "vol", "srv/made"):
        del ours[made]
    assert ours == theirs
    assert ours["usr/bin/raise"][0] & 0o7777 == 0o4755


ROOTLESS = """
import os, sys
if __name__ == "__main__":
    os.setgroups([]); os.setgid({user}); os.setuid({user})
    os.environ["XDG_RUNTIME_DIR"] = "{folder}/run"
    from pyruntime.image.bundle import bundle_from_archive, BundleOptions
    from pyruntime.image.runtime_config import RuntimeOptions
    options = BundleOptions(RuntimeOptions(args=("sh", "-c", "id -u; echo in; stat -c %u /srv/page"), shared=("network",)), "0")
    with open("{folder}/image.tar", "rb") as file:
        bundle_from_archive(file.read, "{folder}/b", options=options)
    os.execv("{program}", ["{program}", "--root", "{folder}/run/state", "run", "--bundle", "{folder}/b", "arch-rootless"])
"""


@pytest.fixture
def plain_folder(tmp_path_factory) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pyruntime-bundle-", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "run").mkdir(mode=0o700)
    for path in (folder, folder / "run"):
        os.chown(path, PLAIN_USER, PLAIN_USER)
    yield folder
    shutil.rmtree(folder)


def test_a_plain_user_makes_and_runs_one(store, program, plain_folder):
    need_readable_checkout()
    with open(plain_folder / "image.tar", "wb") as file:
        save_from_store(store, ["busybox:1"], file.write)
    script = ROOTLESS.format(user=PLAIN_USER, folder=plain_folder, program=program)
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=90, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done
    assert done.stdout.split() == ["0", "in", "0"]  # one id alone: all belongs to the container's root
    assert (plain_folder / "b/rootfs/srv/page").stat().st_uid == PLAIN_USER
    assert json.loads((plain_folder / "b/config.json").read_text())["linux"]["uidMappings"] == [
        {"containerID": 0, "hostID": PLAIN_USER, "size": 1}]  # fmt: skip


GRANTED = """
import sys
sys.path[0] = "{repository}"
from pyruntime.errors import UsageError
from pyruntime.image.bundle import BundleOptions, bundle_from_archive
with open("{folder}/image.tar", "rb") as file:
    try:
        bundle_from_archive(file.read, "{folder}/fails", options=BundleOptions(user="nobody-there"))
    except UsageError as error:
        print(error)
with open("{folder}/image.tar", "rb") as file:
    bundle_from_archive(file.read, "{folder}/b", say=print)
import os
os.environ["XDG_RUNTIME_DIR"] = "{folder}/run"
sys.stdout.flush()
os.execv("{program}", ["{program}", "--root", "{folder}/run/state", "run", "--bundle", "{folder}/b", "arch-granted"])
"""


def test_a_plain_user_with_a_range_of_ids(store, account, program, tmp_path_factory):
    """The image's owners stay apart, its user too; the files belong to the ids that were granted."""
    if shutil.which("newuidmap") is None:
        pytest.skip("needs newuidmap (Debian: uidmap)")
    folder = Path(tempfile.mkdtemp(prefix="pyruntime-bundle-", dir="/var/tmp"))
    try:
        folder.chmod(0o755)
        (folder / "run").mkdir(mode=0o700)
        for path in (folder, folder / "run"):
            os.chown(path, UID, UID)
        out = io.BytesIO()
        save_from_store(store, ["busybox:1"], out.write)
        image = load_archive(store, io.BytesIO(out.getvalue()).read)[0].image
        commit_layer(store, [layer({"etc/": b"", "etc/mark": b""})], base=image, reference=parse_reference("granted:1"),
                     changes=['CMD ["sh","-c","id -u; id -G; stat -c %u:%g /srv/page; cat /srv/page"]'])  # fmt: skip
        with open(folder / "image.tar", "wb") as file:
            save_from_store(store, ["granted:1"], file.write)
        script = GRANTED.format(repository=REPOSITORY, folder=folder, program=program)
        done = subprocess.run([*DROP, sys.executable, "-c", script], capture_output=True, text=True, timeout=90, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done
        said, *seen = done.stdout.splitlines()
        assert said == "unable to find user nobody-there: no matching entries in passwd file"
        assert not (folder / "fails").exists()  # files of the granted ids went too
        assert seen == ["33", "33", "33:33", "hello"]
        status = (folder / "b/rootfs/srv/page").stat()
        assert (status.st_uid, status.st_gid) == (FIRST + 32, FIRST + 32)
        assert (folder / "b/rootfs/etc/passwd").stat().st_uid == UID
    finally:
        shutil.rmtree(folder)


def saved(tmp_path: Path, *layers: bytes, **inner) -> io.BytesIO:
    with FolderBlobs(str(tmp_path / "sample")) as blobs:
        out = io.BytesIO()
        save_archive(out.write, blobs, [make_image(blobs, list(layers), "x:1", inner={"Cmd": ["sh"]} | inner)])
    out.seek(0)
    return out


BASE = layer({"bin/": b"", "bin/sh": b"x"})


@pytest.mark.parametrize(("inner", "files"), [
    ({"Volumes": {"/../../../out": {}}}, {}),
    ({"Volumes": {"/link/vol": {}}}, {"link": "/../../../.."}),
    ({"WorkingDir": "/link/../../wd"}, {"link": "../../../../.."}),
    ({"User": "web"}, {"etc/": b"", "etc/passwd": "../../../../../etc/passwd"}),
], ids=str)  # fmt: skip
def test_paths_of_an_image_stay_inside(tmp_path, inner, files):
    outside = set(tmp_path.iterdir())
    data = saved(tmp_path, BASE, layer(files) if files else BASE, **inner)
    try:
        bundle_from_archive(data.read, str(tmp_path / "b"))
    except UsageError as error:
        assert "unable to find user web" in str(error)  # the host's passwd was not read
        assert not (tmp_path / "b").exists()
    assert set(tmp_path.iterdir()) - outside <= {tmp_path / "b"}
    assert not Path("/out").exists()


@pytest.mark.parametrize(("layers", "inner", "error"), [
    ((archive([("../x", b"")]),), {}, UnpackError),
    ((BASE,), {"User": "nobody-there"}, UsageError),
    ((BASE,), {"Cmd": None}, UsageError),
    ((BASE,), {"WorkingDir": "/bin/sh/x"}, InvalidImage),
], ids=["escape", "user", "no command", "working directory below a file"])  # fmt: skip
def test_a_failure_leaves_nothing(tmp_path, layers, inner, error):
    with pytest.raises(error):
        bundle_from_archive(saved(tmp_path, *layers, **inner).read, str(tmp_path / "b"))
    assert not (tmp_path / "b").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(error):
        bundle_from_archive(saved(tmp_path, *layers, **inner).read, str(tmp_path / "empty"))
    assert os.listdir(tmp_path / "empty") == []


def test_the_folder_must_be_new_or_empty(store, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/mine").touch()
    with pytest.raises(UsageError, match="is not an empty folder"):
        bundle_from_store(store, "busybox:1", str(tmp_path / "b"))
    assert os.listdir(tmp_path / "b") == ["mine"]


def test_an_archive_of_two_images(store, tmp_path):
    with FolderBlobs(str(tmp_path / "sample")) as blobs:
        out = io.BytesIO()
        latest = make_image(blobs, [BASE, BASE], "x:latest", "x:2")
        save_archive(out.write, blobs, [make_image(blobs, [BASE], "x:1"), latest])
    for name in ("", "y", "x:3"):
        out.seek(0)
        with pytest.raises(InvalidImage, match="the archive holds 2 images"):
            bundle_from_archive(out.read, str(tmp_path / "b"), name=name)
    for name in ("x", "x:2"):
        out.seek(0)
        assert bundle_from_archive(out.read, str(tmp_path / name), name=name) == latest.config


def test_subordinate_ids(tmp_path):
    path = tmp_path / "subuid"
    path.write_text("root:100000:65536\n0:300000:10\nother:1:2\nroot:x:1\nroot:5:0\n\n")
    assert granted(str(path), 0) == [(100000, 65536), (300000, 10)]
    assert granted(str(tmp_path / "none"), 0) == []


@pytest.mark.slow
def test_debian_runs(program, own_host, tmp_path):
    tar = debian_tar()
    with Store.open(str(tmp_path / "store")) as store:
        add(store, tar, "debian:1", ["CMD cat /etc/os-release; dpkg --audit && find / -xdev -perm -4000 -name su"])
        bundle_from_store(store, "debian:1", str(tmp_path / "b"))
    assert "\nID=debian\n" in (seen := run(program, tmp_path / "b", "arch-debian", root=tmp_path / "state"))
    assert "/usr/bin/su" in seen


def test_tar_is_in_the_layers_form():
    with tarfile.open(busybox_tar()) as tar:
        assert not [member.name for member in tar if member.isdev()]
