"""The registry finds the class for a handler's name."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import zipfile
from importlib import metadata
from importlib.metadata import EntryPoint

import pytest

import event
from event import _registry
from helpers.plugins import DUCK, E3_GROUP, HANDLER, OWN_GROUP, Site


@pytest.fixture
def site(tmp_path, monkeypatch):
    return Site(tmp_path / "site", monkeypatch)


@pytest.mark.parametrize("name", _registry.BUILTINS)
@pytest.mark.parametrize("label", ["", ":", ":nightly", ":a:b"])
def test_a_built_in_is_found_with_and_without_a_label(name, label):
    module, attribute = _registry.BUILTINS[name]
    handler = _registry.get_handler(name + label)
    assert handler is getattr(importlib.import_module(module), attribute)
    assert issubclass(handler, event.EventHandler)


@pytest.mark.parametrize("group", [E3_GROUP, OWN_GROUP])
def test_plugin_cannot_replace_a_built_in_handler(site, group):
    site.plugin("file", groups=[group])
    assert _registry.get_handler("file").__module__ == "event.handler.file"
    assert "file" not in _registry.plugins()


def test_built_in_handler_is_found_if_the_metadata_cannot_be_read(monkeypatch):
    monkeypatch.setattr("importlib.metadata.entry_points", None)
    assert _registry.get_handler("file").__name__ == "FileHandler"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        pytest.param("fil", "did you mean 'file'?", id="a letter is missing"),
        pytest.param("loging:a", "did you mean 'logging'?", id="with a label"),
        pytest.param("acne", "did you mean 'acme'?", id="close to a plugin"),
    ],
)
def test_an_unknown_name_gets_the_closest_one_suggested(site, name, hint):
    site.plugin("acme")
    with pytest.raises(event.EventError) as caught:
        _registry.get_handler(name)
    assert repr(name.partition(":")[0]) in str(caught.value)
    assert hint in str(caught.value)


@pytest.mark.parametrize("name", ["", " ", "qqq", ":label", "x\0y", "../file"])
def test_unknown_name_is_an_error_with_the_known_names(site, name):
    site.plugin("acme")
    with pytest.raises(event.EventError) as caught:
        _registry.get_handler(name)
    assert "did you mean" not in str(caught.value) or name == "../file"
    assert str(caught.value).endswith(f"There are: {', '.join(sorted([*_registry.BUILTINS, 'acme']))}")


@pytest.mark.parametrize("group", [E3_GROUP, OWN_GROUP])
@pytest.mark.parametrize("parameter", ["config_str", "_config_str", "anything"])
def test_a_plugin_need_not_derive_from_event_handler(site, group, parameter):
    site.plugin("acme", HANDLER.format(parameter=parameter), groups=[group])
    handler = _registry.get_handler("acme")
    assert handler.__mro__[1:] == (object,)
    assert handler.__module__ == "acme_plugin"


def test_plugin_can_be_a_function_with_send_event(site):
    source = DUCK + "\ndef make(*args):\n    return Handler(*args)\nmake.send_event = Handler.send_event\n"
    site.plugin("acme", source, attribute="make")
    assert _registry.get_handler("acme")("there").where == "there"


@pytest.mark.parametrize(
    ("source", "attribute", "reason"),
    [
        pytest.param(
            "import acme_is_not_there", "Handler", "No module named 'acme_is_not_there'", id="missing dependency"
        ),
        pytest.param("raise RuntimeError('no licence')", "Handler", "RuntimeError: no licence", id="raises"),
        pytest.param("raise RuntimeError('a\\nb')", "Handler", "RuntimeError: a b", id="raises two lines"),
        pytest.param("import sys; sys.exit(3)", "Handler", "SystemExit: 3", id="exits"),
        pytest.param("import sys; sys.exit()", "Handler", "SystemExit", id="exits without a status"),
        pytest.param("class Handler", "Handler", "SyntaxError: ", id="wrong syntax"),
        pytest.param("", "Handler", "has no attribute 'Handler'", id="no such class"),
        pytest.param(DUCK, "Handler.Inner", "has no attribute 'Inner'", id="no such inner class"),
    ],
)
def test_a_plugin_that_fails_to_import_is_an_error_that_names_it(site, source, attribute, reason):
    site.plugin("acme", source, attribute=attribute)
    with pytest.raises(event.EventError) as caught:
        _registry.get_handler("acme:label")
    assert f"'acme' (acme_plugin:{attribute} of acme-plugin) fails to import: " in str(caught.value)
    assert reason in str(caught.value)
    assert caught.value.__cause__ is not None
    assert "\n" not in str(caught.value)


def test_a_missing_plugin_module_is_an_error_that_names_it(site):
    site.distribution("acme-plugin", (E3_GROUP, "acme", "acme_gone:Handler"))
    with pytest.raises(event.EventError, match=r"acme_gone:Handler of acme-plugin.*No module named") as caught:
        _registry.get_handler("acme")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_interrupt_while_a_plugin_is_imported_propagates(site):
    site.plugin("acme", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        _registry.get_handler("acme")


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("Handler = 1", id="number"),
        pytest.param("Handler = None", id="none"),
        pytest.param("class Handler: pass", id="no send_event"),
        pytest.param("class Handler:\n    send_event = None", id="send_event is no method"),
        pytest.param(f"{DUCK}\nHandler = Handler()", id="an instance"),
    ],
)
def test_a_plugin_that_is_no_handler_is_an_error_that_names_it(site, source):
    site.plugin("acme", source)
    with pytest.raises(event.EventError, match=r"acme_plugin:Handler of acme-plugin\) is not a handler.*send_event"):
        _registry.get_handler("acme")


def test_a_module_is_no_handler(site):
    site.module("acme_plugin", "def send_event(event):\n    return True\n")
    site.distribution("acme-plugin", (E3_GROUP, "acme", "acme_plugin"))
    with pytest.raises(event.EventError, match="is not a handler"):
        _registry.get_handler("acme")


@pytest.mark.parametrize(
    "groups",
    [
        pytest.param(([E3_GROUP], [E3_GROUP]), id="in one group"),
        pytest.param(([E3_GROUP], [OWN_GROUP]), id="each in its group"),
    ],
)
def test_name_in_two_distributions_is_an_error_with_both(site, groups):
    site.plugin("acme", distribution="acme-one", groups=groups[0])
    site.plugin("acme", distribution="acme-two", groups=groups[1])
    with pytest.raises(event.EventError, match="'acme' is registered more than once") as caught:
        _registry.get_handler("acme")
    assert "acme_one:Handler of acme-one" in str(caught.value)
    assert "acme_two:Handler of acme-two" in str(caught.value)


def test_two_distributions_may_register_the_same_object(site):
    site.plugin("acme", distribution="acme-one")
    site.distribution("acme-two", (E3_GROUP, "acme", "acme_one:Handler"))
    assert _registry.get_handler("acme").__module__ == "acme_one"


def test_two_distributions_may_register_the_same_object_by_two_paths(site):
    site.plugin("acme", distribution="acme-one")
    site.plugin("acme", "from acme_one import Handler", distribution="acme-two")
    assert _registry.get_handler("acme").__module__ == "acme_one"


def test_object_can_be_registered_in_both_groups(site):
    site.plugin("acme", groups=[E3_GROUP, OWN_GROUP])
    assert _registry.get_handler("acme").__module__ == "acme_plugin"


def test_a_distribution_that_is_found_twice_counts_once(site, tmp_path, monkeypatch):
    site.plugin("acme")
    second = Site(tmp_path / "second", monkeypatch)
    second.plugin("acme")
    assert len(_registry.plugins()["acme"]) == 1
    assert _registry.get_handler("acme").__module__ == "acme_plugin"


def test_plugin_is_found_next_to_a_broken_one(site):
    site.plugin("acme")
    site.plugin("broken", "raise RuntimeError")
    site.plugin("twice", distribution="twice-one")
    site.plugin("twice", distribution="twice-two")
    assert _registry.get_handler("acme").__module__ == "acme_plugin"


def test_plugin_lookup_uses_no_stale_cache(site):
    with pytest.raises(event.EventError):
        _registry.get_handler("acme")
    site.plugin("acme")
    assert _registry.get_handler("acme").__module__ == "acme_plugin"
    shutil.rmtree(os.path.join(site.directory, "acme_plugin-1.0.dist-info"))
    importlib.invalidate_caches()
    with pytest.raises(event.EventError):
        _registry.get_handler("acme")


def test_no_lookup_writes_to_the_home_directory(site):
    site.plugin("acme")
    _registry.get_handler("acme")
    assert os.listdir(os.environ["HOME"]) == []


def test_unreadable_metadata_is_logged_and_hides_no_other_plugin(site, caplog):
    site.plugin("acme")
    info = os.path.join(site.directory, "odd-1.0.dist-info")
    os.mkdir(info)
    with open(os.path.join(info, "METADATA"), "w", encoding="utf-8") as file:
        file.write("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    with open(os.path.join(info, "entry_points.txt"), "wb") as file:
        file.write(b"[e3.event.handler]\nodd = odd\xff:Handler\n")
    importlib.invalidate_caches()
    assert _registry.get_handler("acme").__module__ == "acme_plugin"
    (record,) = caplog.records
    assert "odd-1.0.dist-info cannot be read: UnicodeDecodeError" in record.getMessage()
    with pytest.raises(event.EventError, match="no handler is named 'odd'"):
        _registry.get_handler("odd")
    assert _registry.get_handler("file").__name__ == "FileHandler"


def test_plugins_lists_foreign_handlers_by_name(site):
    site.plugin("acme")
    site.plugin("board", groups=[OWN_GROUP])
    site.plugin("twice", distribution="twice-one")
    site.plugin("twice", distribution="twice-two")
    found = {name: sorted(map(_registry.origin, points)) for name, points in _registry.plugins().items()}
    assert found == {"acme": ["acme-plugin"], "board": ["board-plugin"], "twice": ["twice-one", "twice-two"]}


def test_an_entry_point_of_no_distribution_has_an_unknown_origin():
    assert _registry.origin(EntryPoint("acme", "acme:Handler", E3_GROUP)) == "an unknown distribution"


def test_metadata_are_not_read_if_no_plugin_is_installed(tmp_path, monkeypatch):
    site = Site(tmp_path, monkeypatch)
    site.distribution("e3-event", (OWN_GROUP, "file", "event.handler.file:FileHandler"))
    site.distribution("other", ("console_scripts", "other", "other:main"))
    tmp_path.joinpath("old.egg-info").write_text("Name: old\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "missing")])
    monkeypatch.setattr("importlib.metadata.entry_points", None)
    monkeypatch.setattr("importlib.metadata.distributions", None)
    assert _registry.entry_points() == []


@pytest.mark.parametrize("suffix", ["dist-info", "egg-info"])
def test_a_plugin_is_found_in_an_archive(tmp_path, monkeypatch, suffix):
    archive = tmp_path / "plugins.zip"
    with zipfile.ZipFile(archive, "w") as file:
        metadata = "PKG-INFO" if suffix == "egg-info" else "METADATA"
        file.writestr(f"acme-1.0.{suffix}/{metadata}", "Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        file.writestr(f"acme-1.0.{suffix}/entry_points.txt", f"[{E3_GROUP}]\nacme = acme:Handler\n")
    monkeypatch.setattr(sys, "path", [str(archive)])
    assert list(_registry.plugins()) == ["acme"]


def test_a_plugin_is_found_by_a_finder_of_its_own(tmp_path, monkeypatch):
    class Hidden(metadata.DistributionFinder):
        def find_distributions(self, context=None):
            return metadata.MetadataPathFinder.find_distributions(
                metadata.DistributionFinder.Context(path=[str(tmp_path)])
            )

    site = Site(tmp_path, monkeypatch)
    site.plugin("acme")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Hidden()])
    assert list(_registry.plugins()) == ["acme"]
