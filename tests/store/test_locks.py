import fcntl
import os

from distgen.store.locks import is_named, locked


def test_a_file_is_locked_by_one_at_a_time_and_free_when_that_one_closes_it(tmp_path):
    path = tmp_path / "a"
    assert locked(path, fcntl.LOCK_EX) is None
    first = locked(path, fcntl.LOCK_EX, os.O_CREAT)
    assert first is not None
    assert locked(path, fcntl.LOCK_EX) is None
    assert locked(path, fcntl.LOCK_SH) is None
    os.close(first)
    shared = [locked(path, fcntl.LOCK_SH) for _ in range(2)]
    assert None not in shared
    for file in shared:
        os.close(file)


def test_a_name_that_has_come_to_mean_another_file_is_not_locked(tmp_path, monkeypatch):
    path, flock, files = tmp_path / "a", fcntl.flock, len(os.listdir("/proc/self/fd"))
    path.write_text("one")

    def taken_away(file, how):
        flock(file, how)
        assert is_named(file, path)
        path.rename(tmp_path / "b")
        assert not is_named(file, path)
        path.write_text("other")
        assert not is_named(file, path)

    monkeypatch.setattr(fcntl, "flock", taken_away)
    assert locked(path, fcntl.LOCK_EX) is None
    assert len(os.listdir("/proc/self/fd")) == files
