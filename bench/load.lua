-- wrk script of every workload: sets the request up and prints the result as one line of JSON.
-- Arguments: method, body size in bytes, prefix of a header value that never repeats ("-": none).

function init(args)
  wrk.method = args[1]
  local size, prefix = tonumber(args[2]), args[3]
  if size > 0 then
    wrk.body = string.rep("x", size)
    wrk.headers["Content-Type"] = "application/octet-stream"
  end
  if prefix ~= "-" then
    wrk.headers["X-Request-Id"] = prefix .. "@"
    -- Defining the global `request` makes wrk call it per request: only where it is needed.
    request = numbered_requests()
  end
end

function numbered_requests()
  local head, tail = wrk.format():match("^(.-)@(.*)$")
  local count = 0
  return function()
    count = count + 1
    return head .. count .. tail
  end
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '@result {"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, ' ..
    '"connect_errors": %d, "read_errors": %d, "write_errors": %d, "timeouts": %d, "bad_status": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect, e.read, e.write, e.timeout, e.status))
end
