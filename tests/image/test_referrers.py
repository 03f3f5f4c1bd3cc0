"""What refers to a manifest: by the API of a registry that has it, by the fallback's tag of one that has not."""

from __future__ import annotations

import json
import os

import pytest

from pyruntime.errors import ImageError, InvalidImage, RegistryError
from pyruntime.image.digest import digest_of
from pyruntime.image.reference import parse_reference
from pyruntime.image.registry import HostConfig, RegistryClient
from tests import small_images
from tests.fault_proxy import Fault
from tests.referrers_registry import ReferrersRegistry, referrers_registry
from tests.registry_stand import QUICK, push_made, put

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("default::ResourceWarning")]
SIGNATURE, SBOM = "application/vnd.x.signature", "application/vnd.x.sbom"


@pytest.fixture
def image():
    return small_images.image([{"a": os.urandom(300)}])


@pytest.fixture
def serving(plain):
    with referrers_registry(plain.host) as found:
        yield found


def attach(client: RegistryClient, name: str, image: small_images.Made, *kinds: str) -> list[str]:
    """Pushes an artifact of each kind that refers to the image; their digests."""
    put(client, name, b"{}")
    blob = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2}
    subject = {"mediaType": image.media_type, "digest": image.digest, "size": len(image.manifest)}
    made = []
    for number, kind in enumerate(kinds):
        raw = json.dumps({"schemaVersion": 2, "mediaType": small_images.MANIFEST, "artifactType": kind, "config": blob,
                          "layers": [blob], "subject": subject, "annotations": {"number": str(number)}}).encode()
        client.put_manifest(name, digest_of(raw), raw, small_images.MANIFEST)
        made.append(digest_of(raw))
    return made


def fallback(client: RegistryClient, name: str, image: small_images.Made) -> bytes:
    """The index below the fallback's tag."""
    return client.manifest(parse_reference(f"{name}:{image.digest.replace(':', '-')}")).raw


@pytest.mark.parametrize("page", [0, 1, 2])
@pytest.mark.parametrize("filters", [True, False])
def test_a_registry_with_the_api(plain, client, image, page, filters) -> None:
    with referrers_registry(plain.host, page=page, filters=filters) as found:
        name = f"{found.host}/api"
        push_made(client, name, image, "v1")
        assert client.referrers(name, image.digest) == ()
        made = attach(client, name, image, SIGNATURE, SBOM, SIGNATURE, SIGNATURE)
        every = client.referrers(name, image.digest)
        assert [entry.digest for entry in every] == made
        assert [entry.annotations["number"] for entry in every] == ["0", "1", "2", "3"]
        assert [entry.digest for entry in client.referrers(name, image.digest, SIGNATURE)] == [made[0], made[2], made[3]]
        assert found.count("GET", "artifactType=application%2Fvnd.x.signature")
        assert client.referrers(name, image.digest, "application/vnd.x.other+json") == ()
        # the registry has said that it knows the subject: nothing is written beside it
        with pytest.raises(RegistryError, match="manifest unknown"):
            fallback(client, name, image)


def test_an_image_may_refer_as_well(serving, client, image) -> None:
    """Without an artifactType the type of the config counts (image-spec manifest.md)."""
    name = f"{serving.host}/image"
    push_made(client, name, image, "v1")
    other = small_images.image([{"b": b"b"}])
    document = json.loads(other.manifest) | {"subject": {"mediaType": image.media_type, "digest": image.digest, "size": len(image.manifest)}}
    raw = json.dumps(document).encode()
    push_made(client, name, other._replace(manifest=raw), "about")
    assert [entry.digest for entry in client.referrers(name, image.digest, small_images.CONFIG)] == [digest_of(raw)]


def test_404_is_the_fallback_tag(plain, client, image) -> None:
    with referrers_registry(plain.host, serves=False) as found:
        name = f"{found.host}/fallback"
        push_made(client, name, image, "v1")
        made = attach(client, name, image, SIGNATURE, SBOM)
        assert [entry.digest for entry in client.referrers(name, image.digest)] == made
        assert [entry.digest for entry in client.referrers(name, image.digest, SBOM)] == made[1:]
        assert found.count("GET", "/referrers/") == 2
        assert [entry["digest"] for entry in json.loads(fallback(client, name, image))["manifests"]] == made
        # once it learns the API, that is what counts (distribution-spec, Enabling the Referrers API)
        found.serves = True
        assert client.referrers(name, image.digest) == ()


def test_a_mirror_without_the_api_is_passed_over(plain, client, image) -> None:
    with referrers_registry(plain.host, serves=False) as mirror, referrers_registry(plain.host) as origin:
        name = f"{origin.host}/mirrored"
        push_made(client, name, image, "v1")
        made = attach(client, name, image, SIGNATURE)
        hosts = HostConfig(mirrors=((origin.host, (f"http://{mirror.host}",)),), certs_folders=())
        assert [entry.digest for entry in RegistryClient(hosts, policy=QUICK).referrers(name, image.digest)] == made
        assert mirror.count("GET", "/referrers/") == 1


def refused(found: ReferrersRegistry, client: RegistryClient, image: small_images.Made, match: str, **fault: object) -> None:
    found.faults.append(Fault("GET", "/referrers/", times=-1, **fault))
    with pytest.raises(ImageError, match=match):
        client.referrers(f"{found.host}/lies", image.digest)


def test_a_page_that_is_lost_is_no_fallback(plain, client, image) -> None:
    with referrers_registry(plain.host, page=1) as found:
        name = f"{found.host}/lost"
        push_made(client, name, image, "v1")
        attach(client, name, image, SIGNATURE, SBOM)
        found.faults.append(Fault("GET", "from=1", status=404))
        with pytest.raises(RegistryError, match="answered 404"):
            client.referrers(name, image.digest)


@pytest.mark.parametrize(("fault", "match"), [
    ({"status": 500}, "answered 500"),
    ({"status": 403}, "denied"),
    ({"status": 200, "body": b"<html>"}, "no JSON object"),
    ({"status": 200, "body": b"[]"}, "no JSON object"),
    ({"status": 200, "body": b"[" * 100_000}, "no JSON object"),
    ({"status": 200, "body": b"{}"}, "/schemaVersion"),
    ({"status": 200, "body": json.dumps({"schemaVersion": 2, "manifests": [{"digest": "x"}]}).encode()}, "/manifests/0"),
    ({"status": 200, "body": b" " * ((4 << 20) + 2)}, "of at most 4194304 bytes"),
], ids=range(8))  # fmt: skip
def test_answers_that_are_none(serving, client, image, fault, match) -> None:
    refused(serving, client, image, match, **fault)


def test_a_manifest_in_place_of_the_list(serving, client, image) -> None:
    refused(serving, client, image, "is no index", status=200, body=image.manifest)


def test_pages_without_an_end(serving, client, image, monkeypatch) -> None:
    page = json.dumps({"schemaVersion": 2, "mediaType": small_images.INDEX, "manifests": [], "annotations": {"x": "y" * 50_000}}).encode()
    again = {"Link": f'</v2/lies/referrers/{image.digest}>; rel="next"'}
    monkeypatch.setattr("pyruntime.image.registry.referrers.TOTAL_LIMIT", 500_000)
    refused(serving, client, image, "more than 1000 pages or 500000 bytes", status=200, body=page, headers=again)
    assert serving.count("GET", "/referrers/") == 10


def test_a_next_page_on_another_host(serving, client, image, plain) -> None:
    page = json.dumps({"schemaVersion": 2, "mediaType": small_images.INDEX, "manifests": []}).encode()
    away = {"Link": f'<http://{plain.host}/v2/lies/referrers/{image.digest}>; rel="next"'}
    refused(serving, client, image, "next page on another host", status=200, body=page, headers=away)


def test_a_fallback_tag_that_is_no_index(plain, client, image) -> None:
    name = f"{plain.host}/odd"
    push_made(client, name, image, image.digest.replace(":", "-"))
    with pytest.raises(RegistryError, match="is no index of referrers"):
        client.referrers(name, image.digest)
    with pytest.raises((RegistryError, InvalidImage), match="is no index of referrers"):
        attach(client, name, image, SIGNATURE)
