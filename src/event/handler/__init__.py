"""The built-in handlers, a file each.

To add one:

1. Write ``NAME.py`` here, with a class that derives from `event.EventHandler`. What it needs of third parties it
   imports in its constructor, with `event._handler.import_extra`.
2. Add it to the table in ``_registry.py``, and to the entry points and the extras in ``pyproject.toml``.
3. Test it against the real counterpart, in ``tests/handler/test_NAME.py``.
4. Describe it in ``docs/reference/handlers/NAME.md``.
5. Give it a row in ``tests/bench``, and a line in ``CHANGELOG.md``.
"""
