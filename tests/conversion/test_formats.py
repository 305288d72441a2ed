"""What a path holds is told by its content; what is not read is refused with what to do."""

import json
import shutil

import pytest

from medmt5.conversion.command import convert
from medmt5.conversion.formats import detect_format, open_source
from medmt5.errors import InputError


def test_our_own_by_folder_or_checkpoint_whatever_its_name(model_dir, tmp_path):
    checkpoint = model_dir / "checkpoint_7"
    assert detect_format(model_dir) == detect_format(checkpoint) == ("medmt5", checkpoint)
    copy = shutil.copytree(model_dir, tmp_path / "checkpoint_of_t5x")
    assert detect_format(copy)[0] == "medmt5"


@pytest.fixture
def folder(model_dir, tmp_path):
    convert(model_dir, tmp_path / "hf", "huggingface")
    return tmp_path / "hf"


@pytest.mark.parametrize(
    ("name", "argument"),
    [("pytorch_model.bin", ""), ("flax_model.msgpack", ", from_flax=True"), ("tf_model.h5", ", from_tf=True")],
)
def test_weights_that_can_run_code_are_refused_with_the_command(tmp_path, name, argument):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"\x80\x02}")
    with pytest.raises(InputError) as refused:
        detect_format(tmp_path)
    command = f"M.from_pretrained('{tmp_path}'{argument}).save_pretrained('{tmp_path}-safetensors')"
    assert command in str(refused.value)
    with pytest.raises(InputError) as refused:
        detect_format(tmp_path / name)
    assert command in str(refused.value)


def test_a_folder_of_something_else_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"no model that medmt5 reads; it holds notes\.txt"):
        detect_format(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        detect_format(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        ("model.safetensors", b"<!doctype html><title>Sign in</title>" * 20, "a web page"),
        ("model.safetensors", b"\x80\x02}q\x00." * 99, "pickle"),
        ("model.safetensors", None, "cut short"),
        ("config.json", b"<html>not found</html>", "config.json is not JSON: it is a web page"),
        ("config.json", b'{"model_type": "mt5",', "config.json is not JSON"),
        ("config.json", b"[1]", "holds a JSON list"),
        ("model.safetensors.index.json", b'{"weight_map": {"shared.weight": "../x"}}', r"names the file \.\./x"),
        ("model.safetensors.index.json", b"{}", "has no weight_map"),
        ("model.safetensors.index.json", json.dumps({"weight_map": {"a": "model.safetensors"}}).encode(), "differ in"),
    ],
)
def test_a_damaged_folder_gives_one_clear_error(folder, file, content, message):
    path = folder / file
    path.write_bytes(path.read_bytes()[:-5] if content is None else content)
    with pytest.raises(InputError, match=message):
        open_source(folder)
