from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genconvit.data.audit.page import read_crops, write_audit
from genconvit.data.audit.report import AuditReport, audit_report
from genconvit.data.audit.scan import scan_shard
from genconvit.data.shards import SCHEMA, open_dataset
from genconvit.folder import Folder
from tests.data.audit_data import Made, write_dataset

EVIL = "<script>alert(1)</script>"
CLIPS = [
    *(Made(f"r{n}", f"g{n}", label="real") for n in range(6)),
    *(Made(f"f{n}", f"g{n}", label="fake", method=EVIL) for n in range(6)),
    Made("v", "h", "val", source="other"),
    Made("w", "h", "val", label="fake", method="seen in val"),
    Made("faceless", "g1", crops=0),
]


def audited(path: Path, clips: Sequence[Made]) -> AuditReport:
    return look(write_dataset(path, clips))


def look(folder: Folder) -> AuditReport:
    dataset = open_dataset(folder.location)
    return audit_report(dataset, [scan_shard(shard) for shard in dataset.shards])[0]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> AuditReport:
    return audited(tmp_path_factory.mktemp("audit"), CLIPS)


def test_a_sound_dataset_has_nothing_against_it(report: AuditReport) -> None:
    assert report.ok and not report.leaks and not report.damaged and not report.near
    assert (report.clips, report.crops, report.groups) == (14, 42, 7)


def test_numbers_are_those_of_the_clips(report: AuditReport) -> None:
    [fake] = [c for c in report.balance if (c.kind, c.name, c.label) == ("split", "train", "fake")]
    assert (fake.clips, fake.groups, fake.crops) == (6, 6, 18)
    assert report.faces.without == ["faceless"]
    assert report.faces.failures == {"no face": 1}
    assert len(report.faces.few) == 14


def test_lopsided_parts_are_warned_of(report: AuditReport) -> None:
    text = "\n".join(report.warnings)
    assert "seen in val" in text
    assert "other (real)" in text
    assert "Metadata" not in text


def test_the_same_picture_compressed_again_in_another_split_is_a_leak(tmp_path: Path) -> None:
    copy = Made("copy", "elsewhere", "val", seed=7, quality=30)
    report = audited(tmp_path, [*CLIPS, Made("origin", "g9", seed=7), copy])
    [pair] = report.near
    assert {pair.first.clip, pair.second.clip} == {"origin", "copy"}
    assert not report.ok and "look the same" in report.leaks[0]


def test_the_same_picture_in_one_split_is_told_and_no_leak(tmp_path: Path) -> None:
    twins = [Made("t1", "g8", seed=7), Made("t2", "g9", seed=7, quality=30)]
    report = audited(tmp_path, [*CLIPS, *twins])
    assert report.ok and any("t1" in note and "t2" in note for note in report.notes)


def test_a_forgery_beside_its_source_is_nothing_to_tell(tmp_path: Path) -> None:
    report = audited(tmp_path, [*CLIPS, Made("t1", "g", seed=7), Made("t2", "g", seed=7)])
    assert report.near == []


def test_face_size_that_tells_the_label_is_warned_of(tmp_path: Path) -> None:
    # A longer name has a larger face in these datasets.
    fakes = [Made(f"a-long-name-{n}", f"k{n}", label="fake") for n in range(6)]
    report = audited(tmp_path, [*(Made(f"r{n}", f"g{n}") for n in range(6)), *fakes])
    [metadata, _] = report.probes
    assert metadata.auc > 0.9 and metadata.features[0].name.startswith("face")
    assert any(warning.startswith("Metadata") for warning in report.warnings)
    assert report.ok


def test_too_few_groups_are_said_and_not_measured(tmp_path: Path) -> None:
    report = audited(tmp_path, [Made("a", "g1"), Made("b", "g2", label="fake")])
    assert report.probes == [] and any("too few" in note for note in report.notes)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return write_dataset(tmp_path / "set", CLIPS)


def first_shard(folder: Folder) -> Path:
    return Path(open_dataset(folder.location).shards[0].path)


def test_a_flipped_bit_is_found(folder: Folder) -> None:
    path = first_shard(folder)
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)
    report = look(folder)
    assert not report.ok and "SHA-256" in report.damaged[0]


@pytest.mark.parametrize("keep", [0, 10, 2000])
def test_a_short_shard_is_found_and_the_others_are_read(folder: Folder, keep: int) -> None:
    path = first_shard(folder)
    path.write_bytes(path.read_bytes()[:keep])
    report = look(folder)
    assert not report.ok and report.clips == 12
    assert any(f"{keep:,} bytes" in item.reason for item in report.damage)


def test_a_missing_shard_is_found(folder: Folder) -> None:
    first_shard(folder).unlink()
    report = look(folder)
    assert not report.ok and "is missing" in report.damaged[0]


class HalfWritten(Made):
    """A clip whose second crop ends early."""

    def rows(self) -> list[dict[str, object]]:
        rows = super().rows()
        image = rows[1]["image"]
        assert isinstance(image, bytes)
        return [rows[0], {**rows[1], "image": image[: len(image) // 2]}, *rows[2:]]


class Mislabelled(Made):
    """A clip with a label that is none."""

    def rows(self) -> list[dict[str, object]]:
        return [{**row, "label": 7} for row in super().rows()]


class Strayed(Made):
    """A clip whose rows name another group than the table."""

    def rows(self) -> list[dict[str, object]]:
        return [{**row, "group": "another"} for row in super().rows()]


@pytest.mark.parametrize(
    ("kind", "crops", "word"),
    [
        (HalfWritten, 3, "no whole JPEG"),
        # With so many crops not every one is measured, yet every one is decoded.
        (HalfWritten, 40, "no whole JPEG"),
        (Mislabelled, 3, "neither 0 nor 1"),
        (Strayed, 3, "group g, and another"),
    ],
)
def test_wrong_rows_are_found_where_the_hash_is_right(
    tmp_path: Path, kind: type[Made], crops: int, word: str
) -> None:
    report = audited(tmp_path, [*CLIPS, kind("bad", "g", crops=crops)])
    assert not report.ok and word in report.model_dump_json()


def rewrite(path: Path, rows: list[dict[str, object]]) -> None:
    """Writes a shard whose boxes may have any length."""
    schema = SCHEMA.set(SCHEMA.names.index("box"), pa.field("box", pa.list_(pa.int32())))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        *((name, None, f"has no {name}") for name in SCHEMA.names if name != "image"),
        ("box", [1, 2, 3], "its box is not four whole numbers"),
        ("box", [1, 2, None, 4], "its box is not four whole numbers"),
    ],
)
def test_rows_without_a_value_are_problems_and_left_out(
    folder: Folder, tmp_path: Path, column: str, value: object, reason: str
) -> None:
    path = first_shard(folder)
    rows = pq.read_table(path).to_pylist()
    rewrite(path, [rows[0], {**rows[1], column: value, "image": b""}, *rows[2:]])
    dataset = open_dataset(folder.location)
    report, crops = audit_report(dataset, [scan_shard(shard) for shard in dataset.shards])
    shard = path.relative_to(folder.location).as_posix()
    damage = [(d.row, d.reason) for d in report.damage if d.shard == shard and d.row is not None]
    assert damage == [(1, reason)]
    assert report.crops == 41 and report.clips == 14
    assert 1 not in [crop.row for crop in crops if crop.shard == shard]
    write_audit(tmp_path / "out", report, crops, dataset)


def test_a_column_of_another_kind_is_a_problem_of_its_rows(folder: Folder) -> None:
    path = first_shard(folder)
    table = pq.read_table(path)
    at = table.column_names.index("track")
    pq.write_table(table.set_column(at, "track", pa.array(["one"] * len(table))), path)
    report = look(folder)
    reasons = [item.reason for item in report.damage if item.row is not None]
    assert reasons == ["its track is no whole number"] * len(table)


def test_a_shard_with_more_rows_than_its_entry_is_shown(folder: Folder, tmp_path: Path) -> None:
    path = first_shard(folder)
    rows = pq.read_table(path).to_pylist()
    rewrite(path, rows + Made("more", "g0").rows())
    dataset = open_dataset(folder.location)
    report, crops = audit_report(dataset, [scan_shard(shard) for shard in dataset.shards])
    assert any("unlike its manifest's entry" in item.reason for item in report.damage)
    write_audit(tmp_path / "out", report, crops, dataset)
    more = [crop for crop in crops if crop.clip == "more"]
    assert len(more) == 3 and all(image is not None for image in read_crops(dataset, more))
    rewrite(path, rows)  # shortened since it was scanned
    assert read_crops(dataset, more) == [None] * 3


def test_the_page_stands_alone_and_escapes_names(tmp_path: Path) -> None:
    copies = [Made(EVIL, "g9", seed=7), Made("copy", "x", "val", seed=7)]
    dataset = open_dataset(write_dataset(tmp_path / "set", [*CLIPS, *copies]).location)
    report, crops = audit_report(dataset, [scan_shard(shard) for shard in dataset.shards])
    write_audit(tmp_path / "new" / "out", report, crops, dataset)
    page = (tmp_path / "new" / "out" / "report.html").read_text()
    assert EVIL not in page and "&lt;script&gt;" in page
    assert "http://" not in page and "https://" not in page
    stored = json.loads((tmp_path / "new" / "out" / "audit.json").read_text())
    assert AuditReport.model_validate(stored) == report


def test_it_works_through_a_url() -> None:
    folder = write_dataset("memory://audit", CLIPS)
    try:
        assert look(folder).ok
    finally:
        folder.remove("")


def test_an_empty_dataset_is_nothing_to_fear(tmp_path: Path) -> None:
    report = audited(tmp_path, [Made("faceless", "g", crops=0)])
    assert report.ok and report.clips == 0
