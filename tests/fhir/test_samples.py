"""Every sample file through the server: what is answered is valid FHIR."""

from collections.abc import Iterator
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.endpoint import Endpoint
from fhir.resources.R4B.imagingstudy import ImagingStudy
from fhir.resources.R4B.patient import Patient

from tests.fhir.conftest import Fhir
from tests.http.conftest import opened
from tests.samples import RELATED, envelope, sample_files

MODELS: dict[str, Any] = {"ImagingStudy": ImagingStudy, "Patient": Patient, "Endpoint": Endpoint}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fhir]:
    with opened(tmp_path_factory.mktemp("samples"), {"stow.on_duplicate": "replace"}) as client:
        for path in sample_files():
            client.post("/studies", envelope([path.read_bytes()]), headers={"Content-Type": RELATED}, status="*")
        yield Fhir(client)


@pytest.mark.parametrize("kind", list(MODELS))
def test_every_resource_is_valid(samples: Fhir, kind: str) -> None:
    bundle = samples.get(f"{kind}?_count=1000")
    Bundle.model_validate(bundle)
    assert bundle["total"] == len(bundle["entry"]) > 20
    studies = samples.client.search("/studies?limit=1000")
    assert kind == "Patient" or bundle["total"] == len(studies)
    for entry in bundle["entry"]:
        resource = entry["resource"]
        MODELS[kind].model_validate(resource)
        assert samples.get(f"{kind}/{resource['id']}") == resource
    assert samples.client.get(f"/api/fhir/{kind}?_count=1000&_format=xml").body.count(f"<{kind}>".encode()) == len(
        bundle["entry"]
    )
