"""The settings: what can be set, its default, and where each value came from.

A value is taken from, each before the one after it: the command line, the environment (`DICOMWEB__SECTION__KEY`), a
TOML file (`--config` or `DICOMWEB_CONFIG`), the defaults in `sections.py`. A key that is not known, a value of the
wrong type or out of its range, and a pair of settings that is dangerous stop the start. No other package reads the
environment.

The tables `[storage.NAME]` and `[blobs.NAME]` belong to the plug-in of that name and are passed to it as they are,
except that `{directory}` in a text stands for `storage.directory`. `[hooks.NAME]` are web hooks. In all of them a
secret `KEY` may be given as `KEY_file`.
"""

from dicomweb_server.settings.loading import SEPARATOR, VARIABLE_PREFIX, load, refuse_public_without_login
from dicomweb_server.settings.sections import IN_DATABASE, NO_LOGIN, HookSettings, LogSettings, processors
from dicomweb_server.settings.whole import Settings

__all__ = [
    "IN_DATABASE",
    "NO_LOGIN",
    "SEPARATOR",
    "VARIABLE_PREFIX",
    "HookSettings",
    "LogSettings",
    "Settings",
    "load",
    "processors",
    "refuse_public_without_login",
]
