"""The settings of the repository's own gunicorn.conf.py that affect requests."""

wsgi_app = "constant:application"
worker_class = "app.server.worker.EventLoopWorker"
workers = 2
threads = 4
keepalive = 75
preload_app = True
control_socket_disable = True
