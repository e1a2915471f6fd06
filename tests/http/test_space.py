"""Room for what comes in: the floor of free space, the quota, and the figures of what is stored."""

from pathlib import Path

import pytest

from dicomweb_server.errors import StorageFull
from dicomweb_server.services import ingest
from dicomweb_server.services.space import FREE_FOR_SECONDS, NEAR_QUOTA_FOR_SECONDS, USED_FOR_SECONDS, Space
from tests.http.conftest import Archive, Client
from tests.samples import RELATED, envelope, instance, part10

ABOVE_ANY_DISK = 1 << 60


def staged_files(tmp_path: Path) -> list[Path]:
    return [path for folder in tmp_path.glob("*/staging") for path in folder.iterdir()]


class TestFloor:
    def test_nothing_is_begun_below_it(self, make_archive: Archive, tmp_path: Path) -> None:
        archive = make_archive({"disk.floor_bytes": ABOVE_ANY_DISK})
        body = envelope([part10(instance())])
        for headers, payload in (
            ({"Content-Type": RELATED}, body),
            ({"Content-Type": "application/dicom"}, part10(instance())),
        ):
            answer = archive.post("/studies", payload, headers=headers, status=503)
            assert int(answer.headers["Retry-After"]) > 0
            assert "disk.floor_bytes" in answer.json["reason"]
        assert archive.search("/instances") == []
        assert staged_files(tmp_path) == []

    def test_reading_goes_on(self, make_archive: Archive) -> None:
        archive = make_archive({"disk.floor_bytes": ABOVE_ANY_DISK})
        archive.get("/studies")
        archive.get("/health")

    def test_it_is_what_is_left_after_what_comes_and_what_came_since_it_was_measured(self) -> None:
        now, free = [0.0], [1000]
        space = Space(free=lambda: free[0], used=lambda: 0, floor_bytes=100, quota_bytes=0, clock=lambda: now[0])
        space.require(900)
        with pytest.raises(StorageFull):
            space.require(901)
        space.took(500)
        space.require(400)
        with pytest.raises(StorageFull):
            space.require(401)
        now[0] += FREE_FOR_SECONDS
        space.require(900)
        free[0] = 99
        now[0] += FREE_FOR_SECONDS
        with pytest.raises(StorageFull):
            space.require()

    def test_what_is_stored_of_a_request_is_acknowledged(
        self, archive: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The disk gets full in the middle: earlier batches stand, the rest is refused one by one."""
        monkeypatch.setattr(ingest, "BATCH_INSTANCES", 2)
        left = [2]

        def require(_space: Space, _incoming: int = 0) -> None:
            # Once for the request, and once for each instance.
            if left[0] < 0:
                raise StorageFull("full", 60)
            left[0] -= 1

        monkeypatch.setattr(Space, "require", require)
        instances = [instance() for _ in range(4)]
        answer = archive.store(*instances, status=202).json
        stored = {item["00081155"]["Value"][0] for item in answer["00081199"]["Value"]}
        assert stored == {str(ds.SOPInstanceUID) for ds in instances[:2]}
        refused = {item["00081155"]["Value"][0]: item["00081197"]["Value"][0] for item in answer["00081198"]["Value"]}
        assert refused == {str(ds.SOPInstanceUID): 0xA700 for ds in instances[2:]}
        assert len(archive.search("/instances")) == 2


class TestQuota:
    def test_what_does_not_fit_is_refused(self, make_archive: Archive) -> None:
        one, other = instance(), instance()
        size = len(part10(one))
        archive = make_archive({"disk.quota_bytes": 2 * size})
        archive.store(one)
        answer = archive.store(other, instance(), status=503)
        assert "disk.quota_bytes" in answer.json["reason"]
        assert archive.get("/statistics").json["bytes"] == size

    def test_figures_are_measured_now_and_then_and_what_comes_between_is_added(self) -> None:
        now, used, asked = [0.0], [100], [0]

        def measure() -> int:
            asked[0] += 1
            return used[0]

        space = Space(free=lambda: None, used=measure, floor_bytes=1, quota_bytes=1000, clock=lambda: now[0])
        space.require(900)
        space.took(850)
        with pytest.raises(StorageFull):
            space.require(51)
        assert asked == [1]
        used[0] = 200  # others removed something
        now[0] = USED_FOR_SECONDS
        space.require(800)
        assert asked == [2]
        space.took(760)
        now[0] += NEAR_QUOTA_FOR_SECONDS
        space.require(800)
        assert asked == [3], "near the quota it is measured more often"


class TestStatistics:
    def test_archive_and_study(self, archive: Client) -> None:
        ct, mr = instance(Modality="CT"), instance(Modality="MR")
        archive.store(ct, mr)
        sizes = {"CT": len(part10(ct)), "MR": len(part10(mr))}
        whole = archive.get("/statistics").json
        assert (whole["studies"], whole["series"], whole["instances"]) == (2, 2, 2)
        assert whole["bytes"] == sum(sizes.values())
        assert whole["by_modality"] == [
            {"modality": name, "instances": 1, "bytes": size} for name, size in sizes.items()
        ]
        (syntax,) = whole["by_transfer_syntax"]
        assert syntax["instances"] == 2
        study = archive.get(f"/dicom-web/studies/{ct.StudyInstanceUID}/statistics").json
        assert (study["series"], study["instances"], study["bytes"]) == (1, 1, sizes["CT"])
        assert "studies" not in study

    def test_of_nothing(self, archive: Client) -> None:
        whole = archive.get("/statistics").json
        assert (whole["patients"], whole["instances"], whole["by_modality"]) == (0, 0, [])
        archive.get("/studies/1.2.3/statistics", status=404)
        archive.get("/studies/x/statistics", status=400)
