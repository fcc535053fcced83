"""How gunicorn runs the service; `gunicorn` in this folder reads it by itself.

`WEB_CONCURRENCY` is gunicorn's own variable, `PORT` names the port, else Vertex AI's `AIP_HTTP_PORT`; all else can be
overruled by `GUNICORN_CMD_ARGS` or flags. SIGHUP loads the champions again and keeps the old ones if they do not
verify, on the CPU; one that does there and not on its GPU leaves the new worker not ready. SIGTERM drains.
"""

import os
from functools import partial

from app.server import hooks, settings
from app.telemetry.log_lines import LOGGING

server = settings.from_environ_or_exit(os.environ)
hooks.before_load(server.service)

wsgi_app = "app.server.hooks:load()"  # with the settings that were just read
# Loaded once before the fork: N workers share the memory of one model, and all of them serve the same version.
preload_app = True
worker_class = "app.server.worker.ServiceWorker"
workers = server.workers
threads = server.threads
worker_connections = server.connections
if server.bind:
    bind = server.bind
if server.on_gpu:
    timeout = 180  # a worker is killed that does not begin by then: PyTorch and CUDA may come from a cold disk
keepalive = 75  # longer than the idle timeout of common load balancers (60 s), so that they close first
graceful_timeout = 25  # below the 30 s after which Kubernetes and SageMaker kill
worker_tmp_dir = server.heartbeats
control_socket_disable = True  # a server that is killed would leave its file behind
logconfig_dict = LOGGING

# The life of the master: it reads this file, starts, is ready, and loads again at SIGHUP.
on_starting = hooks.on_starting
when_ready = partial(hooks.when_ready, server.service)
on_reload = partial(hooks.on_reload, server.service)

# The life of a worker.
pre_fork = hooks.pre_fork
post_fork = hooks.post_fork
post_worker_init = partial(hooks.post_worker_init, server.service)
worker_exit = hooks.worker_exit
