"""Kept states: found again, bounded, shared by processes, and never used where they are not what they should be."""

import errno
import hashlib
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_ids, tiny_llama
from small import damaged

from homer import ConfigError, HomerConfig, HomerModel, StateStore, StoreError
from homer.base.folder import MARK
from homer.reuse.states import LeafStates
from homer.reuse.store import leaf_key

CPU = torch.device("cpu")
PREFIX, CONTEXT, SUFFIX = random_ids(4, 300, 6)


def encode(model: HomerModel, store: StateStore | None, context: torch.Tensor = CONTEXT) -> Any:
    return model.encode(context, prefix=PREFIX, suffix_budget=8, store=store)


def states(length: int, seed: int = 0) -> LeafStates:
    generator = torch.Generator().manual_seed(seed)
    shapes = (length, 4), (2, length, 1, 8), (2, length, 1, 8)
    return LeafStates(*(torch.rand(shape, generator=generator) for shape in shapes))


def equal(a: LeafStates, b: LeafStates) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.tensors(), b.tensors(), strict=True))


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_second_encoding_finds_every_leaf(tiny: HomerModel, tmp_path: Path, on_disk: bool) -> None:
    store = StateStore(tmp_path / "store" if on_disk else None)
    first = encode(tiny, store)
    assert first.reused_tokens == 0
    if on_disk:
        store = StateStore(tmp_path / "store")  # as another process would
    second = encode(tiny, store)
    assert second.reused_tokens == 300
    assert all(equal(a, b) for a, b in zip(first.leaves, second.leaves, strict=True))
    found, expected = tiny.compress_encoded(second, SUFFIX), tiny.compress_encoded(first, SUFFIX)
    assert torch.equal(found.logits, expected.logits)
    grown = torch.cat([CONTEXT, CONTEXT[:20]])  # other borders of leaves, so that few are found
    found, expected = (tiny.compress_encoded(encode(tiny, kept, grown), SUFFIX) for kept in (store, None))
    assert found.kept_tokens.tolist() == expected.kept_tokens.tolist()
    torch.testing.assert_close(found.logits, expected.logits)


def test_documents_are_found_in_any_order_and_company(mini: HomerModel) -> None:
    texts = [
        "The north gate closes at dusk. " * 30,
        "The door code for the northern archive is 48213.",
        "A barn. " * 40,
    ]
    store = StateStore()
    options: dict[str, Any] = {"align": "documents", "store": store, "config": HomerConfig(max_chunk_len=256)}
    tokens = len(mini.encode(texts, **options).context_ids)
    turned = mini.encode([texts[2], texts[1], texts[0]], **options)
    assert turned.reused_tokens == len(turned.context_ids) == tokens
    some = mini.encode([texts[1], "A new one.", texts[0]], **options)
    new = len(mini.encode(["A new one."], align="documents").context_ids)
    assert len(some.context_ids) - some.reused_tokens == new
    assert mini.ask("What is the door code for the northern archive?", some, max_new_tokens=8).text == "48213"


def test_the_key_tells_models_prefixes_and_layers_apart(tiny: HomerModel) -> None:
    other = HomerModel(tiny_llama(seed=1), config=tiny.config)
    half = HomerModel(tiny_llama().to(torch.bfloat16), config=tiny.config)
    scaled = tiny_llama()
    scaled.config.rope_parameters = dict(scaled.config.rope_parameters) | {"rope_theta": 500.0}
    ids = CONTEXT[:20]
    keys = [leaf_key(model.decoder, 4, PREFIX, ids) for model in (tiny, other, half, HomerModel(scaled))]
    keys += [leaf_key(tiny.decoder, 3, PREFIX, ids), leaf_key(tiny.decoder, 4, PREFIX[:3], ids)]
    keys += [
        leaf_key(tiny.decoder, 4, torch.cat([PREFIX, ids[:1]]), ids[1:]),
        leaf_key(tiny.decoder, 4, PREFIX, ids[1:]),
    ]
    assert len(set(keys)) == len(keys)
    assert leaf_key(tiny.decoder, 4, PREFIX, ids.clone()) == keys[0]


def damage(path: Path) -> None:
    path.write_bytes(damaged(path.read_bytes(), -100))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def replace_by_another(path: Path) -> None:
    path.write_bytes(next(other for other in path.parents[1].glob("*/*.safetensors") if other != path).read_bytes())


@pytest.mark.parametrize("spoil", [damage, truncate, replace_by_another, lambda path: path.write_bytes(b"")])
def test_a_damaged_or_foreign_entry_is_encoded_again(
    tiny: HomerModel, tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None]
) -> None:
    expected = tiny.compress_encoded(encode(tiny, StateStore(tmp_path)), SUFFIX)
    files = sorted(tmp_path.glob("*/*.safetensors"))
    assert len(files) == 16
    spoil(files[5])
    with caplog.at_level(logging.WARNING, "homer.reuse.store"):
        again = encode(tiny, StateStore(tmp_path))
    assert [record.message for record in caplog.records if "encoding it again" in record.message]
    assert 0 < 300 - again.reused_tokens < 30
    torch.testing.assert_close(tiny.compress_encoded(again, SUFFIX).logits, expected.logits)
    assert encode(tiny, StateStore(tmp_path)).reused_tokens == 300  # it was written anew


def test_every_tier_is_bounded_and_the_least_recently_used_leave(tmp_path: Path) -> None:
    size = states(10).nbytes
    file_size = size + 500  # with its header
    store = StateStore(tmp_path, memory_bytes=3 * size, disk_bytes=6 * file_size)
    for number in range(4):
        store.put(f"aa{number}", states(10, number))
        time.sleep(0.01)
    assert store.nbytes["memory"] == 3 * size
    assert equal(store.get("aa0", CPU), states(10, 0))  # from disk
    time.sleep(0.01)
    for number in range(4, 8):
        store.put(f"aa{number}", states(10, number))
        time.sleep(0.01)
    assert store.nbytes["memory"] <= 3 * size
    assert store.nbytes["disk"] <= 6 * file_size
    assert store.has("aa0")  # used after aa1
    assert not store.has("aa1")
    assert store.get("aa1", CPU) is None
    memory = StateStore(memory_bytes=size - 1)
    memory.put("a", states(10))
    assert memory.get("a", CPU) is None
    assert memory.nbytes["memory"] == 0


def test_a_full_disk_is_a_warning_or_an_error_and_leaves_nothing(
    tiny: HomerModel, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("homer.base.tensorfile.save_file", full)
    with caplog.at_level(logging.WARNING, "homer.reuse.store"):
        encoded = encode(tiny, StateStore(tmp_path))
    assert "No space left on device" in caplog.text
    assert caplog.text.count("free space there") == 1  # not once a leaf
    assert torch.equal(
        tiny.compress_encoded(encoded, SUFFIX).logits, tiny.compress_encoded(encode(tiny, None), SUFFIX).logits
    )
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [MARK]
    with pytest.raises(StoreError, match="cannot be written"):
        encode(tiny, StateStore(tmp_path, strict=True))


def test_a_write_that_the_system_refuses(tiny: HomerModel, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # no file may grow beyond: a disk that is full
    try:
        with pytest.raises(StoreError, match="cannot be written to .*free space there"):
            encode(tiny, StateStore(tmp_path, strict=True))
        encoded = encode(tiny, StateStore(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(encoded.leaves) == 16
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [MARK]


def test_bad_settings(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="no store can be made at"):
        StateStore(tmp_path / "file" / "store")
    with pytest.raises(ConfigError, match="memory_bytes=-1"):
        StateStore(memory_bytes=-1)
    with pytest.raises(StoreError, match="beyond disk_bytes=5"):
        StateStore(tmp_path, disk_bytes=5, strict=True).put("aa", states(3))


def test_threads_share_a_store(tmp_path: Path) -> None:
    size = states(10).nbytes
    store = StateStore(tmp_path, memory_bytes=2 * size, disk_bytes=8 * (size + 500))

    def work(number: int) -> bool:
        for turn in range(12):
            seed = (number + turn) % 12
            found = store.get(f"{seed:02}", CPU)
            if found is not None and not equal(found, states(10, seed)):
                return False
            store.put(f"{seed:02}", states(10, seed))
        return True

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))
    assert store.nbytes["disk"] <= 8 * (size + 500)


def test_what_a_killed_process_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    StateStore(tmp_path).put("a", states(3))
    (entry,) = tmp_path.glob("*/*.safetensors")
    old, new, foreign = (entry.with_name(f"{name}.part") for name in (f"{entry.name}.7.ab", f"{entry.name}.8.ab", "x"))
    for path in (old, new, foreign):
        path.write_text("half")
    for path in (old, foreign):
        os.utime(path, (time.time() - 3600,) * 2)
    StateStore(tmp_path)
    assert not old.exists()
    assert new.exists()  # another process may be writing it
    assert foreign.exists()


def foreign_files(folder: Path) -> dict[Path, str]:
    """Files of others, among them such as are named like ours, and what they hold."""
    key = hashlib.sha256(b"theirs").hexdigest()
    names = ["llama/model.safetensors", "aa/model.safetensors", f"{key[:2]}/{key}.safetensors", f"{key}.safetensors"]
    files = {folder / name: name * 1000 for name in [*names, "model.safetensors", "aa/x.part", "notes/a.json"]}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1, 1))  # used longer ago than anything of ours
    return files


def test_files_of_others_are_never_removed(tmp_path: Path) -> None:
    theirs = foreign_files(tmp_path / "models") | foreign_files(tmp_path / "elsewhere")
    store = StateStore(tmp_path / "models", memory_bytes=0, disk_bytes=2 * (states(10).nbytes + 600))
    for number in range(12):
        store.put(f"{number}", states(10, number))
    assert store.nbytes["disk"] <= 2 * (states(10).nbytes + 600)
    assert equal(store.get("11", CPU), states(10, 11))
    again = StateStore(tmp_path / "models", memory_bytes=0, disk_bytes=2 * (states(10).nbytes + 600))
    assert equal(again.get("11", CPU), states(10, 11))
    assert {path: path.read_text() for path in theirs} == theirs


def test_what_a_link_leads_to_is_never_removed(tmp_path: Path) -> None:
    theirs = foreign_files(tmp_path / "elsewhere")
    StateStore(tmp_path / "store").put("a", states(10))
    for number, folder in enumerate(path for path in (tmp_path / "elsewhere").iterdir() if path.is_dir()):
        name = folder.name if len(folder.name) == 2 else f"0{number}"
        (tmp_path / "store" / name).symlink_to(folder)
    (inner,) = (path for path in (tmp_path / "store").iterdir() if path.is_dir() and not path.is_symlink())
    linked = inner / f"{inner.name}{'0' * 62}.safetensors"
    linked.symlink_to(tmp_path / "elsewhere" / "model.safetensors")
    (inner / "model.safetensors").write_text("theirs")
    store = StateStore(tmp_path / "store", memory_bytes=0, disk_bytes=states(10).nbytes + 600)
    for number in range(12):
        store.put(f"{number}", states(10, number))
    assert {path: path.read_text() for path in theirs} == theirs
    assert linked.exists()
    assert (inner / "model.safetensors").read_text() == "theirs"


def test_any_changed_byte_of_an_entry_is_noticed_and_the_entry_put_aside(tmp_path: Path) -> None:
    store = StateStore(tmp_path, memory_bytes=0)
    store.put("a", states(2))
    (path,) = tmp_path.glob("*/*.safetensors")
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(damaged(whole, at))
        found = store.get("a", CPU)
        assert found is None or equal(found, states(2))  # a space in the header may change
        if found is None:
            assert path.with_name(f"{path.name}.damaged").exists()
    store.put("a", states(2))
    assert equal(store.get("a", CPU), states(2))


def test_states_do_not_change_with_their_file(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    store.put("a", states(1000))
    found = StateStore(tmp_path).get("a", CPU)
    (path,) = tmp_path.glob("*/*.safetensors")
    size = path.stat().st_size
    path.write_bytes(b"\0" * size)
    assert equal(found, states(1000))
    os.truncate(path, 0)
    assert equal(found, states(1000))


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from conftest import random_ids, tiny_llama
from homer import HomerConfig, HomerModel, StateStore
import homer.base.tensorfile
if {slow}:
    save = homer.base.tensorfile.save_file
    def slowly(tensors, path, metadata):
        save(tensors, path, metadata)
        print("written", flush=True)
        import time
        time.sleep(0.2)
    homer.base.tensorfile.save_file = slowly
PREFIX, CONTEXT, SUFFIX = random_ids(4, 300, 6)
model = HomerModel(tiny_llama(), config=HomerConfig(max_chunk_len=32, target_len=32, layers_warmup=2))
encoded = model.encode(CONTEXT, prefix=PREFIX, suffix_budget=8, store=StateStore({folder!r}, strict=True))
print(encoded.reused_tokens, model.compress_encoded(encoded, SUFFIX).logits.argmax().item(), flush=True)
"""


def start(folder: Path, slow: bool) -> Any:
    script = SCRIPT.format(tests=str(Path(__file__).parents[1]), folder=str(folder), slow=slow)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def test_killed_in_the_middle_and_two_at_once(tiny: HomerModel, tmp_path: Path) -> None:
    expected = str(tiny.compress_encoded(encode(tiny, None), SUFFIX).logits.argmax().item())
    process = start(tmp_path, slow=True)
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(list(tmp_path.glob("*/*.safetensors"))) < 16
    both = [start(tmp_path, slow=False) for _ in range(2)]  # which go on where it was killed
    for process in both:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert out.split()[-1] == expected
    assert encode(tiny, StateStore(tmp_path)).reused_tokens == 300
    assert len(list(tmp_path.glob("*/*.safetensors"))) == 16
