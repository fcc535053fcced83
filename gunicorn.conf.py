"""gunicorn's configuration for the service; `gunicorn` reads it by itself when started in this folder.

`WEB_CONCURRENCY` is gunicorn's own variable. `PORT` names the port, or else Vertex AI's `AIP_HTTP_PORT`.
`GUNICORN_CMD_ARGS` and flags override all other settings. SIGHUP loads again what the store names, as the move of an
alias does, and a model keeps its old version if the new one does not verify on the CPU; one that verifies on the CPU
but not on its GPU leaves the new worker not ready. SIGTERM drains.
"""

import os
from functools import partial

from app.server import hooks, loading, settings
from app.telemetry.log_lines import LOGGING

server = settings.from_environ_or_exit(os.environ)
hooks.before_load(server.service, server.mirror)

wsgi_app = "app.server.hooks:load()"  # with the settings that were just read
# Loaded once before the fork: all workers share the memory of one model, and serve the same version.
preload_app = True
worker_class = "app.server.worker.ServiceWorker"
workers = server.workers
threads = server.threads
worker_connections = server.connections
if server.bind:
    bind = server.bind
if server.on_gpu:
    timeout = 180  # kills a worker that has not started by then: PyTorch and CUDA may load from a cold disk
keepalive = 75  # longer than the idle timeout of common load balancers (60 s), so that they close first
graceful_timeout = 25  # below the 30 s after which Kubernetes and SageMaker kill the process
worker_tmp_dir = server.heartbeat_folder
control_socket_disable = True  # a killed server would leave its socket file behind
logconfig_dict = LOGGING

# The life of the master: it reads this file, starts, becomes ready, and reloads at SIGHUP.
on_starting = hooks.on_starting
when_ready = partial(hooks.when_ready, server.service)
on_reload = partial(loading.on_reload, server.service)

# The life of a worker.
pre_fork = hooks.pre_fork
post_fork = hooks.post_fork
post_worker_init = partial(hooks.post_worker_init, server.service)
worker_exit = hooks.worker_exit
