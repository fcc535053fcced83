-- Script for wrk: post the file named after `--`, of the type after it, and print the counts as one line of JSON.
local whole

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  wrk.method, wrk.body = "POST", file:read("*a")
  file:close()
  wrk.headers["Content-Type"] = arguments[2]
  whole = wrk.format()
end

function request()
  return whole
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"replies": %d, "microseconds": %d, "mean": %.1f, "p50": %d, "p99": %d, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration, latency.mean, latency:percentile(50), latency:percentile(99), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout
  ))
end
