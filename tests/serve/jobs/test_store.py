from __future__ import annotations

import errno
import os
import resource
import sqlite3
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from genconvit.config import ServeSettings
from genconvit.errors import UserError
from serve.jobs.queue import JobQueue
from serve.jobs.spool import ORPHAN_S
from serve.jobs.store import JobStore, open_store
from serve.problems import ProblemError
from tests.serve.jobs.job_samples import detection, new_store, point, start


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return new_store(tmp_path)


def contents(folder: Path) -> bytes:
    """Everything that is in a folder: names and bytes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return b"".join(path.name.encode() + path.read_bytes() for path in files)


def test_from_upload_to_result(store: JobStore) -> None:
    created = store.create({"frames": 8}, b"a clip", "holiday.mp4")
    assert (created.state, created.progress, created.timeline) == ("queued", 0, [])
    queue = JobQueue(store)
    claim = queue.claim()
    assert claim is not None and claim.options == {"frames": 8} and claim.name == "holiday.mp4"
    assert queue.content(claim) == b"a clip"
    assert queue.append(claim, [point(0), point(1)], 0.5)
    assert queue.append(claim, [point(2)], 0.75)
    running = store.get(created.id)
    assert (running.state, running.progress, running.attempts) == ("running", 0.75, 1)
    assert running.timeline == [point(0), point(1), point(2)]
    assert queue.finish(claim, detection("holiday.mp4"))
    done = store.get(created.id)
    assert (done.state, done.progress) == ("done", 1)
    assert done.detection == detection("holiday.mp4")
    assert done.timeline == done.detection.timeline
    assert created.created_at <= done.started_at <= done.ended_at
    assert b"a clip" not in contents(store.folder)


def test_only_the_server_can_read_it(store: JobStore) -> None:
    store.create({}, memoryview(b"a clip"), "clip.mp4")
    for path in [store.folder, *store.folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_another_key_finds_nothing(store: JobStore) -> None:
    job = store.create({}, b"", "clip.mp4", owner="ann")
    for owner in ("bob", None):
        for function in (store.get, store.delete):
            with pytest.raises(ProblemError) as caught:
                function(job.id, owner)
            assert caught.value.status == 404
    assert store.get(job.id, "ann").state == "queued"


@pytest.mark.parametrize("job_id", ["", "../jobs.db", "' OR 1=1 --", "a" * 10_000, "\0"])
def test_what_is_no_id_finds_nothing(store: JobStore, job_id: str) -> None:
    store.create({}, b"", "clip.mp4")
    for function in (store.get, store.delete):
        with pytest.raises(ProblemError, match="404"):
            function(job_id)
    assert (store.folder / "jobs.db").exists()


def test_too_many_jobs_are_refused_until_one_ends(tmp_path: Path) -> None:
    store = new_store(tmp_path, max_jobs=2)
    first, _ = store.create({}, b"1", "1.mp4"), store.create({}, b"2", "2.mp4")
    with pytest.raises(ProblemError) as caught:
        store.create({}, b"3", "3.mp4")
    assert (caught.value.status, caught.value.reason) == (503, "too many jobs")
    assert caught.value.response().headers["Retry-After"]
    assert len(store.spool.stored()) == 2
    store.delete(first.id)
    assert store.create({}, b"3", "3.mp4").state == "queued"


def test_one_key_cannot_fill_the_queue_for_all(tmp_path: Path) -> None:
    store = new_store(tmp_path, max_jobs=5, max_jobs_per_owner=2)
    queue = JobQueue(store)
    for owner in ("ann", "ann", None, None):
        store.create({}, b"", "clip.mp4", owner)
    for owner, whose in (("ann", "the key ann"), (None, "this server")):
        with pytest.raises(ProblemError, match=whose) as caught:
            store.create({}, b"3", "3.mp4", owner)
        assert (caught.value.status, caught.value.reason) == (429, "jobs of a key")
        assert caught.value.response().headers["Retry-After"]
    assert len(store.spool.stored()) == 4
    assert store.create({}, b"", "clip.mp4", "bob").state == "queued"
    with pytest.raises(ProblemError, match="503"):
        store.create({}, b"", "clip.mp4", "bob")
    claim = queue.claim()
    assert claim is not None
    with pytest.raises(ProblemError, match="429"):  # one that runs has not ended
        store.create({}, b"", "clip.mp4", "ann")
    queue.finish(claim, detection("clip.mp4"))
    assert store.create({}, b"", "clip.mp4", "ann").state == "queued"


def test_clients_that_come_together_pass_no_limit(tmp_path: Path) -> None:
    store = new_store(tmp_path, max_jobs_per_owner=3)

    def create(_: int) -> int:
        try:
            store.create({}, b"", "clip.mp4", "ann")
        except ProblemError as problem:
            return problem.status
        return 202

    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(create, range(16)))
    assert statuses.count(202) == 3 and statuses.count(429) == 13


@pytest.mark.parametrize("state", ["queued", "running", "done", "failed"])
def test_what_is_deleted_leaves_no_trace(store: JobStore, state: str) -> None:
    queue = JobQueue(store)
    store.create({}, b"", "before.mp4")
    before = queue.claim()
    assert before is not None
    job = store.create({"option": "SECRET"}, b"SECRET" * 1000, "SECRET.mp4", "owner")
    if state != "queued":
        claim = queue.claim()
        assert claim is not None and claim.id == job.id
        queue.append(claim, [point(1234567)] * 500, 0.5)
    if state == "done":
        queue.finish(claim, detection("SECRET"))
    if state == "failed":
        queue.fail(claim, ProblemError(422, "SECRET", "no clip").document())
    assert b"SECRET" in contents(store.folder)
    store.delete(job.id, "owner")
    left = contents(store.folder)
    for text in (b"SECRET", b"1234567", job.id.encode()):
        assert text not in left
    with pytest.raises(ProblemError, match="404"):
        store.get(job.id, "owner")
    assert queue.renew(before)  # the other one is as it was


def test_a_worker_of_a_deleted_job_is_refused(store: JobStore) -> None:
    queue = JobQueue(store)
    job = store.create({}, b"a clip", "clip.mp4")
    claim = queue.claim()
    assert claim is not None
    store.delete(job.id)
    assert not queue.renew(claim)
    assert not queue.append(claim, [point(0)], 0.5)
    assert not queue.finish(claim, detection("clip.mp4"))
    assert not queue.fail(claim, ProblemError(422, "no clip", "no clip").document())
    assert not queue.give_back(claim, 0, None)
    with pytest.raises(ProblemError, match="send it again"):
        queue.content(claim)


def test_old_jobs_and_what_the_dead_left_are_forgotten(tmp_path: Path) -> None:
    now = [1e9]
    store = new_store(tmp_path, keep_s=100, clock=lambda: now[0])
    queue = JobQueue(store)
    old = store.create({}, b"old", "old.mp4")
    claim = queue.claim()
    assert claim is not None
    queue.finish(claim, detection("old.mp4"))
    now[0] += 50
    waiting = store.create({}, b"waiting", "waiting.mp4")
    long_ago = time.time() - ORPHAN_S - 1
    for name in ("orphan", ".half", "fresh", waiting.id, old.id):
        path = store.folder / "spool" / name
        path.touch()
        if name != "fresh":
            os.utime(path, (long_ago, long_ago))
    store.forget_old()
    assert store.get(old.id).state == "done"
    assert store.spool.stored() == {"fresh", waiting.id}
    now[0] += 50
    store.forget_old()
    with pytest.raises(ProblemError, match="404"):
        store.get(old.id)
    assert store.get(waiting.id).state == "queued"


# Disks and files that fail


def test_a_full_disk_refuses_the_upload_and_keeps_nothing(store: JobStore, tmp_path: Path) -> None:
    process = start(_create_on_a_full_disk, store, tmp_path / "told")
    process.join(60)
    assert process.exitcode == 0
    for_upload, for_database = (tmp_path / "told").read_text().splitlines()
    assert "503" in for_upload and "no space left" in for_upload
    assert "503" in for_database  # whose limit SQLite takes for a broken disk
    assert store.spool.stored() == set()
    store.prepare()
    assert store.create({}, b"a clip", "clip.mp4").state == "queued"


def _create_on_a_full_disk(store: JobStore, told: Path) -> None:
    answers = []
    size = (store.folder / "jobs.db").stat().st_size
    with told.open("w") as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        upload, long_name = b"x" * 10 * size, "x" * 10 * size
        for content, name in ((upload, "clip.mp4"), (b"x", long_name)):
            try:
                store.create({}, content, name)
            except ProblemError as error:
                answers.append(f"{error.status} {error.detail}")
        file.write("\n".join(answers))
    assert len(answers) == 2


def test_a_job_can_be_deleted_on_a_full_disk(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = store.create({}, b"a clip", "clip.mp4")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ProblemError, match="no space left"):
        store.create({}, b"another clip", "clip.mp4")
    assert store.spool.stored() == {job.id}
    store.delete(job.id)
    assert store.spool.stored() == set()


def test_a_store_that_is_gone_is_a_503(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "not here")
    for act in (lambda: store.create({}, b"", "a"), lambda: store.get("a"), store.forget_old):
        with pytest.raises(ProblemError) as caught:
            act()
        assert caught.value.status == 503
        assert str(tmp_path) not in caught.value.detail
    assert not (tmp_path / "not here").exists()


@pytest.mark.parametrize("damage", ["other", "torn", "holes"])
def test_a_damaged_database_is_told_at_the_start(store: JobStore, damage: str) -> None:
    for _ in range(20):
        store.create({"filler": "x" * 5000}, b"", "clip.mp4")
    path = store.folder / "jobs.db"
    whole = path.read_bytes()
    damaged = {
        "other": b"Dear reader, this is a letter. " * 100,
        "torn": whole[: len(whole) // 2],
        "holes": whole[:4096] + bytes(8192) + whole[4096 + 8192 :],
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(UserError, match=r"jobs.db is damaged .*delete the file"):
        open_store(ServeSettings(state=str(store.folder)))


def test_a_database_of_another_version_is_told(store: JobStore) -> None:
    with sqlite3.connect(store.folder / "jobs.db") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="another version"):
        store.prepare()


def test_a_folder_that_cannot_be_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"choose another serve\.state"):
        open_store(ServeSettings(state=str(tmp_path / "file")))
    with pytest.raises(UserError, match=r"set serve\.state"):
        open_store(ServeSettings())
    with pytest.raises(UserError, match="give a folder"):
        open_store(ServeSettings(state="s3://bucket/jobs"))


def test_jobs_survive_a_restart_of_the_server(tmp_path: Path) -> None:
    settings = ServeSettings(
        state=str(tmp_path / "state"), max_jobs=7, max_jobs_per_key=1, keep_jobs_s=8
    )
    store = open_store(settings)
    assert (store.max_jobs, store.max_jobs_per_owner, store.keep_s) == (7, 1, 8)
    job = store.create({}, b"a clip", "clip.mp4")
    store = open_store(settings)
    assert store.get(job.id).state == "queued"
    with pytest.raises(ProblemError, match="429"):  # those before it count
        store.create({}, b"a clip", "clip.mp4")
