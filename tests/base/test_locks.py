"""Locks: taken twice by one thread, waited for by another, free once renewed."""

import threading

from homer.base.locks import Lock


def test_one_thread_at_a_time() -> None:
    lock, seen = Lock(), []

    def wait() -> None:
        with lock:
            seen.append("other")

    with lock, lock:
        other = threading.Thread(target=wait)
        other.start()
        other.join(0.1)
        assert seen == []
    other.join(5)
    assert seen == ["other"]


def test_renewed_it_is_free() -> None:
    lock = Lock()
    holder = threading.Thread(target=lock.acquire)
    holder.start()
    holder.join()
    lock.renew()
    taken = threading.Thread(target=lock.acquire, daemon=True)
    taken.start()
    taken.join(5)
    assert not taken.is_alive()
