"""For a gunicorn that is started by hand: `gunicorn -c config/gunicorn.conf.py 'dicomweb_server.wsgi:app'`.

Workers, threads, limits and timeouts are those of `dicomweb-server serve`, from the same settings. Only the time limit
on silent clients is missing: `serve` sets it on the listening socket, which gunicorn makes itself here. For figures of
all workers at /metrics name an empty folder in PROMETHEUS_MULTIPROC_DIR.
"""

from dicomweb_server.serving import gunicorn_options
from dicomweb_server.settings import load

_settings = load()
bind = f"{_settings.server.host}:{_settings.server.port}"
globals().update({name: value for name, value in gunicorn_options(_settings).items() if name != "worker_exit"})
